"""What to try next: the points of a grid, or Bayesian search (Gaussian process, expected improvement).

    search = searcher({"type": "grid", "grid": {"scale": [0.2, 0.5]}})
    search.ask([])                          # {"scale": 0.2}
    search.ask([({"scale": 0.2}, -0.4)])    # {"scale": 0.5}; None after the last one

A point is a pair (values by name, score to be maximised; None where it is undefined). Whatever is asked depends on
nothing but the points so far, so that a search that was killed goes on as if it had not been.
"""
import itertools
import json
import math
import warnings
from pathlib import Path

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json

# what two sweeps must share for the points of one to say something about the other
COMPARED = ("method", "merge_mode", "adapters", "split", "reading", "eval_tasks", "constraint_nonnegative",
            "eval_subset", "method_params", "transforms", "lambda_policy")


def searcher(search: dict):
    """The search of a config's `search`, as :func:`speechmerge.merge.config.search_space.read_search` gives it."""
    return Grid(search) if search["type"] == "grid" else Bayes(search)


class Grid:
    """Every combination of the values, in the order of the config."""

    def __init__(self, search: dict):
        grid = as_stored(search["grid"])
        self.rows = [dict(zip(grid, row)) for row in itertools.product(*grid.values())]
        self.size = len(self.rows)

    def ask(self, points, warm=()) -> dict | None:
        tried = [values for values, _ in points]
        return next((row for row in self.rows if row not in tried), None)


class Bayes:
    """First `init_points` of a scrambled Sobol sequence, then maxima of expected improvement (Optuna's GPSampler)."""

    def __init__(self, search: dict):
        self.space, self.size = as_stored(search["space"]), search["budget"]
        self.init_points, self.seed = search["init_points"], search["seed"]

    def ask(self, points, warm=()) -> dict | None:
        """`warm`: points of earlier searches, known but not counted. None: the budget, or the space, is used up."""
        if len(points) >= self.size:
            return None
        known = [*warm, *points]
        tried = [values for values, _ in known]
        first = self.proposed(known) if len(known) >= self.init_points else self.spread(len(points))
        others = (self.spread(place) for place in range(len(points), len(points) + 256))
        return next((values for values in itertools.chain([first], others) if values not in tried), None)

    def spread(self, place: int) -> dict:
        """The point number `place` of the Sobol sequence."""
        from torch.quasirandom import SobolEngine

        row = SobolEngine(len(self.space), scramble=True, seed=self.seed).draw(place + 1)[place].tolist()
        return {name: at(entry, share) for (name, entry), share in zip(self.space.items(), row)}

    def proposed(self, known) -> dict:
        """The point of largest expected improvement over the known ones."""
        import optuna

        scored = [(values, score) for values, score in known if score is not None]
        if not scored:
            raise SpeechMergeError("interference_delta is undefined for every task at every point, so that nothing can "
                                   "be searched for; are the single adapters better than the base on this split?")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # fresh at every point: neither random state nor fitted kernels survive a kill
            sampler = optuna.samplers.GPSampler(seed=(self.seed * 1_000_003 + len(known)) % 2**32, n_startup_trials=1,
                                                deterministic_objective=True)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            space = {name: distribution(entry) for name, entry in self.space.items()}
            for values, score in scored:
                inner = {name: inside(self.space[name], values[name]) for name in space}
                study.add_trial(optuna.trial.create_trial(params=inner, distributions=space, value=score))
            found = study.ask(space).params
        return {name: outside(entry, found[name]) for name, entry in self.space.items()}


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


def warm_points(search: dict, summary: dict) -> tuple[list, list[str]]:
    """(points of earlier sweeps within this space, best first; the summaries that do not fit this one and why).

    `search`: with `warm_start_sweeps`, each a summary file, a folder of sweep_*.json, or a pattern.
    """
    found, refused = [], []
    for pattern in search.get("warm_start_sweeps", ()):
        for path in summary_files(pattern):
            earlier = read_json(path)
            other = [key for key in COMPARED if key in earlier and earlier[key] != summary[key]]
            if other:
                refused.append(f"{path}: another {other[0]}")
            elif earlier["key"] != summary["key"]:
                found += [(point.get("values", point["params"]), worst(point)) for point in earlier["points"]]
    names, unique = list(search.get("space", ())), {}
    for values, score in found:
        if score is not None and all(name in values and holds(search["space"][name], values[name]) for name in names):
            unique.setdefault(repr([values[name] for name in names]), ({name: values[name] for name in names}, score))
    best = sorted(unique.values(), key=lambda point: (-point[1], repr(point[0])))
    return best[:search.get("warm_start_max_points")], refused


def summary_files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        return [path]
    parent = Path(path.anchor) if path.is_absolute() else Path()
    found = sorted(path.glob("sweep_*.json")) if path.is_dir() else sorted(parent.glob(str(path.relative_to(parent))))
    if not found:
        raise UsageError(f"search.warm_start_sweeps: {pattern}: no such file, folder with sweep_*.json, or pattern")
    return found


def worst(point: dict) -> float | None:
    """What a search maximises: the smallest interference_delta over the tasks for which it is defined."""
    return min((delta for delta in point["interference_delta"].values() if delta is not None), default=None)
