"""Truncated singular value decompositions of deltas, exact and fast: what saving a merge as LoRA of rank r needs.

Low-rank deltas B A [m, R][R, n]: with B'B = S'S and AA' = T'T (roots of Gram matrices, after the columns of B and the
rows of A are scaled to length one) the singular values of B A are those of the core S W T' = U D V' [R, R], W the
product of the lengths. Its leading left vectors are B W T' V / D, whatever the condition of B, as long as D is not
small; so truncations need no orthonormal basis. For all vectors down to the numerical rank, B S^-1 U is taken, and where
the Gram matrices are ill-conditioned (equal or nearly equal factors, as with a shared initial A) the same core comes from
QR of the factors. No dense matrix is made.

Dense deltas [m, n]: eigenvectors of the Gram matrix of the smaller side span the wanted subspace, and the SVD of the
matrix projected on it is that of the result (Rayleigh-Ritz). Truncations compute only the leading vectors, in float32
where that is provably enough for the truncation error, otherwise in float64. Everything else is float64.
"""
import math
from dataclasses import dataclass

import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.merge.delta import Concatenated, Delta, LowRank
from speechmerge.merge.kernels.eigen import FEW, leading

NUMERICAL_RANK = 1e-7  # singular values below this part of the largest are float32 rounding
CONDITION = 1e3  # of scaled factors, up to which Gram matrices keep 1e-9 of the singular values
GUARD = 8  # vectors beyond the wanted ones, so that the gap to those left out is not that of two neighbours
ROOTS = 1e-3  # part of the largest possible value down to which roots of Gram matrices keep 1e-9 of vectors and error
GRAM_RANK = 1e-4  # relative size of singular values down to which their vectors come from a Gram matrix
CANCELLED = 1e-3  # part of the norm below which what is lost is summed up, not the difference of two squares
SMALL = 256  # up to this size a complete SVD costs less than what avoids it
EPSILON = {torch.float32: 1e-6, torch.float64: 4e-15}  # error of Gram matrix and eigenvectors; measured: 4e-7


