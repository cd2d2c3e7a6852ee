"""TALL masks and consensus merging (arXiv 2405.07813): which values of the sum of task vectors does a task need?

    tau    = sum_t tau_t
    mask_t = |tau_t| > mask_lambda_t * |tau - tau_t|

`consensus` keeps the values that at least k tasks need and drops those that none does (catastrophic) and those that
fewer do (selfish), so the result is one model: lambda * (sum_t mask_t >= k) * tau. k = 0 would be task arithmetic.
`tall_mask` is for a router: each task gets mask_t * tau, from the one sum and a bit per value; see
:mod:`speechmerge.merge.methods.emr`.

The authors choose mask_lambda from 0.2, 0.3, 0.4, 0.5 and 0.6 for each task on validation data; the default is the
middle. They compare in float32 with theta_0 added on both sides, here without, so that values at the border may differ.
"""
from speechmerge.errors import UsageError
from speechmerge.merge.method import Elementwise, check_count
from speechmerge.merge.methods.emr import TASK, TaskMasks
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS

MASK_LAMBDA = Parameter("mask_lambda", "floats", None, "one per adapter, the larger the fewer values it needs; 0.4 for "
                        "each where not given", low=0)


class TallMasks(Elementwise):
    """Shared: the sum, and the masks of the tasks."""

    strength = "lambda"

    def check(self):
        self.mask_lambdas = self.values["mask_lambda"] or [0.4] * len(self.labels)
        check_count(self.name, "mask_lambda", self.mask_lambdas, self.labels)

    def sum_and_masks(self, tensors, indices):
        """(tau, [mask as 0.0 and 1.0 for each of `indices`]); inputs that have a mask are used up."""
        total = sum(tensors[1:], tensors[0].clone())
        return total, [self.mask_(tensors[index], total, self.mask_lambdas[index]) for index in indices]

    @staticmethod
    def mask_(tensor, total, mask_lambda: float):
        others = total.sub(tensor).abs_().mul_(mask_lambda)
        return tensor.abs_().gt_(others)


@METHODS.register("consensus")
class Consensus(TallMasks):
    """Sum of the task vectors where at least k tasks need it, times lambda."""

    parameters = (
        Parameter("k", int, 2, "how many tasks must need a value", low=0),
        Parameter("lambda", float, 1.0, "scale of the merged task vector"),
        MASK_LAMBDA,
    )

    def check(self):
        super().check()
        if self.values["k"] > len(self.labels):
            found, most = self.values["k"], len(self.labels)
            raise UsageError(f"method {self.name}: k: found {found}, expected at most the number of adapters, {most}")

    def combine(self, block, tensors):
        total, masks = self.sum_and_masks(tensors, range(len(tensors)))
        for mask in masks[1:]:
            masks[0].add_(mask)
        return total.mul_(masks[0].ge_(self.values["k"])).mul_(self.strength_at(block.name))


@METHODS.register("tall_mask")
class TallMask(TaskMasks, TallMasks):
    """Sum of the task vectors and a bit mask for each task; with `task`, the masked sum of that task."""

    parameters = (TASK, LAMBDA, MASK_LAMBDA)

    def unified_and_masks(self, tensors, indices):
        return self.sum_and_masks(tensors, indices)
