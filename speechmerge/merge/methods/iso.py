"""Iso-C and Iso-CTS (arXiv 2502.04959): all directions of the merged task vector with the same singular value.

    Iso-C:    sum_t D_t = U S V',    merged = mean(S) U V'
    Iso-CTS:  the first f r of these directions, r the rank of the sum, and for each task the leading (1 - f) r / T of
              what it has beyond them; made orthonormal; the mean of all their singular values

The mean is over the numerical rank. The released code takes it over min(m, n) values, so that zeros of a LoRA make it
smaller and every null direction comes into the result with full weight (rank 12 became 20). What lambda is best
differs accordingly: here it is smaller for LoRA, by rank / min(m, n). Vectors and scalars are averaged.
"""
from speechmerge.merge.core_space import Spectral
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("iso_c")
class IsoC(Spectral):
    """The sum of the task vectors with all its singular values replaced by their mean."""

    def core(self, name, matrices):
        from speechmerge.merge.kernels.spectral import isotropic

        return isotropic(matrices)


@METHODS.register("iso_cts")
class IsoCts(Spectral):
    """Leading directions of the sum and directions of each task beyond them, all with the mean singular value."""

    parameters = (
        LAMBDA,
        Parameter("common_fraction", float, 0.8, "part of the rank that is taken from the sum", low=0, high=1),
    )

    def core(self, name, matrices):
        from speechmerge.merge.kernels.spectral import isotropic_common_specific

        return isotropic_common_specific(matrices, self.values["common_fraction"])
