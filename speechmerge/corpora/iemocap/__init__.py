"""IEMOCAP: reader and spoken miniature."""
from speechmerge.corpora.iemocap.corpus import IEMOCAP

__all__ = ["IEMOCAP"]
