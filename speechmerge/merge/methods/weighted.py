"""Weighted sums of task vectors, one coefficient per adapter.

The framework that these names come from knows `weighted` (of adapter weights) and `weighted_delta` (of their products B
A). Here all of them are sums of products, which is exact; averaging A and B apart is not offered.
"""
from speechmerge.errors import UsageError
from speechmerge.merge.method import Linear, check_count
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS

NEGATIVES = Parameter("allow_negative_coefficients", bool, False, "accept coefficients below 0")


def check_signs(method: str, numbers, allowed: bool):
    negative = [number for number in numbers if number < 0]
    if negative and not allowed:
        raise UsageError(
            f"method {method}: coefficient {negative[0]:g} is negative; set allow_negative_coefficients=true if "
            "it is meant"
        )


@METHODS.register("weighted", "weighted_delta")
class Weighted(Linear):
    """sum_i c_i * adapter_i; for two adapters `lambda` gives lambda * first + (1 - lambda) * second."""

    parameters = (
        Parameter(
            "lambda", float, None, "weight of the first of two adapters, the second gets 1 - lambda", low=0, high=1
        ),
        Parameter("coefficients", "floats", None, "one weight per adapter, as a list or {name: weight}; not normalised"),
        NEGATIVES,
    )

    strength = "lambda"

    def check(self):
        mixing, numbers = self.values["lambda"], self.values["coefficients"]
        if mixing is not None and numbers is not None or (mixing is numbers is None and self.policy is None):
            raise UsageError(f"method {self.name}: give either lambda (two adapters) or coefficients (one per adapter)")
        # a policy sets what was given; where nothing was, two adapters are mixed by lambda
        self.strength = "coefficients" if numbers is not None or (mixing is None and len(self.labels) != 2) else "lambda"
        if self.strength == "lambda" and len(self.labels) != 2:
            raise UsageError(
                f"method {self.name}: lambda is for two adapters, found {len(self.labels)}; give coefficients"
            )
        if numbers is not None:
            check_count(self.name, "coefficients", numbers, self.labels)
            check_signs(self.name, numbers, self.values["allow_negative_coefficients"])

    def check_strength(self, value):
        if self.strength == "coefficients":
            check_signs(self.name, value, self.values["allow_negative_coefficients"])

    def coefficients(self, name):
        numbers = self.strength_at(name)
        return [numbers, 1 - numbers] if self.strength == "lambda" else numbers


@METHODS.register("weighted_delta_n")
class WeightedN(Linear):
    """sum_i c_i * adapter_i for any number of adapters."""

    parameters = (
        Parameter("coefficients", "floats", None, "one weight per adapter, as a list or {name: weight}; not normalised"),
        NEGATIVES,
    )

    strength = "coefficients"

    def check(self):
        if self.values["coefficients"] is None and self.policy is None:
            raise UsageError(f"method {self.name}: parameter 'coefficients' is required; {self.parameters[0]}")
        if self.values["coefficients"] is not None:
            check_count(self.name, "coefficients", self.values["coefficients"], self.labels)
            check_signs(self.name, self.values["coefficients"], self.values["allow_negative_coefficients"])

    def check_strength(self, value):
        check_signs(self.name, value, self.values["allow_negative_coefficients"])

    def coefficients(self, name):
        return self.strength_at(name)
