"""The common part of all tasks. A new task is a file with one class and `@TASKS.register("name")`."""
import re
import string
import unicodedata
from dataclasses import dataclass

import numpy as np

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.metrics import bootstrap
from speechmerge.metrics.classification import classification_replicates, classification_scores
from speechmerge.registry import nearest

PROMPT_FIELDS = ("labels", "transcript", "question", "language")


@dataclass(frozen=True)
class Example:
    id: str
    audio: tuple[str, ...]  # one path; two for a pair
    target: str  # what hypotheses are compared with; `Task.written` makes of it what the model learns to write
    language: str | None
    speaker: str | None
    duration: float | None  # seconds of all audio together
    prompt: str | None = None  # text that the model is given beside the audio
    target_language: str | None = None  # of a translation; Whisper code


class Task:
    name: str
    kind: str  # "transcription" | "classification" | "verification" | "understanding" | "answering" | "translation"
    metric: str  # the deciding metric, `value` in the scores; a fraction, also BLEU
    higher_is_better: bool
    max_new_tokens: int
    uses_language: bool = True  # may the decoder prefix tell the spoken language?
    hears_all: bool = False  # is the target about every word, so that audio beyond the model's context is a loss?
    asks: bool = False  # has every utterance a prompt of its own, without which there is nothing to answer?
    free_symbols: bool = False  # may the answer hold brackets and quotes, which Whisper's own decoding suppresses?
    prompt: str = ""  # template of the text given to the model; fields: PROMPT_FIELDS
    configurable: tuple[str, ...] = ("prompt",)  # what training and decoding may set; kept with the adapter

    def configure(self, **values) -> "Task":
        """Set options of this task (None: leave it). Raises UsageError for an option or a value it does not know."""
        for name, value in values.items():
            if value is None:
                continue
            if name not in self.configurable:
                raise UsageError(f"--{name.replace('_', '-')}: the task {self.name} has no such option")
            if name == "prompt":
                check_template(value)
            setattr(self, name, value)
        return self

    def settings(self) -> dict:
        """The options that differ from the task's defaults: what an adapter's record and decode.json keep."""
        found = {name: getattr(self, name) for name in self.configurable}
        return {name: value for name, value in found.items() if value != getattr(type(self), name)}

    def adapt(self, model):
        """Choose what depends on the model and was not configured."""

    def written(self, target: str) -> str:
        """What the model learns to write for the target of an example."""
        return target

    def stratum(self, example: Example) -> str | None:
        """What a stratified sample keeps in proportion."""
        return example.target

    def prompt_of(self, data: DataDir, utterance, labels=None) -> str | None:
        """The prompt of one utterance; None for a task without one. Raises SpeechMergeError where a field is missing.

        Fields: {labels} the label set, {transcript} `text`, {question} `utt2question`, {language} the Whisper code.
        """
        values = {"labels": ", ".join(labels or ()), "transcript": utterance.text, "language": utterance.language,
                  "question": utterance.labels.get("question")}
        used = {field: values[field] for field in template_fields(self.prompt)}
        if missing := sorted(field for field, value in used.items() if not value):
            table = {"transcript": "text", "language": "utt2lang", "question": "utt2question"}.get(missing[0], "labels")
            raise SpeechMergeError(f"{data.path / table}: utterance {utterance.id} has no {missing[0]}, which the "
                                   f"prompt {self.prompt!r} of the task {self.name} asks for")
        return self.prompt.format(**used) or None

    def examples(self, data: DataDir) -> list[Example]:
        """One example per utterance (or trial), sorted by id. Raises SpeechMergeError where a target is missing."""
        raise NotImplementedError

    def labels(self, data: DataDir) -> list[str] | None:
        """The closed label set, None for transcription."""
        return None

    def parse(self, text: str) -> str | None:
        """How a generated hypothesis is read; None where it says nothing."""
        raise NotImplementedError

    def score(self, refs: dict[str, str], hyps: dict[str, str], *, speakers=None, languages=None, scores=None,
              labels=None) -> dict:
        """All metrics; the deciding one is `value`. Missing hypotheses count as errors (`n_missing`), unreadable ones
        too (`n_unparsed`). speakers, languages: {id: name}; scores: {trial id: float}; labels: the closed label set.
        """
        raise NotImplementedError

    def replicates(self, refs, hyps, *, speakers=None, languages=None, scores=None, repetitions=bootstrap.REPETITIONS,
                   seed=bootstrap.SEED):
        """(deciding metric on each resampled test set [repetitions], "speaker" | "utterance").

        Two systems scored on the same references get the same resampled sets, so their replicates are paired.
        """
        counts, unit = self.resampled(refs, speakers, repetitions, seed)
        numerator, denominator = self.parts(refs, hyps, languages)
        return bootstrap.ratio_replicates(numerator, denominator, counts), unit

    def more_replicates(self, refs, hyps, counts, *, languages=None, scores=None) -> dict[str, np.ndarray]:
        """{metric: its values [repetitions]} of other metrics of `score`, on test sets resampled as in replicates()."""
        return {}

    def parts(self, refs, hyps, languages=None) -> tuple[np.ndarray, np.ndarray]:
        """Numerator and denominator of the deciding metric per utterance, in sorted id order."""
        raise NotImplementedError

    def scored_ids(self, refs, hyps) -> list[str]:
        """What is scored, sorted."""
        return sorted(refs)

    @staticmethod
    def resampled(refs, speakers, repetitions, seed):
        return bootstrap.resample([(speakers or {}).get(id) for id in sorted(refs)], repetitions, seed)

    def check_ids(self, refs, hyps):
        """The ids of both sides must belong together; missing hypotheses are allowed, unknown ones are not."""
        if not refs:
            raise SpeechMergeError(f"{self.name}: no references to score")
        unknown = sorted(hyps.keys() - refs.keys())
        if unknown:
            raise SpeechMergeError(f"{self.name}: hypothesis {unknown[0]!r} is not in the references ({len(unknown)} "
                                   "such ids); decode this data directory again")


