"""Every plot of the report: heat maps, bars per task, trade-offs between merges, word errors, adapters across tasks."""
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from speechmerge.report import colours
from speechmerge.report.coefficients import coefficient_plots
from speechmerge.report.figure import Plot, label_room, name_rows, new_axes, png, slug
from speechmerge.report.tables import READINGS, Results, System, TaskInfo, breakdown_rows
from speechmerge.report.tradeoffs import frontier, scales
from speechmerge.report.wording import percent

ERROR_KINDS = (("substitutions", "#1d63b0", ""), ("deletions", "#f0b429", "//"), ("insertions", "#8c3b00", ".."))
DIAMOND = {"linestyle": "", "marker": "D", "markersize": 5, "markerfacecolor": "white", "markeredgecolor": colours.INK}


def all_plots(results: Results) -> list[Plot]:
    plots = [heat_map(results, reading) for reading in results.readings()]
    plots += [bars(results, task) for task in results.tasks]
    plots += [make(results) for make in (frontier, scales, error_breakdown, cross_task)]
    return [plot for plot in plots if plot] + coefficient_plots(results)


def heat_map(results: Results, reading: str) -> Plot:
    """Task x system: the metric's value, on the colour of the share of the single adapter's gain that is kept."""
    title = f"Every system on every task, {READINGS[reading]} ({results.split})"
    alt = (f"Heat map of {len(results.systems)} systems by {len(results.tasks)} tasks; blue keeps the single adapter's "
           "gain, white is as the base, orange is worse. The table holds the same numbers.")
    image = draw_grid(results, reading, results.systems, title)
    return Plot(f"heatmap_{reading}", title, alt, image, heat_rows(results, reading))


def heat_rows(results: Results, reading: str) -> list[list]:
    rows = [["system", "task", "metric", "value", "ci_low", "ci_high", "n", "n_unparsed", "interference_delta",
             "delta_ci_low", "delta_ci_high", "reason", "log_ratio"]]
    for system in results.systems:
        for task in results.tasks:
            if cell := results.cell(reading, system.name, task.name):
                entry, none = cell.delta_entry, (None, None)
                rows.append([system.name, task.name, task.metric, cell.value, *(cell.ci or none), task.n,
                             cell.details.get("n_unparsed"), cell.delta, *(entry.get("ci") or none), cell.reason,
                             entry.get("log_ratio")])
    return rows


def cross_task(results: Results) -> Plot | None:
    """Each adapter on each task: what a single adapter does to the tasks it was not made for."""
    adapters = results.of_kind("adapter")
    if not any(results.cell("generation", a.name, task.name) for a in adapters for task in results.tasks
               if task.name not in a.tasks):
        return None
    rows, hurt = [["adapter", *(task.name for task in results.tasks)]], []
    for system in adapters:
        cells = {task.name: results.cell("generation", system.name, task.name) for task in results.tasks}
        rows.append([system.name, *(cell and cell.value for cell in cells.values())])
        hurt += [f"{system.name} on {task}" for task, cell in cells.items()
                 if cell and cell.kept is not None and cell.kept < 0]
    title = f"Each single adapter on each task ({results.split})"
    alt = (f"Matrix of {len(adapters)} adapters by {len(results.tasks)} tasks. "
           f"Worse than the base: {', '.join(hurt) or 'none'}.")
    return Plot("cross_task", title, alt, draw_grid(results, "generation", adapters, title), rows)


