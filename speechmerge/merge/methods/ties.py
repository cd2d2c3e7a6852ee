"""TIES (arXiv 2306.01708): trim, elect a sign per element, merge those that agree.

    trim   each task vector to its k % largest magnitudes
    elect  gamma = sign(sum_t trimmed_t) per element
    merge  lambda * mean of the trimmed values whose sign is gamma

What implementations do differently, and what is chosen:

- The threshold is taken over all merged parameters of an adapter together, as in the paper; `trim: tensor` takes one
  for each parameter, as mergekit and PEFT do. Parameters that no adapter changes are not counted.
- Exactly floor(k % of N) elements are kept, and more only where magnitudes at the threshold are equal, so that no order
  matters. mergekit and PEFT cut equal magnitudes off by position, the authors' code keeps one element more.
- Where the trimmed values cancel, the sign is that of the sum of all gammas, as in the authors' code, and the element 0
  where that sum is 0 too; it takes a pass over all inputs, which is made where the first such element is met.
  `zero_sum: positive` takes +, as mergekit and PEFT do.
- `elect: count` counts signs instead of adding values: mergekit's and PEFT's other choice ("count", "frequency").
- `merge_func: sum` and `max` are the authors' dis-sum (AdaMerging++, Consensus TIES; mergekit's `normalize: false`) and
  dis-max.
- `weights` multiply the trimmed vectors before the election, and the mean is weighted by them: mergekit's `weight`.
  PEFT divides by the number of values that agree instead, which is weights and `merge_func: sum` up to that number.

Deltas are the true products B A; PEFT's `ties` trims A and B apart, which is another method.
"""
import threading
from dataclasses import replace

from speechmerge.merge.method import Elementwise, check_count
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS

WEIGHTS = Parameter("weights", "floats", None, "one weight per adapter; 1 for each where not given", low=0)
ELECTION = (
    Parameter("merge_func", ("mean", "sum", "max"), "mean", "what is done with the values of the elected sign"),
    Parameter("elect", ("sum", "count"), "sum", "the sign of the sum of values, or of the majority of them"),
    Parameter("zero_sum", ("majority", "positive"), "majority", "the sign where values cancel: the model's, or +"),
    WEIGHTS,
)
# where values were dropped at random or cut out, so that the model's sign would cost doing that twice for all
POSITIVE_ELECTION = tuple(replace(parameter, default="positive") if parameter.name == "zero_sum" else parameter
                          for parameter in ELECTION)


class Once:
    """A function without arguments whose result is kept."""

    def __init__(self, function):
        self.function, self.lock = function, threading.Lock()

    def __call__(self):
        with self.lock:
            if self.function is not None:
                self.result, self.function = self.function(), None
        return self.result


def coarse(delta) -> bool:
    """Are its values of so few bits that those of several inputs often cancel exactly?"""
    return getattr(getattr(delta, "tuned", None), "dtype", None) in ("BF16", "F16")


class Sparsified(Elementwise):
    """Shared by the methods that first take values away from each input, in `sparsify`, and then merge what is left."""

    strength = "lambda"
    boost = 1.0  # factor that all values that are left have in common

    def check(self):
        if self.values["weights"] is not None:
            check_count(self.name, "weights", self.values["weights"], self.labels)

    def sparsify(self, block, tensors):
        """The inputs' blocks without what is not to be merged; they may be changed in place."""
        return tensors

    def fuse(self, tensors):
        """One block of the sparsified ones."""
        raise NotImplementedError

    def combine(self, block, tensors):
        merged, factor = self.fuse(self.sparsify(block, tensors)), self.strength_at(block.name) * self.boost
        return merged if factor == 1 else merged.mul_(factor)


class SignElection(Sparsified):
    """Shared by all methods that end in TIES' election."""

    parameters = (LAMBDA, *ELECTION)

    def survey(self, tensors):
        """The sign of elements whose values cancel: found now where there will be such, else when one is met."""
        if self.values["zero_sum"] == "positive" or len(self.labels) == 1:
            self.zero_sign = lambda: 1
            return

        def majority() -> int:
            votes = sum(tensors.map_blocks(lambda block, inputs: self.votes(self.sparsify(block, inputs))))
            return (votes > 0) - (votes < 0)

        self.zero_sign = Once(majority)
        if self.values["elect"] == "count" or any(map(coarse, tensors.all())):
            self.zero_sign()  # here it is done by all cores

    def votes(self, tensors) -> int:
        from speechmerge.merge.kernels.signs import sum_of_signs

        return sum_of_signs(tensors, self.values["elect"], self.values["weights"])

    def fuse(self, tensors):
        from speechmerge.merge.kernels.signs import disjoint_merge

        rule, elect, weights = (self.values[key] for key in ("merge_func", "elect", "weights"))
        return disjoint_merge(tensors, self.zero_sign, rule, elect, weights)


@METHODS.register("ties")
class Ties(SignElection):
    """Trim to the k % largest magnitudes, elect signs, mean of the values that agree, times lambda."""

    parameters = (
        Parameter("k", float, 20.0, "percent of each task vector that is kept", low=0, high=100),
        LAMBDA,
        Parameter("trim", ("all", "tensor"), "all", "one threshold over all parameters, or one for each"),
        *ELECTION,
    )

    def survey(self, tensors):
        from speechmerge.merge.kernels.threshold import magnitude_thresholds, magnitude_thresholds_of_each

        if self.values["trim"] == "all":  # parameter -> one threshold per input
            self.thresholds = dict.fromkeys(tensors.names, magnitude_thresholds(tensors, self.values["k"]))
        else:
            self.thresholds = magnitude_thresholds_of_each(tensors, self.values["k"])
        super().survey(tensors)

    def sparsify(self, block, tensors):
        from speechmerge.merge.kernels.signs import trim_

        return [trim_(tensor, threshold) for tensor, threshold in zip(tensors, self.thresholds[block.name])]
