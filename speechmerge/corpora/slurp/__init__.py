"""SLURP, its sibling in other languages Speech-MASSIVE, and rationales that others have written about its recordings."""
from speechmerge.corpora.slurp.corpus import Slurp
from speechmerge.corpora.slurp.massive import SpeechMassive
from speechmerge.corpora.slurp.rationale import Rationale

__all__ = ["Rationale", "Slurp", "SpeechMassive"]
