"""The n-th largest value over whole task vectors, exactly, without sorting them and without holding them.

A sample of rows brackets the value; one pass over all inputs at once counts what lies above the bracket and keeps what
lies inside, about one element in a hundred; a partition of these gives the value. Where the sample misled, which
tensors made for it can bring about and others hardly ever, two passes of histograms give it instead. The result is
always exact and depends on nothing but the values.

Values are compared as integers: the bits of a float32 without its sign grow with its magnitude.
"""
import math
import zlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from speechmerge.merge.compute import read_block
from speechmerge.merge.delta import Blockwise, blocks

SAMPLE = 1 << 19  # elements; what is not larger is taken as a whole
SPARSEST = 256  # at least every 256th row is in the sample
SURE = 5  # standard errors on either side
MAGNITUDE = np.int32(0x7FFFFFFF)
LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1


def magnitude_thresholds(tensors, percent: float, names=None) -> list[float]:
    """Per input, the smallest magnitude that belongs to the `percent` % largest of all its elements in `names`.

    floor(percent/100 * N) elements are kept, and more where magnitudes at the threshold are equal. Infinity where
    nothing is kept, 0 where everything is.
    """
    total = elements(tensors, names)
    keep = int(total * Fraction(repr(float(percent))) / 100)  # in floats 30 % of 10 would be 2.9999999999999996
    if keep in (0, total):
        return [math.inf if keep == 0 else 0.0] * tensors.count
    found = nth_largest(tensors, [[keep]] * tensors.count, magnitudes, names)
    return [magnitude_of(key) for key, in found]


def magnitude_bands(tensors, name: str, counts) -> list[tuple[float, float]]:
    """Per input, the smallest and the largest magnitude of parameter `name` that belong to the `counts(N)[1]` largest
    after the `counts(N)[0]` largest of all its N. (infinity, 0) where there are none."""
    largest, count = counts(elements(tensors, [name]))
    if not count:
        return [(math.inf, 0.0)] * tensors.count
    found = nth_largest(tensors, [[largest + count, largest + 1]] * tensors.count, magnitudes, [name])
    return [tuple(map(magnitude_of, band)) for band in found]


def elements(tensors, names=None) -> int:
    return sum(math.prod(tensors.shape(name)) for name in (tensors.names if names is None else names))


def magnitudes(blocks_) -> list[np.ndarray]:
    """int32 keys in the order of the magnitudes, flattened; the blocks are used up."""
    return [np.bitwise_and(keys, MAGNITUDE, out=keys) for keys in map(bits, blocks_)]


def magnitude_of(key: int) -> float:
    return float(np.int32(key).view(np.float32))


def ordered_keys(tensor) -> np.ndarray:
    """int32 keys in the order of the values, of any sign; :func:`ordered_value` takes them back."""
    keys = bits(tensor + 0.0)  # -0 becomes 0
    return keys ^ ((keys >> 31) & MAGNITUDE)


def ordered_value(key: int) -> float:
    key = np.int32(key)
    return float((key ^ ((key >> np.int32(31)) & MAGNITUDE)).view(np.float32))


def bits(tensor) -> np.ndarray:
    return tensor.cpu().contiguous().numpy().reshape(-1).view(np.int32)


def nth_largest(tensors, ranks, keys=magnitudes, names=None) -> list[list[int]]:
    """Per input, the keys that stand at `ranks` (1: the largest) among all keys of `names`.

    keys: function of a list of blocks, one per input, that gives an int32 array for each. ranks: per input a list of
    numbers in 1..N.
    """
    names, total = tensors.names if names is None else list(names), elements(tensors, names)
    stride = min(math.ceil(total / SAMPLE), SPARSEST)
    samples = _samples(tensors, keys, names, stride)
    if stride == 1:
        return [[int(value) for value in _take(np.concatenate(sample), wanted)]
                for sample, wanted in zip(samples, ranks)]
    brackets = [_brackets(samples.pop(0), wanted, total) for wanted in ranks]
    found = _count(tensors, keys, names, brackets, ranks)
    missed = [(index, place) for index, row in enumerate(found) for place, key in enumerate(row) if key is None]
    for index, place in missed:
        found[index][place] = _by_histograms(tensors, keys, names, index, ranks[index][place])
    return found


def _take(keys: np.ndarray, ranks) -> list:
    places = [len(keys) - rank for rank in ranks]
    return list(np.partition(keys, sorted(set(places)))[places])


# the sample

def _samples(tensors, keys, names, stride: int) -> list[list[np.ndarray]]:
    """Per input the keys of about every `stride`-th row, one array for each row."""
    samples = [[] for _ in range(tensors.count)]
    for clusters in tensors.map(lambda name, deltas: _clusters(name, deltas, keys, stride), names):
        for cluster in clusters:
            for sample, part in zip(samples, cluster):
                sample.append(part)
    return samples


def _clusters(name: str, deltas, keys, stride: int):
    """Whole rows of large parameters; of the others, and of those that only come in blocks, single elements."""
    deltas, shape = [delta.loaded() for delta in deltas], deltas[0].shape
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if stride > 1 and len(shape) > 1 and shape[0] >= stride and all(map(_by_row, deltas)):
        return [keys(read_block(deltas, row, row + 1)) for row in _picks(shape[0], stride, random)]
    clusters = []
    for start, stop in blocks(shape):
        values = keys(read_block(deltas, start, stop))
        chosen = slice(None) if stride == 1 else _picks(len(values[0]), stride, random)
        clusters.append([value[chosen] for value in values])
    return clusters


