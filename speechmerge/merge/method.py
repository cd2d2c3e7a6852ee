"""What a merge method is: declared parameters, an optional look at all tensors, and the delta of one tensor.

A new method is one file in speechmerge/merge/methods (or any file that is imported):

    @METHODS.register("median")
    class Median(Method):
        \"\"\"Element-wise median of the task vectors.\"\"\"

        def merge(self, name, deltas):
            return self.elementwise(deltas, lambda tensors: torch.stack(tensors).median(0).values)

Method files import torch only inside functions, so that `speechmerge list methods` is instant.
"""
from speechmerge.errors import UsageError
from speechmerge.merge.parameters import Parameter, resolve
from speechmerge.registry import nearest


class Method:
    """`values` holds the parameters; `labels` names the inputs, in order."""

    parameters: tuple[Parameter, ...] = ()
    fewest, most = 1, None  # how many inputs the method takes

    def __init__(self, name: str, labels, params: dict):
        self.name, self.labels = name, list(labels)
        if len(labels) < self.fewest or (self.most is not None and len(labels) > self.most):
            expected = f"exactly {self.most}" if self.fewest == self.most else f"at least {self.fewest}"
            raise UsageError(f"method {name}: found {len(labels)} adapters, expected {expected}")
        self.values = resolve(name, self.parameters, {key: by_label(name, key, value, self.labels) for key, value in params.items()})
        self.check()

    def check(self):
        """Refuse combinations of parameters that make no sense, before any tensor is read."""

    def survey(self, tensors):
        """Learn what is needed of all tensors. `tensors(i)` iterates over (name, delta) of input i, at every call."""

    def merge(self, name: str, deltas):
        """The merged delta of one parameter from the inputs' deltas, in the order of the inputs."""
        raise NotImplementedError

    @staticmethod
    def elementwise(deltas, function):
        """A deferred delta made by `function(list of float32 tensors) -> tensor` when it is asked for."""
        from speechmerge.merge.delta import Deferred

        return Deferred(deltas[0].shape, lambda: function([delta.dense() for delta in deltas]))


class Linear(Method):
    """Weighted sums: exact in factor space, never dense for LoRA."""

    def coefficients(self, name: str) -> list[float]:
        """One number per input, for the parameter `name`."""
        raise NotImplementedError

    def merge(self, name, deltas):
        from speechmerge.merge.delta import concatenate

        return concatenate(deltas, self.coefficients(name))


def by_label(method: str, parameter: str, value, labels):
    """A mapping {adapter: number} in the order of the inputs; other values as they are.

    Names that are not merged are left out, so that one config serves several choices of adapters.
    """
    if not isinstance(value, dict):
        return value
    missing = [label for label in labels if label not in value]
    if missing:
        raise UsageError(f"method {method}: {parameter} says nothing of {missing[0]!r}; {nearest(missing[0], map(str, value))}")
    return [value[label] for label in labels]


def check_count(method: str, parameter: str, numbers, labels):
    """As many numbers as inputs, or UsageError."""
    if len(numbers) != len(labels):
        raise UsageError(
            f"method {method}: {parameter} has {len(numbers)} numbers, expected {len(labels)}, one for each of "
            f"{', '.join(labels)}"
        )
