"""The common part of all tasks. A new task is a file with one class and `@TASKS.register("name")`."""
import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.metrics import bootstrap
from speechmerge.metrics.classification import classification_replicates, classification_scores
from speechmerge.registry import nearest
from speechmerge.tasks.templates import INPUTS, TRANSCRIPT, check_template, filled, template_fields



@dataclass(frozen=True)
class Example:
    id: str
    audio: tuple[str, ...]  # one path; two for a pair; none where the model is to read the transcript in the prompt
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
    inputs: str = "audio"  # what the model is given of an utterance, one of INPUTS
    prompt: str = ""  # template of the text given to the model; fields: templates.FIELDS
    instruction: str = ""  # the same for models that are told in words what to do (audio LLMs)
    instructed: bool = False  # is the model such a one? Known after `adapt`
    configurable: tuple[str, ...] = ("prompt", "inputs")  # what training and decoding may set; kept with the adapter

    def configure(self, **values) -> "Task":
        """Set options of this task (None: leave it). Raises UsageError for an option or a value it does not know."""
        for name, value in values.items():
            if value is None:
                continue
            if name not in self.configurable:
                raise UsageError(f"--{name.replace('_', '-')}: the task {self.name} has no such option")
            if name == "prompt":
                check_template(value)
            if name == "inputs":
                self.check_inputs(value)
            setattr(self, name, value)
        return self

    def settings(self) -> dict:
        """The options that differ from the task's defaults: what an adapter's record and decode.json keep."""
        found = {name: getattr(self, name) for name in self.configurable}
        return {name: value for name, value in found.items() if value != getattr(type(self), name)}

    def check_inputs(self, inputs: str):
        """Raises UsageError for what is no kind of input, or none of this task."""
        if inputs not in INPUTS:
            raise UsageError(f"--inputs {inputs!r}; {nearest(inputs, INPUTS)}")
        if inputs != "audio" and self.kind in ("transcription", "verification"):
            reason = "is what is to be written" if self.kind == "transcription" else "does not tell voices apart"
            raise UsageError(f"--inputs {inputs}: the transcript {reason} in the task {self.name}; use --inputs audio")

    def adapt(self, model):
        """Choose what depends on the model and was not configured. UsageError where the model cannot take the inputs."""
        if self.inputs != "audio" and not model.reads_text:
            raise UsageError(f"--inputs {self.inputs}: models of the family {model.family} hear only ({model.source}); "
                             "transcripts are read by audio LLMs such as Qwen/Qwen2-Audio-7B-Instruct")
        self.instructed = model.needs_instruction

    def written(self, target: str) -> str:
        """What the model learns to write for the target of an example."""
        return target

    def stratum(self, example: Example) -> str | None:
        """What a stratified sample keeps in proportion."""
        return example.target

    def template(self) -> str:
        """Of the prompt: as configured, else what this kind of model is told. A transcript that the model is to read and
        that has no place in it comes last."""
        own = self.prompt != type(self).prompt
        text = self.instruction if self.instructed and not own else self.prompt
        if self.inputs != "audio" and "transcript" not in template_fields(text):
            text = f"{text}\n{TRANSCRIPT}".lstrip()
        return text

    def prompt_of(self, data: DataDir, utterance, labels=None) -> str | None:
        """The prompt of one utterance; None for a task without one. Raises SpeechMergeError where a field is missing."""
        return filled(self.template(), data, utterance, labels, self.name) or None

    def instruction_for(self, example: "Example") -> str:
        """What a model that is told in words is asked about an example without a prompt of its own."""
        return filled(self.instruction, None, example, None, self.name)

    def example(self, utterance, target: str, prompt: str | None = None, target_language: str | None = None) -> "Example":
        """The example of one utterance; where only the transcript is given, without audio."""
        if self.inputs == "text":
            return Example(utterance.id, (), target, utterance.language, utterance.speaker, 0.0, prompt, target_language)
        return Example(utterance.id, (utterance.own_file(),), target, utterance.language, utterance.speaker,
                       utterance.duration, prompt, target_language)

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

    def published(self, data: DataDir, refs, hyps) -> dict[str, list | dict]:
        """{file name: its JSON lines, or its JSON object} of results in the forms of others, written beside the scores."""
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
            found.append(self.example(utterance, label, self.prompt_of(data, utterance, labels)))
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
