"""A corpus that is spoken by espeak-ng from grammars of our own: `CORPORA.get("mini")`. See corpus.py."""
from speechmerge.corpora.mini.corpus import MiniCorpus

__all__ = ["MiniCorpus"]
