"""Multilingual LibriSpeech (OpenSLR 94): read audiobooks in eight languages, here Italian unless told otherwise.

    speechmerge prepare --corpus mls                                        # data/it/{train,dev,test}; downloads 15 GB
    speechmerge prepare --corpus mls --param subset=10h audio=opus          # the limited-supervision set, smaller files
    speechmerge prepare --corpus mls --languages de fr --param source=hf

`<split>/transcripts.txt` says `<speaker>_<book>_<segment><TAB>text`; the audio of a line lies in
`<split>/audio/<speaker>/<book>/`. The ten-hour set is the nine-hour set and the six ten-minute sets together.
"""
import random
from dataclasses import dataclass
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.gather import Gathered, make_utterance, stem
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import Archive, Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.twins import Spoken, crowd, gender, sentences, speak, write_lines
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

LANGUAGES = {"de": "german", "nl": "dutch", "fr": "french", "es": "spanish", "it": "italian", "pt": "portuguese",
             "pl": "polish", "en": "english"}  # Whisper code: the publisher's name; there is no Hindi, whatever is said
SPLITS = ("train", "dev", "test")
AUDIO = ("flac", "opus")
# Subsets of train: files of handles below train/limited_supervision, and the same on the hub
HANDLES = {"9h": ("9hr",), "1h": tuple(f"1hr/{n}" for n in range(6)), "10h": ("9hr", *(f"1hr/{n}" for n in range(6)))}
HUB_SPLITS = {"all": ("train",), "9h": ("9_hours",), "1h": ("1_hours",), "10h": ("9_hours", "1_hours")}
SIZES = {"it": {"all": 59623, "9h": 2173, "1h": 240, "10h": 2413, "dev": 1248, "test": 1262}}
TAB, BOOK = "\t", "https://www.archive.org/download/libro/libro_01_64kb.mp3"
TWIN = {"train": 40, "dev": 6, "test": 8}
TWIN_LIMITED = {"9h": 18, "1h": 6, "10h": 24}


@CORPORA.register("mls")
class MLS(PublishedCorpus):
    """Multilingual LibriSpeech: read audiobooks in eight languages, 16 kHz (OpenSLR 94, CC BY 4.0)"""

    tasks = ("asr",)
    licence = "CC BY 4.0"
    homepage = "https://www.openslr.org/94"
    layout = "mls_<language>/{train,dev,test}/transcripts.txt"

    @dataclass(frozen=True)
    class Options:
        """languages: Whisper codes. subset of train: all, 10h, 9h, 1h. audio: archives with flac or with opus files."""

        languages: tuple[str, ...] = ("it",)
        subset: str = "all"
        audio: str = "flac"

        def __post_init__(self):
            for language in self.languages:
                if language not in LANGUAGES:
                    raise UsageError(f"mls: no language {language!r}; {nearest(language, LANGUAGES)}")
            for name, known in (("subset", HUB_SPLITS), ("audio", AUDIO)):
                if getattr(self, name) not in known:
                    raise UsageError(f"mls: {name} {getattr(self, name)!r}; {nearest(getattr(self, name), known)}")

    def archives(self, options) -> list[Archive]:
        ending = "_opus" if options.audio == "opus" else ""
        tops = [f"mls_{LANGUAGES[language]}{ending}" for language in options.languages]
        return [Archive(f"https://dl.fbaipublicfiles.com/mls/{top}.tar.gz", makes=top) for top in tops]

    def read(self, root: Path, task: str, options) -> Reading:
        reading = Reading({split: Split({}) for split in SPLITS})
        for language in options.languages:
            found = read_language(root, language, options.subset, options.audio)
            reading.skipped += found.skipped
            for split, utterances in found.splits.items():
                reading.splits[split].utterances |= utterances
        return reading

    def expected(self, task, options) -> dict[str, int]:
        if not all(language in SIZES for language in options.languages):
            return {}
        return total(SIZES, options)

    def twin_expected(self, task, options) -> dict[str, int]:
        return total({"it": twin_sizes(TWIN)}, options)

    def set_of(self, task, utterance) -> str:
        return utterance.language

    def hub(self, task, options) -> Hub:
        if len(options.languages) != 1:  # a row does not say its language
            raise UsageError("mls: source=hf reads one language at a time; give one of them, as `--languages it`")
        return hub(options.languages[0], options.subset)

    def from_row(self, row, split, task, options) -> Utterance:
        return from_row(row, options.languages[0])

    def write_twin(self, root: Path, seed: int, nj: int):
        speak(root, twin(root, "", seed), nj)


def total(sizes: dict, options) -> dict[str, int]:
    """Split -> utterances of all the languages, from {language: {subset or split: utterances}}."""
    found = {"train": 0, "dev": 0, "test": 0}
    for language in options.languages:
        for split in found:
            found[split] += sizes[language][options.subset if split == "train" else split]
    return found


