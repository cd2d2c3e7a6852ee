"""What a system keeps over its tasks, which merge is best, and how much the scale matters.

kept share of a task = (u_merged - u_base) / (u_single - u_base) = 1 + interference_delta; the mean is over the tasks
where it is defined. The order of merges is that of the scores: the smallest interference_delta over tasks, leximin,
then mean; merges of more tasks come first, since fewer are easier to keep.
"""
from dataclasses import dataclass

from speechmerge.metrics.interference import HARMED_BELOW
from speechmerge.report.tables import Results, System
from speechmerge.report.wording import all_parameters

COMBINED = ("merged", "routed")  # kinds of systems that are made of several adapters
SCALES = ("scale", "lambda")  # lambda: the scale of TIES, the mix of two weighted adapters


@dataclass(frozen=True)
class Summary:
    """`deltas`: the defined interference_delta per own task; `undefined`: task -> reason; `harmed`: below the base."""
    system: System
    reading: str
    deltas: dict[str, float]
    undefined: dict[str, str]

    @property
    def kept(self) -> float | None:
        return self.mean_kept(self.deltas) if self.deltas else None

    def mean_kept(self, tasks) -> float:
        """Over some of the defined tasks."""
        kept = [1 + self.deltas[task] for task in tasks]
        return sum(kept) / len(kept)

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
    """Over the system's own tasks, or over all; the base has no own tasks."""
    deltas, undefined = {}, {}
    for task in results.tasks:
        cell = results.cell(reading, system.name, task.name)
        if cell is None or not (all_tasks or task.name in system.tasks):
            continue
        if cell.delta is None:
            undefined[task.name] = cell.reason
        else:
            deltas[task.name] = cell.delta
    return Summary(system, reading, deltas, undefined)


def merge_summaries(results: Results, reading: str, kinds=("merged",)) -> list[Summary]:
    """All merges (or systems of these kinds) measured under this reading, best first; those without a place in the
    ranking, such as routed systems, behind it by their worst task."""
    found = [summarize(results, system, reading) for kind in kinds for system in results.of_kind(kind)]
    measured = [summary for summary in found if summary.deltas or summary.undefined]
    order = {name: place for place, name in enumerate(results.record["ranking"][reading])}
    return sorted(measured, key=lambda summary: (order.get(summary.system.name, len(order)), summary.worst is None,
                                                 -(summary.worst or 0.0)))


def choose_merge(results: Results, dev: Results | None) -> Summary | None:
    """The merge to talk about: the best on dev where dev was scored, otherwise the best on the reported split."""
    merges = {system.name: system for system in results.of_kind("merged")}
    ranked = [name for name in (dev or results).record["ranking"]["generation"] if name in merges]
    return summarize(results, merges[ranked[0]], "generation") if ranked else None


def scale_curves(results: Results, reading: str) -> dict[str, list[tuple[float, Summary]]]:
    """Merges that differ only in `scale` or `lambda`: title -> [(its value, summary)], rising, at least two points."""
    curves: dict[tuple, list[tuple[float, Summary]]] = {}
    for summary in merge_summaries(results, reading):
        system = summary.system
        key = next((key for key in SCALES if isinstance(system.params.get(key), (int, float))), None)
        if key is None or summary.kept is None:
            continue
        rest = all_parameters({name: value for name, value in system.params.items() if name != key})
        point = (float(system.params[key]), summary)
        curves.setdefault((f"{key} of {system.method}", rest, system.tasks), []).append(point)
    found = {key: sorted(points, key=lambda point: point[0]) for key, points in curves.items() if len(points) > 1}
    titles = [title for title, _, _ in found]
    return {title if titles.count(title) == 1 else f"{title} ({rest}; {'+'.join(tasks)})": points
            for (title, rest, tasks), points in found.items()}
