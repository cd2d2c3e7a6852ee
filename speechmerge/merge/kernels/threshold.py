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

WHOLE = 1 << 20  # elements that are taken as a whole
SAMPLE = 1 << 19  # elements, about; but not more than every 32nd, which costs time, nor less than every 256th
DENSEST, SPARSEST = 32, 256
RUN = 8  # rows that are read at once for the sample, and one element in eight of them is taken: rows differ
SURE = 5  # standard errors on either side
MAGNITUDE = np.int32(0x7FFFFFFF)
LOWEST, HIGHEST = -(1 << 31), (1 << 31) - 1


def magnitude_thresholds(tensors, percent: float, names=None) -> list[float]:
    """Per input, the smallest magnitude that belongs to the `percent` % largest of all its elements in `names`.

    floor(percent/100 * N) elements are kept, and more where magnitudes at the threshold are equal. Infinity where
    nothing is kept, 0 where everything is.
    """
    total = elements(tensors, names)
    ranks = _rank_of_percent(total, percent)
    found = nth_largest(tensors, [ranks] * tensors.count, magnitudes, names) if ranks else [[]] * tensors.count
    return [_threshold(keys, total, percent) for keys in found]


def magnitude_thresholds_of_each(tensors, percent: float) -> dict[str, list[float]]:
    """The same for every parameter alone."""
    found = nth_largest_of_each(tensors, lambda total: _rank_of_percent(total, percent))
    return {name: [_threshold(keys, elements(tensors, [name]), percent) for keys in each]
            for name, each in found.items()}


def _rank_of_percent(total: int, percent: float) -> list[int]:
    """The rank of the smallest that is kept; none where nothing or everything is."""
    keep = int(total * Fraction(repr(float(percent))) / 100)  # in floats 30 % of 10 would be 2.9999999999999996
    return [keep] if 0 < keep < total else []


def _threshold(keys, total: int, percent: float) -> float:
    return magnitude_of(keys[0]) if keys else 0.0 if total and percent == 100 else math.inf


def magnitude_bands(tensors, counts) -> dict[str, list[tuple[float, float]]]:
    """Per parameter and input, the smallest and the largest magnitude that belong to the `counts(N)[1]` largest after
    the `counts(N)[0]` largest of all its N. (infinity, 0) where there are none."""
    def ranks(total):
        largest, count = counts(total)
        return [largest + count, largest + 1] if count else []

    return {name: [tuple(map(magnitude_of, keys)) or (math.inf, 0.0) for keys in each]
            for name, each in nth_largest_of_each(tensors, ranks).items()}


def elements(tensors, names=None) -> int:
    return sum(math.prod(tensors.shape(name)) for name in (tensors.names if names is None else names))


def magnitudes(inputs) -> list[np.ndarray]:
    """int32 keys in the order of the magnitudes, flattened; the blocks of the inputs are used up."""
    return [np.bitwise_and(keys, MAGNITUDE, out=keys) for keys in map(bits, inputs)]


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
    if total <= WHOLE:
        everything = zip(*tensors.map_blocks(lambda block, inputs: keys(inputs), names))
        return [_take(np.concatenate(parts), wanted) for parts, wanted in zip(everything, ranks)]
    stride = min(max(total // SAMPLE, DENSEST), SPARSEST)
    samples = _samples(tensors, keys, names, stride)
    brackets = [_brackets(samples.pop(0), wanted, total) for wanted in ranks]
    found = _count(tensors, keys, names, brackets, ranks)
    missed = [(index, place) for index, row in enumerate(found) for place, key in enumerate(row) if key is None]
    for index, place in missed:
        found[index][place] = _by_histograms(tensors, keys, names, index, ranks[index][place])
    return found


def nth_largest_of_each(tensors, ranks, keys=magnitudes) -> dict[str, list[list[int]]]:
    """The same for every parameter alone; `ranks`: function of its number of elements N that gives numbers in 1..N."""
    def of_one(name, deltas):
        alone = tensors.of(name)
        return nth_largest(alone, [ranks(elements(alone))] * tensors.count, keys)

    return dict(zip(tensors.names, tensors.map(of_one)))


def _take(keys: np.ndarray, ranks) -> list[int]:
    places = [len(keys) - rank for rank in ranks]
    return [int(key) for key in np.partition(keys, sorted(set(places)))[places]] if places else []


# the sample

def _samples(tensors, keys, names, stride: int) -> list[list[np.ndarray]]:
    """Per input the keys of about every `stride`-th element, one array for each place they were read at."""
    samples = [[] for _ in range(tensors.count)]
    for clusters in tensors.map(lambda name, deltas: _clusters(name, deltas, keys, stride), names):
        for cluster in clusters:
            for sample, part in zip(samples, cluster):
                sample.append(part)
    return samples


def _clusters(name: str, deltas, keys, stride: int):
    """Runs of rows of large parameters; the others, and those that only come in blocks, are read as a whole."""
    deltas, shape = [delta.loaded() for delta in deltas], deltas[0].shape
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if len(shape) > 1 and shape[0] >= stride and all(map(_by_row, deltas)):
        starts = np.minimum(_picks(shape[0], stride, random), shape[0] - RUN)
        return [_thinned(keys(read_block(deltas, start, start + RUN)), RUN, random) for start in map(int, starts)]
    return [_thinned(keys(read_block(deltas, start, stop)), stride, random) for start, stop in blocks(shape)]


def _thinned(keys, stride: int, random) -> list[np.ndarray]:
    """One element of every `stride`, the same of all inputs."""
    chosen = _picks(len(keys[0]), stride, random)
    return [values[chosen] for values in keys]


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

    Elements that were read together are alike, so the error is taken from the differences of neighbouring clusters,
    sqrt(sum (d_i - d_(i+1))^2 / 2), d being a cluster's elements above the value beyond the expected.
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
        lambda block, inputs: [[_look(values, bracket) for bracket in row]
                                for values, row in zip(keys(inputs), brackets)], names)
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
    inside = keys[np.flatnonzero(from_high ^ above_low)] if bracket.low < bracket.high else keys[:0]
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
            return _take(np.concatenate(self.inside), [rank - self.above])[0]
        if self.above + inside < rank <= self.above + inside + self.at_low:
            return bracket.low
        return None


# without luck

def _by_histograms(tensors, keys, names, index: int, rank: int) -> int:
    """Two passes: the upper 16 bits of the key, then the lower ones. No sample, and no memory to speak of."""
    upper, rank = _bin(tensors, names, rank, lambda inputs: (keys(inputs)[index] >> 16) + (1 << 15))
    upper -= 1 << 15

    def lower_halves(inputs):
        values = keys(inputs)[index]
        return values[(values >> 16) == upper] & 0xFFFF

    lower, _ = _bin(tensors, names, rank, lower_halves)
    return (upper << 16) + lower


def _bin(tensors, names, rank: int, halves):
    """(the 16-bit number that stands at `rank` from the top, its rank among the equal ones)."""
    histogram = np.zeros(1 << 16, np.int64)
    for first, counts in tensors.map_blocks(lambda block, inputs: _histogram(halves(inputs)), names):
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
