"""AI4Bharat's corpora with Common Voice and MLS: recognition of Hindi, Punjabi, Telugu and Italian, sources mixed."""
from speechmerge.corpora.ai4bharat.corpus import AI4Bharat

__all__ = ["AI4Bharat"]
