"""Karcher mean: the mean of any number of task vectors on the sphere, parameter by parameter.

The direction minimises the weighted sum of squared angles to the inputs' directions (the Riemannian centre of mass,
Karcher 1977), the norm is the weighted mean of the inputs' norms, as in mergekit's `karcher`. mergekit takes whole
weights, at most 10 steps of tensors and a tolerance of 1e-5; here task vectors are taken and the steps are those of
coefficients, in float64, so that more of them cost nothing and a LoRA stays one.
"""
from speechmerge.merge.kernels.sphere import OnSphere, karcher
from speechmerge.merge.method import shares
from speechmerge.merge.parameters import LAMBDA, Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("karcher")
class Karcher(OnSphere):
    """Mean direction of the task vectors on the sphere, with the mean of their norms."""

    strength = "lambda"
    parameters = (
        LAMBDA,
        Parameter("weights", "floats", None, "one weight per adapter, as a list or {name: weight}; scaled to sum 1; "
                  "default: all equal", low=0),
        Parameter("iterations", int, 100, "steps at most", low=1),
        Parameter("tolerance", float, 1e-10, "radians; a shorter step is the last one", low=0),
    )

    def check(self):
        weights = shares(self)
        self.weights = [weight / sum(weights) for weight in weights]

    def combination(self, products, name):
        numbers = karcher(products, self.weights, self.values["iterations"], self.values["tolerance"])
        return [self.strength_at(name) * number for number in numbers]
