"""KnOTS (arXiv 2410.19735): element-wise merging of LoRA after their left sides were aligned.

    [D_1 | D_2 | ... | D_T] = U S [V_1; V_2; ...; V_T]',    merged = U inner(S V_1', S V_2', ...)

so that the entries that an element-wise rule compares are coordinates along the same output directions. Linear rules
give what they give without it. The paper's inner rules are TIES with the 20 % largest kept and DARE before it, its
scale about 0.6. U comes from the core space of the factors, so that nothing larger than the sum of the ranks is
decomposed. Singular values count from 1e-7 of the largest of their parameter on; the released code keeps those above
1e-5, whatever the scale, and leaves out alpha / r. Parameters that are not low-rank are merged by the inner method as
they are.
"""
from dataclasses import dataclass

from speechmerge.merge.core_space import sizes
from speechmerge.merge.inside import PARAMS, Inside, inner
from speechmerge.merge.parameters import LAMBDA
from speechmerge.merge.registry import METHODS


@METHODS.register("knots")
class Knots(Inside):
    """Another method (inner: ties, dare_ties, uniform ...) on task vectors whose left singular vectors are shared."""

    parameters = (inner("ties"), PARAMS, LAMBDA)

    def survey(self, tensors):
        low = [name for name in tensors.names if self.applies(tensors.deltas(name))]
        found = tensors.map(lambda name, deltas: self.space(name, deltas).left.shape[1], low)
        self.ranks = dict(zip(low, found))
        super().survey(tensors)

    def space(self, name, deltas):
        import torch

        from speechmerge.merge.core_space import CoreSpace
        from speechmerge.merge.kernels.svd import svd

        core = CoreSpace.of([delta.loaded().factors() for delta in deltas])
        left = svd(torch.cat(core.matrices, dim=1)).left
        return Aligned(core.left @ left, [left.T @ matrix @ core.right for matrix in core.matrices])

    def shape(self, name, deltas):
        return self.ranks[name], sizes(deltas[0].shape)[1]


@dataclass
class Aligned:
    """left: U [m, k]; matrices: S V_t' [k, n] for each input; float64."""

    left: object
    matrices: list

    def delta(self, matrix, shape):
        from speechmerge.merge.delta import LowRank

        return LowRank(self.left.float(), matrix.float(), 1.0, shape)
