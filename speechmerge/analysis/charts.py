"""Pictures of analyses in the report's style: heat maps, dendrograms, curves, bars, each with its numbers."""
import math

from matplotlib.colors import LinearSegmentedColormap

from speechmerge.report import colours
from speechmerge.report.figure import LETTER, Plot, curve_style, label_room, name_rows, new_axes, png, wrapped

LARGE = 160  # cells beyond which numbers are left to the CSV


def heat_map(name: str, title: str, rows: list[str], columns: list[str], values, note: str = "",
             limit: float | None = None) -> Plot:
    """Rows by columns, None where not defined. Blue: positive, orange: negative, white: 0, full at `limit`."""
    defined = [abs(value) for row in values for value in row if value is not None]
    limit = limit or max(defined, default=0) or 1.0
    inside = max(0.62 * len(columns), 0.06 * len(note), 0.5 * LETTER * len(title))  # inches; a title may take two lines
    figure, axes = new_axes(2.4 + label_room(rows) + inside, 1.5 + 0.3 * len(rows), wrapped(title, inside), grid="none")
    grid = [[math.nan if value is None else value for value in row] for row in values]
    axes.imshow(grid, cmap=colour_map(), vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    name_rows(axes, rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if len(rows) * len(columns) <= LARGE:
        write_cells(axes, values, limit)
    axes.set_xlabel(note, fontsize=8)
    top = [f"{row} {column} {value:.3g}" for row, line in zip(rows, values) for column, value in zip(columns, line)
           if value is not None][:24]
    table = [["", *columns], *([row, *line] for row, line in zip(rows, values))]
    return Plot(name, title, f"Heat map, {title}: {'; '.join(top)}.", png(figure), table)


def write_cells(axes, values, limit: float):
    for place, line in enumerate(values):
        for column, value in enumerate(line):
            if value is not None:
                background = colours.kept_colour(2 * value / limit)
                axes.text(column, place, f"{value:.2f}", ha="center", va="center", fontsize=7,
                          color=colours.text_colour(background))


def colour_map() -> LinearSegmentedColormap:
    span = colours.STOPS[-1][0] - colours.STOPS[0][0]
    stops = [((place - colours.STOPS[0][0]) / span, [part / 255 for part in colour]) for place, colour in colours.STOPS]
    return LinearSegmentedColormap.from_list("kept", stops).with_extremes(bad=colours.UNDEFINED)


def dendrogram(name: str, title: str, labels: list[str], distances) -> Plot:
    """Average linkage of a symmetric matrix of distances [n, n], n at least 2."""
    from scipy.cluster.hierarchy import dendrogram as draw
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distances, checks=False), "average")
    figure, axes = new_axes(5.2, 1.4 + 0.3 * len(labels), title, grid="x")
    draw(tree, labels=labels, orientation="right", ax=axes, color_threshold=0, above_threshold_color=colours.ADAPTER)
    axes.set_xlabel("distance", fontsize=9)
    rows = [["first", "second", "distance", "size"],
            *([int(a), int(b), round(float(d), 6), int(n)] for a, b, d, n in tree)]
    return Plot(name, title, f"Dendrogram of {', '.join(labels)}.", png(figure), rows)


def curves(name: str, title: str, series: dict[str, list[float]], x: str, y: str) -> Plot:
    """One curve for each name, over 1, 2, 3, ..."""
    figure, axes = new_axes(6.0, 3.6, title)
    for place, (label, values) in enumerate(series.items()):
        axes.plot(range(1, len(values) + 1), values, label=label, linewidth=1.3, markersize=4, **curve_style(place))
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    rows = [[x, *series]]
    rows += [[place + 1, *(values[place] if place < len(values) else None for values in series.values())]
             for place in range(max(map(len, series.values()), default=0))]
    return Plot(name, title, f"Curves of {y} over {x}: {', '.join(series)}.", png(figure), rows)


def grouped_bars(name: str, title: str, groups: list[str], series: dict[str, list], axis: str) -> Plot:
    """Horizontal bars: for each group one bar of each of the series."""
    figure, axes = new_axes(5.6, 1.5 + 0.17 * len(groups) * (len(series) + 1), title, grid="x")
    height = 0.8 / max(len(series), 1)
    for place, (label, values) in enumerate(series.items()):
        centres = [group - 0.4 + height * (place + 0.5) for group in range(len(groups))]
        axes.barh(centres, [value or 0 for value in values], height=height, label=label,
                  color=curve_style(place)["color"], zorder=2)
    name_rows(axes, groups)
    axes.set_xlabel(axis, fontsize=9)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    rows = [["", *series],
            *([group, *(values[place] for values in series.values())] for place, group in enumerate(groups))]
    return Plot(name, title, f"Bars, {title}: {', '.join(groups)}.", png(figure), rows)


def scatter(name: str, title: str, points: dict[str, tuple], x: str, y: str) -> Plot:
    """One point for each name, and the diagonal; points without a value are left out."""
    drawn = {label: point for label, point in points.items() if None not in point}
    figure, axes = new_axes(5.0, 4.4, title)
    ends = [value for point in drawn.values() for value in point]
    if ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=colours.BASE, linewidth=0.8, zorder=1)
        axes.scatter(*zip(*drawn.values()), color=colours.ADAPTER, s=18, zorder=2)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    rows = [["", x, y], *([label, *point] for label, point in points.items())]
    return Plot(name, title, f"Scatter plot of {len(drawn)} points, {y} over {x}.", png(figure), rows)
