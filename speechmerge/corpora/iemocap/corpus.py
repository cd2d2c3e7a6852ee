"""IEMOCAP (USC SAIL): acted dialogues of ten speakers in five sessions, one emotion label per turn.

    speechmerge prepare --corpus iemocap --corpus-dir /corpora/IEMOCAP --param fold=2        # session 2 is the test set
    speechmerge prepare --corpus iemocap --corpus-dir /corpora/IEMOCAP --param dev=session   # dev of other speakers
    speechmerge prepare --corpus iemocap --param source=hf fold=2

`Session<n>/dialog/EmoEvaluation/<dialog>.txt` has a line `[start - end] TAB utterance TAB code TAB [V, A, D]` for each
turn, with the label that most evaluators gave, and below it what each of them said. Four classes, excited counted as
happy, are the 5531 utterances of SUPERB, s3prl and SpeechBrain.
"""
import hashlib
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from speechmerge.corpora.base import CORPORA
from speechmerge.corpora.iemocap import twin
from speechmerge.corpora.lines import numbered_lines
from speechmerge.corpora.published import Hub, Part, PublishedCorpus, Reading, Split
from speechmerge.corpora.stretches import beginning
from speechmerge.data.directory import Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

EMOTIONS = {"neu": "neutral", "hap": "happy", "ang": "angry", "sad": "sad", "exc": "excited", "fru": "frustrated",
            "fea": "fear", "sur": "surprise", "dis": "disgust", "oth": "other"}
UNDECIDED = "xxx"  # the evaluators did not agree
FOUR = ("neutral", "happy", "angry", "sad")  # in the order of s3prl's label ids 0-3
DEV = ("random", "session")
DEV_SHARE = 0.2  # of the four training sessions, dev=random
SESSIONS = range(1, 6)
COUNTS = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}  # session -> utterances of the four classes (s3prl's meta data)
TURN = re.compile(r"Ses0([1-5])[FM]_\w+_([FM])[0-9]+")
TRANSCRIPT = re.compile(r"(Ses0[1-5][FM]_\S+)\s+\[[0-9.]+-[0-9.]+\]:\s*(.*)")


