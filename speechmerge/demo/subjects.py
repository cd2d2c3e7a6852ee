"""What can be asked about a sound: the tasks of an experiment, each with its label set and its utterances to listen to."""
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechmerge.data.directory import DataDir, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.systems import known_adapters, task_of
from speechmerge.tasks.base import Example, Task

SOUND = "sound"  # the id of what was recorded or uploaded


@dataclass(frozen=True)
class Request:
    """A sound and what is known of it. audio: 16 kHz mono files, two for a pair; example: the key of the listed example
    that it is."""

    audio: tuple[str, ...]
    language: str | None = None  # Whisper code; None: not known
    question: str | None = None  # for tasks that are asked in writing
    example: str | None = None


@dataclass
class Subject:
    """One task with one label set. `examples`: "<set>/<utterance>" -> the Example that `decode` gives the model."""

    name: str
    task: Task
    labels: list[str] | None
    sets: list[str]
    examples: dict[str, Example] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)  # of examples that are asked in writing
    target_language: str | None = None  # of a translation

    @property
    def sounds(self) -> int:
        return 2 if self.task.kind == "verification" else 1

    def example(self, request: Request) -> Example:
        """Raises SpeechMergeError where something is missing: a second sound, a question."""
        listed = self.examples.get(request.example)
        if listed and request.question in (None, self.questions.get(request.example)):
            return replace(listed, language=request.language)
        if len(request.audio) < self.sounds:
            raise SpeechMergeError("This task compares two sounds; give a second one.")
        if self.task.asks and not request.question:
            raise SpeechMergeError("This task answers a question; write one.")
        given = {"question": request.question, "target_lang": self.target_language}
        known = {name: value for name, value in given.items() if value}
        utterance = Utterance(SOUND, request.audio[0], None, None, request.language, None, known)
        prompt = self.task.prompt_of(None, utterance, self.labels)
        made = self.task.example(utterance, "", prompt, self.target_language)
        return replace(made, audio=request.audio[: self.sounds], duration=None)

    def set_of(self, request: Request) -> str:
        """The set that an example is of; of other sounds the first."""
        return request.example.rpartition("/")[0] if request.example in self.examples else self.sets[0]

    def score(self, request: Request, text: str | None) -> tuple[str, float] | None:
        """(metric, value) of one answer to an example whose answer is known; None where one answer has no such score."""
        listed = self.examples.get(request.example)
        if listed is None or text is None or self.task.kind == "verification":
            return None
        result = self.task.score({SOUND: listed.target}, {SOUND: text}, languages={SOUND: listed.language}, labels=self.labels)
        return result["metric"], result["value"]


def find_tasks(sets: list[str], task: str | None, exp_dir) -> dict[str, Task]:
    """Set -> its task; by default the sets are those of the registered adapters."""
    sets = sets or list(known_adapters(exp_dir))
    if not sets:
        raise UsageError(f"demo: --tasks is not given, and {Path(exp_dir) / 'adapters.json'} lists no adapters whose tasks could "
                         "be taken")
    return {name: task_of(name, task, exp_dir) for name in sets}


def find_subjects(tasks: dict[str, Task], model, data, split: str, count: int) -> list[Subject]:
    """Sets of one task and one label set are one subject. data: folder that holds <set>/<split>/; a set without data has no
    examples, and labels are then only generated, not scored. count: examples of each set."""
    found: dict[str, list[Subject]] = {}
    for name, task in tasks.items():
        task.adapt(model)
        one = subject_of(name, task, Path(data) / name / split, count)
        alike = found.setdefault(task.name, [])
        same = next((other for other in alike if can_join(other, one)), None)
        if same is None:
            alike.append(one)
            continue
        same.sets.append(name)
        same.examples.update(one.examples)
        same.questions.update(one.questions)
        same.labels = same.labels or one.labels
    for task, alike in found.items():
        for subject in alike:
            subject.name = task if len(alike) == 1 else f"{task} {subject.sets[0]}"
    return [subject for alike in found.values() for subject in alike]


def can_join(first: Subject, second: Subject) -> bool:
    labels = first.labels == second.labels or not first.labels or not second.labels
    return labels and first.task.settings() == second.task.settings() and first.target_language == second.target_language


def subject_of(name: str, task: Task, path: Path, count: int) -> Subject:
    if not (path / "wav.scp").is_file():
        return Subject(name, task, None, [name])
    data = DataDir.read(path)
    examples = task.examples(data)
    chosen = examples[:: max(1, len(examples) // count)][:count] if count else []
    questions = {e.id: data.utterances[e.id].labels.get("question") for e in chosen if e.id in data.utterances}
    return Subject(name, task, task.labels(data), [name], {f"{name}/{e.id}": e for e in chosen if e.audio},
                   {f"{name}/{id}": text for id, text in questions.items() if text}, getattr(task, "target_language", None))
