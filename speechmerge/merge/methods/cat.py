"""Concatenation of LoRA factors (CAT of LoRA Soups, arXiv 2410.13025, with given weights)."""
from speechmerge.merge.method import Linear, check_count
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("cat")
class Concatenate(Linear):
    """Exact weighted sum by concatenating factors: rank up to the sum of ranks; --rank recompresses when saving."""

    parameters = (
        Parameter("weights", "floats", None, "one weight per adapter, of any sign; 1 for each where not given"),
    )

    strength = "weights"

    def check(self):
        self.values["weights"] = self.values["weights"] or [1.0] * len(self.labels)
        check_count(self.name, "weights", self.values["weights"], self.labels)

    def coefficients(self, name):
        return self.strength_at(name)

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Concatenated, Stacked

        merged = super().merge(name, deltas)
        return Concatenated(merged.deltas, [1.0] * len(merged.deltas)) if isinstance(merged, Stacked) else merged
