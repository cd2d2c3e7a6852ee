"""The report as one HTML page that loads nothing: pictures, audio, numbers, style and script are inside it."""
import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from speechmerge.report import colours
from speechmerge.report.contents import Contents
from speechmerge.report.examples import GROUPS
from speechmerge.report.figure import slug
from speechmerge.report.findings import key_findings
from speechmerge.report.listing import cell_text, sort_key
from speechmerge.report.origin import Step, base_source, versions
from speechmerge.report.overview import navigation, overview
from speechmerge.report.pictures import embedded
from speechmerge.report.summaries import COMBINED, merge_summaries, summarize
from speechmerge.report.tables import READINGS, Cell, Results, breakdown_rows, undefined_reasons
from speechmerge.report.wording import against_base, describe, percent, signed

HERE = Path(__file__).parent
UNBROKEN = 16  # letters of a name that stays on one line
LEGEND = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)  # kept shares


def render(contents: Contents) -> str:
    """The whole page."""
    results = contents.results
    shown = described(contents)
    return page_environment().get_template("page.html.j2").render(
        vars(contents) | shown, readings=READINGS, groups=GROUPS, base=base_source(results),
        sections=navigation(contents, shown), labels={system.name: system.label for system in results.systems},
        legend=[(percent(kept, digits=0), cell_style(kept)) for kept in LEGEND], undefined_style=cell_style(None))


def page_environment() -> Environment:
    """Templates, filters, style and script that the pages of this package share."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=lambda value: nobreak(percent(value)), signed=signed, slug=slug, nobreak=nobreak,
                               breakable=breakable, data_uri=data_uri, interval=interval, describe=describe,
                               against_base=against_base,
                               numbers=lambda plot: data_uri(plot.csv().encode(), "text/csv"))
    environment.filters.update(embedded=embedded, sort_key=sort_key, cell_text=cell_text)
    environment.globals.update(cell_style=cell_style, summarize=summarize, sort_value=sort_value,
                               css=Markup(read_text(HERE / "page.css")), js=Markup(read_text(HERE / "page.js")))
    return environment


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def described(contents: Contents) -> dict:
    """The parts of the page that are computed from the contents."""
    results, plots = contents.results, contents.plots
    return {
        "findings": key_findings(results, contents.dev),
        "overview": overview(results),
        "summaries": {reading: merge_summaries(results, reading, COMBINED) for reading in results.readings()},
        "undefined": {reading: undefined_reasons(results, reading) for reading in results.readings()},
        "best": {reading: best_merges(results, reading) for reading in results.readings()},
        "breakdown": breakdown_rows(results),
        "plots": {plot.name: plot for plot in plots},
        "coefficients": [plot for plot in plots if plot.name.startswith("coefficients")],
        "bars": [plot for plot in plots if plot.name.startswith("bars_")],
        "stages": by_stage(contents.steps),
        "versions": versions(results, contents.own),
    }


def nobreak(text: str) -> str:
    """No line break between a number and its percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def breakable(name: str) -> str:
    """A long name may break after an underscore."""
    return name if len(name) <= UNBROKEN else Markup("_<wbr>").join(name.split("_"))


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def interval(cell: Cell) -> str:
    """95 % interval in percent: '10.1 to 14.2'."""
    return f"{100 * cell.ci[0]:.1f} to {100 * cell.ci[1]:.1f}".replace("-", "\N{MINUS SIGN}")


def cell_style(kept: float | None) -> str:
    background = colours.kept_colour(kept)
    return f"background:{background};color:{colours.text_colour(background)}"


def sort_value(number: float | None) -> str:
    """What the page's script sorts by; an empty value sorts last."""
    return "" if number is None else repr(float(number))


def best_merges(results: Results, reading: str) -> dict[str, float]:
    """task -> best value of any merge, to be marked in the tables; none where all are equal."""
    best = {}
    for task in results.tasks:
        cells = [results.cell(reading, system.name, task.name) for system in results.of_kind("merged")]
        values = {cell.value for cell in cells if cell}
        if len(values) > 1:
            best[task.name] = max(values, key=lambda value: task.sign * value)
    return best


def by_stage(steps: list[Step]) -> dict[str, list[Step]]:
    stages = {}
    for step in steps:
        stages.setdefault(step.stage, []).append(step)
    return stages
