"""What the numbers say: one summary per system, the best merge, how the scale matters, and sentences that name them.

kept share of a task = (u_merged - u_base) / (u_single - u_base) = 1 + interference_delta; the mean is over the tasks where
it is defined. The order of merges is that of the scores: the smallest interference_delta over tasks, then leximin, then mean;
merges of more tasks come first, since fewer are easier to keep.
"""
from dataclasses import dataclass

from speechmerge.metrics.interference import HARMED_BELOW
from speechmerge.report.tables import READINGS, Results, System

SCALES = ("scale", "lambda")


@dataclass(frozen=True)
class Summary:
    """`deltas`: the defined interference_delta per own task; `undefined`: task -> reason; `harmed`: worse than the base."""
    system: System
    reading: str
    deltas: dict[str, float]
    undefined: dict[str, str]

    @property
    def kept(self) -> float | None:
        return 1 + sum(self.deltas.values()) / len(self.deltas) if self.deltas else None

    @property
    def worst_task(self) -> str | None:
        return min(self.deltas, key=self.deltas.get) if self.deltas else None

    @property
    def worst(self) -> float | None:
        return self.deltas[self.worst_task] if self.deltas else None

    @property
    def harmed(self) -> list[str]:
        return [task for task, delta in self.deltas.items() if delta < HARMED_BELOW]


def summarize(results: Results, system: System, reading: str, all_tasks: bool = False) -> Summary:
    """Over the system's own tasks (a merge whose adapters are not known: all tasks), or over all tasks."""
    deltas, undefined = {}, {}
    for task in results.tasks:
        cell = results.cell(reading, system.name, task.name)
        if cell is None or not (all_tasks or not system.tasks or task.name in system.tasks):
            continue
        if cell.delta is None:
            undefined[task.name] = cell.reason or "not computed"
        else:
            deltas[task.name] = cell.delta
    return Summary(system, reading, deltas, undefined)


def merge_summaries(results: Results, reading: str) -> list[Summary]:
    """All merges measured under this reading, best first."""
    found = [summarize(results, system, reading) for system in results.of_kind("merged")]
    measured = [summary for summary in found if summary.deltas or summary.undefined]
    order = {name: place for place, name in enumerate(results.record["ranking"][reading])}
    return sorted(measured, key=lambda summary: order.get(summary.system.name, len(order)))


def choose_merge(results: Results, chosen_on: Results | None) -> tuple[Summary | None, str]:
    """The merge to talk about and the split it was chosen on: dev where it was scored, otherwise (and said so) this split."""
    source = chosen_on or results
    merges = {system.name: system for system in results.of_kind("merged")}
    ranked = [name for name in source.record["ranking"]["generation"] if name in merges]
    return summarize(results, merges[ranked[0]], "generation") if ranked else None, source.split


def scale_curves(results: Results, reading: str) -> dict[str, list[tuple[float, Summary]]]:
    """Merges that differ only in their scale, `title -> [(scale, summary)]` by rising scale; curves of one point left out."""
    curves: dict[tuple, list[tuple[float, Summary]]] = {}
    for summary in merge_summaries(results, reading):
        system = summary.system
        key = next((key for key in SCALES if isinstance(system.params.get(key), (int, float))), None)
        if key is None or summary.kept is None:
            continue
        rest = tuple(sorted((name, str(value)) for name, value in system.params.items() if name != key))
        title = " ".join([system.method or "merge", *(f"{name}={value}" for name, value in rest)])
        curves.setdefault((title, system.tasks), []).append((float(system.params[key]), summary))
    return {title: sorted(points, key=lambda point: point[0]) for (title, _), points in curves.items() if len(points) > 1}


def percent(value: float | None, digits: int = 1) -> str:
    """0.1234 -> '12.3 %'. Minus is the sign, not the hyphen."""
    return "n/a" if value is None else f"{100 * value:.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def signed(value: float | None) -> str:
    """interference_delta, always with its sign and two decimals."""
    return "undefined" if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def describe(system: System) -> str:
    """'ties (k=20, lambda=0.4)'; a base or an adapter by its name."""
    if system.kind != "merged":
        return system.name
    params = ", ".join(f"{key}={value}" for key, value in sorted(system.params.items()))
    return f"{system.method or system.name}" + (f" ({params})" if params else "")