@CORPORA.register("iemocap")
class IEMOCAP(PublishedCorpus):
    """IEMOCAP: emotions in acted English dialogues, five folds by session (USC SAIL, release form)"""

    tasks = ("emotion",)
    licence = "IEMOCAP release form of USC SAIL: research, not redistributable"
    homepage = "https://sail.usc.edu/iemocap/"
    layout = "IEMOCAP_full_release/Session{1..5}/{sentences/wav,dialog/EmoEvaluation,dialog/transcriptions}"
    obtain = ("It may not be passed on: ask for it with the release form on https://sail.usc.edu/iemocap/, unpack "
              "what you are given (videos are not needed) and give the folder that holds IEMOCAP_full_release as "
              "--corpus-dir.")

    @dataclass(frozen=True)
    class Options:
        """fold: the session that is the test set. classes: of EMOTIONS. excited_as_happy: excited counts as happy.

        dev: `random`, a fifth of the four training sessions, whose speakers train too (as SUPERB has it); or `session`,
        all of the session after the test session, so that no speaker of dev is in train. longest: seconds of a turn
        that are used, 0: all.
        """

        fold: int = 1
        classes: tuple[str, ...] = FOUR
        excited_as_happy: bool = True
        dev: str = "random"
        longest: float = 30.0

        def __post_init__(self):
            if self.fold not in SESSIONS:
                raise UsageError(f"iemocap: fold {self.fold}; expected a session, 1 to 5")
            if self.dev not in DEV:
                raise UsageError(f"iemocap: dev {self.dev!r}; {nearest(self.dev, DEV)}")
            for name in self.classes:
                if name not in EMOTIONS.values():
                    raise UsageError(f"iemocap: no class {name!r}; {nearest(name, EMOTIONS.values())}")
            if self.longest < 0:
                raise UsageError(f"iemocap: longest {self.longest:g}; expected 0 seconds or more")
            if len(set(self.classes)) < 2 or len(set(self.classes)) < len(self.classes):
                raise UsageError(f"iemocap: classes {','.join(self.classes)}; expected two or more different ones")
            if self.excited_as_happy and "excited" in self.classes:
                raise UsageError("iemocap: excited is a class and counted as happy; give excited_as_happy=false too")

        def label(self, emotion: str) -> str | None:
            """The class of an emotion, None where it is not among the classes."""
            emotion = "happy" if self.excited_as_happy and emotion == "excited" else emotion
            return emotion if emotion in self.classes else None

    def read(self, root: Path, task: str, options) -> Reading:
        reading, found = Reading({}), {}
        for session in SESSIONS:
            found |= read_session(top_folder(root) / f"Session{session}", options, reading.skipped)
        for split, ids in split_ids(found, options).items():
            reading.splits[split] = Split(with_texts({id: found[id] for id in ids}, reading.skipped))
        return reading

    def expected(self, task, options) -> dict[str, int]:
        return split_sizes(COUNTS, options) if set(options.classes) == set(FOUR) and options.excited_as_happy else {}

    def labels_of(self, task, options) -> list[str]:
        return list(options.classes)

    def check_counts(self, task, reading, options, request):
        """The hub's labels are not the release's and its dev set is drawn row by row: that is said, not refused."""
        if request.source == "hf":
            request = replace(request, allow_incomplete=True)
        super().check_counts(task, reading, options, request)

    def hub(self, task, options) -> Hub:
        parts = {split: [Part(None, "train")] for split in ("train", "dev", "test")}  # its only split
        return Hub("AbstractTTS/IEMOCAP", parts, revision="9f1696a135a65ce997d898d4121c952269a822ca")

    def from_row(self, row, split, task, options) -> Utterance | None:
        id = Path(row["file"]).stem
        if not TURN.fullmatch(id):
            raise SpeechMergeError(f"iemocap: file {row['file']!r} on the hub, expected such as Ses01F_impro01_F000")
        label = options.label(row["major_emotion"])
        if label is None or split != hub_split(id, options):
            return None
        return make_utterance(id, "", label, " ".join(row["transcription"].split()) or None)

    def write_twin(self, root: Path, seed: int, nj: int):
        twin.write(root, seed, nj)

    def twin_expected(self, task, options) -> dict[str, int]:
        kept = sum(count for code, count in twin.CODES.items() if code != UNDECIDED and options.label(EMOTIONS[code]))
        return split_sizes(dict.fromkeys(SESSIONS, kept), options)


def top_folder(root: Path) -> Path:
    """The folder with the sessions: `root` or IEMOCAP_full_release below it."""
    return root if (root / "Session1").is_dir() else root / "IEMOCAP_full_release"


def read_session(folder: Path, options, skipped: Counter) -> dict[str, Utterance]:
    """The turns of a session that have one of the classes."""
    evaluations = visible(folder / "dialog" / "EmoEvaluation")
    texts = read_transcripts(folder / "dialog" / "transcriptions")
    utterances, codes = {}, {}
    for file in evaluations:
        for place, id, code in read_evaluation(file):
            if codes.setdefault(id, code) != code:
                raise SpeechMergeError(f"{place}: {id} is {code} here, {codes[id]} before; expected one label per turn")
            label = None if code == UNDECIDED else options.label(EMOTIONS[code])
            if label is not None:
                audio = folder / "sentences" / "wav" / id.rpartition("_")[0] / f"{id}.wav"
                turn = make_utterance(id, str(audio), label, texts.get(id))
                utterances[id] = replace(turn, segment=beginning(audio, options.longest))
    others = (code for id, code in codes.items() if id not in utterances)
    skipped.update("no agreement" if code == UNDECIDED else EMOTIONS[code] for code in others)
    return utterances


