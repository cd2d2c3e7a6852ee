"""The frame of all corpora that people publish: options, download, source, checks, counts, writing.

A corpus is a subclass that says what it is and reads its own files; `prepare` does the rest:

    CORPORA.get("librispeech")().prepare("data", corpus_dir="/corpora/librispeech")           # the corpus on disk
    CORPORA.get("librispeech")().prepare("data/mini", mini=True)                               # its spoken twin
    CORPORA.get("librispeech")().prepare("data", source="hf", streaming=True)                  # from the hub

Nothing is dropped in silence: an audio file that is missing is an error that counts them, and the number of utterances
is compared with what the release has.
"""
import dataclasses
import logging
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from speechmerge import __version__
from speechmerge.corpora.download import Archive, fetch_all
from speechmerge.corpora.hub import Hub, Part, read_hub
from speechmerge.data.directory import NO_AUDIO, DataDir, Trial, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import FULL, PLACES, disk_errors, read_json, write_json
from speechmerge.registry import nearest

__all__ = ["Archive", "Hub", "Part", "PublishedCorpus", "Reading", "Split"]

log = logging.getLogger(__name__)
SOURCES = ("files", "hf")
OPTIONAL = ("gender", "age")  # tables that no task needs
TWIN, TWIN_BEGUN = "twin.json", ".twin.json"  # in a twin's folder: what it was made with; the same until it is whole


@dataclass
class Split:
    """One split of one task: what becomes a data directory. `labels`: the closed set; default that of `labels_of`."""

    utterances: dict[str, Utterance]
    labels: list[str] | None = None
    trials: list[Trial] | None = None

    def size(self) -> int:
        return len(self.utterances if self.trials is None else self.trials)


@dataclass
class Reading:
    """What a reader found: splits by name, and how many entries it left out, by reason.

    `counted`: what is compared with `expected` in place of a split's size, where a reader samples or makes utterances.
    """

    splits: dict[str, Split]
    skipped: Counter = field(default_factory=Counter)
    counted: dict[str, int] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        return {name: split.size() for name, split in self.splits.items()} | self.counted


@dataclass(frozen=True)
class Request:
    """What `prepare` was asked for, beside the corpus's own options."""

    root: Path
    seed: int
    nj: int
    mini: bool
    source: str
    allow_incomplete: bool


