"""Corpora: each module registers one that writes Kaldi-style data directories. `CORPORA.get("mini")`."""
from speechmerge.corpora.base import CORPORA, Corpus

__all__ = ["CORPORA", "Corpus"]
