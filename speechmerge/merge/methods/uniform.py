"""Uniform average (Model Soups, arXiv 2203.05482, on task vectors)."""
from speechmerge.merge.method import Linear
from speechmerge.merge.registry import METHODS


@METHODS.register("uniform", "uniform_delta")
class Uniform(Linear):
    """The mean of the task vectors: 1/n for each of n. `uniform_delta` is the same and is saveable here."""

    def coefficients(self, name):
        return [1 / len(self.labels)] * len(self.labels)
