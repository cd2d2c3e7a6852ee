"""The exact magnitude threshold of a whole task vector, without sorting it and without holding it.

The bits of a non-negative float32 grow with its value, so that the n-th largest magnitude is found in two passes: a
histogram of the upper 16 bits tells in which bin it lies, the values of that bin (about one in a few hundred) are kept
and partitioned. Memory: one tensor, 65,536 counts, one bin.
"""
from fractions import Fraction

import numpy as np


def magnitude_threshold(tensors, percent: float) -> float:
    """The smallest magnitude that belongs to the `percent` % largest of all elements: floor(percent/100 * N) of them.

    `tensors()` iterates over (name, Delta), and is called twice. Infinity where nothing is kept.
    """
    histogram = np.zeros(1 << 16, dtype=np.int64)
    for _, delta in tensors():
        histogram += np.bincount(_bits(delta) >> 16, minlength=1 << 16)
    # as a fraction, because 30 % of 10 is 3 and in floats 2.9999999999999996
    keep = int(int(histogram.sum()) * Fraction(repr(float(percent))) / 100)
    if keep == 0:
        return float("inf")
    above = np.cumsum(histogram[::-1])[::-1]  # elements in this bin and all larger ones
    bin_ = int(np.flatnonzero(above >= keep)[-1])
    inside = np.concatenate([_within(delta, bin_) for _, delta in tensors()])
    place = len(inside) - (keep - (int(above[bin_]) - len(inside)))
    return float(np.partition(inside, place)[place].view(np.float32))


def _bits(delta) -> np.ndarray:
    """The magnitudes' bit patterns, flattened."""
    return delta.dense().abs().contiguous().numpy().reshape(-1).view(np.uint32)


def _within(delta, bin_: int) -> np.ndarray:
    bits = _bits(delta)
    return bits[(bits >> 16) == bin_]
