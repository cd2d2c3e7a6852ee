"""FLEURS (Google): the sentences of FLORES, read aloud in 102 languages.

    speechmerge prepare --corpus fleurs --tasks langid                                      # all 102 languages: 300 GB
    speechmerge prepare --corpus fleurs --tasks langid --languages en_us,hi_in,it_it
    speechmerge prepare --corpus fleurs --tasks asr --languages hi_in,pa_in                 # data/hi_in/train, ...
    speechmerge prepare --corpus fleurs --tasks asr --languages it_it --param source=hf streaming=true

`data/<language>/<split>.tsv` has no header and seven columns: id, file, raw transcription, transcription, characters,
number of samples, gender. The id is FLORES's sentence, which several people read, the same one in all languages.
"""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.download import Archive, fetch_all, unpack
from speechmerge.corpora.fleurs import twin
from speechmerge.corpora.fleurs.languages import LANGUAGES, language_code
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import TWIN, Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.data.directory import Utterance
from speechmerge.data.tables import invisible_characters
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

URL = "https://huggingface.co/datasets/google/fleurs/resolve/main"
SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # ours and the files': the hub's
TEXTS = {"transcription": 3, "raw_transcription": 2}  # and their columns
GENDERS = {"MALE": "m", "FEMALE": "f", "OTHER": "other"}
COLUMNS = "id, file, raw transcription, transcription, characters, samples, gender"
ZERO_WIDTH_SPACE = "\u200b"  # between words of Khmer, Lao, Burmese, Thai


@CORPORA.register("fleurs")
class Fleurs(PublishedCorpus):
    """FLEURS: read sentences in 102 languages, about 10 hours each, 16 kHz (Google, CC BY 4.0)"""

    tasks = ("langid", "asr")
    licence = "CC BY 4.0"
    homepage = "https://huggingface.co/datasets/google/fleurs"
    layout = "data/<language>/{train,dev,test}.tsv and data/<language>/audio/{train,dev,test}.tar.gz"

    @dataclass(frozen=True)
    class Options:
        """languages: such as hi_in, all where none is named; for asr each has data directories of its own.

        text: `transcription`, lower case without punctuation, or `raw_transcription`. drop_ids: sentences to leave out,
        `10` as ESPnet does.
        """

        languages: tuple[str, ...] = ()
        text: str = "transcription"
        drop_ids: tuple[str, ...] = ()

        def __post_init__(self):
            for name in self.languages:
                if name not in LANGUAGES:
                    own = [language for language in LANGUAGES if language_code(language) == name]
                    hint = f"did you mean {own[0]!r}?" if own else nearest(name, LANGUAGES)
                    raise UsageError(f"fleurs: no language {name!r}; {hint}")
            if len(set(self.languages)) < len(self.languages):
                raise UsageError(f"fleurs: languages {','.join(self.languages)}; expected each once")
            if self.text not in TEXTS:
                raise UsageError(f"fleurs: text {self.text!r}; {nearest(self.text, TEXTS)}")
            wrong = [id for id in self.drop_ids if not id.isdigit()]
            if wrong:
                raise UsageError(f"fleurs: drop_ids {wrong[0]!r}; expected numbers of sentences, such as 10")

    def archives(self, options) -> list[Archive]:
        """The tables. Audio is fetched when a language is read, so that archives may be deleted once unpacked."""
        return [Archive(f"{URL}/data/{language}/{split}.tsv", makes=f"data/{language}/{split}.tsv", unpack=False)
                for language in options.languages or LANGUAGES for split in SPLITS]

    def set_of(self, task, utterance) -> str:
        return utterance.id.partition("-")[0] if task == "asr" else task

    def labels_of(self, task, options) -> list[str] | None:
        languages = sorted(options.languages or LANGUAGES)
        return [language_code(language) for language in languages] if task == "langid" else None

    def read(self, root: Path, task: str, options) -> Reading:
        languages = chosen_languages(root, options)
        reading = Reading({split: Split({}, self.labels_of(task, self.Options(languages))) for split in SPLITS})
        for language in languages:
            for split in SPLITS:
                utterances = read_split(root / "data" / language, split, options, reading.skipped)
                if not utterances:
                    raise SpeechMergeError(f"{root / 'data' / language / split}.tsv: no utterance is left for {task}")
                reading.splits[split].utterances |= utterances
        return reading

    def hub(self, task, options) -> Hub:
        languages = options.languages or LANGUAGES
        parts = {split: [Part(language, name) for language in languages] for split, name in SPLITS.items()}
        return Hub("google/fleurs", parts, revision="refs/convert/parquet")  # the main branch is a script

    def from_row(self, row, split, task, options) -> Utterance | None:
        text = clean(row[options.text])
        if not text or str(row["id"]) in options.drop_ids:
            return None
        gender = list(GENDERS.values())[row["gender"]]
        return make_utterance(LANGUAGES[row["lang_id"]], row["audio"]["path"] or row["path"], text, gender, row["id"])

    def write_twin(self, root: Path, seed: int, nj: int):
        twin.write(root, seed, nj)

    def twin_expected(self, task, options) -> dict[str, int]:
        languages = options.languages or twin.LANGUAGES
        dropped = {split: len(set(map(int, options.drop_ids)) & set(twin.sentence_ids(split))) for split in SPLITS}
        return {split: len(languages) * (twin.COUNTS[split] - twin.READERS * dropped[split]) for split in SPLITS}


