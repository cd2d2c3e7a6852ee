"""Task arithmetic (arXiv 2212.04089)."""
from speechmerge.merge.method import Linear
from speechmerge.merge.parameters import Parameter
from speechmerge.merge.registry import METHODS


@METHODS.register("task_vector", "task_arithmetic", "uniform_scalar_delta")
class TaskArithmetic(Linear):
    """scale * (sum of the task vectors); `uniform_scalar_delta` is the same under the name that sweeps of scale use."""

    parameters = (
        Parameter(
            "scale", float, 1.0, "0 gives the base, 1 the plain sum; 0.2 to 0.5 is usual for four and more tasks"
        ),
    )

    strength = "scale"

    def coefficients(self, name):
        return [self.strength_at(name)] * len(self.labels)
