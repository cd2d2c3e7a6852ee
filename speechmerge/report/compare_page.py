"""The comparison as a page of its own: compare.html, compare_<reading>.{csv,png}, compare.md."""
from speechmerge.provenance import provenance
from speechmerge.report import colours
from speechmerge.report.comparison import Comparison, Difference, Row
from speechmerge.report.figure import Plot, curve_style, label_room, name_rows, new_axes, png
from speechmerge.report.listing import Listing, Shown
from speechmerge.report.page import page_environment
from speechmerge.report.results_md import listed
from speechmerge.report.tables import READINGS
from speechmerge.report.wording import shown

MOST_BARS = 60  # rows of the picture; the table has all
TITLE = "Experiments side by side"


def listings(found: Comparison) -> dict[str, Listing]:
    """Reading -> table of all systems on all sets."""
    return {reading: listing(found, reading, rows) for reading, rows in found.rows.items()}


def listing(found: Comparison, reading: str, rows: list[Row]) -> Listing:
    head = ["set", "metric", "utterances", "system", "kind", found.names[0]]
    for name in found.names[1:]:
        head += [name, f"{name} minus {found.names[0]}", "95 % from", "95 % to", "verdict"]
    note = "Differences are in points of the metric; intervals are paired: both sides on the same resampled test sets."
    return Listing(f"compare_{reading}", READINGS[reading], head, [cells(row) for row in rows], note)


def cells(row: Row) -> list:
    def value(number):
        return None if number is None else Shown(number, shown(number, row.task.metric))

    found = [row.task.name, row.task.label, row.task.n, row.system, row.kind, value(row.values[0])]
    for number, difference in zip(row.values[1:], row.differences):
        ends = difference.ci if difference and difference.ci else (None, None)
        found += [value(number), points(difference and difference.value), *map(points, ends),
                  difference.verdict if difference else None]
    return found


def points(value: float | None) -> Shown | None:
    """A difference of fractions, times 100, with its sign."""
    return None if value is None else Shown(value, f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}"))


def plots(found: Comparison) -> list[Plot]:
    return [plot for reading, rows in found.rows.items() if (plot := forest(found, reading, rows))]


def forest(found: Comparison, reading: str, rows: list[Row]) -> Plot | None:
    """Differences with their intervals, turned so that right is better; a mark of its own for each experiment."""
    rows = [row for row in rows if any(row.differences)][:MOST_BARS]
    if not rows:
        return None
    labels = [f"{row.system}, {row.task.name}" for row in rows]
    title = f"Against {found.names[0]}: {READINGS[reading]}"
    figure, axes = new_axes(5.6 + label_room(labels), 1.6 + 0.26 * len(rows), title, grid="x")
    axes.axvline(0, color=colours.INK, linewidth=1)
    numbers = [["set", "system", "experiment", "better_by", "low", "high"]]
    for place, name in enumerate(found.names[1:]):
        numbers += draw(axes, rows, place, name, len(found.names) - 1)
    name_rows(axes, labels)
    axes.set_xlabel("points of the metric, turned so that right is better; lines are paired 95 % intervals", fontsize=8)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    alt = "; ".join(f"{row.system} on {row.task.name} {points(d.sign * d.value).text}"
                    for row in rows for d in row.differences if d)
    return Plot(f"compare_plot_{reading}", f"Differences, {READINGS[reading]}",
                f"Points with intervals, above 0 is better: {alt}.", png(figure), numbers)


def draw(axes, rows: list[Row], place: int, name: str, count: int) -> list[list]:
    """Points of one experiment; returns their numbers."""
    numbers, style = [], curve_style(place)
    heights = [line + (place - (count - 1) / 2) * 0.6 / count for line in range(len(rows))]
    drawn = [(height, row, row.differences[place]) for height, row in zip(heights, rows) if row.differences[place]]
    for height, row, difference in drawn:
        low, high = better_by(difference)
        numbers.append([row.task.name, row.system, name, difference.sign * difference.value, low, high])
        if low is not None:
            axes.plot([100 * low, 100 * high], [height, height], color=style["color"], linewidth=1.4, zorder=2)
    axes.plot([100 * d.sign * d.value for _, _, d in drawn], [height for height, _, _ in drawn], linestyle="", markersize=5,
              label=name, zorder=3, **style)
    return numbers


def better_by(difference: Difference) -> tuple[float | None, float | None]:
    """The interval, turned so that above 0 is better."""
    if difference.ci is None:
        return None, None
    low, high = sorted(difference.sign * end for end in difference.ci)
    return low, high


def overview(found: Comparison) -> Listing:
    rows = [[name, str(results.exp_dir), results.record.get("date"), results.record.get("commit"), len(results.tasks),
             len(results.systems)] for name, results in zip(found.names, found.results)]
    head = ["experiment", "folder", "scored", "commit", "sets", "systems"]
    return Listing("compare_experiments", "Experiments", head, rows)


def only(found: Comparison) -> Listing:
    return Listing("compare_only", "Only in some", ["what", "only in"], [list(row) for row in found.only])


def settings(found: Comparison) -> Listing:
    return Listing("compare_settings", "Settings that differ", ["of what", "setting", *found.names], found.settings)


def counts(found: Comparison) -> list[str]:
    """A sentence for each experiment and reading: how many results are better, worse, or neither."""
    said = []
    for reading, rows in found.rows.items():
        for place, name in enumerate(found.names[1:]):
            verdicts = [row.differences[place].verdict for row in rows if row.differences[place]]
            better, worse = verdicts.count("better"), verdicts.count("worse")
            said.append(f"{READINGS[reading].capitalize()}: of {len(verdicts)} results that both have, {name} is better "
                        f"than {found.names[0]} in {better}, worse in {worse}, and {len(verdicts) - better - worse} "
                        "intervals hold 0.")
    return said


def render(found: Comparison) -> str:
    drawn = {plot.name: plot for plot in plots(found)}
    sections = [("overview", "Overview"), *((reading, READINGS[reading].capitalize()) for reading in found.rows),
                *([("only", "Only in some")] if found.only else []), ("settings", "Settings")]
    return page_environment().get_template("compare.html.j2").render(
        title=TITLE, sections=sections, own=provenance(), split=found.results[0].split, found=found, readings=READINGS,
        overview=overview(found), counts=counts(found), tables=listings(found), plots=drawn, only=only(found),
        settings=settings(found))


def markdown(found: Comparison) -> str:
    parts = [f"# {TITLE}", listed(overview(found)), *counts(found)]
    for name, one in listings(found).items():
        parts += [f"## {READINGS[name].capitalize()}", listed(one), one.note]
    for one in (only(found), settings(found)):
        parts += [f"## {one.title}", listed(one) if one.rows else "None."]
    return "\n\n".join([*parts, *found.notes]) + "\n"
