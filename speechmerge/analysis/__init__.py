"""What adapters have in common and what they do: one file per analysis, named by `kind:` in conf/analyze/NAME.yaml."""
from speechmerge.analysis.base import ANALYSES

__all__ = ["ANALYSES"]