def visible(folder: Path) -> list[Path]:
    """The text files of a folder itself, without the `._*.txt` that a Mac left there."""
    files = sorted(file for file in folder.glob("*.txt") if not file.name.startswith("."))
    if not files:
        raise SpeechMergeError(f"{folder}: no *.txt here; is the release complete, with all five sessions?")
    return files


def read_evaluation(file: Path) -> list[tuple[str, str, str]]:
    """(file:line, utterance, code) of the summary lines; the lines of single evaluators are passed over."""
    found = []
    for number, line in numbered_lines(file, "latin-1"):
        if not line.startswith("["):
            continue
        place, fields = f"{file}:{number}", line.split("\t")
        if len(fields) != 4 or not TURN.fullmatch(fields[1]) or fields[2] not in (*EMOTIONS, UNDECIDED):
            raise SpeechMergeError(f"{place}: found {line[:80]!r}, expected [start - end], utterance, one of "
                                   f"{' '.join(EMOTIONS)} {UNDECIDED}, and [V, A, D], separated by tabs")
        found.append((place, fields[1], fields[2]))
    return found


def read_transcripts(folder: Path) -> dict[str, str]:
    """{utterance: what was said}; lines of other forms, such as `M: [BREATHING]`, belong to no turn."""
    lines = (line for file in visible(folder) for _, line in numbered_lines(file, "latin-1"))
    matches = (TRANSCRIPT.fullmatch(line.strip()) for line in lines)
    return {match[1]: " ".join(match[2].split()) for match in matches if match and match[2].strip()}


def make_utterance(id: str, audio: str, label: str, text: str | None) -> Utterance:
    """The letter of `Ses01F` says who wore the markers; who speaks, the session's woman or man, says the last token."""
    session, gender = TURN.fullmatch(id).groups()
    labels = {"emotion": label, "gender": gender.lower()}
    return Utterance(id, audio, text, f"Ses0{session}{gender}", "en", labels=labels)


def session_of(id: str) -> int:
    return int(id[len("Ses0")])


def draw(id: str) -> float:
    """A number in [0, 1) that belongs to the utterance: dev is the same on every machine, in any order of files."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:6], "big") / 2**48


def dev_session(fold: int) -> int:
    return fold % 5 + 1


def split_ids(ids, options) -> dict[str, list[str]]:
    test = [id for id in ids if session_of(id) == options.fold]
    rest = sorted((id for id in ids if session_of(id) != options.fold), key=draw)
    if options.dev == "session":
        dev = [id for id in rest if session_of(id) == dev_session(options.fold)]
    else:
        dev = rest[: dev_size(len(rest))]
    chosen = set(dev)
    return {"train": [id for id in rest if id not in chosen], "dev": dev, "test": test}


def dev_size(count: int) -> int:
    """As s3prl counts: what is left of `count` beside int(0.8 * count)."""
    return count - int((1 - DEV_SHARE) * count)


def hub_split(id: str, options) -> str:
    """As `split_ids`, for a row on its own: dev=random takes about a fifth."""
    session = session_of(id)
    if session == options.fold:
        return "test"
    if options.dev == "session":
        return "dev" if session == dev_session(options.fold) else "train"
    return "dev" if draw(id) < DEV_SHARE else "train"


def split_sizes(sessions: dict[int, int], options) -> dict[str, int]:
    """Split -> utterances, from the utterances of each session."""
    test = sessions[options.fold]
    rest = sum(sessions.values()) - test
    dev = sessions[dev_session(options.fold)] if options.dev == "session" else dev_size(rest)
    return {"train": rest - dev, "dev": dev, "test": test}


def with_texts(utterances: dict[str, Utterance], skipped: Counter) -> dict[str, Utterance]:
    """A split has transcripts for all its utterances or for none: the task does not need them."""
    untold = sum(utterance.text is None for utterance in utterances.values())
    if not untold:
        return utterances
    skipped[f"transcripts of a split, {untold} of them being empty or missing"] += len(utterances)
    return {id: replace(utterance, text=None) for id, utterance in utterances.items()}