class PublishedCorpus:
    """A corpus in its published layout. Subclasses say what stands here and implement `read`."""

    tasks: tuple[str, ...]
    licence = ""
    homepage = ""
    layout = ""  # what must lie below --corpus-dir
    top: str | tuple[str, ...] = ()  # the first folder of `layout`, where people also give that one as --corpus-dir
    obtain = ""  # where nothing may be fetched: what to obtain, from where

    @dataclass(frozen=True)
    class Options:
        """Options of this corpus, `prepare --param NAME=VALUE`."""

    def archives(self, options) -> list[Archive]:
        """What may be downloaded; empty where the licence or the publisher does not let us."""
        return []

    def present(self, root: Path, options) -> bool:
        """Whether something of the corpus lies below `root`, else it is downloaded or asked for."""
        return root.is_dir() and any(root.iterdir())

    def read(self, root: Path, task: str, options) -> Reading:
        """The published files below `root`. SpeechMergeError names file and line of what cannot be read."""
        raise NotImplementedError

    def expected(self, task: str, options) -> dict[str, int]:
        """Split -> utterances (speaker_ver: trials) of the release with these options; a split not there is unknown."""
        return {}

    def labels_of(self, task: str, options) -> list[str] | None:
        """The closed label set of a task where it is fixed, in the order of the publisher."""
        return None

    def set_of(self, task: str, utterance: Utterance) -> str:
        """The data directory DIR/<set>/<split> that an utterance belongs to; other than the task for languages."""
        return task

    def hub(self, task: str, options) -> Hub | None:
        """The version on Hugging Face, None where there is none."""
        return None

    def from_row(self, row: dict, split: str, task: str, options) -> Utterance | list[Utterance] | None:
        """One row of the hub's version, `audio` left empty; a list where it makes several; None: left out, counted."""
        raise NotImplementedError

    def write_twin(self, root: Path, seed: int, nj: int):
        """The published layout in miniature, spoken by espeak-ng: the same bytes for the same seed."""
        raise UsageError(f"{self.name}: has no spoken miniature; leave mini=true out and give --corpus-dir")

    def twin_expected(self, task: str, options) -> dict[str, int]:
        """As `expected`, of the twin."""
        return {}

    @property
    def name(self) -> str:
        """As registered: the module's name, or `registered` where that is another."""
        return getattr(self, "registered", type(self).__module__.removeprefix("speechmerge.corpora.").split(".")[0])

    def prepare(self, output_dir, corpus_dir=None, mini: bool = False, source: str = "files", tasks=None, seed: int = 0,
                nj: int = 2, allow_incomplete: bool = False, hub_id: str | None = None, revision: str | None = None,
                streaming: bool = False, **options) -> list[Path]:
        """Write output_dir/<task or set>/<split> and return these directories.

        Raises UsageError for unknown options, SpeechMergeError for a corpus that is missing, incomplete or unreadable.
        """
        options, tasks = self.options(options), self.chosen_tasks(tasks)
        if source not in SOURCES:
            raise UsageError(f"{self.name}: source {source!r}; {nearest(source, SOURCES)}")
        if mini and source == "hf":
            raise UsageError(f"{self.name}: mini=true is made here, source=hf comes from the hub; give one of them")
        root = self.root(corpus_dir, mini)
        request = Request(root, seed, nj, mini, source, allow_incomplete)
        if source == "files":
            with disk_errors(root, FULL | PLACES):
                self.provide(request, options)
        made = []
        for task in tasks:
            if source == "hf":
                reading = read_hub(self, task, options, Path(output_dir), hub_id, revision, streaming)
            else:
                reading = self.read(root, task, options)
                check_audio(self, reading, request)
            self.check_counts(task, reading, options, request)
            made += self.write(Path(output_dir), task, reading, options)
        return made

    def root(self, corpus_dir=None, mini: bool = False) -> Path:
        """Where the corpus lies, or is fetched or spoken to."""
        root = Path(corpus_dir or f"downloads/{self.name}{'_mini' if mini else ''}")
        name = root.resolve().name
        return root.resolve().parent if name in self.tops and not (root / name).is_dir() else root

    @property
    def tops(self) -> tuple[str, ...]:
        return (self.top,) if isinstance(self.top, str) else self.top

    def folders(self, root: Path) -> list[Path]:
        """What of `root` is this corpus's: its own folders, where others may lie beside them."""
        return [root / name for name in self.tops if (root / name).is_dir()] or [root]

    def options(self, given: dict):
        """The corpus's Options; UsageError for unknown names and for values of another type."""
        fields = {entry.name: entry for entry in dataclasses.fields(self.Options)}
        for name in given:
            if name not in fields:
                raise UsageError(f"{self.name} has no option {name!r}; {nearest(name, fields)}")
        return self.Options(**{name: as_type(self.name, fields[name], value) for name, value in given.items()})

    def chosen_tasks(self, tasks) -> list[str]:
        tasks = tasks.split(",") if isinstance(tasks, str) else list(tasks or self.tasks[:1])
        for task in tasks:
            if task not in self.tasks:
                raise UsageError(f"{self.name}: no task {task!r}; {nearest(task, self.tasks)}")
        return tasks

    def provide(self, request: Request, options):
        """The corpus below `request.root`: its twin is spoken, what may be fetched is fetched."""
        if request.mini:
            return self.provide_twin(request)
        if request.root.is_dir() and (request.root / TWIN).is_file():
            raise SpeechMergeError(f"{request.root}: is the spoken miniature of {self.name}, not the corpus; "
                                   "give another --corpus-dir, or mini=true")
        archives = self.archives(options)
        if archives:
            fetch_all(archives, request.root)
        elif not self.present(request.root, options):
            raise SpeechMergeError(f"{request.root}: {self.name} is not there (expected {self.layout}). "
                                   f"{self.obtain.strip()} Or try the recipe without it: --mini true")

    def provide_twin(self, request: Request):
        """Speaks it, unless it is there; what a killed run has made of the same miniature is kept."""
        mark, begun = request.root / TWIN, request.root / TWIN_BEGUN
        made_with = {"corpus": self.name, "seed": request.seed, "version": __version__}
        if mark.is_file() and read_json(mark) == made_with:
            return
        ours = mark.is_file() or begun.is_file()
        if not ours and request.root.is_dir() and any(request.root.iterdir()):
            raise SpeechMergeError(f"{request.root}: is not empty and no miniature of {self.name}; "
                                   "give an empty --corpus-dir with mini=true, so that nothing of yours is overwritten")
        if ours and not (begun.is_file() and read_json(begun) == made_with):
            shutil.rmtree(request.root)
        write_json(begun, made_with)
        self.write_twin(request.root, request.seed, request.nj)
        os.replace(begun, mark)

    def check_counts(self, task: str, reading: Reading, options, request: Request):
        """Compares with the release (or the twin); says what was left out."""
        expected = self.twin_expected(task, options) if request.mini else self.expected(task, options)
        skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(reading.skipped.items()) if count)
        for name, size in reading.sizes().items():
            log.info("%s %s/%s: %d%s", self.name, task, name, size, f" of {expected[name]}" if name in expected else "")
        if skipped:
            log.info("%s %s: left out: %s", self.name, task, skipped)
        sizes = reading.sizes()
        wrong = [f"{name}: found {sizes.get(name, 0)}, expected {count}" for name, count in expected.items()
                 if sizes.get(name, 0) != count]
        empty = [name for name, split in reading.splits.items() if not split.size()]
        if empty:
            raise SpeechMergeError(f"{request.root}: {self.name} {task}: nothing found for {', '.join(empty)}"
                                   f"{'; left out: ' + skipped if skipped else ''} (expected {self.layout})")
        if wrong and request.allow_incomplete:
            log.warning("%s %s is not the release: %s", self.name, task, "; ".join(wrong))
        elif wrong:
            raise SpeechMergeError(f"{request.root}: {self.name} {task} is not the whole release: {'; '.join(wrong)}"
                                   f"{'; left out: ' + skipped if skipped else ''}. Complete the download, or, if this "
                                   "is what you want, give --param allow_incomplete=true")

    def write(self, output_dir: Path, task: str, reading: Reading, options) -> list[Path]:
        made, counts = [], {}
        for name, split in reading.splits.items():
            labels = split.labels if split.labels is not None else self.labels_of(task, options)
            for set_name, utterances in self.sets(task, split.utterances).items():
                directory = output_dir / set_name / name
                utterances = whole_tables(dict(sorted(utterances.items())), directory)
                DataDir(directory, utterances, labels, split.trials).write()
                made.append(directory)
                counts[f"{set_name}/{name}"] = len(utterances)
        for set_name in sorted({path.parent for path in made}):
            write_json(set_name / "prepare.json", {
                "corpus": self.name, "task": task, "options": dataclasses.asdict(options), "utterances": counts,
                "left_out": dict(reading.skipped), "licence": self.licence, "homepage": self.homepage})
        return made

    def sets(self, task: str, utterances: dict[str, Utterance]) -> dict[str, dict[str, Utterance]]:
        found: dict[str, dict] = {}
        for id, utterance in utterances.items():
            found.setdefault(self.set_of(task, utterance), {})[id] = utterance
        return found


