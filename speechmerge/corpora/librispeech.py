"""LibriSpeech and mini LibriSpeech (OpenSLR 12 and 31): read English audiobooks.

    speechmerge prepare --corpus librispeech --corpus-dir /corpora             # train-clean-100, dev-clean, test-clean
    speechmerge prepare --corpus librispeech --param train=train-clean-5 dev=dev-clean-2 test=dev-clean-2
    speechmerge prepare --corpus librispeech --param more=dev-other,test-other      # also data/asr/{dev,test}_other
    speechmerge prepare --corpus librispeech --param source=hf streaming=true

A chapter's `<reader>-<chapter>.trans.txt` says `<utterance> TEXT IN UPPER CASE`, `SPEAKERS.TXT` above the subsets says
who is a woman and who is a man.
"""
import random
from dataclasses import dataclass, replace
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import Archive, Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.twins import Spoken, gender, sentences, speak, voices, write_lines
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

@dataclass(frozen=True)
class Subset:
    """One archive of the publisher, and the same on the hub."""

    resource: int  # number on openslr.org
    utterances: int | None = None
    sha256: str | None = None
    part: Part | None = None


SUBSETS = {
    "train-clean-100": Subset(12, 28539, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
                              Part("clean", "train.100")),
    "train-clean-360": Subset(12, 104014, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
                              Part("clean", "train.360")),
    "train-other-500": Subset(12, 148688, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
                              Part("other", "train.500")),
    "dev-clean": Subset(12, 2703, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
                        Part("clean", "validation")),
    "dev-other": Subset(12, 2864, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
                        Part("other", "validation")),
    "test-clean": Subset(12, 2620, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
                         Part("clean", "test")),
    "test-other": Subset(12, 2939, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
                         Part("other", "test")),
    "train-clean-5": Subset(31),
    "dev-clean-2": Subset(31),
}
CASES = ("lower", "published")
SPEAKERS = ("reader", "chapter")
TWIN = {"train-clean-100": 240, "dev-clean": 32, "test-clean": 56, "test-other": 24}  # utterances


@CORPORA.register("librispeech")
class LibriSpeech(PublishedCorpus):
    """LibriSpeech: read English audiobooks, 16 kHz (OpenSLR 12 and 31, CC BY 4.0)"""

    tasks = ("asr",)
    licence = "CC BY 4.0"
    homepage = "https://www.openslr.org/12"
    layout = "LibriSpeech/<subset>/<reader>/<chapter>/*.flac"
    top = "LibriSpeech"

    @dataclass(frozen=True)
    class Options:
        """Subsets of each split; `more`: subsets with a data directory of their own, dev-other in dev_other.

        case: `lower`, or as `published`, upper. speaker: the `reader`, or the `chapter` as in Kaldi's recipe.
        """

        train: tuple[str, ...] = ("train-clean-100",)
        dev: tuple[str, ...] = ("dev-clean",)
        test: tuple[str, ...] = ("test-clean",)
        more: tuple[str, ...] = ()
        case: str = "lower"
        speaker: str = "reader"

        def __post_init__(self):
            for subset in (*self.train, *self.dev, *self.test, *self.more):
                if subset not in SUBSETS:
                    raise UsageError(f"librispeech: no subset {subset!r}; {nearest(subset, SUBSETS)}")
            for name, value, known in (("case", self.case, CASES), ("speaker", self.speaker, SPEAKERS)):
                if value not in known:
                    raise UsageError(f"librispeech: {name} {value!r}; {nearest(value, known)}")

        def subsets(self) -> dict[str, tuple[str, ...]]:
            """Split -> its subsets."""
            own = {subset.replace("-", "_"): (subset,) for subset in self.more}
            given = {"train": self.train, "dev": self.dev, "test": self.test, **own}
            return {split: subsets for split, subsets in given.items() if subsets}

    def archives(self, options) -> list[Archive]:
        needed = dict.fromkeys(subset for subsets in options.subsets().values() for subset in subsets)
        return [Archive(f"https://www.openslr.org/resources/{SUBSETS[subset].resource}/{subset}.tar.gz",
                        makes=f"LibriSpeech/{subset}", sha256=SUBSETS[subset].sha256) for subset in needed]

    def expected(self, task, options) -> dict[str, int]:
        splits = options.subsets().items()
        known = {split: [SUBSETS[subset].utterances for subset in subsets] for split, subsets in splits}
        return {split: sum(counts) for split, counts in known.items() if None not in counts}

    def read(self, root: Path, task: str, options) -> Reading:
        genders = read_genders(root / "LibriSpeech" / "SPEAKERS.TXT")
        splits = {}
        for split, subsets in options.subsets().items():
            utterances = {}
            for subset in subsets:
                utterances |= read_subset(root / "LibriSpeech" / subset, options)
            splits[split] = Split(with_genders(utterances, genders))
        return Reading(splits)

    def hub(self, task, options) -> Hub:
        absent = [subset for subsets in options.subsets().values() for subset in subsets if not SUBSETS[subset].part]
        if absent:
            raise UsageError(f"librispeech: {', '.join(absent)} is not on Hugging Face; use source=files")
        parts = {split: [SUBSETS[subset].part for subset in subsets] for split, subsets in options.subsets().items()}
        return Hub("openslr/librispeech_asr", parts)

    def from_row(self, row, split, task, options) -> Utterance:
        return make_utterance(row["id"], "", row["text"], options)

    def twin_expected(self, task, options) -> dict[str, int]:
        return {split: sum(TWIN.get(subset, 0) for subset in subsets) for split, subsets in options.subsets().items()}

    def write_twin(self, root: Path, seed: int, nj: int):
        rng, spoken, readers = random.Random(f"librispeech:{seed}"), [], []
        numbers = iter(rng.sample(range(14, 8975), 40))
        for subset, count in TWIN.items():
            group = voices(subset.split("-")[0])
            if group[0].name.startswith("test"):
                group = group[:7] if subset == "test-clean" else group[7:]
            for place, speaker in enumerate(group):
                reader, own = next(numbers), range(place, count, len(group))
                readers.append((reader, gender(speaker), subset, speaker.name))
                spoken += twin_reader(root, f"LibriSpeech/{subset}/{reader}", speaker, len(own), rng)
        speak(root, [replace(item, seed=seed) for item in spoken], nj)
        write_lines(root / "LibriSpeech/SPEAKERS.TXT", SPEAKERS_HEAD + [
            f"{reader:<4} | {sex} | {subset:<16} |  0.50 | {name}" for reader, sex, subset, name in sorted(readers)])


