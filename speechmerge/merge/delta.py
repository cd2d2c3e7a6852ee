"""Deltas: what an adapter or a fine-tuned model changes in one parameter, relative to its base.

`LowRank` keeps the factors of a LoRA, `Dense` a tensor, `Deferred` the recipe of a tensor that is made when asked for,
so that a merge of large models never holds more than a few tensors. Sums of low-rank deltas are exact by concatenation
and are compressed exactly through QR and the SVD of a small core; B and A are never averaged apart. All arithmetic is
float32 or better, whatever the storage type.
"""
import contextlib
from dataclasses import dataclass
from typing import Callable

import torch

from speechmerge.errors import SpeechMergeError

NUMERICAL_RANK = 1e-7  # singular values below this part of the largest are float32 rounding


class Delta:
    """`shape` is the parameter's. `dense()` gives a float32 tensor of that shape."""

    shape: tuple[int, ...]

    def dense(self) -> torch.Tensor:
        raise NotImplementedError

    def scaled(self, factor: float) -> "Delta":
        raise NotImplementedError

    def matrix(self) -> torch.Tensor:
        """[shape[0], rest]: the matrix whose rank is meant, kernels of convolutions unrolled."""
        return self.dense().reshape(self.shape[0], -1)

    def norm(self) -> float:
        """Frobenius norm."""
        return torch.linalg.vector_norm(self.dense(), dtype=torch.float64).item()


class Dense(Delta):
    def __init__(self, tensor: torch.Tensor):
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    def dense(self):
        return self.tensor.float()

    def scaled(self, factor):
        return Dense(self.dense() * factor)


class Deferred(Delta):
    """`compute()` makes the tensor anew at every call of `dense()`; nothing is kept."""

    def __init__(self, shape, compute: Callable[[], torch.Tensor]):
        self.shape, self.compute = tuple(shape), compute

    def dense(self):
        return self.compute().float()

    def scaled(self, factor):
        return Deferred(self.shape, lambda: self.dense() * factor)


class LowRank(Delta):
    """scale * B @ A with B [m, r] and A [r, n]; `shape` is (m, n), or a kernel's shape with m rows of n numbers."""

    def __init__(self, B: torch.Tensor, A: torch.Tensor, scale: float = 1.0, shape=None):
        self.B, self.A, self.scale = B, A, float(scale)
        self.shape = tuple(shape or (B.shape[0], A.shape[1]))

    @property
    def rank(self) -> int:
        return self.B.shape[1]

    def dense(self):
        return (self.B.float() @ self.A.float() * self.scale).reshape(self.shape)

    def scaled(self, factor):
        return LowRank(self.B, self.A, self.scale * factor, self.shape)

    def norm(self):
        """|s| sqrt(tr(B'B AA')): two r x r Gram matrices, never the dense product."""
        B, A = self.B.double(), self.A.double()
        return abs(self.scale) * max(((B.T @ B) * (A @ A.T)).sum().item(), 0.0) ** 0.5


@dataclass
class Recompressed:
    """A rank-r delta, the singular values that it lost, and the norm of what it approximates."""

    delta: LowRank
    discarded: torch.Tensor
    norm: float

    @property
    def error(self) -> float:
        """Frobenius norm of the difference, which is exactly the length of the lost singular values (Eckart-Young)."""
        return torch.linalg.vector_norm(self.discarded).item()

    @property
    def relative_error(self) -> float:
        return self.error / self.norm if self.norm else 0.0


def zero(shape) -> LowRank:
    """The delta that changes nothing, as rank 1 because no file format knows rank 0."""
    columns = torch.Size(shape[1:]).numel()
    return LowRank(torch.zeros(shape[0], 1), torch.zeros(1, columns), 1.0, shape)


