from speechmerge.route.strategies import STRATEGIES
from speechmerge.route.strategies.base import Strategy, best


@STRATEGIES.register("hard")
class Hard(Strategy):
    """The adapter of the most probable label, whole."""

    def weights(self, probabilities, truth=None):
        return best(probabilities)
