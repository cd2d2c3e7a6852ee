"""Routing: which adapters an utterance (or a stretch of it) gets, decided by a classifier on states of the frozen base.

    router = Router.load("exp/router/hard", model)
    probabilities = router.probabilities(model, examples)         # [utterances, labels]
    weights = STRATEGIES.get("soft")(router.labels).weights(probabilities)
"""
from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.strategies import STRATEGIES

__all__ = ["CLASSIFIERS", "STRATEGIES"]