def chosen_languages(root: Path, options) -> tuple[str, ...]:
    """What the option says; none: all, or all that the miniature has."""
    absent = [language for language in options.languages if not (root / "data" / language).is_dir()]
    if absent:
        raise SpeechMergeError(f"{root / 'data'}: {', '.join(absent)} not there; found "
                               f"{', '.join(sorted(path.name for path in root.glob('data/*_*'))) or 'no language'}")
    return options.languages or (twin.LANGUAGES if (root / TWIN).is_file() else LANGUAGES)


def read_split(folder: Path, split: str, options, skipped: Counter) -> dict[str, Utterance]:
    """The utterances of data/<language> that have a row; of two rows of a file the last counts, as on the hub."""
    rows, utterances = read_rows(folder / f"{split}.tsv"), {}
    paths = provide_audio(folder / "audio", split, folder.name, rows)
    for name, row in rows.items():
        text = clean(row[TEXTS[options.text]])
        if str(int(row[0])) in options.drop_ids or not text:
            skipped["sentences of drop_ids" if text else "empty transcripts"] += 1
        else:
            path = paths.get(name, folder / "audio" / split / name)
            utterance = make_utterance(folder.name, path, text, GENDERS[row[6]], row[0])
            utterances[utterance.id] = utterance
    skipped["audio files without a row"] += len(paths.keys() - rows.keys())
    return utterances


def read_rows(path: Path) -> dict[str, list[str]]:
    """{file name: the seven columns}. Nothing is quoted, and there is no header."""
    rows = {}
    for number, line in numbered_lines(path):
        row = [column.strip() for column in line.split("\t")]
        if len(row) != 7 or not row[0].isdigit() or not row[1].endswith(".wav") or row[6] not in GENDERS:
            raise SpeechMergeError(f"{path}:{number}: found {line[:80]!r} ({len(row)} columns), expected 7, "
                                   f"separated by tabs: {COLUMNS}")
        rows[row[1]] = row
    return rows


def provide_audio(folder: Path, split: str, language: str, rows) -> dict[str, Path]:
    """{file name: path}: unpacked, from the archive beside it, or fetched."""
    archive = folder / f"{split}.tar.gz"
    paths = wavs_below(folder / split)
    if paths.keys() >= rows.keys():
        return paths
    if not archive.is_file() and not paths:
        makes = f"data/{language}/audio/{split}.tar.gz"
        fetch_all([Archive(f"{URL}/{makes}", makes=makes, unpack=False)], folder.parents[2])
    if archive.is_file():  # also after an unpacking that was interrupted
        unpack(archive, folder / split, folder / split)
    return wavs_below(folder / split)


def wavs_below(folder: Path) -> dict[str, Path]:
    """Archives hold their files in folders of different names."""
    found = (path.relative_to(folder) for path in folder.rglob("*.wav"))
    return {path.name: folder / path for path in found if not str(path).startswith(".")}


def make_utterance(language: str, audio, text: str, gender: str, sentence) -> Utterance:
    """The id is made of the file's name, which is unique in a language; what the corpus calls id is the group."""
    audio = Path(audio)
    return Utterance(f"{language}-{audio.stem}", str(audio), text, language=language_code(language),
                     labels={"gender": gender, "group": str(int(sentence))})


def clean(text: str) -> str:
    """One kind of space, nothing invisible; the joiners U+200C and U+200D, of Persian and Hindi spelling, stay."""
    text = text.replace(ZERO_WIDTH_SPACE, " ")
    hidden = set(invisible_characters(text))
    return " ".join("".join(c for c in text if c.isspace() or c not in hidden).split())
