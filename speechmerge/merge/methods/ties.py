"""TIES (arXiv 2306.01708): trim, elect a sign per element, average those that agree.

What implementations do differently is chosen here as in the paper: the threshold is taken over all merged parameters of
an adapter together (`trim: tensor` trims each alone, as mergekit and PEFT do); exactly floor(k% of N) elements are
kept, and more only where magnitudes at the threshold are equal, so that the result depends on no order; where the
trimmed values sum to zero the majority sign of all elements decides, and where that is zero too, the element is zero.
Deltas are the true products B A; parameters that no adapter changes are not counted in N.
"""
from speechmerge.merge.method import Method
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("ties")
class Ties(Method):
    """Trim to the k % largest magnitudes, elect signs, mean of the values that agree, times lambda."""

    parameters = (
        Parameter("k", float, 20.0, "percent of each task vector that is kept", low=0, high=100),
        Parameter("lambda", float, 1.0, "scale of the merged task vector"),
        Parameter("trim", ("all", "tensor"), "all", "one threshold over all parameters, or one for each"),
    )

    def survey(self, tensors):
        from speechmerge.merge.threshold import magnitude_threshold

        self._majority, self._tensors = None, tensors
        if self.values["trim"] == "all":
            self.thresholds = [
                magnitude_threshold(lambda: tensors(i), self.values["k"]) for i in range(len(self.labels))
            ]

    def trimmed(self, index: int, name: str, delta):
        """Task vector `index`, parameter `name`, without its small values; float32."""
        from speechmerge.merge.threshold import magnitude_threshold

        tensor = delta.dense()
        if self.values["trim"] == "all":
            threshold = self.thresholds[index]
        else:
            from speechmerge.merge.delta import Dense

            threshold = magnitude_threshold(lambda: [(name, Dense(tensor))], self.values["k"])
        return tensor * (tensor.abs() >= threshold)

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Deferred
        from speechmerge.merge.signs import disjoint_mean

        def compute():
            trimmed = [self.trimmed(index, name, delta) for index, delta in enumerate(deltas)]
            return disjoint_mean(trimmed, self.majority) * self.values["lambda"]

        return Deferred(deltas[0].shape, compute)

    def majority(self) -> int:
        """Sign of the sum of all elected signs; computed only where an element needs it, which is rare."""
        from speechmerge.merge.signs import sum_of_signs

        if self._majority is None:
            rows = zip(*(self._tensors(index) for index in range(len(self.labels))))
            total = sum(
                sum_of_signs([self.trimmed(i, name, delta) for i, (name, delta) in enumerate(row)]) for row in rows
            )
            self._majority = (total > 0) - (total < 0)
        return self._majority
