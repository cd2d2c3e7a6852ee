"""The axes of a search space: {"type": "float" | "int" | "log", "min", "max"}, or {"type": "categorical", "choices"}."""
import json
import math


def as_stored(values: dict) -> dict:
    """As it is read back from a summary: points are compared with those."""
    return json.loads(json.dumps(values))


def at(entry: dict, share: float):
    """The value that lies at `share` (0 to 1) of an axis."""
    if entry["type"] == "categorical":
        return entry["choices"][min(int(share * len(entry["choices"])), len(entry["choices"]) - 1)]
    low, high = entry["min"], entry["max"]
    if entry["type"] == "int":
        return min(low + int(share * (high - low + 1)), high)
    if entry["type"] == "log":
        return rounded(entry, math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
    return rounded(entry, low + share * (high - low))


def share(entry: dict, value) -> float:
    """Where on an axis of numbers, from 0 to 1, a value lies."""
    scale = math.log if entry["type"] == "log" else float
    low, high = scale(entry["min"]), scale(entry["max"])
    return (scale(value) - low) / (high - low)


def rounded(entry: dict, value: float) -> float:
    """Six digits are more than any score can tell apart, and can be read."""
    return min(max(float(f"{value:.6g}"), entry["min"]), entry["max"])


def distribution(entry: dict):
    """The axis as Optuna calls it; choices, which may be lists, by their place."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if entry["type"] == "categorical":
        return CategoricalDistribution(range(len(entry["choices"])))
    if entry["type"] == "int":
        return IntDistribution(entry["min"], entry["max"])
    return FloatDistribution(entry["min"], entry["max"], log=entry["type"] == "log")


def inside(entry: dict, value):
    return entry["choices"].index(value) if entry["type"] == "categorical" else value


def outside(entry: dict, value):
    if entry["type"] == "categorical":
        return entry["choices"][value]
    return value if entry["type"] == "int" else rounded(entry, value)


def holds(entry: dict, value) -> bool:
    """Whether a value lies on an axis."""
    if entry["type"] == "categorical":
        return value in entry["choices"]
    return isinstance(value, (int, float)) and entry["min"] <= value <= entry["max"]