def single_example(utterance, target: str, prompt: str | None = None, target_language: str | None = None) -> Example:
    """The example of one utterance."""
    return Example(utterance.id, (utterance.own_file(),), target, utterance.language, utterance.speaker,
                   utterance.duration, prompt, target_language)


def template_fields(template: str) -> list[str]:
    """Names of the fields of a prompt template. Raises UsageError where it cannot be read as one."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"--prompt {template!r}: {error}; a brace that is meant is written twice") from error
    if any(spec or conversion for _, _, spec, conversion in pieces):
        raise UsageError(f"--prompt {template!r}: fields are plain names, without : or !")
    return [field for _, field, _, _ in pieces if field is not None]


def check_template(template: str):
    for field in template_fields(template):
        if field not in PROMPT_FIELDS:
            raise UsageError(f"--prompt {template!r}: unknown field {{{field}}}; {nearest(field, PROMPT_FIELDS)}")


def canonical(text: str) -> str:
    """How labels are compared: NFKC, case folded, punctuation and `_` as spaces. "Lights_On." equals "lights on"."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(" " if unicodedata.category(c)[0] in "PSZC" else c for c in folded)
    return re.sub(r"\s+", " ", kept).strip()


class LabelTask(Task):
    """Classification over a closed label set that stands in one column of the data directory."""
    kind = "classification"
    metric = "accuracy"
    higher_is_better = True
    max_new_tokens = 12
    table: str  # where the labels stand, for messages

    def label_of(self, utterance) -> str | None:
        return utterance.labels.get(self.name)

    def examples(self, data: DataDir) -> list[Example]:
        labels = self.labels(data)
        known, found = set(labels), []
        for id, utterance in sorted(data.utterances.items()):
            label = self.label_of(utterance)
            if label is None:
                raise SpeechMergeError(f"{data.path / self.table}: no label for utterance {id}, expected one per "
                                       f"utterance; is this a data directory for the task {self.name}?")
            if label not in known:
                raise SpeechMergeError(f"{data.path / self.table}:{id}: label {label!r} is not in "
                                       f"{data.path / 'labels'}; add it there in all splits, or correct the table")
            found.append(single_example(utterance, label, self.prompt_of(data, utterance, labels)))
        return found

    def labels(self, data: DataDir) -> list[str]:
        """The file `labels`; without one, the labels of this split, which is only right where it has them all."""
        labels = data.labels or sorted({self.label_of(u) for u in data.utterances.values()} - {None})
        by_form = {}
        for label in labels:
            if by_form.setdefault(canonical(label), label) != label:
                raise SpeechMergeError(f"{data.path / 'labels'}: {by_form[canonical(label)]!r} and {label!r} are the "
                                       "same label once case and punctuation are ignored; rename one")
        return labels

    def parse(self, text: str) -> str | None:
        return canonical(text) or None

    def score(self, refs, hyps, *, speakers=None, languages=None, scores=None, labels=None) -> dict:
        result = self.label_scores(refs, hyps, labels or sorted(set(refs.values())))
        return {"value": result[self.metric], "metric": self.metric, **result}

    def label_scores(self, refs, hyps, labels) -> dict:
        """Counts and all classification metrics."""
        self.check_ids(refs, hyps)
        ids = sorted(refs)
        read = self.read(ids, hyps, labels)
        unparsed = sum(id in hyps and label is None for id, label in zip(ids, read))
        return {"n": len(ids), "n_missing": len(refs.keys() - hyps.keys()), "n_unparsed": unparsed,
                **classification_scores([refs[id] for id in ids], read, labels)}

    def read(self, ids, hyps, labels) -> list[str | None]:
        """The label each hypothesis names, None where it names none."""
        by_form = {canonical(label): label for label in labels}
        return [by_form.get(self.parse(hyps[id]) or "") if id in hyps else None for id in ids]

    def more_replicates(self, refs, hyps, counts, *, languages=None, scores=None):
        ids, labels = sorted(refs), sorted(set(refs.values()))
        read = self.read(ids, hyps, labels)
        return classification_replicates([refs[id] for id in ids], read, labels, counts)

    def parts(self, refs, hyps, languages=None):
        ids = sorted(refs)
        read = self.read(ids, hyps, sorted(set(refs.values())))
        return np.array([refs[id] == label for id, label in zip(ids, read)], dtype=float), np.ones(len(ids))
