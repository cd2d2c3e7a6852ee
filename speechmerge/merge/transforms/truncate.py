"""The best approximation of every matrix by one of rank r (Eckart-Young): what a smaller adapter would have kept.

For LoRA it is computed from the factors, never from the product B A. Vectors (biases, norms) stay as they are; kernels
of convolutions are matrices [shape[0], rest], as everywhere here.
"""
import math

from speechmerge.merge.delta import LowRank
from speechmerge.merge.parameters import REQUIRED, Parameter
from speechmerge.merge.registry import TRANSFORMS
from speechmerge.merge.transforms import Transform, changed


@TRANSFORMS.register("truncate")
class Truncate(Transform):
    """Replace every matrix by its best approximation of a given rank."""

    parameters = (Parameter("rank", int, REQUIRED, "largest rank that is left", low=1),)

    def prepare(self, vector, tensors):
        rank = self.values["rank"]
        return changed(vector, lambda name, delta: Truncated(delta, rank) if len(delta.shape) > 1 else delta)


class Truncated(LowRank):
    """The truncation of `delta` to rank `limit`, made anew at every use."""

    scale = 1.0

    def __init__(self, delta, limit: int):
        self.delta, self.limit, self.shape = delta, limit, tuple(delta.shape)

    @property
    def rank(self) -> int:
        """At most; less where the numerical rank is."""
        full = min(self.shape[0], math.prod(self.shape[1:]))
        return min(self.limit, self.delta.rank if isinstance(self.delta, LowRank) else full)

    def loaded(self):
        from speechmerge.merge.kernels.svd import truncate

        return truncate(self.delta.loaded(), self.limit)

    @property
    def B(self):
        return self.loaded().B

    @property
    def A(self):
        return self.loaded().A

    def factors(self):
        return self.loaded().factors()

    def block(self, start, stop):
        return self.loaded().block(start, stop)

    def scaled(self, factor):
        return Truncated(self.delta.scaled(factor), self.limit)
