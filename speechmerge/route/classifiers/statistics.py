import torch

from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.classifiers.base import Classifier, mean_of, perceptron


@CLASSIFIERS.register("statistics")
class Statistics(Classifier):
    """Mean and deviation over time (statistics pooling), then a linear layer; with `hidden` a perceptron of these widths.

    How a state varies says more than its mean in low layers, which cost least to compute.
    """

    parameters_of = {"hidden": []}

    def build(self, labels, hidden):
        self.out = perceptron(2 * self.dimension, hidden, labels, self.dropout)

    def scores(self, states, heard):
        mean = mean_of(states, heard)
        deviation = mean_of((states - mean[:, None]).square(), heard).clamp(min=1e-6).sqrt()  # a single state has none
        return self.out(self.dropout(torch.cat([mean, deviation - 1], dim=-1)))  # both around 0
