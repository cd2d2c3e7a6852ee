"""Common Voice as a corpus of transcribed speech: read sentences of volunteers, any language (CC0).

    speechmerge prepare --corpus common_voice --corpus-dir /corpora/common_voice --languages hi pa te it
    speechmerge prepare --corpus common_voice --languages te --param train=validated

Data directories are data/<language>/{train,dev,test}. The published train, dev and test hold one recording of each
sentence and are much smaller than validated.tsv; `train=validated` takes all validated clips whose speaker and whose
sentence are in neither dev nor test. Clips of no bytes, which releases before 25 have, are left out and counted.
"""
import random
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.common_voice import language_folder, read_tsv
from speechmerge.corpora.gather import Gathered, make_utterance, plain, stem
from speechmerge.corpora.published import Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.twins import Spoken, crowd, gender, sentences, speak, write_lines
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

# Whisper code: Common Voice's, where they differ
LOCALES = {"pa": "pa-IN", "zh": "zh-CN", "sv": "sv-SE", "ne": "ne-NP", "hy": "hy-AM", "nn": "nn-NO", "ga": "ga-IE"}
TABLES = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
TRAIN = ("train", "validated")
TEXT = ("published", "plain")
SPEAKER_LETTERS = 16  # of the 128 hexadecimal digits of client_id: 64 bits, no two speakers share them
OBTAIN = ("Get the language from https://datacollective.mozillafoundation.org (free account, accept the terms), "
          "unpack it so that cv-corpus-<version>/<language>/train.tsv and clips/ lie there.")
TWIN = {"hi": (16, 4, 8), "pa": (16, 4, 8), "te": (16, 4, 8), "it": (32, 6, 8)}  # train, dev, test
TWIN_RELEASE = "cv-corpus-17.0-2024-03-15"
COLUMNS = ("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age", "gender",
           "accents", "variant", "locale", "segment")


@CORPORA.register("common_voice")
class CommonVoice(PublishedCorpus):
    """Common Voice: sentences read by volunteers, any of its languages, mp3 (Mozilla, CC0)"""

    tasks = ("asr",)
    registered = "common_voice"
    licence = "CC0 1.0"
    homepage = "https://commonvoice.mozilla.org"
    layout = "cv-corpus-<version>/<language>/{train,dev,test}.tsv and clips/*.mp3"
    obtain = OBTAIN

    @dataclass(frozen=True)
    class Options:
        """languages: Whisper codes. train: `train` or `validated`. text: `published`, or `plain`: no punctuation."""

        languages: tuple[str, ...] = ("hi", "pa", "te", "it")
        train: str = "train"
        text: str = "published"

        def __post_init__(self):
            for name, value, known in (("train", self.train, TRAIN), ("text", self.text, TEXT)):
                if value not in known:
                    raise UsageError(f"common_voice: {name} {value!r}; {nearest(value, known)}")

    def read(self, root: Path, task: str, options) -> Reading:
        reading = Reading({split: Split({}) for split in TABLES})
        for language in options.languages:
            found = read_language(root, language, options.train, options.text)
            reading.skipped += found.skipped
            for split, utterances in found.splits.items():
                reading.splits[split].utterances |= utterances
        return reading

    def set_of(self, task, utterance) -> str:
        return utterance.language

    def hub(self, task, options) -> Hub:
        if options.train != "train":
            raise UsageError("common_voice: train=validated needs the files; in the hub's are dev and test")
        if len(options.languages) != 1:
            raise UsageError("common_voice: source=hf reads one language at a time; give one, as `--languages hi`")
        return hub(options.languages[0])

    def from_row(self, row, split, task, options) -> Utterance | None:
        return from_row(row, options.languages[0], options.text)

    def twin_expected(self, task, options) -> dict[str, int]:
        if options.train != "train":
            return {}
        return {split: sum(TWIN[language][place] for language in options.languages if language in TWIN)
                for place, split in enumerate(TABLES)}

    def write_twin(self, root: Path, seed: int, nj: int):
        speak(root, [item for language in TWIN for item in twin(root, "", language, seed)], nj)


def locale(language: str) -> str:
    return LOCALES.get(language, language)


