"""CoVoST 2 in miniature: translations in covost_v2.<pair>.tsv, sentences and 48 kHz mp3 clips as in Common Voice 4.

With what is awkward: rows that end early, quotation marks that nobody closes, escaped ones, `Null`, an empty clip, a
REMOVE, a translation without a clip, and the splits `dev_covost` and `test_covost`, which belong to nothing.
"""
import hashlib
import random
from pathlib import Path

from speechmerge.corpora.mini.text import split_of
from speechmerge.corpora.twins import Spoken, gender, speak, voices, write_lines

COUNTS = {"it_en": (200, 30, 48), "de_en": (60, 12, 16), "en_de": (60, 12, 16)}  # rows of train, dev, test
SPLITS = ("train", "dev", "test")
RELEASE = "cv-corpus-4-2019-12-10"
HEADER = "client_id path sentence up_votes down_votes age gender accent".split()
AGES = ("", "twenties", "thirties", "fifties")

# subject, verb, object, place: word by word they are translations of one another
WORDS = {
    "subject": [("il maestro", "the teacher", "der lehrer"), ("mio fratello", "my brother", "mein bruder"),
                ("mia sorella", "my sister", "meine schwester"), ("il medico", "the doctor", "der arzt"),
                ("il ragazzo", "the boy", "der junge"), ("nessuno", "nobody", "niemand"), ("anna", "anna", "anna"),
                ("sua madre", "his mother", "seine mutter")],
    "verb": [("compra", "buys", "kauft"), ("vede", "sees", "sieht"), ("vende", "sells", "verkauft"),
             ("trova", "finds", "findet"), ("cerca", "seeks", "sucht"), ("porta", "brings", "bringt")],
    "object": [("un libro", "a book", "ein buch"), ("la lettera", "the letter", "den brief"),
               ("il pane", "the bread", "das brot"), ("una mela", "an apple", "einen apfel"),
               ("la chiave", "the key", "den schlüssel"),
               ("tre uova", "three eggs", "drei eier"), ("la mappa", "the map", "die karte")],
    "place": [("al mercato", "at the market", "auf dem markt"), ("in cucina", "in the kitchen", "in der küche"),
              ("a scuola", "at school", "in der schule"), ("in giardino", "in the garden", "im garten"), ("", "", "")],
}
LANGUAGES = ("it", "en", "de")


def expected(pairs) -> dict[str, int]:
    counts = [COUNTS.get(pair, (0, 0, 0)) for pair in pairs]
    return {split: sum(count[place] for count in counts) for place, split in enumerate(SPLITS)}


def write_twin(root: Path, seed: int, nj: int):
    """Tables and clips below `root`."""
    spoken, validated = [], {language: [] for language in LANGUAGES}
    for number, pair in enumerate(COUNTS):
        rng = random.Random(f"covost2:{seed}:{pair}")
        rows = make_rows(rng, pair, 17000000 + 100000 * number)
        source = pair.split("_")[0]
        clips = f"{RELEASE}/{source}/clips"
        spoken += [Spoken(f"{clips}/{row['path']}", row["said"], source, row["voice"], rate=48000, seed=seed)
                   for row in rows if row["said"]]
        validated[source] += [validated_line(rng, row) for row in rows if row["sentence"]]
        write_lines(root / f"covost_v2.{pair}.tsv", ["path\ttranslation\tsplit"] + [
            f"{row['path']}\t{row['translation']}\t{row['split']}" for row in rows])
    for source, lines in validated.items():
        write_lines(root / RELEASE / source / "validated.tsv", ["\t".join(HEADER), *lines])
    speak(root, spoken, nj)
    for pair in COUNTS:
        empty = root / RELEASE / pair.split("_")[0] / "clips" / odd_clip(pair, "empty")
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.write_bytes(b"")


def make_rows(rng, pair: str, first: int) -> list[dict]:
    """All rows of a pair; the first ones of train are odd."""
    source, target = pair.split("_")
    rows, seen = [], set()
    split_names = {"train": ("train", "train", "train_covost"), "dev": ("dev",), "test": ("test",)}
    for split, count in zip(SPLITS, COUNTS[pair]):
        speakers = voices(split)
        for number in range(count):
            said, translation = draw(rng, LANGUAGES.index(source), LANGUAGES.index(target), split, seen)
            rows.append({"path": f"common_voice_{source}_{first + len(rows)}.mp3", "said": said,
                         "sentence": f"{said.capitalize()}.", "translation": f"{translation.capitalize()}.",
                         "split": rng.choice(split_names[split]), "voice": rng.choice(speakers)})
    train = rows[:COUNTS[pair][0]]
    train[0]["sentence"] = f"\"{train[0]['sentence']}"
    train[1].update(said="nulla" if source == "it" else "null", sentence="Null", translation="Null")
    train[2]["translation"] = f"\\\"{train[2]['translation']}\\\""
    train[3].update(said="", translation="REMOVE")  # without a clip of its own: it is never heard
    train[4].update(said="", path=odd_clip(pair, "empty"))
    odd = [{**rows[5], "said": "", "path": odd_clip(pair, split), "split": split}
           for split in ("dev_covost", "test_covost")]
    return rows + odd + [{**rows[5], "said": "", "sentence": "", "path": odd_clip(pair, "unknown")}]


def odd_clip(pair: str, kind: str) -> str:
    number = 10000 + sum(f"{pair}{kind}".encode())
    return f"common_voice_{pair.split('_')[0]}_{number}.mp3"


def draw(rng, source: int, target: int, split: str, seen: set) -> tuple[str, str]:
    """A sentence of `split` and its translation, new where the words suffice."""
    for _ in range(400):
        chosen = [rng.choice(WORDS[part]) for part in WORDS]
        texts = [" ".join(filter(None, (words[language] for words in chosen))) for language in (source, target)]
        if split_of(texts[0]) == split and texts[0] not in seen:
            break
    seen.add(texts[0])
    return texts[0], texts[1]


def validated_line(rng, row: dict) -> str:
    """A line of validated.tsv; where nothing is known of a speaker, it ends after the votes."""
    client = hashlib.sha512(row["voice"].name.encode()).hexdigest()
    columns = [client, row["path"], row["sentence"], str(rng.randrange(2, 9)), "0"]
    age = AGES[sum(row["voice"].name.encode()) % len(AGES)]
    return "\t".join(columns + [age, {"F": "female", "M": "male"}[gender(row["voice"])], ""] if age else columns)
