"""What a config says of a search, checked: `search` and `eval_subset`. The search itself: :mod:`speechmerge.search`.

    search: {type: grid, grid: {lambda: [0.2, 0.5, 0.8]}}
    search:
      type: bayes
      budget: 20
      init_points: 6
      seed: 42
      space:
        lambda: {type: float, min: 0.0, max: 1.0}

The names are parameters of the method, or key paths: `coefficients.asr`, `lambda_policy.alpha`,
`transforms[0].params.k`.
"""
from speechmerge.errors import UsageError
from speechmerge.merge.config.checks import known_keys, mapping, section
from speechmerge.merge.parameters import REQUIRED, Parameter
from speechmerge.registry import nearest

SAMPLED = (
    Parameter("budget", int, 20, "points to try", low=1),
    Parameter("init_points", int, 6, "points spread over the space before the first is proposed", low=1),
    Parameter("seed", int, 0, "of the search", low=0),
    Parameter("warm_start_max_points", int, None, "at most so many points of earlier sweeps, the best", low=1),
)
SEARCHES = {"grid": (), "bayes": SAMPLED, "tpe": SAMPLED, "cmaes": SAMPLED, "random": SAMPLED}
KEEP = Parameter("keep", float, 0.5, "share of the points that go on from a rung, the best so far", low=0.01, high=1)
STRUCTURES = {kind: ("space", "warm_start_sweeps", "halving") for kind in SEARCHES} | {"grid": ("grid", "halving")}
BOUNDS = (Parameter("min", float, REQUIRED, "smallest value"), Parameter("max", float, REQUIRED, "largest value"))
SPACES = {
    "float": BOUNDS,
    "int": tuple(Parameter(bound.name, int, REQUIRED, bound.help) for bound in BOUNDS),
    "log": tuple(Parameter(bound.name, float, REQUIRED, bound.help, low=1e-300) for bound in BOUNDS),
    "categorical": (),
}
SUBSET = (
    Parameter("enabled", bool, True, "use the subset"),
    Parameter("seed", int, 0, "of the choice", low=0),
    Parameter("shuffle", bool, True, "draw at random; false: the first ones by id"),
    Parameter("stratified", bool, True, "labels in the same proportions as in the whole set"),
    Parameter("max_samples", int, None, "examples per task at most", low=1),
)
PER_TASK = (Parameter("max_samples", int, REQUIRED, "examples of this task at most", low=1),)


def keys_of(kind: str) -> list[str]:
    """The keys that belong to one type of search, beside `type`."""
    return [*(parameter.name for parameter in SEARCHES[kind]), *STRUCTURES[kind]]


def read_halving(path: str, given) -> dict | None:
    """Successive halving: `{rungs: [0.25, 0.5], keep: 0.5}`, or true for the defaults; None: every point is scored whole."""
    if given in (None, False):
        return None
    given = dict(mapping(path, {} if given is True else given))
    rungs = given.pop("rungs", [0.25])
    numbers = isinstance(rungs, list) and rungs and all(isinstance(rung, (int, float)) and 0 < rung < 1 for rung in rungs)
    if not numbers or sorted(set(rungs)) != rungs:
        raise UsageError(f"{path}.rungs: found {rungs!r}, expected rising shares between 0 and 1 of the evaluation set, such as "
                         "[0.1, 0.4]; the whole set follows by itself")
    return {"rungs": [float(rung) for rung in rungs], **section(path, [KEEP], given)}


