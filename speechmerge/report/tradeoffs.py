"""Plots of merges against each other: mean against worst task, and how much depends on the scale."""
from speechmerge.report import colours
from speechmerge.report.figure import Plot, curve_style, new_axes, png
from speechmerge.report.overview import ORACLE
from speechmerge.report.summaries import COMBINED, Summary, merge_summaries, scale_curves
from speechmerge.report.tables import Results
from speechmerge.report.wording import percent


def frontier(results: Results) -> Plot | None:
    """Mean kept share against that of the worst task: up and right is better.

    The line joins the merges and routed systems that no other beats on both.
    """
    summaries = [summary for summary in merge_summaries(results, "generation", COMBINED) if summary.deltas]
    if not summaries:
        return None
    best = sorted(pareto([summary for summary in summaries if summary.system.method != ORACLE]), key=lambda s: s.kept)
    figure, axes = new_axes(5.4, 4.6, f"Mean against worst task ({results.split})")
    draw_points(axes, summaries)
    axes.plot(*zip(*map(position, best)), color=colours.INK, linewidth=1, zorder=2)
    for place, names in labels_by_place(best).items():
        side, shift = ("right", -6) if place[0] > 50 else ("left", 6)  # towards the middle, so that names stay inside
        axes.annotate("\n".join(names), place, (shift, 5), textcoords="offset points", ha=side, fontsize=8)
    axes.set_xlabel("mean share of the gain kept, %", fontsize=9)
    axes.set_ylabel("share kept on the worst task, %", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="best")
    rows = [["system", "method", "tasks", "mean_kept", "worst_kept", "worst_task", "on_frontier"]]
    rows += [[s.system.name, s.system.method, len(s.deltas), s.kept, 1 + s.worst, s.worst_task, s in best]
             for s in summaries]
    alt = "; ".join(f"{s.system.label} (mean {percent(s.kept)}, worst {percent(1 + s.worst)} on {s.worst_task})"
                    for s in best)
    return Plot("frontier", "Mean against worst task", "Scatter plot of merges and routed systems, mean against worst kept "
                f"share. On the frontier: {alt}.", png(figure), rows)


def position(summary: Summary) -> tuple[float, float]:
    """Mean and worst kept share in percent."""
    return 100 * summary.kept, 100 * (1 + summary.worst)


def labels_by_place(best: list[Summary], most: int = 3) -> dict[tuple[float, float], list[str]]:
    """Names of systems that lie on one point, written below each other; of many the first."""
    found: dict[tuple[float, float], list[str]] = {}
    for summary in best:
        found.setdefault(position(summary), []).append(summary.system.label)
    return {place: names if len(names) <= most else [*names[:most - 1], f"and {len(names) - most + 1} more"]
            for place, names in found.items()}


def draw_points(axes, summaries: list[Summary]):
    """One marker per method; the base keeps nothing, the single adapters everything."""
    methods = sorted({s.system.method or s.system.name for s in summaries})
    for place, method in enumerate(methods):
        points = [position(s) for s in summaries if (s.system.method or s.system.name) == method]
        axes.scatter(*zip(*points), s=46, zorder=3, label=method, edgecolor="white", **curve_style(place))
    axes.plot(0, 0, "s", color=colours.BASE, markersize=8, label="base", zorder=3)
    axes.plot(100, 100, "*", color=colours.ADAPTER, markersize=12, label="all single adapters", zorder=3)


def pareto(summaries: list[Summary]) -> list[Summary]:
    """Those that no other one beats on the mean and on the worst task at once."""
    def beats(one, other):
        return one.kept >= other.kept and one.worst >= other.worst and position(one) != position(other)

    return [summary for summary in summaries if not any(beats(other, summary) for other in summaries)]


def scales(results: Results) -> Plot | None:
    """Kept share of merges that differ only in their scale: full line the mean, dashed the worst task."""
    curves = scale_curves(results, "generation")
    if not curves:
        return None
    rows, alt = [["merge", "scale", "system", "mean_kept", "worst_kept"]], []
    figure, axes = new_axes(5.4, 4.2, f"Scale: mean and worst task, dashed ({results.split})")
    for place, (title, points) in enumerate(curves.items()):
        rows += [[title, scale, s.system.name, s.kept, 1 + s.worst] for scale, s in points]
        alt.append(f"{title}: " + ", ".join(f"{scale:g} {percent(s.kept)}" for scale, s in points))
        at = [scale for scale, _ in points]
        axes.plot(at, [position(s)[0] for _, s in points], label=title, zorder=3, **curve_style(place))
        axes.plot(at, [position(s)[1] for _, s in points], linestyle="--", zorder=3, **curve_style(place))
    axes.axhline(0, color=colours.BASE, linewidth=1)
    axes.set_xlabel("scale or lambda", fontsize=9)
    axes.set_ylabel("share of the gain kept, %", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    alt = f"Line chart of the kept share by scale. {'; '.join(alt)}."
    return Plot("scale", "The scale of a merge", alt, png(figure), rows)
