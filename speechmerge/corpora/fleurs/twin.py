"""FLEURS in miniature: seven languages, two readers of each sentence, the audio in archives; tables with odd spaces."""
import gzip
import random
import shutil
import tarfile
from pathlib import Path

from speechmerge.corpora.fleurs.languages import language_code
from speechmerge.corpora.twins import Spoken, gender, sentences, speak, voices, write_lines
from speechmerge.files import atomic_file

LANGUAGES = ("de_de", "en_us", "es_419", "hi_in", "it_it", "pa_in", "te_in")
COUNTS = {"train": 34, "dev": 6, "test": 10}  # utterances of a language
READERS = 2  # of each sentence
FIRST = {"train": 4, "dev": 1000, "test": 1500}  # id of the first sentence; 10, whose spaces are odd, is one of train's
ODD = 10
GENDERS = {"M": "MALE", "F": "FEMALE"}
WITHOUT_ROW = "9999999999999999999.wav"  # in an archive, not in the table


def sentence_ids(split: str) -> range:
    return range(FIRST[split], FIRST[split] + COUNTS[split] // READERS)


def write(root: Path, seed: int, nj: int):
    rng, tables, spoken = random.Random(f"fleurs:{seed}"), {}, []
    for language in LANGUAGES:
        for split in COUNTS:
            tables[language, split] = rows = split_rows(language, split, rng)
            spoken += [Spoken(f"data/{language}/audio/{split}/{name}", text, language_code(language), voice, seed=seed)
                       for _, name, text, voice in rows]
    speak(root, spoken, nj)
    for (language, split), rows in tables.items():
        folder = root / "data" / language
        write_lines(folder / f"{split}.tsv", [tsv_line(folder / "audio" / split, *row) for row in rows])
        pack(folder / "audio" / split, folder / "audio" / f"{split}.tar.gz")


def split_rows(language: str, split: str, rng) -> list[tuple]:
    """(sentence, file, text, voice): the same sentences by two voices each, in no order."""
    rows = []
    for id in sentence_ids(split):
        text = sentences(language_code(language), split, rng, 40)
        for voice in rng.sample(voices(split), READERS):
            rows.append((id, f"{rng.randrange(10**18, 10**19)}.wav", text, voice))
    rng.shuffle(rows)
    return rows


def tsv_line(folder: Path, id: int, name: str, text: str, voice) -> str:
    samples = ((folder / name).stat().st_size - 44) // 2
    characters = " ".join("|".join(text.split())) + " |"
    raw = text[:1].upper() + text[1:] + ("\u0964" if language_of(folder) == "hi_in" else ".")
    if id == ODD:
        text, raw = text.replace(" ", "\u2009", 1), raw.replace(" ", "\u00a0 ", 1) + "\u200f"
    return "\t".join([str(id), name, raw, text, characters, str(samples), GENDERS[gender(voice)]])


def language_of(folder: Path) -> str:
    return folder.parents[1].name


def pack(folder: Path, archive: Path):
    """The folder as an archive of equal bytes for equal files; the folder goes."""
    first = min(folder.glob("*.wav"))
    shutil.copyfile(first, folder / WITHOUT_ROW)
    with atomic_file(archive, "wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w") as tar:
        for wav in sorted(folder.glob("*.wav")):
            info = tarfile.TarInfo(f"{folder.name}/{wav.name}")
            info.size = wav.stat().st_size
            with open(wav, "rb") as samples:
                tar.addfile(info, samples)
    shutil.rmtree(folder)
