"""Coefficients that are learned: gradient descent through the adapter bank, no merged weight is ever made.

    optimizer: {type: supermerge, params: {variant: layer_wise, steps: 200}}       # in a merge config

A learner says what is minimised (objective) and how coefficients come from free parameters (parametrisation).
"""
from speechmerge.learn.base import LEARNERS

__all__ = ["LEARNERS"]
