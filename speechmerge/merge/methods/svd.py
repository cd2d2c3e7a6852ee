"""Weighted sum of LoRA, truncated to a rank by SVD: what PEFT calls `svd`, exact and on the true products."""
from speechmerge.merge.methods.cat import Concatenate
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("svd")
class TruncatedSum(Concatenate):
    """The best approximation of the weighted sum by one of rank `rank`, for each parameter."""

    parameters = (
        *Concatenate.parameters,
        Parameter("rank", int, None, "of the result; the largest among the adapters where not given", low=1),
    )

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Computed

        whole, limit = super().merge(name, deltas), self.rank(name, deltas)
        if limit is None or len(whole.shape) < 2:
            return whole

        def compute():
            from speechmerge.merge.kernels.svd import truncate

            return truncate(whole.loaded(), limit)

        return Computed(whole.shape, compute, limit)

    def rank(self, name, deltas):
        whole, wanted = super().rank(name, deltas), self.values["rank"]
        if wanted is None:
            wanted = None if whole is None else max(delta.rank for delta in deltas)
        return wanted if whole is None else min(whole, wanted)