def draw_grid(results: Results, reading: str, systems: list[System], title: str) -> bytes:
    """PNG of systems by tasks; the task's own adapter is framed."""
    labels = [system.label for system in systems]
    width, height = 2.6 + label_room(labels) + 1.05 * len(results.tasks), 1.3 + 0.36 * len(systems)
    figure, axes = new_axes(width, height, title, grid="none")
    for row, system in enumerate(systems):
        for column, task in enumerate(results.tasks):
            if cell := results.cell(reading, system.name, task.name):
                own = system.kind == "adapter" and task.name in system.tasks
                draw_box(axes, row, column, cell, own)
    axes.set_xlim(-0.5, len(results.tasks) - 0.5)
    axes.set_xticks(range(len(results.tasks)), [f"{task.name}\n{task.label}" for task in results.tasks])
    name_rows(axes, labels)
    axes.set_ylim(len(systems) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel("blue: keeps the adapter's gain   white: as the base   orange: worse   grey: undefined", fontsize=8)
    return png(figure)


def draw_box(axes, row: int, column: int, cell, framed: bool):
    background, inset = colours.kept_colour(cell.kept), 0.03 if framed else 0
    line = {"edgecolor": colours.INK, "linewidth": 1.6} if framed else {"edgecolor": "#d5d9de", "linewidth": 0.6}
    side = 1 - 2 * inset
    axes.add_patch(Rectangle((column - side / 2, row - side / 2), side, side, facecolor=background,
                             zorder=3 if framed else 2, **line))
    axes.text(column, row, cell.text, ha="center", va="center", fontsize=9, zorder=4,
              color=colours.text_colour(background), weight="bold" if framed else "normal")


def bars(results: Results, task: TaskInfo) -> Plot:
    """All systems on one task, bars by free generation with 95 % intervals, diamonds by label scoring."""
    rows, alt = [["system", "kind", "reading", "value", "ci_low", "ci_high", "n"]], []
    systems = [system for system in results.systems if any(results.cell(r, system.name, task.name) for r in READINGS)]
    labels = [system.label for system in systems]
    figure, axes = new_axes(4.8 + label_room(labels), 1.5 + 0.27 * len(systems), f"{task.name} ({results.split})", grid="x")
    for place, system in enumerate(systems):
        written, labelled = (results.cell(reading, system.name, task.name) for reading in READINGS)
        if written:
            axes.barh(place, 100 * written.value, color=bar_colour(system, task.name), height=0.72, zorder=2)
            alt.append(f"{system.label} {written.text}")
            if written.ci:
                axes.plot([100 * end for end in written.ci], [place] * 2, color=colours.INK, linewidth=1.3, zorder=3)
        if labelled:
            axes.plot(100 * labelled.value, place, zorder=4, **DIAMOND)
        for reading, cell in zip(READINGS, (written, labelled)):
            if cell:
                rows.append([system.name, system.kind, reading, cell.value, *(cell.ci or (None, None)), task.n])
    name_rows(axes, labels)
    axes.set_xlabel(f"{task.label} in {task.unit}, n = {task.n}", fontsize=9)
    draw_legend(figure, any(row[2] == "labels" for row in rows), any(row[1] == "routed" for row in rows))
    better = "higher is better" if task.higher_is_better else "lower is better"
    return Plot(f"bars_{slug(task.name)}", f"{task.name}: {task.metric_name}, {better}; lines are 95 % intervals",
                f"Bar chart, {task.metric_name} of {task.name}, {better}: {'; '.join(alt)}.", png(figure), rows)


def bar_colour(system: System, task: str) -> str:
    if system.kind == "adapter":
        return colours.ADAPTER if task in system.tasks else colours.OTHER_ADAPTER
    return {"base": colours.BASE, "routed": colours.ROUTED}.get(system.kind, colours.MERGED)


def draw_legend(figure, with_labels: bool, routed: bool):
    kinds = {"base": colours.BASE, "its own adapter": colours.ADAPTER, "other adapters": colours.OTHER_ADAPTER,
             "merged": colours.MERGED, **({"routed": colours.ROUTED} if routed else {})}
    handles = [Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    if with_labels:
        handles.append(Line2D([], [], label="by label scoring", **DIAMOND))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def error_breakdown(results: Results) -> Plot | None:
    """Substitutions, deletions and insertions per 100 reference words, for every task that is scored by WER."""
    rows = breakdown_rows(results)
    if len(rows) == 1:
        return None
    labels, many = {system.name: system.label for system in results.systems}, len({row[0] for row in rows[1:]}) > 1
    names = [f"{labels[system]}, {task}" if many else labels[system] for task, system, *_ in rows[1:]]
    title = f"What the word errors are ({results.split})"
    figure, axes = new_axes(5.4 + label_room(names), 1.5 + 0.27 * len(names), title, grid="x")
    left = [0.0] * len(names)
    for column, (kind, colour, hatch) in enumerate(ERROR_KINDS, start=3):
        widths = [100 * row[column] / row[2] for row in rows[1:]]
        axes.barh(range(len(names)), widths, left=left, height=0.72, color=colour, hatch=hatch, edgecolor="white",
                  label=kind, zorder=2)
        left = [a + b for a, b in zip(left, widths)]
    name_rows(axes, names)
    axes.set_xlabel("errors per 100 reference words (WER in %)", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    alt = "; ".join(f"{name} {percent(width / 100)}" for name, width in zip(names, left))
    return Plot("wer_breakdown", "What the word errors are", f"Stacked bars of word errors: {alt}.", png(figure), rows)
