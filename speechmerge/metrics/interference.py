"""What a merge kept of each task, on one scale.

    u = metric (+ higher is better, - lower)
    interference_delta = (u_merged - u_single) / (u_single - u_base)

0 keeps the whole gain of the single-task adapter, -1 is no better than the base, above 0 is synergy. Percent or
fraction makes no difference. Undefined where the single adapter gains no more than noise, which would be divided by.
"""
import math

MIN_GAIN = 1e-6
NO_GAIN = "undefined_no_gain"
HARMED_BELOW = -1.0  # worse than the base


def oriented(value: float, higher_is_better: bool) -> float:
    """The score u: higher is always better."""
    return value if higher_is_better else -value


def interference_delta(u_merged: float, u_single: float, u_base: float,
                       se_gain: float | None = None) -> tuple[float | None, str]:
    """(delta, "ok"), or (None, "undefined_no_gain") where the gain is below twice its standard error `se_gain`."""
    gain = u_single - u_base
    if gain <= max(MIN_GAIN, 2 * (se_gain or 0.0)):
        return None, NO_GAIN
    return (u_merged - u_single) / gain, "ok"


def log_ratio(merged: float, single: float, higher_is_better: bool, floor: float = 1e-3) -> float:
    """What to look at where delta is undefined: ln(single error / merged error), or ln(merged score / single score)."""
    above, below = (merged, single) if higher_is_better else (single, merged)
    return math.log((above + floor) / (below + floor))


def ranking_key(deltas: dict[str, float | None]) -> tuple:
    """Sort key, best last: the smallest delta over tasks, then leximin (second smallest, ...), then the mean.

    Undefined tasks are left out. Systems that are compared must be scored on the same tasks.
    """
    defined = sorted(delta for delta in deltas.values() if delta is not None)
    return tuple(defined) + (sum(defined) / len(defined),) if defined else (-math.inf,)


def rank(systems: dict[str, dict[str, float | None]]) -> list[str]:
    """Names of systems, best first, by `ranking_key`; ties by name, so that the order is always the same.

    A task that is undefined for one system is undefined for all (base and adapter decide it); where a system lacks a
    task, they are compared on the tasks that all of them have.
    """
    defined = [{task for task, delta in deltas.items() if delta is not None} for deltas in systems.values()]
    shared = set.intersection(*defined) if defined else set()
    keys = {name: ranking_key({task: deltas[task] for task in shared}) for name, deltas in systems.items()}
    return sorted(sorted(systems), key=lambda name: keys[name], reverse=True)


def summary(deltas: dict[str, float | None]) -> dict:
    """{"min", "mean", "harmed", "defined"}: worst task, average, tasks worse than the base, tasks that count."""
    defined = [delta for delta in deltas.values() if delta is not None]
    if not defined:
        return {"min": None, "mean": None, "harmed": 0, "defined": 0}
    return {"min": min(defined), "mean": sum(defined) / len(defined), "defined": len(defined),
            "harmed": sum(delta < HARMED_BELOW for delta in defined)}