def concatenate(deltas, weights) -> Delta:
    """sum_i weights[i] * deltas[i], exactly: factors side by side where all are low-rank, otherwise a dense sum."""
    if len(deltas) != len(weights):
        raise SpeechMergeError(f"found {len(weights)} weights for {len(deltas)} deltas, expected one for each")
    shapes = {delta.shape for delta in deltas}
    if len(shapes) != 1:
        raise SpeechMergeError(f"deltas of different shapes cannot be added: {sorted(shapes)}")
    used = [(delta, weight) for delta, weight in zip(deltas, weights) if weight != 0]
    if len(used) == 1:
        return used[0][0].scaled(used[0][1])
    if all(isinstance(delta, LowRank) for delta, _ in used):
        return _concatenate_factors(used, deltas[0].shape)
    if all(isinstance(delta, (Dense, LowRank)) for delta, _ in used):
        return Dense(_dense_sum(used))
    return Deferred(deltas[0].shape, lambda: _dense_sum(used))


def _concatenate_factors(used, shape) -> LowRank:
    if not used:
        return zero(shape)
    B = torch.cat([delta.B.float() * (delta.scale * weight) for delta, weight in used], dim=1)
    A = torch.cat([delta.A.float() for delta, _ in used], dim=0)
    return LowRank(B, A, 1.0, shape)


def _dense_sum(used) -> torch.Tensor:
    total = used[0][0].dense() * used[0][1]
    for delta, weight in used[1:]:
        total += delta.dense() * weight
    return total


def recompress(delta: Delta, rank: int | None = None) -> Recompressed:
    """The best approximation of rank <= `rank`, or with rank None the delta itself at its numerical rank.

    Low-rank deltas: QR(B) = Qb Rb, QR(A') = Qa Ra, SVD(Rb Ra') = U S V'; B_k = Qb U_k S_k^1/2, A_k = S_k^1/2 V_k' Qa'.
    The dense product is never formed. Dense deltas: eigenvectors of the smaller Gram matrix. Both in float64.
    """
    if rank is not None and rank < 1:
        raise SpeechMergeError(f"rank: found {rank}, expected at least 1")
    left, values, right = _factor_svd(delta) if isinstance(delta, LowRank) else _dense_svd(delta.matrix())
    largest = values[0].item() if len(values) else 0.0
    keep = int((values > NUMERICAL_RANK * largest).sum())
    keep = max(1, keep if rank is None else min(rank, keep))
    root = values[:keep].sqrt()
    kept = LowRank((left(keep) * root).float(), (root[:, None] * right(keep)).float(), 1.0, delta.shape)
    return Recompressed(kept, values[keep:], torch.linalg.vector_norm(values).item())


def truncate(delta: Delta, rank: int) -> LowRank:
    """The best rank-`rank` approximation; see :func:`recompress` for its error."""
    return recompress(delta, rank).delta


def _factor_svd(delta: LowRank):
    """Singular values of the product, and functions that give the first k left [m, k] and right [k, n] vectors."""
    Qb, Rb = torch.linalg.qr(delta.B.double())
    Qa, Ra = torch.linalg.qr(delta.A.double().T)
    U, S, Vh = torch.linalg.svd(delta.scale * Rb @ Ra.T, full_matrices=False)
    return lambda k: Qb @ U[:, :k], S, lambda k: Vh[:k] @ Qa.T


def _dense_svd(matrix: torch.Tensor):
    """The same for a dense matrix [m, n], through the Gram matrix of its smaller side, which is several times faster
    than an SVD; in float64 the singular values are right to 1e-8 of the largest, float32's own precision."""
    matrix = matrix.double()
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = _dense_svd(matrix.T)
        return lambda k: right(k).T, values, lambda k: left(k).T
    squares, U = torch.linalg.eigh(matrix @ matrix.T)
    U, values = U.flip(1), squares.flip(0).clamp_min(0).sqrt()
    inverse = torch.where(values > 1e-8 * values[0], 1 / values, torch.zeros_like(values))
    return lambda k: U[:, :k], values, lambda k: inverse[:k, None] * (U[:, :k].T @ matrix)


@contextlib.contextmanager
def one_thread():
    """Results that do not depend on the number of threads: BLAS and LAPACK sum in another order with each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
