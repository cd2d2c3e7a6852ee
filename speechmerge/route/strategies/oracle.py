from speechmerge.route.strategies import STRATEGIES
from speechmerge.route.strategies.base import Strategy, one_hot


@STRATEGIES.register("oracle")
class Oracle(Strategy):
    """The adapter of the true label: the mark that routing is measured against."""

    needs_truth = True

    def weights(self, probabilities, truth=None):
        return one_hot(truth, probabilities)
