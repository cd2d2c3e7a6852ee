"""How numbers and systems are written in tables, plots and sentences."""
import re
from collections import Counter, defaultdict

POINTS = ("bleu", "chrf")  # stored as fractions like all metrics, but written from 0 to 100 without a percent sign


def percent(value: float | None, digits: int = 1) -> str:
    """0.1234 -> '12.3 %'. Minus is the sign, not the hyphen."""
    return "n/a" if value is None else f"{100 * value:.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def shown(value: float, metric: str) -> str:
    """A task's score: '12.3 %', or '23.4' points where the metric is one of POINTS."""
    return percent(value)[:-2] if metric in POINTS else percent(value)


def natural(name: str) -> list:
    """Sort key by which 'point_2' stands before 'point_10'."""
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in re.split(r"(\d+)", name) if piece]


def spaced(name: str) -> str:
    """A heading of a name: 'sign_conflict' -> 'Sign conflict'."""
    words = name.replace("_", " ").replace("/", ": ")
    return words[:1].upper() + words[1:]


def signed(value: float | None) -> str:
    """interference_delta, always with its sign and two decimals."""
    return "undefined" if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def against_base(gain: float | None) -> str:
    """A difference of fractions in points: '14.0 worse than base'; empty where it is not known or nothing."""
    if not gain:
        return ""
    return f"{100 * abs(gain):.1f} {'better' if gain > 0 else 'worse'} than base"


def parameter(value) -> str:
    """A parameter's value: 0.5, 0.2/0.8, true."""
    if isinstance(value, (list, tuple)):
        return "/".join(parameter(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def brief(value, most: int = 4) -> str:
    """As parameter(); of long lists the beginning."""
    whole = not isinstance(value, (list, tuple)) or len(value) <= most
    return parameter(value) if whole else f"{parameter(value[:most - 1])}/\N{HORIZONTAL ELLIPSIS}"


def all_parameters(params: dict) -> str:
    """'k=20, lambda=0.4'; what is not set is left out."""
    return ", ".join(f"{key}={parameter(value)}" for key, value in sorted(params.items()) if value is not None)


def describe(system) -> str:
    """'ties (k=20, lambda=0.4)'; a base or an adapter by its name."""
    params = all_parameters(system.params)
    return (system.method or system.name) + (f" ({params})" if params else "")


def short_names(entries: list[dict]) -> dict[str, str]:
    """System name -> label; the tags of merges repeat what all of them share.

    A merge is called by its method, the parameters in which merges of this method differ and, where merges are of
    different tasks, these. All others, and merges that share such a label, keep their full name.
    """
    merges = [entry for entry in entries if entry["kind"] == "merged"]
    labels = {entry["name"]: short_name(entry, merges) for entry in merges}
    names, counts = {entry["name"] for entry in entries}, Counter(labels.values())
    unique = {name: label for name, label in labels.items() if counts[label] == 1 and label not in names - {name}}
    return {entry["name"]: unique.get(entry["name"], entry["name"]) for entry in entries}


def short_name(entry: dict, merges: list[dict]) -> str:
    """'ties k=20 of asr+kws', as much of it as tells it from the other merges; 'of 7 tasks' where there are many."""
    values = defaultdict(set)
    for other in merges:
        if other.get("method") == entry.get("method"):
            for key in entry["params"]:
                values[key].add(str(other["params"].get(key)))
    differing = [f"{key}={brief(value)}" for key, value in sorted(entry["params"].items())
                 if len(values[key]) > 1 and value is not None]
    several = len({tuple(other["own_sets"]) for other in merges}) > 1
    sets = entry["own_sets"]
    tasks = [f"of {'+'.join(sets) if len(sets) <= 3 else f'{len(sets)} tasks'}"] if several else []
    return " ".join([entry["method"] or entry["name"], *differing, *tasks])