@dataclass
class SVD:
    """left [m, k] diag(values [k]) right [k, n], float64, and the Frobenius norm of what it approximates.

    `lost` is the Frobenius norm of the difference: the length of the vector of singular values left out.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    norm: float
    lost: float


@dataclass
class Recompressed:
    """A rank-r delta, the Frobenius norm of its difference to what it approximates, and the norm of that."""

    delta: LowRank
    error: float
    norm: float

    @property
    def relative_error(self) -> float:
        return self.error / self.norm if self.norm else 0.0


def recompress(delta: Delta, rank: int | None = None) -> Recompressed:
    """The best approximation of rank <= `rank`, or with rank None the delta itself at its numerical rank.

    What was concatenated on purpose stays so where no rank is asked for. The factors are float32, each with the square root of the singular values. Rank 0 is written as zeros of rank 1.
    """
    if rank is None and isinstance(delta, Concatenated):
        return Recompressed(LowRank(*delta.factors(), 1.0, delta.shape), 0.0, delta.norm())
    found = decompose(delta, rank)
    return Recompressed(low_rank(found, delta.shape), found.lost, found.norm)


def low_rank(found: SVD, shape) -> LowRank:
    root = found.values.sqrt()
    return LowRank((found.left * root).float(), (root[:, None] * found.right).float(), 1.0, shape)


def truncate(delta: Delta, rank: int) -> LowRank:
    """The best rank-`rank` approximation; see :func:`recompress` for its error."""
    return recompress(delta, rank).delta


def decompose(delta: Delta, rank: int | None = None) -> SVD:
    """The `rank` largest singular values and vectors, fewer where the numerical rank is smaller, at least one.

    Raises SpeechMergeError for a rank below 1, and for NaN or infinite values.
    """
    if rank is not None and rank < 1:
        raise SpeechMergeError(f"rank: found {rank}, expected at least 1")
    ready = delta.loaded()
    if isinstance(ready, LowRank):
        return svd_of_product(*ready.factors(), rank)
    return svd(ready.matrix(), rank)


def svd_of_product(B: torch.Tensor, A: torch.Tensor, rank: int | None = None) -> SVD:
    """The same for B @ A, B [m, R] and A [R, n], in float64 through a core of size R."""
    B, A = B.double(), A.double()
    if B.shape[1] >= min(B.shape[0], A.shape[1]):
        return svd(B @ A, rank)
    grams = B.T @ B, A @ A.T
    lengths_B, lengths_A = (gram.diagonal().sqrt() for gram in grams)
    live = (lengths_B != 0) & (lengths_A != 0)
    if not live.all():  # B is zero where training has not begun
        return svd_of_product(B[:, live], A[live], rank) if live.any() else _nothing(B, A)
    weights = lengths_B * lengths_A
    if rank is not None and torch.isfinite(weights).all():
        scaled = (grams[0] / lengths_B / lengths_B[:, None], grams[1] / lengths_A / lengths_A[:, None])
        found = _by_roots(B * lengths_A, A.T * lengths_B, scaled, weights, rank)
        if found is not None:
            return found
    left, inner_left = _orthonormal(B, grams[0], lengths_B)
    right, inner_right = _orthonormal(A.T, grams[1], lengths_A)
    core = svd(inner_left * weights @ inner_right.T, rank)
    return SVD(left(core.left), core.values, right(core.right.T).T, core.norm, core.lost)


def _by_roots(left, right, grams, weights, rank: int) -> SVD | None:
    """The leading ones alone, from roots of the scaled Gram matrices; None where they might not be accurate.

    left [m, R] and right [n, R] are the factors, each column times the length of the other factor's. What rounding adds
    to a Gram matrix, some 1e-16 of it, turns vectors of singular value d by 1e-16 (largest possible / d)^2, and adds its
    root to singular values that are zero: what is lost must be larger than that, or is not known.
    """
    lowers, failed = zip(*map(torch.linalg.cholesky_ex, grams))
    if any(failed):
        return None
    core = svd(lowers[0].T * weights @ lowers[1], rank)
    largest = weights.max() * (grams[0].abs().sum(0).max() * grams[1].abs().sum(0).max()).sqrt()
    cut = len(core.values) < len(weights)
    if core.values[-1] < ROOTS * largest or cut and core.lost * core.norm < (ROOTS * largest) ** 2:
        return None
    U = left @ (lowers[1] @ core.right.T / core.values)
    V = right @ (lowers[0] @ core.left / core.values)
    return SVD(U, core.values, V.T, core.norm, core.lost)


def _orthonormal(tall: torch.Tensor, gram: torch.Tensor, lengths: torch.Tensor):
    """A triangular T [R, R] with Q T = tall / lengths for a Q of orthonormal columns, and the function x -> Q x."""
    lower, failed = torch.linalg.cholesky_ex(gram / lengths / lengths[:, None])
    if not failed:
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        inverse = torch.linalg.solve_triangular(lower.T, identity, upper=True)
        if torch.linalg.vector_norm(inverse) < CONDITION:  # at least the inverse of the smallest singular value
            inverse /= lengths[:, None]
            return lambda x: tall @ (inverse @ x), lower.T
    Q, R = torch.linalg.qr(tall / lengths)
    return lambda x: Q @ x, R


def svd(matrix: torch.Tensor, rank: int | None = None) -> SVD:
    """The same for a matrix [m, n], float32 or float64."""
    if matrix.shape[0] > matrix.shape[1]:
        turned = svd(matrix.T, rank)
        return SVD(turned.right.T, turned.values, turned.left.T, turned.norm, turned.lost)
    count = len(matrix) if rank is None else min(rank, len(matrix))
    exact = matrix.double()
    norm = torch.linalg.vector_norm(exact).item()
    if not math.isfinite(norm):
        raise SpeechMergeError(f"a matrix {list(matrix.shape)}: found NaN or infinite values, expected numbers")
    if norm == 0:
        return _nothing(matrix, matrix)
    if len(matrix) > SMALL and count + GUARD <= len(matrix) // FEW:
        found = _truncated(*_projected(exact, _leading_subspace(matrix / norm, count)), norm, count)
        if found.lost < CANCELLED * norm:
            found.lost = torch.linalg.vector_norm(exact - found.left * found.values @ found.right).item()
        return found
    if matrix.shape[1] > SMALL or count < len(matrix) // 2:
        found = _through_gram(exact, count)
        if found is not None:
            return _truncated(*found, norm, count)
    return _truncated(*torch.linalg.svd(exact, full_matrices=False), norm, count)


def _leading_subspace(matrix, count: int) -> torch.Tensor:
    """Orthonormal [m, count + GUARD], the span of the leading left vectors of a matrix of norm 1, as far as the error
    of a truncation needs it."""
    for dtype in (torch.float32, torch.float64):
        part = matrix.to(dtype)
        values, vectors = leading(part @ part.T, count + GUARD)
        if _suffices(values.double(), count, EPSILON[dtype]):
            break
    return torch.linalg.qr(vectors.double()).Q


def _suffices(values, count: int, epsilon: float) -> bool:
    """Whether vectors of a Gram matrix of trace 1 that is wrong by e lose less than 1e-6 of the truncation error.

    To a projection on `count` vectors the squared error is too large by at most 2 count e, and by count e^2 / gap
    where there is a gap to the eigenvalues left out.
    """
    wrong = epsilon * values[0].item()
    gap = (values[count - 1] - values[-1]).item()
    loss = count * min(2 * wrong, wrong ** 2 / gap if gap > 0 else 2 * wrong)
    return loss < 2e-6 * (1 - values[:count].sum().item())


def _projected(matrix, basis):
    """Singular vectors and values of the matrix within the span of `basis` [m, k]."""
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values, right


def _through_gram(matrix, count: int):
    """All singular vectors and values, or None where the first `count` would be inaccurate: right vectors are the
    projections divided by the values, so that they are orthogonal to 1e-16 (largest / smallest)^2."""
    left = torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)
    rows = left.T @ matrix
    values, order = torch.linalg.vector_norm(rows, dim=1).sort(descending=True, stable=True)
    kept = values[:count][values[:count] > NUMERICAL_RANK * values[0]]
    if kept[-1] < GRAM_RANK * values[0]:
        return None
    order = order[:len(kept)]
    return left[:, order], values, rows[order] / kept[:, None]


def _truncated(left, values, right, norm: float, count: int) -> SVD:
    kept = max(1, min(count, int((values > NUMERICAL_RANK * values[0]).sum())))
    if len(values) == min(len(left), right.shape[1]):  # all of them are here, even those far below the rounding of norm
        lost = torch.linalg.vector_norm(values[kept:]).item()
    else:
        lost = max(norm ** 2 - (values[:kept] ** 2).sum().item(), 0.0) ** 0.5
    return SVD(left[:, :kept], values[:kept], right[:kept], norm, lost)


def _nothing(left, right) -> SVD:
    rows, columns = left.new_zeros(len(left), 1), right.new_zeros(1, right.shape[1])
    return SVD(rows.double(), rows.new_zeros(1).double(), columns.double(), 0.0, 0.0)
