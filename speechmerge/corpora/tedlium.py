"""TED-LIUM 3 and 2 (OpenSLR 51 and 19): TED talks, SPHERE recordings with STM transcripts.

    speechmerge prepare --corpus tedlium --corpus-dir /corpora
    speechmerge prepare --corpus tedlium --param partition=speaker-adaptation unknown=skip
    speechmerge prepare --corpus tedlium --param release=2

An STM line is `file channel speaker start end <label> words`, fields apart by any white space. An utterance is a
stretch of its talk (`segments`); stage 2 cuts it out. Transcripts become plain text as Kaldi's recipe does it: what is
not to be scored is left out, `it 's` is joined, marks of noise and variants `(2)` go.
"""
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import Archive, Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.twins import Spoken, gender, sentences, speak, voices, write_lines
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

SPLITS = ("train", "dev", "test")
FOLDERS = {"3": "TEDLIUM_release-3", "2": "TEDLIUM_release2"}
ARCHIVES = {"3": Archive("https://www.openslr.org/resources/51/TEDLIUM_release-3.tgz", FOLDERS["3"],
                         sha256="ad1e454d14d1ad550bc2564c462d87c7a7ec83d4dc2b9210f22ab4973b9eccdb"),
            "2": Archive("https://www.openslr.org/resources/19/TEDLIUM_release2.tar.gz", FOLDERS["2"],
                         sha256="93281b5fcaaae5c88671c9d000b443cb3c7ea3499ad12010b3934ca41a7b9c58")}
CHOICES = {"release": tuple(FOLDERS), "partition": ("legacy", "speaker-adaptation"), "speaker": ("talk", "stm"),
           "unknown": ("remove", "keep", "skip")}
IGNORED = "ignore_time_segment_in_scoring"
LABEL = re.compile(r"<(NA|F0_[MF]|[^<>\s]*,[^<>\s]*)>")
GENDERS = {"male": "m", "female": "f", "m": "m", "f": "f"}
TALKS = {"train": (16, 15), "dev": (6, 6), "test": (10, 6)}  # of the twin: talks, utterances of each


@CORPORA.register("tedlium")
class TedLium(PublishedCorpus):
    """TED-LIUM 3 and 2: TED talks in English, 16 kHz SPHERE with STM (OpenSLR 51 and 19, CC BY-NC-ND 3.0)"""

    tasks = ("asr",)
    licence = "CC BY-NC-ND 3.0"
    homepage = "https://www.openslr.org/51"
    layout = "TEDLIUM_release-3/legacy/{train,dev,test}/{stm,sph}/<talk>.{stm,sph}"
    top = tuple(FOLDERS.values())

    @dataclass(frozen=True)
    class Options:
        """release: 3 or 2. partition of 3: `legacy`, with the dev and test of release 2, or `speaker-adaptation`.

        speaker: the `talk`, as Kaldi and lhotse have it, or the speaker of the `stm`. unknown: what becomes of `<unk>`,
        words that nobody wrote down: `remove` or `keep` the mark, or `skip` the utterance.
        """

        release: str = "3"
        partition: str = "legacy"
        speaker: str = "talk"
        unknown: str = "remove"

        def __post_init__(self):
            for name, known in CHOICES.items():
                if getattr(self, name) not in known:
                    raise UsageError(f"tedlium: {name} {getattr(self, name)!r}; {nearest(getattr(self, name), known)}")

    def archives(self, options) -> list[Archive]:
        return [ARCHIVES[options.release]]

    def expected(self, task, options) -> dict[str, int]:
        """Both releases have the same dev and test talks; lines that are not scored are not counted."""
        return {"dev": 507, "test": 1155} if options.release == "2" or options.partition == "legacy" else {}

    def read(self, root: Path, task: str, options) -> Reading:
        top = root / FOLDERS[options.release]
        base = top / options.partition if options.release == "3" else top
        skipped = Counter()
        found = {split: read_split(base / split, top / "data", skipped, options) for split in SPLITS}
        return Reading({split: Split(utterances) for split, utterances in found.items()}, skipped)

    def hub(self, task, options) -> Hub:
        if options.partition != "legacy" or options.speaker != "talk":
            raise UsageError("tedlium: on Hugging Face there is partition=legacy with speaker=talk; use source=files")
        parts = {"train": "train", "dev": "validation", "test": "test"}
        return Hub("LIUM/tedlium", {split: [Part(f"release{options.release}", part)] for split, part in parts.items()},
                   names=("gender",))

    def from_row(self, row, split, task, options) -> Utterance | None:
        text = plain_text(row["text"], options.unknown)
        if not text:
            return None
        talk = Path(row["file"]).stem or row["speaker_id"]
        labels = {"gender": GENDERS[row["gender"]]} if row["gender"] in GENDERS else {}
        return Utterance("-".join(row["id"].split()), "", text, talk, "en", None, labels)

    def twin_expected(self, task, options) -> dict[str, int]:
        return {split: talks * each for split, (talks, each) in TALKS.items()} if options.unknown != "skip" else {}

    def write_twin(self, root: Path, seed: int, nj: int):
        rng, talks = random.Random(f"tedlium:{seed}"), {}
        for split, (count, each) in TALKS.items():
            for number, speaker in enumerate(voices(split)[:count]):
                surname = rng.choice(("Lane", "Okafor", "Berg", "Moreau"))
                name = f"{speaker.variant.capitalize()}{surname}_{2004 + number % 9}"
                texts = tuple(twin_text(place, split, rng) for place in range(each))
                path = f"TEDLIUM_release-3/legacy/{split}/sph/{name}.sph"
                talks[path] = Spoken(path, texts, "en", speaker, longest=3.2, seed=seed, channel="telephone")
        times = speak(root, list(talks.values()), nj)
        for path, talk in talks.items():
            write_stm(root / path.replace("sph", "stm"), talk, times[path])
        write_lines(root / "TEDLIUM_release-3/README", ["A spoken miniature of TED-LIUM 3: no such talk was held."])


