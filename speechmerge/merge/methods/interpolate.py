"""Interpolation with the pre-trained model: Speech-FT (arXiv 2502.12672), and WiSE-FT (arXiv 2109.01903) before it.

    theta_0 + alpha * mean over k of (theta_k - theta_0)

Speech-FT fine-tunes an encoder and goes only a quarter of the way, which beat both ends on SUPERB. Its code keeps the
base's `final_proj` and `label_embs_concat`, the heads of HuBERT's pre-training task, which fine-tuning does not use: so
do parameters here whose name, or a dotted part of it, matches one of `keep_base`.
"""
from fnmatch import fnmatchcase

from speechmerge.merge.method import Linear
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


class Patterns(Parameter):
    """A list of name patterns with * and ?; one word, several joined by commas, or nothing at all."""

    def _expected(self):
        return "list of name patterns"

    def _convert(self, value):
        words = value.split(",") if isinstance(value, str) else list(value or ())
        if not all(isinstance(word, str) for word in words):
            raise ValueError(value)
        return [word.strip() for word in words if word.strip()]


@METHODS.register("interpolate")
class Interpolate(Linear):
    """alpha times the mean of the task vectors: between the base (0) and the fine-tuned model (1), as in Speech-FT."""

    strength = "alpha"
    parameters = (
        Parameter("alpha", float, 0.25, "how far to go from the base to the mean of the fine-tuned models"),
        Patterns("keep_base", "names", ["final_proj", "label_embs_concat"], "parameters that stay as in the base"),
    )

    def coefficients(self, name):
        parts = (name, *name.split("."))
        kept = any(fnmatchcase(part, pattern) for part in parts for pattern in self.values["keep_base"])
        return [0.0 if kept else self.strength_at(name) / len(self.labels)] * len(self.labels)
