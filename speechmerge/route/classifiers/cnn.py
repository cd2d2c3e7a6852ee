from torch import nn

from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.classifiers.base import Classifier, mean_of, perceptron


@CLASSIFIERS.register("cnn")
class Convolution(Classifier):
    """Convolutions over time, their mean, then a linear layer or perceptron."""

    parameters_of = {"channels": 128, "kernel": 5, "layers": 2, "hidden": []}

    def build(self, labels, channels, kernel, layers, hidden):
        widths = [self.dimension, *[channels] * layers]
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, kernel, padding=kernel // 2) for width in widths[:-1])
        self.out = perceptron(channels, hidden, labels, self.dropout)

    def scores(self, states, heard):
        for convolution in self.convolutions:
            states = convolution(self.dropout(states).transpose(1, 2))[..., : heard.shape[1]].relu().transpose(1, 2) * heard
        return self.out(self.dropout(mean_of(states, heard)))