def read_search(path: str, given) -> dict:
    """`search` with its defaults. Names and values are compared with the method elsewhere."""
    given = dict(mapping(path, given))
    kind = given.pop("type", "grid")
    if kind not in SEARCHES:
        raise UsageError(f"{path}.type: found {kind!r}, expected one of {', '.join(SEARCHES)}")
    for key in given:
        if key not in keys_of(kind):
            others = [other for other in SEARCHES if key in keys_of(other)]
            if others:
                raise UsageError(f"{path}.{key}: belongs to search.type {others[0]}, found {kind}")
            raise UsageError(f"{path}.{key}: unknown key; {nearest(str(key), ['type', *keys_of(kind)])}")
    single = {key: value for key, value in given.items() if key not in STRUCTURES[kind]}
    values = {"type": kind, **section(path, SEARCHES[kind], single)}
    if halving := read_halving(f"{path}.halving", given.get("halving")):
        values["halving"] = halving
    if kind == "grid":
        return {**values, "grid": read_grid(f"{path}.grid", given.get("grid"))}
    if values["init_points"] > values["budget"]:
        raise UsageError(f"{path}.init_points: found {values['init_points']}, expected at most the budget, "
                         f"{values['budget']}")
    warm = given.get("warm_start_sweeps") or []
    warm = [warm] if isinstance(warm, str) else warm
    if not isinstance(warm, list) or not all(isinstance(item, str) for item in warm):
        raise UsageError(f"{path}.warm_start_sweeps: found {warm!r}, expected files, folders or patterns")
    return {**values, "space": read_space(f"{path}.space", given.get("space")), "warm_start_sweeps": warm}


def read_grid(path: str, given) -> dict[str, list]:
    if not given:
        raise UsageError(f"{path}: nothing to search; give --grid lambda=0.2,0.5,0.8, or search.grid in the config")
    for name, values in mapping(path, given).items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}.{name}: found {values!r}, expected a list of at least one value")
    return {str(name): values for name, values in given.items()}


def read_space(path: str, given) -> dict[str, dict]:
    if not given:
        raise UsageError(f"{path}: nothing to search; give at least one name, such as "
                         "{lambda: {type: float, min: 0, max: 1}}")
    return {str(name): read_range(f"{path}.{name}", entry) for name, entry in mapping(path, given).items()}


def read_range(path: str, given) -> dict:
    """One axis of a space: {type, min, max}, or {type: categorical, choices}."""
    given = dict(mapping(path, given))
    kind = given.pop("type", "float")
    if kind not in SPACES:
        raise UsageError(f"{path}.type: found {kind!r}, expected one of {', '.join(SPACES)}")
    if kind == "categorical":
        known_keys(path, given, ("choices",))
        choices = given.get("choices")
        if not isinstance(choices, list) or not choices:
            raise UsageError(f"{path}.choices: found {choices!r}, expected a list of at least one value")
        return {"type": kind, "choices": choices}
    values = section(path, SPACES[kind], given)
    if values["min"] >= values["max"]:
        raise UsageError(f"{path}.max: found {values['max']}, expected more than min, {values['min']}")
    return {"type": kind, **values}


def tried(search: dict):
    """(key path, name, value) of the values that must be possible: all of a grid, the ends of a space."""
    if search["type"] == "grid":
        for name, values in search["grid"].items():
            yield from ((f"search.grid.{name}[{place}]", name, value) for place, value in enumerate(values))
        return
    for name, entry in search["space"].items():
        if entry["type"] == "categorical":
            yield from ((f"search.space.{name}.choices[{i}]", name, value) for i, value in enumerate(entry["choices"]))
        else:
            yield from ((f"search.space.{name}.{end}", name, entry[end]) for end in ("min", "max"))


def read_subset(path: str, given) -> dict:
    """`eval_subset` with its defaults; `per_task`: {task: {max_samples: n}}."""
    given = dict(mapping(path, given))
    per_task = mapping(f"{path}.per_task", given.pop("per_task", None) or {})
    known = [*(parameter.name for parameter in SUBSET), "per_task"]
    known_keys(path, given, known)
    values = section(path, SUBSET, given)
    values["per_task"] = {str(task): section(f"{path}.per_task.{task}", PER_TASK, entry)
                          for task, entry in per_task.items()}
    if values["enabled"] and values["max_samples"] is None and not per_task:
        raise UsageError(f"{path}.max_samples: missing; say how many examples, here or in per_task")
    return values
