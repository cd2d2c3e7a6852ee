"""Core space (arXiv 2509.17786): few coordinates in which low-rank deltas are merged without being multiplied out.

With U [m, p] an orthonormal basis of all B_t, V' [q, n] one of all A_t, p and q at most the sum of the ranks R,

    D_t = U M_t V',    M_t = U' D_t V  [p, q]

is exact, and a rule that does not change under rotations gives U rule(M_1, M_2, ...) V' what it would have given for
the D_t. The paper takes singular vectors of the stacked factors for U and V, which depend on how each product happens
to be factored. Here they are singular vectors of the stacked D_t, each divided by its norm: the same spaces, and
coordinates that depend on the deltas alone.

`Spectral` is the base of methods that are computed so:

    @METHODS.register("isotropic")
    class Isotropic(Spectral):
        \"\"\"All singular values of the sum equal.\"\"\"

        def core(self, name, matrices):
            from speechmerge.merge.kernels.spectral import isotropic

            return isotropic(matrices)
"""
import math
from dataclasses import dataclass

from speechmerge.merge.method import Method
from speechmerge.merge.parameters import LAMBDA


class Spectral(Method):
    """`core` merges matrices; vectors and scalars (norms, biases) are averaged, as all published rules do with them."""

    strength = "lambda"
    parameters = (LAMBDA,)

    def core(self, name: str, matrices):
        """The merged matrix [p, q], float64, from one float64 matrix [p, q] per input.

        They are the inputs' coordinates in core space, or the deltas themselves where one of them is dense. Called by
        several threads at once.
        """
        raise NotImplementedError

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Computed, concatenate

        if len(deltas[0].shape) < 2:
            return concatenate(deltas, [self.strength_at(name) / len(deltas)] * len(deltas))
        return Computed(deltas[0].shape, lambda: self._merged(name, deltas), self.rank(name, deltas))

    def rank(self, name, deltas):
        return largest_rank(deltas)

    def _merged(self, name, deltas):
        from speechmerge.merge.delta import Dense

        strength = self.strength_at(name)
        if all_low_rank(deltas):
            space = CoreSpace.of([delta.loaded().factors() for delta in deltas])
            return space.delta(self.core(name, space.matrices) * strength, deltas[0].shape)
        merged = self.core(name, [delta.matrix().double() for delta in deltas]) * strength
        return Dense(merged.float().reshape(deltas[0].shape))


@dataclass
class CoreSpace:
    """left [m, p] and right [q, n] orthonormal, matrices [p, q]; D_t = left @ matrices[t] @ right. All float64."""

    left: object
    matrices: list
    right: object

    @classmethod
    def of(cls, factors, complete: bool = False) -> "CoreSpace":
        """From one pair (B_t [m, r_t], A_t [r_t, n]) per delta. Directions whose share of every D_t is below 1e-7 of
        its norm are left out; `complete` keeps p = min(m, R) and q = min(n, R)."""
        import torch

        ranks = [A.shape[0] for _, A in factors]
        left, tops = torch.linalg.qr(torch.cat([B for B, _ in factors], dim=1).double())
        right, bottoms = torch.linalg.qr(torch.cat([A for _, A in factors]).double().T)
        matrices = [top @ bottom.T for top, bottom in zip(tops.split(ranks, dim=1), bottoms.split(ranks, dim=1))]
        turn_left = leading_directions(matrices, complete)
        turn_right = leading_directions([matrix.T for matrix in matrices], complete)
        return cls(left @ turn_left, [turn_left.T @ matrix @ turn_right for matrix in matrices], turn_right.T @ right.T)

    def delta(self, matrix, shape):
        """A merged matrix [p, q] as a delta, at its numerical rank."""
        from speechmerge.merge.kernels.svd import SVD, low_rank, svd

        found = svd(matrix)
        return low_rank(SVD(self.left @ found.left, found.values, found.right @ self.right, 0.0, 0.0), shape)


def leading_directions(matrices, complete: bool):
    """Left singular vectors [p, k] of [M_1 / |M_1|, M_2 / |M_2|, ...], the largest first."""
    import torch

    from speechmerge.merge.kernels.svd import NUMERICAL_RANK

    gram = matrices[0].new_zeros(len(matrices[0]), len(matrices[0]))
    for matrix in matrices:
        norm = torch.linalg.matrix_norm(matrix)
        if norm > 0:
            gram += (matrix / norm) @ (matrix / norm).T
    squares, vectors = torch.linalg.eigh(gram)
    kept = len(squares) if complete else max(1, int((squares > NUMERICAL_RANK ** 2 * squares[-1]).sum()))
    return vectors.flip(1)[:, :kept]


def all_low_rank(deltas) -> bool:
    from speechmerge.merge.delta import LowRank

    return all(isinstance(delta, LowRank) for delta in deltas)


def largest_rank(deltas) -> int | None:
    """Of anything in the deltas' core space; None where one is dense."""
    if not all_low_rank(deltas):
        return None
    return min(sum(delta.rank for delta in deltas), *sizes(deltas[0].shape))


def sizes(shape) -> tuple[int, int]:
    """Rows and columns of the matrix whose rank is meant."""
    return shape[0], math.prod(shape[1:])
