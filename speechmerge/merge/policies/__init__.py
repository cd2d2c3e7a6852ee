"""What a lambda policy is: the value of a method's strength (its lambda, scale or coefficients) at each parameter.

A new policy is one file in this package:

    @POLICIES.register("decoder_only")
    class DecoderOnly(Policy):
        \"\"\"`value` in the decoder, 0 elsewhere.\"\"\"

        parameters = (Key("value", "strength in the decoder"),)

        def __call__(self, name):
            return self.values["value"] if "decoder" in name else 0.0

Values are what the strength takes: a number; where it has one number per adapter also a list, a mapping {adapter:
number}, or one number for all. They are read by the method's own parameter, so that its bounds hold here too.
"""
from dataclasses import dataclass

from speechmerge.errors import UsageError
from speechmerge.merge.config.checks import known_keys, leaf, mapping
from speechmerge.merge.registry import POLICIES
from speechmerge.registry import nearest


@dataclass(frozen=True)
class Key:
    """One key of a policy, as `speechmerge list` prints it."""

    name: str
    help: str
    required: bool = False

    def __str__(self):
        return f"{self.name}{' (required)' if self.required else ''}: {self.help}"


DEFAULT = Key("default", "strength where no override holds; the method's own where not given")


class Policy:
    """`given`: what stands in the config below the key path `where`, without `type`. The constructor checks what can be
    checked without adapters, `prepare` what needs the names of their parameters; then policy(name) is the strength."""

    parameters: tuple[Key, ...] = ()

    def __init__(self, given: dict, where: str = "lambda_policy"):
        known_keys(where, given, [key.name for key in self.parameters])
        for key in self.parameters:
            if key.required and key.name not in given:
                raise UsageError(f"{where}.{key.name}: missing; it is the {key.help}")
        self.given, self.where = given, where
        self.check()

    def check(self):
        """Refuse what makes no sense, whatever the adapters are."""

    def strengths(self) -> dict:
        """Place below `where` -> strength as it was given, for everything that is one."""
        return dict(self.given)

    def prepare(self, names, read, default=None) -> "Policy":
        """Make the policy ready for the parameters `names`. `read(key path, value)` gives a strength in the method's
        type; `default` is the method's own. UsageError for wrong values and for places that are not there."""
        self.read = read
        self.values = {place: read(f"{self.where}.{place}", value) for place, value in self.strengths().items()}
        if DEFAULT in self.parameters and self.values.setdefault("default", default) is None:
            raise UsageError(f"{self.where}.default: missing, and the method has no value of its own")
        self.survey(sorted(names))
        return self

    def survey(self, names: list[str]):
        """Learn from the names of all parameters."""

    def __call__(self, name: str):
        """The strength at parameter `name`."""
        raise NotImplementedError


def normalised(given, where: str = "lambda_policy") -> dict:
    """A policy as `{type: ..., ...}`, its keys texts as in JSON; a bare number or list is a scalar policy."""
    if not isinstance(given, dict):
        return {"type": "scalar", "value": given}
    if given.get("type") not in POLICIES.names():
        found = f"unknown lambda policy {given['type']!r}" if "type" in given else "missing"
        raise UsageError(f"{where}.type: {found}; {nearest(str(given.get('type')), POLICIES.names())}")
    return _with_text_keys(given)


def _with_text_keys(value):
    return {str(key): _with_text_keys(item) for key, item in value.items()} if isinstance(value, dict) else value


def policy_of(given, where: str = "lambda_policy") -> Policy:
    """The policy of a config value, before it knows method and adapters."""
    values = dict(mapping(where, normalised(given, where)))
    return POLICIES.get(values.pop("type"))(values, where)


def default_of(policy: Policy) -> tuple[str | None, object]:
    """(place, strength) that holds where nothing else is said; (None, None): the method's own."""
    given = policy.strengths()
    return next(((place, given[place]) for place in ("default", "value", "alpha") if place in given), (None, None))


def make_policy(given, method, names) -> Policy:
    """The policy of `method` (an instance) for the parameters `names`: policy(name) is the strength at `name`."""
    if method.strength is None:
        raise UsageError(f"lambda_policy: method {method.name} has no strength that could differ between parameters")
    parameter = next(parameter for parameter in method.parameters if parameter.name == method.strength)
    own = method.values[method.strength]

    def read(path, value):
        return read_strength(path, parameter, value, method.labels)

    return policy_of(given).prepare(names, read, None if own is None else read(f"method_params.{parameter.name}", own))


def read_strength(path: str, parameter, value, labels=None):
    """One strength in the type of the method's parameter; where the labels are known, with one number for each."""
    if parameter.kind != "floats":
        return leaf(path, parameter, value)
    if labels is None:
        return leaf(path, parameter, list(value.values()) if isinstance(value, dict) else value)
    if isinstance(value, dict) and not set(labels) <= set(value):
        missing = next(label for label in labels if label not in value)
        raise UsageError(f"{path}: says nothing of {missing!r}; {nearest(missing, map(str, value))}")
    numbers = leaf(path, parameter, [value[label] for label in labels] if isinstance(value, dict) else value)
    if len(numbers) == 1 and not isinstance(value, (list, dict)):
        return numbers * len(labels)
    if len(numbers) != len(labels):
        raise UsageError(f"{path}: found {len(numbers)} numbers, expected {len(labels)}, one for each of "
                         f"{', '.join(labels)}")
    return numbers
