"""Speaker verification: do two utterances come from one speaker? Decided by the equal error rate of trial scores."""
import numpy as np

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.metrics.eer import equal_error_rate, min_dcf
from speechmerge.registry import nearest
from speechmerge.tasks import TASKS
from speechmerge.tasks.base import Example, LabelTask

ANSWERS = ["no", "yes"]
VERIFICATIONS = ("answers", "cosine")
OPPOSITE = {"yes": "no", "no": "yes"}


@TASKS.register("speaker_ver")
class SpeakerVerification(LabelTask):
    """Speaker verification of pairs of utterances; the equal error rate decides."""

    name = "speaker_ver"
    kind = "verification"
    metric = "eer"
    higher_is_better = False
    max_new_tokens = 4
    uses_language = False
    prompt = "Is this the same speaker?"
    instruction = "Do both recordings have the same speaker? Answer yes or no."
    configurable = (*LabelTask.configurable, "verification")
    verification = "answers"  # how trials are decoded: yes/no written and scored, or the cosine of both embeddings

    def examples(self, data: DataDir) -> list[Example]:
        if not data.trials:
            raise SpeechMergeError(f"{data.path / 'trials'}: no trials; the task speaker_ver needs lines "
                                   "`trial_id enrol_utt test_utt target|nontarget`")
        found = []
        for trial in sorted(data.trials, key=lambda trial: trial.id):
            pair = (data.utterances[trial.enrol], data.utterances[trial.test])
            durations = [utterance.duration for utterance in pair]
            found.append(Example(trial.id, (pair[0].own_file(), pair[1].own_file()), "yes" if trial.target else "no",
                                 pair[0].language, pair[0].speaker, None if None in durations else sum(durations),
                                 self.prompt_of(data, pair[0], ANSWERS)))
        return found

    def configure(self, **values):
        way = values.get("verification")
        if way not in (None, *VERIFICATIONS):
            raise UsageError(f"--verification {way!r}; {nearest(way, VERIFICATIONS)}")
        return super().configure(**values)

    def adapt(self, model):
        """Models that write no answers compare embeddings, unless answers were asked for."""
        super().adapt(model)
        if model.compares and "verification" not in vars(self):
            self.verification = "cosine"

    def labels(self, data: DataDir) -> list[str]:
        return ANSWERS

    def score(self, refs, hyps, *, speakers=None, languages=None, scores=None, labels=None) -> dict:
        """EER and minDCF from `scores`; without them from the yes/no answers, whose ROC has one operating point."""
        if scores is not None and not hyps:
            result = {"n": len(refs), "n_missing": 0, "n_unparsed": 0}
        else:
            result = self.label_scores(refs, hyps, ANSWERS)
        values, targets = self.trial_scores(refs, hyps, scores)
        eer = equal_error_rate(values, targets)
        return {**result, "metric": self.metric, "value": eer, "eer": eer, "min_dcf": min_dcf(values, targets),
                "min_dcf_0.05": min_dcf(values, targets, p_target=0.05), "n_target": int(targets.sum())}

    def trial_scores(self, refs, hyps, scores) -> tuple[np.ndarray, np.ndarray]:
        """(score, is target) per trial, by id. Answers score 1 or 0, missing or unreadable ones as wrong answers."""
        ids = sorted(refs)
        targets = np.array([refs[id] == "yes" for id in ids])
        if scores is None:
            answers = [answer or OPPOSITE[refs[id]] for id, answer in zip(ids, self.read(ids, hyps, ANSWERS))]
            return np.array([float(answer == "yes") for answer in answers]), targets
        missing = sorted(set(ids) - scores.keys())
        if missing:
            raise SpeechMergeError(f"{self.name}: trial {missing[0]!r} has no score ({len(missing)} such trials); "
                                   "decode again")
        return np.array([scores[id] for id in ids]), targets

    def replicates(self, refs, hyps, *, speakers=None, languages=None, scores=None, repetitions=1000, seed=0):
        counts, unit = self.resampled(refs, speakers, repetitions, seed)
        values, targets = self.trial_scores(refs, hyps, scores)
        return np.concatenate([equal_error_rate(values, targets, block) for block in blocks(counts)]), unit

    def more_replicates(self, refs, hyps, counts, *, languages=None, scores=None):
        values, targets = self.trial_scores(refs, hyps, scores)
        return {name: np.concatenate([min_dcf(values, targets, p, weights=block) for block in blocks(counts)])
                for name, p in (("min_dcf", 0.01), ("min_dcf_0.05", 0.05))}


def blocks(counts: np.ndarray) -> list[np.ndarray]:
    """Tens of MB at a time."""
    return np.array_split(counts, max(1, counts.size // 2_000_000))
