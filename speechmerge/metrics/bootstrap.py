"""Paired bootstrap: the same resampled test sets for every system, by speaker where speakers are known.

    counts, unit = resample(groups, repetitions=1000, seed=0)
    values_a = ratio_replicates(errors_a, words, counts)      # two systems on the same resampled test sets:
    values_b = ratio_replicates(errors_b, words, counts)      # their difference has the right, smaller variance
"""
import numpy as np

REPETITIONS, SEED = 1000, 0
MIN_SPEAKERS = 5  # with fewer clusters their resampling says nothing; utterances are resampled instead


def resample(groups, repetitions: int = REPETITIONS, seed: int = SEED) -> tuple[np.ndarray, str]:
    """How often each item stands in each resampled test set.

    groups: one speaker (or None) per item. Returns (counts [repetitions, items], "speaker" | "utterance"): whole
    speakers are drawn where all are known and there are at least five, else items. Depends on `groups` and seed only.
    """
    speakers = sorted({group for group in groups if group is not None})
    unit = "speaker" if len(speakers) >= MIN_SPEAKERS and None not in groups else "utterance"
    if unit == "speaker":
        position = {speaker: i for i, speaker in enumerate(speakers)}
        member = np.array([position[group] for group in groups])
    else:
        member = np.arange(len(groups))
    clusters = int(member.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=repetitions)
    return drawn[:, member], unit


def ratio_replicates(numerator, denominator, counts: np.ndarray) -> np.ndarray:
    """sum(numerator) / sum(denominator) of each resampled set: error rates, accuracy. [repetitions]"""
    below = counts @ np.asarray(denominator, dtype=float)
    return counts @ np.asarray(numerator, dtype=float) / np.where(below > 0, below, np.nan)


def interval(replicates: np.ndarray, level: float = 0.95) -> list[float]:
    """Percentile interval [low, high]; replicates that are not defined are left out."""
    tail = (1 - level) / 2
    return [float(value) for value in np.nanquantile(replicates, [tail, 1 - tail])]


def standard_error(replicates: np.ndarray) -> float:
    return float(np.nanstd(replicates, ddof=1))
