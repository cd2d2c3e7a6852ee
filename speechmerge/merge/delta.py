"""Deltas: what an adapter or a fine-tuned model changes in one parameter, relative to its base.

`LowRank` keeps the factors of a LoRA, `Difference` two places on disk, `Dense` a tensor, `Blockwise` and `Computed` the
recipe of a result that is made when it is asked for: a merge of large models never holds more than a few blocks. Sums
of low-rank deltas are exact by concatenation of factors; B and A are never averaged apart. All arithmetic is float32 or
better, whatever the storage type.
"""
import math
from dataclasses import dataclass

from speechmerge.errors import SpeechMergeError

BLOCK = 1 << 16  # elements: a quarter of a MB in float32, so that a chain of operations on a few stays in the cache


def blocks(shape) -> list[tuple[int, int]]:
    """Rows (start, stop) of the leading dimension; vectors and scalars are one block. Depends on the shape alone."""
    if len(shape) < 2:
        return [(0, shape[0] if shape else 1)]
    rows = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return [(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


class Delta:
    """`shape` is the parameter's. Tensors that are handed out are float32, on the device of the merge, and the caller's
    own to change."""

    shape: tuple[int, ...]

    def block(self, start: int, stop: int):
        """Rows start..stop of the leading dimension; of a scalar, shape [1]."""
        raise NotImplementedError

    def dense(self):
        """The whole tensor, block by block: exactly what a method saw."""
        import torch

        ready = self.loaded()
        parts = [ready.block(start, stop) for start, stop in blocks(self.shape)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.zeros(0)).reshape(self.shape)

    def loaded(self) -> "Delta":
        """The same delta, ready for many calls of `block`: factors in memory, spectral results computed."""
        return self

    def scaled(self, factor: float) -> "Delta":
        return Scaled(self, factor)

    def matrix(self):
        """[shape[0], rest]: the matrix whose rank is meant, kernels of convolutions unrolled."""
        return self.dense().reshape(self.shape[0] if self.shape else 1, -1)

    def norm(self) -> float:
        """Frobenius norm."""
        return math.sqrt(self._square())

    def _square(self) -> float:
        ready = self.loaded()
        parts = (ready.block(start, stop).double() for start, stop in blocks(self.shape))
        return math.fsum((part * part).sum().item() for part in parts)


class Dense(Delta):
    def __init__(self, tensor):
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    def block(self, start, stop):
        import torch

        rows = self.tensor[start:stop] if self.shape else self.tensor.reshape(1)
        return on_device(rows).to(torch.float32, copy=True)

    def scaled(self, factor):
        return Dense(self.tensor.float() * factor)


class Difference(Delta):
    """`tuned` minus `base`: two entries of files, read when asked for."""

    def __init__(self, tuned, base):
        self.tuned, self.base, self.shape = tuned, base, tuple(tuned.shape)

    def block(self, start, stop):
        return floats(self.tuned, start, stop).sub_(floats(self.base, start, stop))


class Scaled(Delta):
    def __init__(self, delta: Delta, factor: float):
        self.delta, self.factor, self.shape = delta, float(factor), delta.shape

    def block(self, start, stop):
        return self.delta.block(start, stop).mul_(self.factor)

    def loaded(self):
        ready = self.delta.loaded()
        return ready.scaled(self.factor) if isinstance(ready, LowRank) else Scaled(ready, self.factor)


class Sum(Delta):
    """Weighted sum of deltas of which not all are low-rank."""

    def __init__(self, deltas, weights):
        self.deltas, self.weights, self.shape = list(deltas), list(weights), deltas[0].shape

    def block(self, start, stop):
        from speechmerge.merge.compute import read_block

        tensors = read_block(self.deltas, start, stop)
        total = tensors[0].mul_(self.weights[0])
        for tensor, weight in zip(tensors[1:], self.weights[1:]):
            total.add_(tensor, alpha=weight)
        return total

    def loaded(self):
        return Sum([delta.loaded() for delta in self.deltas], self.weights)


class Blockwise(Delta):
    """The result of an element-wise rule: combine(Block, [float32 block of each input]) -> block."""

    def __init__(self, name: str, deltas, combine):
        self.name, self.deltas, self.combine, self.shape = name, list(deltas), combine, deltas[0].shape

    def block(self, start, stop):
        from speechmerge.merge.compute import Block, read_block

        index = blocks(self.shape).index((start, stop))  # the rule may depend on the block, so it is one of ours
        return self.combine(Block(self.name, index, start, stop, self.shape), read_block(self.deltas, start, stop))

    def loaded(self):
        return Blockwise(self.name, [delta.loaded() for delta in self.deltas], self.combine)


class Computed(Delta):
    """A delta that is computed as a whole, `function() -> Delta`, anew at every use. `rank`: its largest, if known."""

    def __init__(self, shape, function, rank: int | None = None):
        self.shape, self.function, self.rank = tuple(shape), function, rank

    def loaded(self):
        return self.function().loaded()

    def block(self, start, stop):
        return self.loaded().block(start, stop)


@dataclass(frozen=True)
class Stored:
    """A matrix on disk: an entry seen as [rows, columns]."""

    entry: object
    shape: tuple[int, int]

    def read(self):
        from speechmerge.storage.safetensors_file import read_tensor

        return read_tensor(self.entry).reshape(self.shape)


class LowRank(Delta):
    """scale * B @ A with B [m, r] and A [r, n], tensors or `Stored` (read at every use); `shape` is (m, n), or a
    kernel's shape with m rows of n numbers."""

    def __init__(self, B, A, scale: float = 1.0, shape=None):
        self._B, self._A, self.scale = B, A, float(scale)
        self.shape = tuple(shape or (B.shape[0], A.shape[1]))

    @property
    def rank(self) -> int:
        return self._B.shape[1]

    @property
    def B(self):
        return self._B.read() if isinstance(self._B, Stored) else self._B

    @property
    def A(self):
        return self._A.read() if isinstance(self._A, Stored) else self._A

    def factors(self):
        """(scale * B, A), float32, in memory, on the device of the merge."""
        B = on_device(self.B).float()
        return B if self.scale == 1 else B * self.scale, on_device(self.A).float()

    def loaded(self):
        return LowRank(*self.factors(), 1.0, self.shape)

    def block(self, start, stop):
        B, A = self.factors()
        return (B[start:stop] @ A).reshape(stop - start, *self.shape[1:])

    def scaled(self, factor):
        return LowRank(self._B, self._A, self.scale * factor, self.shape)

    def _square(self):
        """s^2 tr(B'B AA'): two r x r Gram matrices, never the dense product."""
        B, A = self.B.double(), self.A.double()
        return self.scale ** 2 * max(((B.T @ B) * (A @ A.T)).sum().item(), 0.0)


class Stacked(LowRank):
    """A weighted sum of low-rank deltas: their factors side by side, read when asked for."""

    scale = 1.0

    def __init__(self, deltas, weights):
        self.deltas = [delta.scaled(weight) for delta, weight in zip(deltas, weights)]
        self.shape = deltas[0].shape

    @property
    def rank(self):
        return sum(delta.rank for delta in self.deltas)

    @property
    def B(self):
        import torch

        return torch.cat([delta.B.float() * delta.scale for delta in self.deltas], dim=1)

    @property
    def A(self):
        import torch

        return torch.cat([delta.A.float() for delta in self.deltas], dim=0)

    def scaled(self, factor):
        return Stacked(self.deltas, [factor] * len(self.deltas))


class Concatenated(Stacked):
    """A weighted sum that is saved as it is, factors side by side, and not at its numerical rank."""

    def scaled(self, factor):
        return Concatenated(self.deltas, [factor] * len(self.deltas))


def zero(shape) -> LowRank:
    """The delta that changes nothing, as rank 1 because no file format knows rank 0."""
    import torch

    return LowRank(torch.zeros(shape[0], 1), torch.zeros(1, math.prod(shape[1:])), 1.0, shape)


def concatenate(deltas, weights) -> Delta:
    """sum_i weights[i] * deltas[i], exactly: factors side by side where all are low-rank, otherwise a sum of blocks."""
    if len(deltas) != len(weights):
        raise SpeechMergeError(f"found {len(weights)} weights for {len(deltas)} deltas, expected one for each")
    shapes = {delta.shape for delta in deltas}
    if len(shapes) != 1:
        raise SpeechMergeError(f"deltas of different shapes cannot be added: {sorted(shapes)}")
    used = [(delta, weight) for delta, weight in zip(deltas, weights) if weight != 0]
    low = all(isinstance(delta, LowRank) for delta, _ in used)
    if not used:
        return zero(deltas[0].shape) if all(isinstance(delta, LowRank) for delta in deltas) else deltas[0].scaled(0.0)
    if len(used) == 1:
        return used[0][0].scaled(used[0][1])
    return (Stacked if low else Sum)(*zip(*used))


def floats(entry, start: int, stop: int):
    """Rows start..stop of a tensor on disk: float32, on the device of the merge, in memory of its own."""
    from speechmerge.storage.safetensors_file import read_elements

    row = math.prod(entry.shape[1:])
    tensor = on_device(read_elements(entry, start * row, stop * row)).float()
    return tensor.reshape(stop - start, *entry.shape[1:])


def on_device(tensor):
    from speechmerge.merge.compute import device

    return tensor.to(device())

