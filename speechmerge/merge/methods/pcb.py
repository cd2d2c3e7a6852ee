"""PCB-Merging, parameter competition balancing (arXiv 2410.02396): weigh each value by how much it matters to its own
task and how far the tasks want the same.

    a_t   = |tau_t|, clamped to its quantiles 0.0001 and 0.9999, taken over the whole task vector
    intra = exp(T u^2),  u = (a_t - min) / (max - min),  T tasks
    inter = tanh(tau_t * sum_s tau_s)
    s_t   = intra * inter, cut off below its quantile 1 - ratio and scaled to 0..1
    merged = lambda * sum_t(s_t sign(tau_t) a_t) / sum_t(s_t)

Done as in the authors' code, except that the quantiles leave out equally many elements on both sides (the code clamps
one more at the top), that exp(T (u^2 - 1)) is computed, which s does not notice and float32 does with many tasks, and
that a task whose values are all equal has s = 1 where tasks agree, instead of 0 / 0. ratio is 0.05 to 0.1 there, lambda
1.2, or found per task by evolutionary search, which is what a sweep is for. """
from fractions import Fraction

from speechmerge.errors import UsageError
from speechmerge.merge.method import Elementwise
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS

OUTLIERS = Fraction(1, 10000)  # of the magnitudes on either side


@METHODS.register("pcb")
class Pcb(Elementwise):
    """Mean of the task vectors weighed, value by value, by importance in the own task and agreement between tasks."""

    parameters = (
        Parameter("ratio", float, 0.1, "part of each task vector's values that has a weight", low=0, high=1),
        Parameter("lambda", float, 1.2, "scale of the merged task vector"),
    )
    strength = "lambda"

    def check(self):
        if not self.values["ratio"]:
            raise UsageError(f"method {self.name}: ratio: found 0, expected a number above 0")

    def survey(self, tensors):
        from speechmerge.merge.kernels.threshold import elements, magnitude_of, nth_largest, ordered_keys, ordered_value

        total = elements(tensors)
        self.bounds = self.cuts = [(0.0, 0.0)] * tensors.count
        if not total:
            return
        outliers, unweighted = int(total * OUTLIERS), int(total * (1 - Fraction(repr(self.values["ratio"]))))
        found = nth_largest(tensors, [[total - outliers, outliers + 1]] * tensors.count)
        self.bounds = [tuple(map(magnitude_of, keys)) for keys in found]  # of a_t
        found = nth_largest(tensors, [[max(total - unweighted, 1), 1]] * tensors.count,
                            lambda inputs: [ordered_keys(score) for score in self.scores(inputs)])
        self.cuts = [tuple(map(ordered_value, keys)) for keys in found]  # of intra * inter: the quantile, the largest

    def scores(self, tensors):
        """intra * inter of each input, which are not changed."""
        total = sum(tensors[1:], tensors[0])
        return [self.importance(tensor, *bounds).mul_((tensor * total).tanh_())
                for tensor, bounds in zip(tensors, self.bounds)]

    def importance(self, tensor, low: float, high: float):
        scaled = tensor.abs().clamp_(low, high).sub_(low).div_(high - low or 1)
        return scaled.square_().sub_(1).mul_(len(self.labels)).exp_()

    def combine(self, block, tensors):
        merged = weight = None
        for tensor, score, bounds, cuts in zip(tensors, self.scores(tensors), self.bounds, self.cuts):
            share = weigh_(score, *cuts)
            value = tensor.abs().clamp_(*bounds).mul_(tensor.sign_()).mul_(share)
            merged = value if merged is None else merged.add_(value)
            weight = share if weight is None else weight.add_(share)
        return merged.div_(weight.clamp_min_(1e-12)).mul_(self.strength_at(block.name))


def weigh_(score, cut: float, largest: float):
    """The score as a weight from 0, at `cut` and below, to 1."""
    if largest > cut:
        return score.clamp_min_(cut).sub_(cut).div_(largest - cut)
    return score.ge_(largest).mul_(float(largest > 0))
