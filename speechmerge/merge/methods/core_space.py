"""Core Space merging (arXiv 2509.17786): any method on the coordinates of LoRA in the space that their factors span.

    D_t = U M_t V',    merged = U inner(M_1, M_2, ...) V',    U [m, R], V [n, R] orthonormal, R the sum of the ranks

Nothing is lost, and linear rules give exactly what they give without it; spectral rules, too, because they take only
what is of numerical rank anywhere. Element-wise rules (TIES, DARE) become other ones: they choose directions instead
of weights, and the result has a rank of at most R instead of a full one. U and V are the singular vectors of the
stacked deltas, see :mod:`speechmerge.merge.core_space`. Parameters that are not low-rank are merged by the inner
method as they are. The coordinates' shape counts directions that no delta has as zeros, as in the paper, so k % of
them is k % of R x R.
"""
from speechmerge.merge.core_space import sizes
from speechmerge.merge.inside import PARAMS, Inside, inner
from speechmerge.merge.parameters import LAMBDA, REQUIRED
from speechmerge.merge.registry import METHODS


@METHODS.register("core_space")
class CoreSpaceMerge(Inside):
    """Another method (inner: ties, dare, tsv_m ...) in the space of the stacked LoRA factors."""

    parameters = (inner(REQUIRED), PARAMS, LAMBDA)

    def space(self, name, deltas):
        from speechmerge.merge.core_space import CoreSpace

        return CoreSpace.of([delta.loaded().factors() for delta in deltas], complete=True)

    def shape(self, name, deltas):
        total = sum(delta.rank for delta in deltas)
        return tuple(min(total, size) for size in sizes(deltas[0].shape))