def read_language(root: Path, language: str, subset: str = "all", audio: str | None = None) -> Gathered:
    """One language below `root`; without `audio`, of the two kinds of archives the one that is there, flac first."""
    top = find_top(root, LANGUAGES[language], audio)
    genders, found = read_genders(top / "metainfo.txt"), Gathered("mls", language)
    suffix = "opus" if top.name.endswith("_opus") else "flac"
    for split in SPLITS:
        limited = split == "train" and subset != "all"
        wanted = read_handles(top / "train" / "limited_supervision", subset) if limited else None
        for id, text in read_transcripts(top / split / "transcripts.txt"):
            speaker, book, segment = id.split("_")
            if wanted is not None and id not in wanted:
                continue
            path = top / split / "audio" / speaker / book / f"{id}.{suffix}"
            found.add(split, speaker=speaker, name=f"{book}-{segment}", text=text, audio=path,
                      gender=genders.get(speaker), group=f"{speaker}-{book}")
        if wanted is not None and len(wanted) != len(found.splits.get(split, {})):
            raise SpeechMergeError(f"{top}: {len(wanted)} handles of subset {subset}, of which train/transcripts.txt "
                                   f"has {len(found.splits.get(split, {}))}; unpack {top.name}.tar.gz again")
    return found


def find_top(root: Path, name: str, audio: str | None) -> Path:
    tops = {"flac": root / f"mls_{name}", "opus": root / f"mls_{name}_opus"}
    wanted = [tops[audio]] if audio else list(tops.values())
    there = [top for top in wanted if (top / "train" / "transcripts.txt").is_file()]
    if not there:
        raise SpeechMergeError(f"{wanted[0]}: no train/transcripts.txt there; run `speechmerge prepare --corpus mls "
                               f"--corpus-dir {root}`, which fetches it, or unpack {wanted[0].name}.tar.gz of "
                               "openslr.org/94")
    return there[0]


def read_transcripts(path: Path) -> list[tuple[str, str]]:
    """(<speaker>_<book>_<segment>, text) of every line."""
    rows = []
    for number, line in numbered_lines(path):
        columns = line.split("\t")
        if len(columns) != 2 or columns[0].count("_") != 2:
            raise SpeechMergeError(f"{path}:{number}: found {line[:60]!r}, expected "
                                   "<speaker>_<book>_<segment><TAB>text")
        rows.append((columns[0], columns[1]))
    return rows


def read_handles(folder: Path, subset: str) -> set[str]:
    """Ids of a limited-supervision subset."""
    files = [folder / part / "handles.txt" for part in HANDLES[subset]]
    return {line.strip() for file in files for _, line in numbered_lines(file)}


def read_genders(path: Path) -> dict[str, str]:
    """{speaker: gender} of `speaker | gender | ...` lines."""
    if not path.is_file():
        return {}
    rows = [[cell.strip() for cell in line.split("|")] for _, line in numbered_lines(path)]
    return {row[0]: row[1] for row in rows if len(row) > 1}


def hub(language: str, subset: str) -> Hub:
    name = LANGUAGES[language]
    names = {"train": HUB_SPLITS[subset], "dev": ("dev",), "test": ("test",)}
    parts = {split: [Part(name, part) for part in own] for split, own in names.items()}
    return Hub("facebook/multilingual_librispeech", parts)


def from_row(row: dict, language: str) -> Utterance:
    id = str(row["id"]) if row.get("id") is not None else stem(row["audio"]["path"])
    speaker, book, segment = id.split("_")
    return make_utterance("mls", language, speaker=speaker, name=f"{book}-{segment}", text=row["transcript"],
                          group=f"{speaker}-{book}")


def twin_sizes(sizes: dict) -> dict[str, int]:
    """Utterances of each subset and of dev and test, of a twin with these `sizes`."""
    return {"all": sizes["train"], "dev": sizes["dev"], "test": sizes["test"], **TWIN_LIMITED}


def twin(root: Path, folder: str, seed: int, sentence=sentences, sizes=TWIN) -> list[Spoken]:
    """Writes the tables of mls_italian below root/folder; what is to be spoken, paths below root."""
    rng, spoken, meta = random.Random(f"mls:{seed}"), [], []
    top = Path(folder) / "mls_italian"
    numbers = iter(rng.sample(range(100, 13000), 80))
    for split, count in sizes.items():
        speakers = {next(numbers): voice for voice in crowd(split)[::2]}
        meta += [f"{number:>6} | {gender(voice)} | {split} | {voice.name}" for number, voice in speakers.items()]
        lines = []
        for place in range(count):
            number = list(speakers)[place % len(speakers)]
            id, text = f"{number}_{number + 1700}_{place:06d}", sentence("it", split, rng)
            path = top / split / "audio" / str(number) / str(number + 1700) / f"{id}.flac"
            spoken.append(Spoken(str(path), text, "it", speakers[number], seed=seed))
            lines.append(f"{id}\t{text}")
        write_lines(root / top / split / "transcripts.txt", lines)
        write_lines(root / top / split / "segments.txt", [
            f"{line.partition(TAB)[0]}\t{BOOK}\t{13.5 * place:.2f}\t{13.5 * place + 12:.2f}"
            for place, line in enumerate(lines)])
        if split == "train":
            write_handles(root / top, [line.split("\t")[0] for line in lines])
    write_lines(root / top / "metainfo.txt", ["SPEAKER | GENDER | PARTITION | TITLE", *meta])
    return spoken


def write_handles(top: Path, ids: list[str]):
    """Eighteen in 9hr, one in each of the six 1hr sets; together the miniature's `10h`."""
    folder = top / "train" / "limited_supervision"
    write_lines(folder / "9hr" / "handles.txt", ids[:18])
    for number in range(6):
        write_lines(folder / "1hr" / str(number) / "handles.txt", ids[18 + number:19 + number])