@dataclass(frozen=True)
class Finding:
    headline: str
    title: str
    text: str


def key_findings(results: Results, chosen_on: Results | None) -> list[Finding]:
    return [
        finding
        for finding in (_best_finding(results, chosen_on), _worst_finding(results, chosen_on), _labels_finding(results, chosen_on),
                        _scale_finding(results, chosen_on), _adapter_finding(results))
        if finding
    ]


def _best_finding(results: Results, chosen_on: Results | None) -> Finding | None:
    best, split = choose_merge(results, chosen_on)
    if best is None or best.kept is None:
        return None
    caution = "" if chosen_on else f" It was chosen on {split} itself (no other split was scored), so this is optimistic."
    text = (f"{describe(best.system)} keeps {percent(best.kept)} of what its single adapters gain over the base, mean over "
            f"{len(best.deltas)} tasks of {results.split}, by free generation. Chosen on {split} by its worst task.{caution}")
    return Finding(percent(best.kept), "of the gain kept by the best merge", text)


def _worst_finding(results: Results, chosen_on: Results | None) -> Finding | None:
    best, _ = choose_merge(results, chosen_on)
    if best is None or best.worst_task is None:
        return None
    task = results.task(best.worst_task)
    adapter = results.adapter_of(task.name)
    values = [(name, results.cell("generation", system, task.name))
              for name, system in (("base", _base_name(results)), ("single adapter", adapter and adapter.name),
                                   ("merge", best.system.name))]
    shown = ", ".join(f"{name} {percent(cell.value)}" for name, cell in values if cell)
    harmed = f" Worse than the base on: {', '.join(best.harmed)}." if best.harmed else " No task is worse than with the base."
    return Finding(task.name, "is the task that this merge costs most",
                   f"{task.label}: {shown}; interference_delta {signed(best.worst)}.{harmed}")


def _labels_finding(results: Results, chosen_on: Results | None) -> Finding | None:
    best, _ = choose_merge(results, chosen_on)
    if best is None:
        return None
    labels = summarize(results, best.system, "labels")
    shared = [task for task in labels.deltas if task in best.deltas]
    if not shared:
        return None
    by_labels = 1 + sum(labels.deltas[task] for task in shared) / len(shared)
    written = 1 + sum(best.deltas[task] for task in shared) / len(shared)
    return Finding(percent(by_labels), "kept when labels are scored instead of written",
                   f"On the same {len(shared)} tasks ({', '.join(shared)}) {READINGS['generation']} keeps {percent(written)}. "
                   "Where scoring keeps more, the merge still knows the answer but no longer writes it in the task's form.")


def _scale_finding(results: Results, chosen_on: Results | None) -> Finding | None:
    """The longest curve of scales; its best scale is read where merges are chosen, the shares on the reported split."""
    curves = scale_curves(results, "generation")
    if not curves:
        return None
    title, points = max(curves.items(), key=lambda item: len(item[1]))
    source = chosen_on or results
    candidates = scale_curves(source, "generation").get(title, points)
    best = max(candidates, key=lambda point: point[1].kept)[0]
    kept = {scale: percent(summary.kept) for scale, summary in points}
    all_points = "; ".join(f"{scale:g} keeps {share}" for scale, share in kept.items())
    return Finding(f"{best:g}", f"is the best scale of {title}",
                   f"By the mean kept share on {source.split}. On {results.split}: {all_points}.")


def _adapter_finding(results: Results) -> Finding | None:
    adapters = [summarize(results, system, "generation") for system in results.of_kind("adapter") if system.tasks]
    undefined = [f"{task} ({reason})" for summary in adapters for task, reason in summary.undefined.items()]
    total = sum(len(summary.deltas) + len(summary.undefined) for summary in adapters)
    if not total:
        return None
    gained = total - len(undefined)
    text = "Only there is interference_delta defined. " + (f"Undefined: {'; '.join(undefined)}." if undefined else "It is on all tasks.")
    return Finding(f"{gained} of {total}", "single adapters beat the base beyond noise", text)


def _base_name(results: Results) -> str | None:
    bases = results.of_kind("base")
    return bases[0].name if bases else None
