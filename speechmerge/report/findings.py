"""What the numbers say: the best merge and what it costs, scoring against writing, the scale, the adapters."""
from collections import defaultdict
from dataclasses import dataclass

from speechmerge.report.summaries import Summary, choose_merge, merge_summaries, scale_curves, summarize
from speechmerge.report.tables import READINGS, Results
from speechmerge.report.wording import against_base, percent, signed


@dataclass(frozen=True)
class Finding:
    """`headline`: the number or name; `title` goes on after it; `text`: how it was found."""
    headline: str
    title: str
    text: str


def key_findings(results: Results, dev: Results | None) -> list[Finding]:
    """`dev`: results of the split that merges are chosen on, or None."""
    best = choose_merge(results, dev)
    found = [best_scale(results, dev), adapters(results)]
    if best and best.deltas:
        found = [best_merge(results, dev, best), worst_task(results, best), by_labels(results, best), *found]
    return [finding for finding in found if finding]


def best_merge(results: Results, dev: Results | None, best: Summary) -> Finding:
    largest = max((s for s in merge_summaries(results, "generation") if s.deltas), key=lambda s: s.kept)
    chosen = (f"Chosen on {dev.split} by its worst task." if dev else
              f"Chosen by its worst task on {results.split} itself, which is optimistic.")
    also = "" if largest.system is best.system else (
        f" Largest mean on {results.split}: {largest.system.label}, {percent(largest.kept)}.")
    text = (f"{best.system.label} keeps {percent(best.kept)} of what the single adapters gain over the base, mean over "
            f"{len(best.deltas)} tasks of {results.split}, {READINGS['generation']}. {chosen}{also}")
    return Finding(percent(best.kept), "of the gain kept by the best merge", text)


def worst_task(results: Results, best: Summary) -> Finding:
    task = results.task(best.worst_task)
    systems = {"base": next(iter(results.of_kind("base")), None), "single adapter": results.adapter_of(task.name),
               "merge": best.system}
    cells = {name: results.cell("generation", system.name, task.name) for name, system in systems.items() if system}
    shown = ", ".join(f"{name} {cell.text}" for name, cell in cells.items() if cell)
    harmed = f"Worse than the base on: {', '.join(best.harmed)}." if best.harmed else "None is worse than the base."
    text = f"{task.label}: {shown}; interference_delta {signed(best.worst)}. {harmed}{elsewhere(results, best)}"
    return Finding(task.name, "is the task that this merge costs most", text)


def elsewhere(results: Results, best: Summary) -> str:
    """What the merge does to tasks that its kept share says nothing of: interference_delta is undefined there, or the
    merge was not made for them."""
    rest = [task for task in results.tasks if task.name not in best.deltas]
    gains = [(task.name, results.gain_over_base("generation", best.system.name, task)) for task in rest]
    shown = [f"{name} {against_base(gain) or 'as the base'} (points)" for name, gain in gains if gain is not None]
    return f" Not counted above: {'; '.join(shown)}." if shown else ""


def by_labels(results: Results, best: Summary) -> Finding | None:
    """Both readings on the tasks where both are defined."""
    labels = summarize(results, best.system, "labels")
    shared = [task for task in labels.deltas if task in best.deltas]
    if not shared:
        return None
    kept = percent(labels.mean_kept(shared))
    return Finding(kept, "kept when labels are scored instead of written",
                   f"On the same {len(shared)} tasks ({', '.join(shared)}) {READINGS['generation']} keeps "
                   f"{percent(best.mean_kept(shared))}. Where scoring keeps more, the merge still knows the answer but "
                   "no longer writes it in the task's form.")


def best_scale(results: Results, dev: Results | None) -> Finding | None:
    """The longest curve of scales; the best scale is read where merges are chosen, the shares on the reported split."""
    curves = scale_curves(results, "generation")
    if not curves:
        return None
    title, points = max(curves.items(), key=lambda item: len(item[1]))
    source = dev or results
    best, _ = max(scale_curves(source, "generation").get(title, points), key=lambda point: point[1].kept)
    kept = "; ".join(f"{scale:g} keeps {percent(summary.kept)}" for scale, summary in points)
    return Finding(f"{best:g}", f"is the best {title}", f"By the mean kept share on {source.split}. "
                   f"On {results.split}: {kept}.")


def adapters(results: Results) -> Finding | None:
    """How many single adapters gain enough for interference_delta to be defined."""
    found = [summarize(results, system, "generation") for system in results.of_kind("adapter")]
    gained, undefined, lost = sum(len(summary.deltas) for summary in found), defaultdict(list), 0
    for summary in found:
        lost += len(summary.undefined)
        for task, reason in summary.undefined.items():
            undefined[reason].append(task)
    if not gained + lost:
        return None
    where = "; ".join(f"{', '.join(tasks)} ({reason})" for reason, tasks in undefined.items())
    where = f"Undefined: {where}." if lost else "It is for all of them."
    return Finding(f"{gained} of {gained + lost}", "single adapters beat the base beyond noise",
                   f"Only there is interference_delta defined. {where}")
