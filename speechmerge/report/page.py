"""The report as one HTML page that loads nothing from anywhere: pictures, audio, numbers, style and script are inside it."""
import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from speechmerge.report import colours
from speechmerge.report.examples import GROUPS, TaskExamples
from speechmerge.report.findings import describe, key_findings, merge_summaries, percent, signed, summarize
from speechmerge.report.origin import Step, base_source, versions
from speechmerge.report.plots import Plot, breakdown_rows, slug
from speechmerge.report.results_md import undefined_reasons
from speechmerge.report.tables import READINGS, Cell, Results

HERE = Path(__file__).parent


def render(results: Results, chosen_on: Results | None, plots: list[Plot], examples: list[TaskExamples], steps: list[Step],
           own: dict, title: str, notes: list[str]) -> str:
    """The whole page. `own`: provenance of this report; `notes`: what was left out, shown above the examples."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=lambda value: nobreak(percent(value)), signed=signed, slug=slug, nobreak=nobreak, breakable=breakable, data_uri=data_uri, interval=interval,
                               describe=describe, numbers=_numbers_uri)
    environment.globals.update(cell_style=cell_style, summarize=summarize, sort_value=sort_value)
    return environment.get_template("page.html.j2").render(
        title=title, results=results, readings=READINGS, findings=key_findings(results, chosen_on),
        summaries={reading: merge_summaries(results, reading) for reading in results.readings()},
        undefined={reading: undefined_reasons(results, reading) for reading in results.readings()},
        best=_best_merges(results), breakdown=breakdown_rows(results), plots={plot.name: plot for plot in plots},
        bars=[plot for plot in plots if plot.name.startswith("bars_")],
        examples=examples, groups=GROUPS, notes=notes, stages=_by_stage(steps), own=own, base=base_source(results),
        versions=versions(results, own), legend=[(kept, cell_style_of(kept / 100)) for kept in (-100, -50, 0, 50, 100, 150)],
        undefined_style=cell_style_of(None),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")), js=Markup((HERE / "page.js").read_text(encoding="utf-8")))


def nobreak(text: str) -> str:
    """No line break between a number and its percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def breakable(name: str) -> Markup:
    """A long name may break after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _numbers_uri(plot: Plot) -> str:
    return data_uri(plot.csv().encode(), "text/csv")


def interval(cell: Cell) -> str:
    """95 % interval in percent, '10.1 to 14.2'; empty where there is none."""
    if not cell.ci:
        return ""
    return f"{100 * cell.ci[0]:.1f} to {100 * cell.ci[1]:.1f}".replace("-", "\N{MINUS SIGN}")


def cell_style(cell: Cell | None) -> str:
    return "" if cell is None else cell_style_of(cell.kept)


def cell_style_of(kept: float | None) -> str:
    background = colours.kept_colour(kept)
    return f"background:{background};color:{colours.text_colour(background)}"


def sort_value(number: float | None) -> str:
    """What the page's script sorts by; an empty value sorts last."""
    return "" if number is None else repr(float(number))


def _best_merges(results: Results) -> dict[str, dict[str, float]]:
    """reading -> task -> best value of any merge, to be marked in the tables."""
    best = {}
    for reading in results.readings():
        best[reading] = {}
        for task in results.tasks:
            values = [cell.value for system in results.of_kind("merged") if (cell := results.cell(reading, system.name, task.name))]
            if len(set(values)) > 1:
                best[reading][task.name] = max(values, key=lambda value: task.sign * value)
    return best


def _by_stage(steps: list[Step]) -> dict[str, list[Step]]:
    stages = {}
    for step in steps:
        stages.setdefault(step.stage, []).append(step)
    return stages
