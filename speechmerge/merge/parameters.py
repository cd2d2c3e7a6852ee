"""What a merge method may be told: typed parameters with defaults and ranges, declared in code and checked here."""
import difflib
import math
from dataclasses import dataclass

from speechmerge.errors import UsageError

REQUIRED = object()  # the default of a parameter that has none


@dataclass(frozen=True)
class Parameter:
    """`kind` is float, int, bool, str, "floats" (one number per adapter), dict or a tuple of allowed words. Bounds are inclusive,
    except `high` where `open_high`. A default of None means: not used unless given."""

    name: str
    kind: object
    default: object
    help: str
    low: float = -math.inf
    high: float = math.inf
    open_high: bool = False

    def __str__(self):
        default = "none" if self.default is None else self.default
        default = "required" if self.default is REQUIRED else f"default {default}"
        return f"{self.name} ({self._expected()}; {default}): {self.help}"

    def _expected(self) -> str:
        if isinstance(self.kind, tuple):
            return " | ".join(self.kind)
        words = {"floats": "one number per adapter", float: "number", int: "integer", bool: "true or false", str: "word",
                 dict: "{key: value, ...}"}
        kind = words[self.kind]
        if self.low == -math.inf and self.high == math.inf:
            return kind
        left = "" if self.low == -math.inf else f"{self.low:g} <= "
        right = "" if self.high == math.inf else f" {'<' if self.open_high else '<='} {self.high:g}"
        return f"{kind}, {left}{self.name}{right}"

    def read(self, value):
        """`value` in the parameter's type. Raises UsageError with what was found and what was expected."""
        try:
            return self._convert(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"parameter {self.name}: found {value!r}, expected {self._expected()}") from error

    def _convert(self, value):
        if value is None and self.default is None:
            return None
        if isinstance(self.kind, tuple):
            if value not in self.kind:
                raise ValueError(value)
            return value
        if self.kind == "floats":
            if isinstance(value, str):
                value = value.split(",")
            return [self._bounded(float(item)) for item in ([value] if isinstance(value, (int, float)) else value)]
        if self.kind in (bool, str, dict):
            if not isinstance(value, self.kind):
                raise ValueError(value)
            return value
        if isinstance(value, bool) or (self.kind is int and float(value) != int(float(value))):
            raise ValueError(value)
        return self._bounded(self.kind(float(value)) if self.kind is int else float(value))

    def _bounded(self, number):
        outside = number < self.low or number > self.high or (self.open_high and number == self.high)
        if outside or not math.isfinite(number):
            raise ValueError(number)
        return number


LAMBDA = Parameter("lambda", float, 1.0, "scale of the merged task vector")  # of methods that have no other strength


def resolve(method: str, declared, given: dict) -> dict:
    """All parameters of a method with their values. Raises UsageError for unknown, wrong and missing ones."""
    known = {parameter.name: parameter for parameter in declared}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"method {method}: unknown parameter {name!r}; {hint}known: {', '.join(known) or 'none'}")
    values = {
        name: parameter.read(given[name]) if name in given else parameter.default for name, parameter in known.items()
    }
    missing = [name for name, value in values.items() if value is REQUIRED]
    if missing:
        raise UsageError(f"method {method}: parameter {missing[0]!r} is required; {known[missing[0]]}")
    return values
