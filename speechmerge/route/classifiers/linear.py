from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.classifiers.base import Classifier, mean_of, perceptron


@CLASSIFIERS.register("linear")
class Linear(Classifier):
    """The mean over time, then a linear layer; with `hidden` a perceptron of these widths."""

    parameters_of = {"hidden": []}
    only_mean = True

    def build(self, labels, hidden):
        self.out = perceptron(self.dimension, hidden, labels, self.dropout)

    def scores(self, states, heard):
        return self.out(self.dropout(mean_of(states, heard)))
