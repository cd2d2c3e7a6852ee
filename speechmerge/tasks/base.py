"""The common part of all tasks. A new task is a file with one class and `@TASKS.register("name")`."""
import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.metrics import bootstrap
from speechmerge.metrics.classification import classification_scores


@dataclass(frozen=True)
class Example:
    id: str
    audio: tuple[str, ...]  # one path; two for a pair
    target: str
    language: str | None
    speaker: str | None
    duration: float | None  # seconds of all audio together


class Task:
    name: str
    kind: str  # "transcription" | "classification" | "verification"
    metric: str  # the deciding metric, `value` in the scores
    higher_is_better: bool
    max_new_tokens: int
    uses_language: bool = True  # may the decoder prefix tell the spoken language?
    prompt: str = ""  # text prompt for models that have no token for this task

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

    def replicates(self, refs, hyps, *, speakers=None, scores=None, repetitions=bootstrap.REPETITIONS,
                   seed=bootstrap.SEED):
        """(deciding metric on each resampled test set [repetitions], "speaker" | "utterance").

        Two systems scored on the same references get the same resampled sets, so their replicates are paired.
        """
        counts, unit = self.resampled(refs, speakers, repetitions, seed)
        numerator, denominator = self.parts(refs, hyps)
        return bootstrap.ratio_replicates(numerator, denominator, counts), unit

    def parts(self, refs, hyps) -> tuple[np.ndarray, np.ndarray]:
        """Numerator and denominator of the deciding metric per utterance, in sorted id order."""
        raise NotImplementedError

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


def single_example(utterance, target: str) -> Example:
    """The example of one utterance."""
    return Example(utterance.id, (utterance.audio,), target, utterance.language, utterance.speaker, utterance.duration)


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
        known = set(self.labels(data))
        found = []
        for id, utterance in sorted(data.utterances.items()):
            label = self.label_of(utterance)
            if label is None:
                raise SpeechMergeError(f"{data.path / self.table}: no label for utterance {id}, expected one per "
                                       f"utterance; is this a data directory for the task {self.name}?")
            if label not in known:
                raise SpeechMergeError(f"{data.path / self.table}:{id}: label {label!r} is not in "
                                       f"{data.path / 'labels'}; add it there in all splits, or correct the table")
            found.append(single_example(utterance, label))
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

    def parts(self, refs, hyps):
        ids = sorted(refs)
        read = self.read(ids, hyps, sorted(set(refs.values())))
        return np.array([refs[id] == label for id, label in zip(ids, read)], dtype=float), np.ones(len(ids))
