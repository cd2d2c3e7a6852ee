"""Random masks and masks by magnitude, on blocks of tensors.

Random ones depend on what they are for (seed, input, parameter, block), and on nothing else: not on order, threads,
machine or hash seed. Raw 32-bit words are compared with an integer, so a probability is kept to 2^-33 and no floating
point is drawn. Rows are those of the matrix [shape[0], rest]: what one output of a layer sees, kernels unrolled; a
vector is one row. """
import hashlib
import math

import numpy as np
import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.merge.delta import Delta

WORDS = 1 << 32


def words(count: int, *names) -> np.ndarray:
    """`count` random uint32. SFC64 seeded by sha256 of the names; the stream is fixed by numpy's compatibility policy.
    """
    digest = hashlib.sha256("\n".join(map(str, names)).encode()).digest()
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "little")))
    drawn = generator.integers(WORDS * WORDS - 1, size=(count + 1) // 2, dtype=np.uint64, endpoint=True)
    return drawn.astype("<u8", copy=False).view("<u4")[:count]


def drop_(tensor, rate: float, *names):
    """Elements become 0 with probability `rate`, in place; `names` tell the stream. Nothing is rescaled."""
    if rate > 0:
        first_kept = min(round(rate * WORDS), WORDS - 1) - WORDS // 2  # the words as signed numbers
        drawn = words(tensor.numel(), *names).view(np.int32).reshape(tensor.shape)
        keep = torch.from_numpy(drawn).to(tensor.device).ge_(first_kept)
        tensor.view(torch.int32).mul_(keep)
    return tensor


def drop_by_rank_(tensor, density: float, epsilon: float, inverse: bool, *names):
    """DELLA's MagPrune in place: the larger in its row, the likelier an element stays.

    Rank j of n (0 the smallest; equal magnitudes in the order they stand in) stays with probability
    density - epsilon + 2 epsilon j / (n - 1); `inverse`: what stays is divided by it.
    """
    rows = as_rows(tensor)
    count, length = rows.shape
    spread = np.linspace(-epsilon, epsilon, length) if length > 1 else np.zeros(1)
    probabilities = np.minimum(density + spread, 1)
    last_kept = np.ceil(probabilities * WORDS).astype(np.int64) - 1
    factors = (1 / probabilities if inverse else np.ones(length)).astype(np.float32)
    drawn = words(rows.numel(), *names).reshape(count, length)  # by rank, not by place: which is the same lottery
    by_rank = (drawn <= last_kept.astype(np.uint32)).astype(np.float32)
    by_rank *= factors
    by_place = torch.empty(rows.numel()).scatter_(0, _order(rows), torch.from_numpy(by_rank.reshape(-1)))
    rows.mul_(by_place.to(rows.device).reshape(rows.shape))
    return tensor


def _order(rows) -> torch.Tensor:
    """Places in the flattened rows, row by row from the smallest magnitude to the largest: int64.

    One number holds magnitude and place, so that every sorting algorithm gives the same order.
    """
    keys = np.empty((rows.numel(), 2), "<u4")
    keys[:, 0] = np.arange(rows.numel())
    np.bitwise_and(rows.cpu().numpy().reshape(-1).view(np.uint32), 0x7FFFFFFF, out=keys[:, 1])
    keys = keys.view("<u8").reshape(rows.shape)
    keys.sort(axis=1)
    keys &= np.uint64(0xFFFFFFFF)
    return torch.from_numpy(keys.view(np.int64).reshape(-1))


def keep_band_(tensor, counts):
    """In each row, the largest magnitudes and the small ones become 0, in place.

    counts: function of the length of a row that gives how many are too large and how many of the others are kept.
    Elements as large as the first or the last that is kept are kept too.
    """
    rows = as_rows(tensor)
    length = rows.shape[1]
    largest, count = counts(length)
    if not count:
        return tensor.zero_()
    ordered = rows.abs().cpu().numpy()
    ordered.sort(axis=1)
    lower, upper = (torch.from_numpy(ordered[:, length - place, None].copy()).to(tensor.device)
                    for place in (largest + count, largest + 1))
    return keep_between_(rows, lower, upper).reshape(tensor.shape)


def keep_between_(tensor, lower, upper):
    """Magnitudes outside lower..upper become 0, in place. The bounds are numbers, or tensors that fit."""
    magnitudes = tensor.abs()
    keep = torch.ge(magnitudes, lower, out=torch.empty_like(tensor))
    return tensor.mul_(keep).mul_(magnitudes.le_(upper))


def as_rows(tensor):
    """The same memory as [rows, length]."""
    return tensor.reshape(1, -1) if tensor.dim() < 2 else tensor.reshape(tensor.shape[0], -1)


def pack(mask: np.ndarray) -> np.ndarray:
    """Booleans as bits, uint8, the first in the lowest bit; see :class:`Masked`."""
    return np.packbits(mask.reshape(-1), bitorder="little")


class Masked(Delta):
    """A delta times a bit mask on disk times a number: what one task takes of a vector for many."""

    def __init__(self, delta: Delta, entry, factor: float = 1.0):
        count = math.prod(delta.shape)
        if entry.numel != (count + 7) // 8 or entry.dtype != "U8":
            raise SpeechMergeError(f"{entry.path}: key {entry.name}: {entry.numel} bytes of {entry.dtype}, expected "
                                   f"{(count + 7) // 8} of U8 for {list(delta.shape)}; it belongs to another merge")
        self.delta, self.entry, self.factor, self.shape = delta, entry, factor, delta.shape

    def block(self, start, stop):
        tensor = self.delta.block(start, stop)
        first = start * (math.prod(self.shape[1:]))
        packed = self.entry.bytes(first // 8, (first + tensor.numel() + 7) // 8)
        bits = np.unpackbits(packed, bitorder="little")[first % 8:first % 8 + tensor.numel()]
        mask = torch.from_numpy(bits.astype(np.float32)).to(tensor.device)
        return tensor.mul_(mask.reshape(tensor.shape)).mul_(self.factor)

    def loaded(self):
        return Masked(self.delta.loaded(), self.entry, self.factor)