def read_split(folder: Path, data: Path, skipped: Counter, options) -> dict[str, Utterance]:
    """All talks of a split. The recordings of release 3 lie beside the stm folder, or all together in data/sph."""
    files = sorted(path for path in (folder / "stm").glob("*.stm") if not path.name.startswith("."))
    if not files:
        raise SpeechMergeError(f"{folder / 'stm'}: no *.stm there; unpack the archive again, or give the folder above "
                               f"{data.parent.name} as --corpus-dir")
    utterances = {}
    for path in files:
        for number, line in numbered_lines(path):
            found = read_line(f"{path}:{number}", line, skipped, options)
            if found is None:
                continue
            talk, utterance = found
            if utterance.id in utterances:
                raise SpeechMergeError(f"{path}:{number}: {utterance.id} occurs twice, expected it once")
            utterances[utterance.id] = with_audio(utterance, talk, folder / "sph", data / "sph")
    return utterances


def with_audio(utterance: Utterance, talk: str, *folders: Path) -> Utterance:
    there = [folder / f"{talk}.sph" for folder in folders]
    return replace(utterance, audio=str(next((path for path in there if path.exists()), there[0])))


def read_line(place: str, line: str, skipped: Counter, options) -> tuple[str, Utterance] | None:
    """(talk, utterance without audio) of a line of STM; None for remarks and what is not scored."""
    if line.startswith(";;"):
        return None
    fields = line.split(None, 5)
    try:
        talk, channel, speaker, start, end = fields[:5]
        start, end = float(start), float(end)
    except ValueError as error:
        raise SpeechMergeError(f"{place}: found {line[:80]!r}, expected "
                               "`talk channel speaker start end <label> words`") from error
    if channel not in ("1", "A"):
        raise SpeechMergeError(f"{place}: channel {channel!r}, expected 1: the recordings have one")
    label, text = split_label(fields[5] if len(fields) > 5 else "")
    plain = plain_text(text, options.unknown)
    if not plain or end <= start:
        skipped["not scored" if is_ignored(text) else "without length" if plain else "without words"] += 1
        return None
    labels = {"gender": GENDERS[label]} if label in GENDERS else {}
    id = f"{talk}-{round(start * 100):07d}-{round(end * 100):07d}"
    speaker = talk if options.speaker == "talk" else speaker
    return talk, Utterance(id, "", plain, speaker, "en", end - start, labels, (start, end))


def split_label(rest: str) -> tuple[str, str]:
    """(gender or "", words): `<o,f0,male> words`, `<F0_M> words`, `<NA> words`, or words without a label."""
    first, *words = rest.split(None, 1)
    match = LABEL.fullmatch(first)
    if not match:
        return "", rest
    return re.split("[,_]", match[1])[-1].lower(), "".join(words)


def is_ignored(text: str) -> bool:
    return text.strip().lower() == IGNORED


def plain_text(text: str, unknown: str = "remove") -> str:
    """The words of a transcript; empty where it is not to be scored, or has an unknown word and unknown is `skip`."""
    if is_ignored(text):
        return ""
    text = re.sub(r"\([^()\s]*\)\s*$", "", text)  # the name of the utterance at the end
    text = re.sub(r"\(\d+\)", "", text)  # variants of pronunciation: read(2)
    text = re.sub(r"<sil>|\{[^{}]*\}|\[[^\[\]]*\]", " ", text)  # pauses, {NOISE}, [laughter]
    if "<unk>" in text and unknown != "keep":
        text = text.replace("<unk>", " ") if unknown == "remove" else ""
    return re.sub(r"(?<=\S)\s+(?=')", "", " ".join(text.split()))  # clitics: it 's, dogs '


PHRASES = ("{}", "so {}", "{}", "that 's why {}", "{}", "you see it 's true {}")  # clitics apart, as in the corpus


def twin_text(number: int, split: str, rng) -> str:
    return PHRASES[number % len(PHRASES)].format(sentences("en", split, rng, 36))


def write_stm(path: Path, talk: Spoken, times):
    """The transcript of a talk, with all that a reader must get over."""
    name, lines, split = path.stem, [], path.parent.parent.name
    label = "<NA>" if split == "train" else f"<o,f0,{'female' if gender(talk.speaker) == 'F' else 'male'}>"
    if split != "train":
        lines += [";; LABEL \"o\" \"Overall\" \"\"", f"{name} 1 inter_segment_gap 0 0.01 <o,,unknown> {IGNORED}"]
    for number, ((start, end), text) in enumerate(zip(times, talk.texts)):
        variant = re.sub(r"^(\w+)", r"\1(2)", text)
        text = (f"<unk> {text}", f"{text} <sil>", f"{{NOISE}} {text}", f"{text} ({name})", variant)[number % 5]
        apart = "\t" if number % 3 == 2 else " "
        lines.append(apart.join([name, "1", name, f"{start:.2f}", f"{end:.2f}", label, text]))
    write_lines(path, lines)
