from speechmerge.route.strategies import STRATEGIES
from speechmerge.route.strategies.base import Strategy, largest


@STRATEGIES.register("logit_ensemble")
class LogitEnsemble(Strategy):
    """One decoder per adapter; at every step their token distributions are averaged by the k largest probabilities.

    What "the sum of the adapters' outputs" can mean: texts cannot be added. It costs k times the decoding.
    """

    declared_parameters = {"k": 2}
    ensemble = True

    def check(self):
        self.need("k", isinstance(self.k, int) and self.k >= 1, "a whole number from 1")

    def weights(self, probabilities, truth=None):
        return largest(probabilities, self.k)
