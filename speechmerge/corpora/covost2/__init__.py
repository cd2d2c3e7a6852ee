"""CoVoST 2: translations of Common Voice 4. See corpus.py."""
from speechmerge.corpora.covost2.corpus import Covost2

__all__ = ["Covost2"]
