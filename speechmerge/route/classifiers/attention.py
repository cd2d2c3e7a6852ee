from torch import nn

from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.classifiers.base import Classifier, perceptron


@CLASSIFIERS.register("attention")
class Attention(Classifier):
    """Self-attentive pooling (Lin et al. 2017): each head is a weighted mean whose weights the states themselves give."""

    parameters_of = {"width": 64, "heads": 4, "hidden": []}

    def build(self, labels, width, heads, hidden):
        self.weights = nn.Sequential(nn.Linear(self.dimension, width), nn.Tanh(), nn.Linear(width, heads))
        self.out = perceptron(heads * self.dimension, hidden, labels, self.dropout)

    def scores(self, states, heard):
        weights = self.weights(states).masked_fill(~heard, float("-inf")).softmax(1)  # [b, t, heads]
        return self.out(self.dropout(weights.transpose(1, 2).matmul(states).flatten(1)))