def read_subset(folder: Path, options) -> dict[str, Utterance]:
    """All utterances of a subset; audio and transcripts must name the same ones."""
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob("*-*") if path.is_dir())
        raise SpeechMergeError(f"{folder}: not there; found in {folder.parent}: {', '.join(there) or 'no subset'}")
    utterances = {}
    for chapter in sorted(path for path in folder.glob("[0-9]*/[0-9]*") if path.is_dir()):
        transcripts = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
        found = read_chapter(transcripts, options)
        untold = sorted({path.stem for path in chapter.glob("[0-9]*.flac")} - found.keys())
        if untold:
            raise SpeechMergeError(f"{transcripts}: says nothing of {len(untold)} audio files, the first is "
                                   f"{untold[0]}.flac; unpack {folder.name}.tar.gz again")
        utterances |= found
    return utterances


def read_chapter(transcripts: Path, options) -> dict[str, Utterance]:
    chapter, utterances = transcripts.name.removesuffix(".trans.txt"), {}
    for number, line in numbered_lines(transcripts):
        id, _, text = line.partition(" ")
        if id.rpartition("-")[0] != chapter or not text.strip():
            raise SpeechMergeError(f"{transcripts}:{number}: found {line[:60]!r}, expected `{chapter}-<number> TEXT`")
        if id in utterances:
            raise SpeechMergeError(f"{transcripts}:{number}: {id} has two transcripts, expected one; unpack it again")
        utterances[id] = make_utterance(id, str(transcripts.parent / f"{id}.flac"), text, options)
    return utterances


def make_utterance(id: str, audio: str, text: str, options) -> Utterance:
    reader, chapter, _ = id.split("-")
    text = text.strip().lower() if options.case == "lower" else text.strip()
    return Utterance(id, audio, text, reader if options.speaker == "reader" else f"{reader}-{chapter}", "en")


def read_genders(path: Path) -> dict[str, str]:
    """{reader: "f" or "m"} of `ID | SEX | SUBSET | MINUTES | NAME` lines; `;` begins a remark, names may have a `|`."""
    if not path.is_file():
        return {}
    rows = [line.split("|") for _, line in numbered_lines(path) if not line.startswith(";")]
    return {row[0].strip(): row[1].strip().lower() for row in rows if len(row) > 2}


def with_genders(utterances: dict[str, Utterance], genders: dict[str, str]) -> dict[str, Utterance]:
    """With the gender of the readers that SPEAKERS.TXT knows."""
    found = {id: genders.get(id.split("-")[0]) for id in utterances}
    return {id: replace(utterance, labels={"gender": found[id]}) if found[id] else utterance
            for id, utterance in utterances.items()}


SPEAKERS_HEAD = [
    "; Some pipe(|) separated metadata about the readers of this miniature",
    ";",
    ";ID  |SEX| SUBSET           |MINUTES| NAME",
    "14   | F | train-clean-360  | 25.03 | a reader | of a subset that is not here",
]


PHRASES = ("{}", "{}", "alas {}", "{} said the captain", "{} cried clara", "indeed {}")  # of old novels


def twin_text(number: int, split: str, rng) -> str:
    return PHRASES[number % len(PHRASES)].format(sentences("en", split, rng, 36))


def twin_reader(root: Path, folder: str, speaker, count: int, rng) -> list[Spoken]:
    """Two chapters of a reader, the second of one utterance, as an old recording; their transcripts are written."""
    reader, split, spoken = folder.rpartition("/")[2], speaker.name.split("-")[0], []
    for chapter, size in zip(rng.sample(range(100, 293000), 2), (count - 1, 1)):
        texts = {f"{reader}-{chapter}-{number:04d}": twin_text(number, split, rng) for number in range(size)}
        spoken += [Spoken(f"{folder}/{chapter}/{id}.flac", text, "en", speaker, channel="telephone")
                   for id, text in texts.items()]
        write_lines(root / folder / str(chapter) / f"{reader}-{chapter}.trans.txt",
                    [f"{id} {text.upper()}" for id, text in texts.items()])
    return spoken
