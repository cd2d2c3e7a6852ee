"""Corpora: each module registers one that writes Kaldi-style data directories. `CORPORA.get("mini")`."""
from speechmerge.corpora.base import CORPORA, Corpus, find_corpus

__all__ = ["CORPORA", "Corpus", "find_corpus"]
