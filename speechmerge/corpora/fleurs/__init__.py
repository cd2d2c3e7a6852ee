"""FLEURS: reader, languages and spoken miniature."""
from speechmerge.corpora.fleurs.corpus import Fleurs

__all__ = ["Fleurs"]