def read_language(root: Path, language: str, train: str = "train", text: str = "published") -> Gathered:
    """One language of the release below `root`."""
    folder, found = language_folder(root, locale(language), "train.tsv"), Gathered("common_voice", language)
    rows = {split: list(read_tsv(folder / table, ("client_id", "path", "sentence"))) for split, table in TABLES.items()}
    if train == "validated":
        rows["train"] = apart_from(rows, read_tsv(folder / "validated.tsv", ("client_id", "path", "sentence")), found)
    for split, own in rows.items():
        for row in own:
            clip = folder / "clips" / row["path"]
            if not row["client_id"] or not row["path"]:
                raise SpeechMergeError(f"{row.place}: found no client_id or no path, expected both; fetch it again")
            if clip.is_file() and clip.stat().st_size == 0:
                found.skip("empty clip")
            else:
                found.add(split, audio=clip, **entry(row, text))
    return found


def apart_from(rows: dict, validated, found: Gathered) -> list:
    """Validated clips whose speaker and sentence are in neither dev nor test."""
    held_out = [*rows["dev"], *rows["test"]]
    speakers, texts = {row["client_id"] for row in held_out}, {row["sentence"] for row in held_out}
    kept = []
    for row in validated:
        if row["client_id"] in speakers or row["sentence"] in texts:
            found.skip("validated, but its speaker or sentence is in dev or test")
        else:
            kept.append(row)
    return kept


def entry(row: dict, text: str) -> dict:
    """What a row says, as make_utterance takes it."""
    sentence = row["sentence"]
    return {"speaker": row["client_id"][:SPEAKER_LETTERS], "name": stem(row["path"]), "gender": row.get("gender"),
            "text": plain(sentence) if text == "plain" else sentence}


def hub(language: str) -> Hub:
    """A repository of scripts, which the `datasets` library no longer runs: a parquet copy goes in as hub_id."""
    names = {"train": "train", "dev": "validation", "test": "test"}
    parts = {split: [Part(locale(language), name)] for split, name in names.items()}
    return Hub("mozilla-foundation/common_voice_17_0", parts)


def from_row(row: dict, language: str, text: str = "published") -> Utterance | None:
    utterance = make_utterance("common_voice", language, **entry(row, text))
    return utterance if utterance.text else None


def twin(root: Path, folder: str, language: str, seed: int, sentence=sentences, sizes=None) -> list[Spoken]:
    """Writes a language's tables below root/folder; what is to be spoken, paths below root."""
    rng, spoken, tables = random.Random(f"common_voice:{language}:{seed}"), [], {}
    top = Path(folder) / TWIN_RELEASE / locale(language)
    numbers = iter(rng.sample(range(10 ** 7, 4 * 10 ** 7), 150))
    for (split, table), count in zip(TABLES.items(), sizes or TWIN[language]):
        group = crowd(split)[1::2]
        clients = {voice.name: "".join(rng.choices("0123456789abcdef", k=128)) for voice in group}
        for place in range(count):
            voice, text = group[place % len(group)], sentence(language, split, rng)
            name = f"common_voice_{locale(language)}_{next(numbers)}.mp3"
            spoken.append(Spoken(str(top / "clips" / name), text, language, voice, rate=48000, seed=seed))
            row = twin_row(clients[voice.name], name, written(text, language, place), voice, place)
            tables.setdefault(table, []).append(row)
        write_lines(root / top / table, ["\t".join(COLUMNS), *tables[table]])
    everything = [line for lines in tables.values() for line in lines]
    write_lines(root / top / "validated.tsv", ["\t".join(COLUMNS), *everything])
    return spoken


def twin_row(client: str, name: str, sentence: str, voice, place: int) -> str:
    """Every third speaker said nothing of themself, and the empty fields at the line's end are left out."""
    line = [client, name, f"{place:064x}", sentence, "", "2", "0"]
    if place % 3:
        said = {"F": "female_feminine", "M": "male_masculine"}[gender(voice)]
        line += ["twenties", said, "", "", name.split("_")[2], ""]
    return "\t".join(line)


def written(text: str, language: str, place: int) -> str:
    """As Common Voice has its sentences: with punctuation, here and there with a quotation mark that never closes."""
    text = text if language in ("hi", "pa") else text[:1].upper() + text[1:]
    text += "।" if language in ("hi", "pa") else "."
    return f'"{text}' if place == 1 else text
