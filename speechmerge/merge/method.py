"""What a merge method is: declared parameters, an optional look at all tensors, and the delta of one tensor.

A new method is one file in speechmerge/merge/methods (or any file that is imported):

    @METHODS.register("median")
    class Median(Elementwise):
        \"\"\"Element-wise median of the task vectors.\"\"\"

        def combine(self, block, tensors):
            import torch

            return torch.stack(tensors).median(0).values

Method files import torch only inside functions, so that `speechmerge list methods` is instant.
"""
from speechmerge.errors import UsageError
from speechmerge.merge.parameters import Parameter, resolve
from speechmerge.registry import nearest


class Method:
    """`values` holds the parameters; `labels` names the inputs, in order; `policy` may set `strength` per parameter."""

    parameters: tuple[Parameter, ...] = ()
    fewest, most = 1, None  # how many inputs the method takes
    strength: str | None = None  # the parameter of the method that a lambda policy sets for each parameter of the model
    kind: str | None = None  # of the measurements that the method goes by, see `speechmerge statistics`
    statistics = ()  # these measurements of each input, once `prepare` has opened them

    def __init__(self, name: str, labels, params: dict, policy=None):
        self.name, self.labels, self.policy = name, list(labels), policy
        if len(labels) < self.fewest or (self.most is not None and len(labels) > self.most):
            expected = f"exactly {self.most}" if self.fewest == self.most else f"at least {self.fewest}"
            raise UsageError(f"method {name}: found {len(labels)} adapters, expected {expected}")
        given = {key: by_label(name, key, value, self.labels) for key, value in params.items()}
        self.values = resolve(name, self.parameters, given)
        self.check()

    def check(self):
        """Refuse combinations of parameters that make no sense, before any tensor is read."""

    def prepare(self, vectors):
        """Look at what the inputs are: places of statistics, weights of the base. From headers alone."""

    def survey(self, tensors):
        """Learn what is needed of all tensors: a :class:`speechmerge.merge.compute.Tensors`."""

    def merge(self, name: str, deltas):
        """The merged delta of one parameter from the inputs' deltas, in the order of the inputs."""
        raise NotImplementedError

    def rank(self, name: str, deltas) -> int | None:
        """The largest rank that the result can have, None: full rank. For the plan: no tensor is read."""
        return None

    def check_strength(self, value):
        """Refuse a strength that a policy gives, beyond what its parameter checks."""

    def strength_at(self, name: str):
        """The strength for one parameter: from the policy where there is one, else the same for all."""
        return self.values[self.strength] if self.policy is None else self.policy(name)


class Elementwise(Method):
    """Each value of the result depends on the inputs' values around it: one block at a time, never a whole model."""

    def combine(self, block, tensors):
        """The merged block from one float32 tensor per input, all of one shape and free to be changed.

        Called by several threads at once. `block` is a :class:`speechmerge.merge.compute.Block`.
        """
        raise NotImplementedError

    def merge(self, name, deltas):
        from speechmerge.merge.delta import Blockwise

        return Blockwise(name, deltas, self.combine)


MODE = Parameter("mode", ("product", "factors"), "product", "sum the products B A, which is exact, or sum A and B apart as "
                 "PEFT's `linear` does, to compare with numbers published so")


class Linear(Method):
    """Weighted sums: exact in factor space, never dense for LoRA. Every one of them takes `mode`."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if MODE not in cls.parameters:
            cls.parameters = (*cls.parameters, MODE)

    def coefficients(self, name: str) -> list[float]:
        """One number per input, for the parameter `name`."""
        raise NotImplementedError

    def merge(self, name, deltas):
        from speechmerge.merge.delta import concatenate
        from speechmerge.merge.kernels.factors import sum_factors

        combine = concatenate if self.values["mode"] == "product" else sum_factors
        return combine(deltas, self.coefficients(name))

    def rank(self, name, deltas):
        from speechmerge.merge.delta import LowRank

        if not all(isinstance(delta, LowRank) for delta in deltas):
            return None
        ranks = [delta.rank for delta, weight in zip(deltas, self.coefficients(name)) if weight != 0]
        return max(ranks, default=1) if self.values["mode"] == "factors" else max(sum(ranks), 1)


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


def shares(method: Method) -> list[float]:
    """The parameter `weights`, one number >= 0 per input, 1 for each where not given; UsageError where all are 0."""
    weights = method.values["weights"] or [1.0] * len(method.labels)
    check_count(method.name, "weights", weights, method.labels)
    if not sum(weights):
        raise UsageError(f"method {method.name}: weights are all 0, expected at least one above it")
    return weights
