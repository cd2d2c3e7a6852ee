"""Spoken question answering: the answer to a written question about what is said in the audio.

The data directory has `utt2question` and `utt2answers` (a JSON list of gold answers); utterances may share audio.
"""
import json

import numpy as np

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.metrics.squad import exact_match, f1
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import Example, Task


@TASKS.register("speech_qa")
class SpeechQA(Task):
    """Spoken question answering, the question as text; F1 of SQuAD v1.1 decides."""

    name = "speech_qa"
    kind = "answering"
    metric = "f1"
    higher_is_better = True
    asks = True
    max_new_tokens = 48
    prompt = "{question}"
    instruction = "Answer a question about the speech in as few words as possible. The question: {question}"

    def examples(self, data: DataDir) -> list[Example]:
        found = []
        for id, utterance in sorted(data.utterances.items()):
            table = utterance.labels.get("answers")
            answers = read_answers(table)
            if not answers:
                raise SpeechMergeError(f"{data.path / 'utt2answers'}:{id}: found {table!r}, expected a JSON list of "
                                       'gold answers such as ["Denver Broncos"]; prepare the data again')
            target = json.dumps(answers, ensure_ascii=False)
            found.append(self.example(utterance, target, self.prompt_of(data, utterance)))
        return found

    def stratum(self, example):
        return example.language

    def written(self, target):
        """The first gold answer."""
        return read_answers(target)[0]

    def parse(self, text: str) -> str | None:
        return " ".join(text.split())  # an empty answer is one: that the question has none

    def score(self, refs, hyps, *, speakers=None, languages=None, scores=None, labels=None) -> dict:
        self.check_ids(refs, hyps)
        matches, f1s = self.values(refs, hyps)
        return {"value": float(f1s.mean()), "metric": self.metric, "n": len(refs),
                "n_missing": len(refs.keys() - hyps.keys()), "n_unparsed": 0, "f1": float(f1s.mean()),
                "exact_match": float(matches.mean())}

    def values(self, refs, hyps) -> tuple[np.ndarray, np.ndarray]:
        """(exact match, F1) per question in sorted id order; an unanswered question scores 0."""
        rows = []
        for id, target in sorted(refs.items()):
            answers = read_answers(target)
            rows.append([measure(hyps[id], answers) if id in hyps else 0.0 for measure in (exact_match, f1)])
        matches, f1s = np.array(rows).T
        return matches, f1s

    def more_replicates(self, refs, hyps, counts, *, languages=None, scores=None):
        return {"exact_match": counts @ self.values(refs, hyps)[0] / counts.sum(axis=1)}

    def parts(self, refs, hyps, languages=None):
        return self.values(refs, hyps)[1], np.ones(len(refs))


def read_answers(text: str | None) -> list[str]:
    """A JSON list of strings; [] for anything else."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return []
    return found if isinstance(found, list) and all(isinstance(answer, str) for answer in found) else []
