from speechmerge.route.strategies import STRATEGIES
from speechmerge.route.strategies.base import Strategy, largest


@STRATEGIES.register("top_k")
class TopK(Strategy):
    """The k most probable adapters, their probabilities renormalised."""

    declared_parameters = {"k": 2}

    def check(self):
        self.need("k", isinstance(self.k, int) and self.k >= 1, "a whole number from 1")

    def weights(self, probabilities, truth=None):
        return largest(probabilities, self.k)
