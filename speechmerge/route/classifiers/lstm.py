from torch import nn

from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.classifiers.base import Classifier, mean_of, perceptron


@CLASSIFIERS.register("lstm")
class Lstm(Classifier):
    """A bidirectional LSTM, the mean of its states, then a linear layer or perceptron."""

    parameters_of = {"width": 64, "hidden": []}

    def build(self, labels, width, hidden):
        self.lstm = nn.LSTM(self.dimension, width, batch_first=True, bidirectional=True)
        self.out = perceptron(2 * width, hidden, labels, self.dropout)

    def scores(self, states, heard):
        lengths = heard.sum((1, 2)).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.dropout(states), lengths, batch_first=True, enforce_sorted=False)
        found, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=states.shape[1])
        return self.out(self.dropout(mean_of(found, heard)))
