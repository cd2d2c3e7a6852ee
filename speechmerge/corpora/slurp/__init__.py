"""SLURP, its sibling in other languages Speech-MASSIVE, and the form in which SLURP's evaluator wants hypotheses."""
from speechmerge.corpora.slurp.corpus import Slurp
from speechmerge.corpora.slurp.massive import SpeechMassive

__all__ = ["Slurp", "SpeechMassive"]