def whole_tables(utterances: dict[str, Utterance], directory: Path) -> dict[str, Utterance]:
    """Without optional tables that know some utterances only: a table has a line for each or is not there."""
    for name in OPTIONAL:
        known = [id for id, utterance in utterances.items() if name in utterance.labels]
        if known and len(known) < len(utterances):
            counts = (len(known), len(utterances))
            log.warning("%s: no utt2%s, it is known of %d of %d utterances", directory, name, *counts)
            for id in known:
                labels = {key: value for key, value in utterances[id].labels.items() if key != name}
                utterances[id] = dataclasses.replace(utterances[id], labels=labels)
    return utterances


def check_audio(corpus, reading: Reading, request: Request):
    """Every file that a reader names is there and not empty; SpeechMergeError with count and the first otherwise.

    With allow_incomplete the utterances without audio are left out, and counted.
    """
    audio = {utterance.audio for split in reading.splits.values() for utterance in split.utterances.values()} - {NO_AUDIO}
    absent = {path for path in audio if not Path(path).is_file()}
    empty = {path for path in audio - absent if Path(path).stat().st_size == 0}
    if not (absent or empty):
        return
    first = min(absent or empty)
    if not request.allow_incomplete:
        raise SpeechMergeError(f"{request.root}: {corpus.name} is incomplete: of {len(audio)} audio files "
                               f"{len(absent)} are missing and {len(empty)} empty, the first is {first}. Complete the "
                               "download, or leave them out with --param allow_incomplete=true")
    for split in reading.splits.values():
        for reason, paths in (("audio file missing", absent), ("audio file empty", empty)):
            gone = [id for id, utterance in split.utterances.items() if utterance.audio in paths]
            reading.skipped[reason] += len(gone)
            for id in gone:
                del split.utterances[id]
        if split.trials is not None:
            kept = [t for t in split.trials if t.enrol in split.utterances and t.test in split.utterances]
            reading.skipped["trial without audio"] += len(split.trials) - len(kept)
            split.trials = kept


def as_type(corpus: str, entry, value):
    """A --param value as the type of the option's default; lists may be written `a,b` or `[a, b]`."""
    default = entry.default
    if isinstance(default, tuple):
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
        return tuple(str(item).strip() for item in items if str(item).strip())
    if isinstance(default, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    wanted = type(default)
    if default is None or isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    if wanted is float and isinstance(value, int):
        return float(value)
    raise UsageError(f"{corpus}: option {entry.name}: found {value!r}, expected {wanted.__name__}, such as {default!r}")
