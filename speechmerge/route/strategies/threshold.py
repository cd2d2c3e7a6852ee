from speechmerge.route.strategies import STRATEGIES
from speechmerge.route.strategies.base import Strategy, best, largest


@STRATEGIES.register("threshold")
class Threshold(Strategy):
    """Hard where the classifier is at least `tau` sure, else the mix of the k most probable."""

    declared_parameters = {"tau": 0.8, "k": 2}

    def check(self):
        self.need("tau", 0 <= self.tau <= 1, "a probability")
        self.need("k", isinstance(self.k, int) and self.k >= 1, "a whole number from 1")

    def weights(self, probabilities, truth=None):
        sure = probabilities.max(-1, keepdim=True).values >= self.tau
        return best(probabilities).where(sure, largest(probabilities, self.k))
