"""A linear probe with its control task, over folds of speakers or utterances, with intervals.

    accuracy      balanced: mean over classes of the share of their frames that is recognised; chance is 1 / classes
    control       the same probe on labels that mean nothing (Hewitt and Liang, arXiv 1909.03368): each phone type gets
                  at random the class of another one, for good; another draw for each fold. Whoever knows the phone
                  knows its control class, but only by heart: what sounds alike is no longer together
    selectivity   accuracy - control. Near 0: the probe could as well have learned any grouping of the phones. Below 0:
                  a random grouping is easier, as where some classes hold short phones alone (taps, glides)

For words the type is the answer: control labels by word type would be the same question under other names, of
selectivity 0 whatever the states hold. Their control labels are those of other tokens, drawn once. Intervals are over
utterances; how the control's draw came out is not in them.
"""
from dataclasses import dataclass

import numpy as np

from speechmerge.metrics.bootstrap import interval, ratio_replicates, resample

STRENGTHS = (0.001, 0.03, 1.0)  # C of scikit-learn: the inverse of the L2 penalty
STEPS = 200  # of L-BFGS


@dataclass(frozen=True)
class Question:
    """What is asked of rows of states: their classes 0 .. K-1, types that decide a class (None: the class is the type),
    the utterance and the fold of each row."""

    name: str
    classes: list[str]
    labels: np.ndarray
    types: np.ndarray | None
    utterances: np.ndarray
    folds: np.ndarray

    def control(self, fold: int, seed: int) -> np.ndarray:
        """Control labels of all rows, another draw for each fold."""
        rng = np.random.default_rng([seed, fold, *self.name.encode()])
        if self.types is None:
            return rng.permutation(self.labels)
        _, first, place = np.unique(self.types, return_index=True, return_inverse=True)
        return rng.permutation(self.labels[first])[place]


@dataclass(frozen=True)
class Answers:
    """Of each row what was predicted when it was tested, and the control's label and prediction."""

    predicted: np.ndarray
    control_labels: np.ndarray
    control_predicted: np.ndarray


def make_folds(groups: list, sets: list, count: int, seed: int) -> tuple[np.ndarray, dict[str, str]]:
    """The fold of each utterance, and of each set what was kept together: "speaker" or "utterance".

    groups: the speaker of each utterance or None. Speakers stay together where all of a set are known and there are at
    least two for each fold.
    """
    folds, units = np.zeros(len(groups), int), {}
    for name in sorted(set(sets)):
        own = [place for place, where in enumerate(sets) if where == name]
        speakers = {groups[place] for place in own}
        units[name] = "speaker" if None not in speakers and len(speakers) >= 2 * count else "utterance"
        clusters = {}
        for place in own:
            clusters.setdefault(groups[place] if units[name] == "speaker" else place, []).append(place)
        order = sorted(clusters, key=str)
        np.random.default_rng([seed, *name.encode()]).shuffle(order)
        sizes = [0] * count
        for cluster in sorted(order, key=lambda one: -len(clusters[one])):
            fold = sizes.index(min(sizes))
            folds[clusters[cluster]] = fold
            sizes[fold] += len(clusters[cluster])
    return folds, units


def fit(states, labels, strength: float):
    """scikit-learn's standardised logistic regression; classes weigh the same, however frequent they are."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = LogisticRegression(C=strength, class_weight="balanced", max_iter=STEPS, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # STEPS are enough for the accuracy to stand
        return make_pipeline(StandardScaler(), probe).fit(states, labels)


def balanced(labels, predicted) -> float:
    """Mean over the classes that occur of the share that is recognised."""
    return float(np.mean([np.mean(predicted[labels == own] == own) for own in np.unique(labels)]))


def strengths(question: Question, states) -> list[float]:
    """For each fold the C that is best on the next fold after training on the others: the fold itself is not seen."""
    count, chosen = int(question.folds.max()) + 1, []
    for fold in range(count):
        dev = question.folds == (fold + 1) % count
        train = ~dev & (question.folds != fold) if count > 2 else None
        if train is None:  # of two folds the other one is halved
            order = np.unique(question.utterances[dev])
            dev, train = (dev & np.isin(question.utterances, part) for part in (order[::2], order[1::2]))
        chosen.append(best_strength(question, states, train, dev))
    return chosen


def best_strength(question: Question, states, train, dev) -> float:
    labels = question.labels
    if len(np.unique(labels[train])) < 2 or not dev.any():
        return STRENGTHS[0]
    scores = [balanced(labels[dev], fit(states[train], labels[train], strength).predict(states[dev]))
              for strength in STRENGTHS]
    return STRENGTHS[int(np.argmax(scores))]


def answers(question: Question, states, chosen: list[float], seed: int) -> Answers:
    """Each fold is answered by probes that were trained on the others. states: [rows, d]."""
    predicted, control_labels, control_predicted = (np.full(len(question.labels), -1) for _ in range(3))
    for fold, strength in enumerate(chosen):
        test, labels = question.folds == fold, question.control(fold, seed)
        if not test.any():
            continue
        predicted[test] = answered(states, question.labels, test, strength)
        control_labels[test] = labels[test]
        control_predicted[test] = answered(states, labels, test, strength)
    return Answers(predicted, control_labels, control_predicted)


def answered(states, labels, test, strength: float) -> np.ndarray:
    known = np.unique(labels[~test])
    if len(known) < 2:
        return np.full(int(test.sum()), known[0])
    return fit(states[~test], labels[~test], strength).predict(states[test])


class Judgement:
    """The numbers of some systems' answers on the same resampled utterances, so that differences are paired."""

    def __init__(self, question: Question, speakers: list, repetitions: int, seed: int):
        """speakers: of each utterance, or None"""
        self.question, self.size = question, len(speakers)
        self.counts, self.unit = resample(speakers, repetitions, seed)

    def replicates(self, labels, predicted) -> np.ndarray:
        """[1 + repetitions] balanced accuracies: first that of the utterances as they are."""
        counts = np.concatenate([np.ones((1, self.size)), self.counts])
        found = []
        for own in range(len(self.question.classes)):
            rows = labels == own
            total = np.bincount(self.question.utterances[rows], minlength=self.size)
            right = np.bincount(self.question.utterances[rows & (predicted == own)], minlength=self.size)
            if total.sum():
                found.append(ratio_replicates(right, total, counts))
        return np.nanmean(found, axis=0)

    def cell(self, found: Answers, base: "np.ndarray | None") -> tuple[dict, np.ndarray]:
        """The entry of one system and layer, and its replicates; `base`: those of the base at this layer."""
        real = self.replicates(self.question.labels, found.predicted)
        control = self.replicates(found.control_labels, found.control_predicted)
        entry = {"accuracy": real[0], "ci": interval(real[1:]), "control": control[0],
                 "selectivity": real[0] - control[0], "selectivity_ci": interval((real - control)[1:]),
                 "plain_accuracy": float(np.mean(self.question.labels == found.predicted))}
        if base is not None:
            entry |= {"change": real[0] - base[0], "change_ci": interval((real - base)[1:])}
        return {key: [round(part, 5) for part in value] if isinstance(value, list) else round(float(value), 5)
                for key, value in entry.items()}, real
