"""From the classifier's probabilities to the weight of each label's adapter: one strategy each, registered by name."""
from speechmerge.registry import Registry

STRATEGIES = Registry("routing strategy", "speechmerge.route.strategies")
