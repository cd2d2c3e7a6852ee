"""Every plot of the report as PNG bytes with its numbers as CSV and its content in words. Matplotlib, without a display."""
import csv
import io
import re
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from speechmerge.report import colours
from speechmerge.report.findings import Summary, describe, merge_summaries, percent, scale_curves
from speechmerge.report.tables import READINGS, Results, System, TaskInfo

DPI = 150
STYLE = {"fontsize": 9, "color": colours.INK}
MARKERS = "osD^vPX*<>hp"
PALETTE = ("#0072b2", "#d55e00", "#007a5a", "#b0468c", "#8a6d00", "#3a3a3a", "#2f9fd0", "#7a4a00")  # Okabe-Ito, darkened


@dataclass(frozen=True)
class Plot:
    """`rows`: the numbers, header first; `alt`: what a reader who cannot see the picture should know."""
    name: str
    title: str
    alt: str
    png: bytes
    rows: list[list]

    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels (96 per inch), read from the PNG header."""
        return tuple(round(int.from_bytes(self.png[i:i + 4], "big") * 96 / DPI) for i in (16, 20))

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.rows)
        return text.getvalue()


def slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def arrow(task: TaskInfo) -> str:
    return "higher is better" if task.higher_is_better else "lower is better"


def all_plots(results: Results) -> list[Plot]:
    plots = [heat_map(results, reading) for reading in results.readings()]
    plots += [bars(results, task) for task in results.tasks]
    plots += [make(results) for make in (frontier, scales, error_breakdown, cross_task)]
    return [plot for plot in plots if plot]


def heat_map(results: Results, reading: str) -> Plot:
    """Task x system, coloured by the share of the single adapter's gain that is kept, with the metric's value as text."""
    rows = [["system", "task", "metric", "value", "ci_low", "ci_high", "n", "n_unparsed", "interference_delta",
             "delta_ci_low", "delta_ci_high", "reason", "log_ratio"]]
    for system in results.systems:
        for task in results.tasks:
            if cell := results.cell(reading, system.name, task.name):
                entry = cell.delta_entry
                rows.append([system.name, task.name, task.metric, cell.value, *(cell.ci or (None, None)), task.n,
                             cell.details.get("n_unparsed"), cell.delta, *(entry.get("ci") or (None, None)), cell.reason,
                             entry.get("log_ratio")])
    title = f"Every system on every task, {READINGS[reading]} ({results.split})"
    png = _grid(results, reading, results.systems, title)
    return Plot(f"heatmap_{reading}", title, f"Heat map of {len(results.systems)} systems by {len(results.tasks)} tasks; "
                "blue keeps the single adapter's gain, white is the base, orange is worse. The table holds the same numbers.", png, rows)


def cross_task(results: Results) -> Plot | None:
    """Each adapter on each task: what a single adapter does to the tasks it was not made for."""
    adapters = results.of_kind("adapter")
    if len(adapters) < 2:
        return None
    rows = [["adapter", *(task.name for task in results.tasks)]]
    for system in adapters:
        cells = (results.cell("generation", system.name, task.name) for task in results.tasks)
        rows.append([system.name, *(cell and cell.value for cell in cells)])
    hurt = [f"{system.name} on {task.name}" for system in adapters for task in results.tasks
            if (cell := results.cell("generation", system.name, task.name)) and cell.delta is not None and cell.delta < -1]
    title = f"Each single adapter on each task ({results.split})"
    alt = f"Matrix of {len(adapters)} adapters by {len(results.tasks)} tasks. Worse than the base: {', '.join(hurt) or 'none'}."
    return Plot("cross_task", title, alt, _grid(results, "generation", adapters, title), rows)


def _grid(results: Results, reading: str, systems: list[System], title: str) -> bytes:
    figure = Figure(figsize=(2.6 + 1.05 * len(results.tasks), 1.3 + 0.36 * len(systems)), layout="constrained")
    axes = figure.add_subplot()
    for row, system in enumerate(systems):
        for column, task in enumerate(results.tasks):
            cell = results.cell(reading, system.name, task.name)
            if cell is None:
                continue
            background = colours.kept_colour(cell.kept)
            own = system.kind == "adapter" and task.name in system.tasks
            axes.add_patch(_box(column, row, background, own))
            axes.text(column, row, percent(cell.value), ha="center", va="center", fontsize=9,
                      color=colours.text_colour(background), weight="bold" if own else "normal")
    axes.set_xlim(-0.5, len(results.tasks) - 0.5)
    axes.set_ylim(len(systems) - 0.5, -0.5)
    axes.set_xticks(range(len(results.tasks)), [f"{task.name}\n{task.label}" for task in results.tasks], **STYLE)
    axes.set_yticks(range(len(systems)), [system.name for system in systems], **STYLE)
    axes.xaxis.tick_top()
    _finish(axes, title)
    axes.tick_params(length=0)
    axes.set_xlabel("blue: keeps the single adapter's gain   white: as the base   orange: worse   grey: undefined",
                    fontsize=8, color=colours.INK)
    return _png(figure)


def _box(column: int, row: int, background: str, framed: bool):
    from matplotlib.patches import Rectangle

    inset = 0.03 if framed else 0
    return Rectangle((column - 0.5 + inset, row - 0.5 + inset), 1 - 2 * inset, 1 - 2 * inset, facecolor=background,
                     edgecolor=colours.INK if framed else "#d5d9de", linewidth=1.6 if framed else 0.6, zorder=3 if framed else 2)


def bars(results: Results, task: TaskInfo) -> Plot:
    """All systems on one task, bars by free generation with 95 % intervals, diamonds by label scoring."""
    rows = [["system", "kind", "reading", "value", "ci_low", "ci_high", "n"]]
    systems = [system for system in results.systems if any(results.cell(r, system.name, task.name) for r in READINGS)]
    figure = Figure(figsize=(4.8, 1.5 + 0.27 * len(systems)), layout="constrained")
    axes = figure.add_subplot()
    for place, system in enumerate(systems):
        for reading in READINGS:
            cell = results.cell(reading, system.name, task.name)
            if cell is None:
                continue
            low, high = cell.ci or (None, None)
            rows.append([system.name, system.kind, reading, cell.value, low, high, task.n])
            draw = _draw_bar if reading == "generation" else _draw_diamond
            draw(axes, place, cell, _kind_colour(system, task.name))
    axes.set_yticks(range(len(systems)), [system.name for system in systems], **STYLE)
    axes.set_ylim(len(systems) - 0.4, -0.6)
    axes.set_xlabel(f"{task.label} in %, n = {task.n}", fontsize=9, color=colours.INK)
    axes.grid(axis="x", color="#d5d9de", linewidth=0.6, zorder=0)
    _finish(axes, f"{task.name} ({results.split})")
    _bar_legend(figure, any(results.cell("labels", system.name, task.name) for system in systems))
    alt = f"Bar chart, {task.metric_name} of {task.name}, {arrow(task)}: " + "; ".join(
        f"{row[0]} {percent(row[3])}" for row in rows[1:] if row[2] == "generation") + "."
    return Plot(f"bars_{slug(task.name)}", f"{task.name}: {task.metric_name}, {arrow(task)}; lines are 95 % intervals", alt, _png(figure), rows)


def _kind_colour(system: System, task: str) -> str:
    if system.kind == "adapter":
        return colours.ADAPTER if task in system.tasks else colours.OTHER_ADAPTER
    return colours.BASE if system.kind == "base" else colours.MERGED


def _draw_bar(axes, place: int, cell, colour: str):
    axes.barh(place, 100 * cell.value, color=colour, height=0.72, zorder=2)
    if cell.ci:
        axes.plot([100 * cell.ci[0], 100 * cell.ci[1]], [place, place], color=colours.INK, linewidth=1.3, zorder=3)


def _draw_diamond(axes, place: int, cell, colour: str):
    axes.plot(100 * cell.value, place, marker="D", markersize=5, markerfacecolor="white", markeredgecolor=colours.INK, zorder=4)


def _bar_legend(figure, with_labels: bool):
    from matplotlib.lines import Line2D

    handles = [Patch(color=colours.BASE, label="base"), Patch(color=colours.ADAPTER, label="its own adapter"),
               Patch(color=colours.OTHER_ADAPTER, label="other adapters"), Patch(color=colours.MERGED, label="merged")]
    if with_labels:
        handles.append(Line2D([], [], linestyle="", marker="D", markerfacecolor="white", markeredgecolor=colours.INK,
                              markersize=5, label="by label scoring"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def frontier(results: Results) -> Plot | None:
    """Mean kept share against that of the worst task: up and right is better; the line joins merges that none beats on both."""
    summaries = [summary for summary in merge_summaries(results, "generation") if summary.deltas]
    if not summaries:
        return None
    best = pareto(summaries)
    rows = [["system", "method", "tasks", "mean_kept", "worst_kept", "worst_task", "on_frontier"]]
    rows += [[s.system.name, s.system.method or "", len(s.deltas), s.kept, 1 + s.worst, s.worst_task, s in best] for s in summaries]
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    methods = sorted({s.system.method or s.system.name for s in summaries})
    for i, method in enumerate(methods):
        points = [s for s in summaries if (s.system.method or s.system.name) == method]
        axes.scatter([100 * s.kept for s in points], [100 * (1 + s.worst) for s in points], s=46, zorder=3, label=method,
                     marker=MARKERS[i % len(MARKERS)], color=PALETTE[i % len(PALETTE)], edgecolor="white", linewidth=0.7)
    line = sorted(best, key=lambda s: s.kept)
    axes.plot([100 * s.kept for s in line], [100 * (1 + s.worst) for s in line], color=colours.INK, linewidth=1, zorder=2)
    for s in line:
        side, shift = ("right", -6) if s.kept > 0.5 else ("left", 6)  # towards the middle, so that names stay inside
        axes.annotate(s.system.name, (100 * s.kept, 100 * (1 + s.worst)), xytext=(shift, 5), textcoords="offset points",
                      ha=side, fontsize=8)
    axes.plot(0, 0, marker="s", color=colours.BASE, markersize=8, linestyle="", label="base", zorder=3)
    axes.plot(100, 100, marker="*", color=colours.ADAPTER, markersize=12, linestyle="", label="all single adapters", zorder=3)
    axes.set_xlabel("mean share of the gain kept, %", fontsize=9)
    axes.set_ylabel("share kept on the worst task, %", fontsize=9)
    axes.grid(color="#d5d9de", linewidth=0.6)
    _finish(axes, f"Mean against worst task ({results.split})")
    axes.legend(fontsize=8, frameon=False, loc="best")
    alt = "Scatter plot of merges, mean against worst kept share. On the frontier: " + "; ".join(
        f"{s.system.name} (mean {percent(s.kept)}, worst {percent(1 + s.worst)} on {s.worst_task})" for s in line) + "."
    return Plot("frontier", "Mean against worst task", alt, _png(figure), rows)


def pareto(summaries: list[Summary]) -> list[Summary]:
    """Those that no other one beats on the mean and on the worst task at once."""
    def beaten(s):
        return any(o.kept >= s.kept and o.worst >= s.worst and (o.kept, o.worst) != (s.kept, s.worst) for o in summaries)

    return [summary for summary in summaries if not beaten(summary)]


def scales(results: Results) -> Plot | None:
    """Kept share of merges that differ only in their scale: full line the mean, dashed the worst task."""
    curves = scale_curves(results, "generation")
    if not curves:
        return None
    rows = [["merge", "scale", "system", "mean_kept", "worst_kept"]]
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, (title, points) in enumerate(curves.items()):
        rows += [[title, scale, s.system.name, s.kept, 1 + s.worst] for scale, s in points]
        places, style = [scale for scale, _ in points], {"marker": MARKERS[i % len(MARKERS)], "color": PALETTE[i % len(PALETTE)]}
        axes.plot(places, [100 * s.kept for _, s in points], label=title, **style)
        axes.plot(places, [100 * (1 + s.worst) for _, s in points], linestyle="--", **style)
    axes.axhline(0, color=colours.BASE, linewidth=1)
    axes.set_xlabel("scale", fontsize=9)
    axes.set_ylabel("share of the gain kept, %", fontsize=9)
    axes.grid(color="#d5d9de", linewidth=0.6)
    axes.legend(fontsize=8, frameon=False)
    _finish(axes, f"Scale: mean and worst task, dashed ({results.split})")
    alt = "Line chart of the kept share by scale. " + "; ".join(
        f"{title}: " + ", ".join(f"{scale:g} {percent(s.kept)}" for scale, s in points) for title, points in curves.items()) + "."
    return Plot("scale", "The scale of a merge", alt, _png(figure), rows)


def error_breakdown(results: Results) -> Plot | None:
    """Substitutions, deletions and insertions per 100 reference words, for every task that is scored by WER."""
    rows = breakdown_rows(results)
    if len(rows) == 1:
        return None
    names = [f"{row[1]}, {row[0]}" if len({row[0] for row in rows[1:]}) > 1 else row[1] for row in rows[1:]]
    figure = Figure(figsize=(5.4, 1.5 + 0.27 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(names)
    kinds = (("substitutions", "#1d63b0", ""), ("deletions", "#f0b429", "//"), ("insertions", "#8c3b00", ".."))
    for column, (kind, colour, hatch) in enumerate(kinds, start=3):
        widths = [100 * row[column] / row[2] for row in rows[1:]]
        axes.barh(range(len(names)), widths, left=left, height=0.72, color=colour, hatch=hatch, edgecolor="white", label=kind)
        left = [a + b for a, b in zip(left, widths)]
    axes.set_yticks(range(len(names)), names, **STYLE)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("errors per 100 reference words (WER in %), lower is better", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _finish(axes, f"What the word errors are ({results.split})")
    alt = "Stacked bars of word errors per system: " + "; ".join(
        f"{name} {percent(width / 100)}" for name, width in zip(names, left)) + "."
    return Plot("wer_breakdown", "What the word errors are", alt, _png(figure), rows)


def breakdown_rows(results: Results) -> list[list]:
    """Header, then task, system, reference words, S, D, I (counts), WER."""
    rows = [["task", "system", "words", "substitutions", "deletions", "insertions", "wer"]]
    for task in results.tasks:
        for system in results.systems:
            cell = results.cell("generation", system.name, task.name)
            if cell and task.metric == "wer" and cell.details.get("words"):
                counts = [cell.details[key] for key in ("words", "substitutions", "deletions", "insertions")]
                rows.append([task.name, system.name, *counts, cell.value])
    return rows


def _finish(axes, title: str):
    axes.set_title(title, fontsize=11, color=colours.INK, loc="left", pad=10)
    axes.tick_params(colors=colours.INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#aab2bb")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