def _by_row(delta) -> bool:
    """Results of element-wise rules come in blocks of their own."""
    parts = [*getattr(delta, "deltas", ()), *([delta.delta] if hasattr(delta, "delta") else [])]
    return not isinstance(delta, Blockwise) and all(map(_by_row, parts))


def _picks(length: int, stride: int, random) -> np.ndarray:
    """One number of every `stride` below `length`, at random within it, so that no period of rows or columns is met."""
    edges = np.arange(-int(random.integers(stride)), length, stride)
    picks = edges + random.integers(stride, size=len(edges))
    return picks[(picks >= 0) & (picks < length)]


# the bracket

@dataclass
class Bracket:
    """low < key < high is expected. `ties`: one of the two is a frequent value, so it is counted too."""

    low: int
    high: int
    ties: bool


def _brackets(clusters, ranks, total: int) -> list[Bracket]:
    """Where the keys of `ranks` lie, judging from the sample: SURE standard errors on either side.

    Rows are alike within and differ between each other, so the error is taken from the differences of neighbouring
    rows, sqrt(sum (d_i - d_(i+1))^2 / 2), d being a row's elements above the value beyond the expected.
    """
    clusters = [cluster for cluster in clusters if len(cluster)]
    sample, lengths = np.concatenate(clusters), np.array([len(cluster) for cluster in clusters])
    starts = np.cumsum(lengths) - lengths
    count, found = len(sample), []
    for rank in ranks:
        place = min(max(count - round(rank / total * count), 0), count - 1)
        above = sample >= np.partition(sample, place)[place]
        beyond = np.add.reduceat(above, starts, dtype=np.int64) - lengths * (rank / total)
        margin = math.ceil(SURE * math.sqrt((np.diff(beyond) ** 2).sum() / 2)) + 16
        first, last = place - margin, place + margin
        part = np.partition(sample, [max(first, 0), min(last, count - 1)])
        low = int(part[first]) if first >= 0 else LOWEST
        high = int(part[last]) if last < count else HIGHEST
        ties = np.count_nonzero(sample == low) > 1 or np.count_nonzero(sample == high) > 1
        found.append(Bracket(low, high, bool(ties)))
    return found


# the pass

def _count(tensors, keys, names, brackets, ranks) -> list[list[int | None]]:
    """One pass over everything; None where a key is not in its bracket."""
    tallies = [[Tally() for _ in row] for row in brackets]
    looks = tensors.map_blocks(
        lambda block, blocks_: [[_look(values, bracket) for bracket in row]
                                for values, row in zip(keys(blocks_), brackets)], names)
    for look in looks:
        for tally_row, look_row in zip(tallies, look):
            for tally, seen in zip(tally_row, look_row):
                tally.add(*seen)
    return [[tally.find(bracket, rank) for tally, bracket, rank in zip(*row)]
            for row in zip(tallies, brackets, ranks)]


def _look(keys: np.ndarray, bracket: Bracket):
    """(how many keys >= high, how many == high, how many == low, those between)."""
    from_high, above_low = keys >= bracket.high, keys > bracket.low
    at_high = np.count_nonzero(keys == bracket.high) if bracket.ties else 0
    at_low = np.count_nonzero(keys == bracket.low) if bracket.ties and bracket.low < bracket.high else 0
    inside = keys[from_high ^ above_low] if bracket.low < bracket.high else keys[:0]
    return np.count_nonzero(from_high), at_high, at_low, inside


class Tally:
    """What was seen so far of one bracket."""

    def __init__(self):
        self.above = self.at_high = self.at_low = 0
        self.inside = []

    def add(self, above, at_high, at_low, inside):
        self.above, self.at_high, self.at_low = self.above + above, self.at_high + at_high, self.at_low + at_low
        if len(inside):
            self.inside.append(inside)

    def find(self, bracket: Bracket, rank: int) -> int | None:
        inside = sum(map(len, self.inside))
        if self.above - self.at_high < rank <= self.above:
            return bracket.high
        if self.above < rank <= self.above + inside:
            return int(_take(np.concatenate(self.inside), [rank - self.above])[0])
        if self.above + inside < rank <= self.above + inside + self.at_low:
            return bracket.low
        return None


# without luck

def _by_histograms(tensors, keys, names, index: int, rank: int) -> int:
    """Two passes: the upper 16 bits of the key, then the lower ones. No sample, and no memory to speak of."""
    upper, rank = _bin(tensors, names, rank, lambda blocks_: (keys(blocks_)[index] >> 16) + (1 << 15))
    upper -= 1 << 15

    def lower_halves(blocks_):
        values = keys(blocks_)[index]
        return values[(values >> 16) == upper] & 0xFFFF

    lower, _ = _bin(tensors, names, rank, lower_halves)
    return (upper << 16) + lower


def _bin(tensors, names, rank: int, halves):
    """(the 16-bit number that stands at `rank` from the top, its rank among the equal ones)."""
    histogram = np.zeros(1 << 16, np.int64)
    for first, counts in tensors.map_blocks(lambda block, blocks_: _histogram(halves(blocks_)), names):
        histogram[first:first + len(counts)] += counts
    from_top = np.cumsum(histogram[::-1])[::-1]  # elements in this bin and all above
    bin_ = int(np.flatnonzero(from_top >= rank)[-1])
    return bin_, rank - int(from_top[bin_] - histogram[bin_])


def _histogram(numbers: np.ndarray):
    """(the smallest number, counts from there on)."""
    if not len(numbers):
        return 0, np.zeros(0, np.int64)
    first = int(numbers.min())
    return first, np.bincount(numbers - first)
