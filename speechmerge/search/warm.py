"""What earlier sweeps found, for a search to begin with."""
from pathlib import Path

from speechmerge.errors import UsageError
from speechmerge.files import read_json
from speechmerge.search.space import holds

# what two sweeps must share for the points of one to say something about the other
COMPARED = ("method", "merge_mode", "adapters", "split", "reading", "eval_tasks", "constraint_nonnegative",
            "eval_subset", "method_params", "transforms", "lambda_policy")


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
                found += [(point.get("values", point["params"]), worst(point)) for point in earlier["points"]
                          if point.get("state", "done") == "done"]
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
