"""Uniform average (Model Soups, arXiv 2203.05482, on task vectors)."""
from speechmerge.merge.method import Linear
from speechmerge.merge.parameters import LAMBDA
from speechmerge.merge.registry import METHODS


@METHODS.register("uniform", "uniform_delta")
class Uniform(Linear):
    """The mean of the task vectors, 1/n for each of n, times lambda. `uniform_delta` is the same and is saveable here."""

    parameters = (LAMBDA,)
    strength = "lambda"

    def coefficients(self, name):
        return [self.strength_at(name) / len(self.labels)] * len(self.labels)
