"""RESULTS.md: the numbers of the report as Markdown tables."""
from speechmerge.report.contents import Contents
from speechmerge.report.findings import key_findings
from speechmerge.report.origin import Step, base_source, versions
from speechmerge.report.listing import Listing, cell_text
from speechmerge.report.summaries import COMBINED, merge_summaries
from speechmerge.report.tables import READINGS, Cell, Results, breakdown_rows, undefined_reasons
from speechmerge.report.wording import describe, percent, signed


def results_markdown(contents: Contents) -> str:
    results = contents.results
    findings = [f"- **{found.headline}** {found.title}. {found.text}" for found in key_findings(results, contents.dev)]
    parts = [f"# {contents.title}", environment(results, contents.own), "## Key findings", "\n".join(findings)]
    for reading in results.readings():
        parts += [f"## {READINGS[reading].capitalize()}", cells(results, reading, value_text), "interference_delta:",
                  cells(results, reading, delta_text), undefined(results, reading)]
        if merge_summaries(results, reading, COMBINED):
            parts += [f"## What merging keeps, {READINGS[reading]}", kept(results, reading)]
    if len(rows := breakdown_rows(results)) > 1:
        parts += ["## Word errors", breakdown(rows)]
    for listing in (contents.shares and contents.shares[1], contents.sweeps, contents.costs):
        parts += [f"## {listing.title}", listed(listing), listing.note] if listing else []
    parts += ["## Commands", commands(contents.steps, contents.own)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: list[str], rows: list[list]) -> str:
    """Markdown table, the first column left, the others right; pipes and line breaks in cells are escaped."""
    def line(cells):
        texts = (str(cell).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(texts)} |"

    return "\n".join([line(header), "|---|" + "---:|" * (len(header) - 1), *map(line, rows)])


def environment(results: Results, own: dict) -> str:
    rows = [["base model", base_source(results)], ["split", results.split], ["scored", results.record.get("date", "")],
            ["commit", results.record.get("commit", "")], ["reported", own["date"]]]
    return table(["environment", "value"], rows + [list(item) for item in versions(results, own).items()])


def cells(results: Results, reading: str, show) -> str:
    """Systems by tasks; `show` makes the text of a cell."""
    header = ["system", *(f"{task.name} ({task.label}, n={task.n})" for task in results.tasks)]
    rows = []
    for system in results.systems:
        found = [results.cell(reading, system.name, task.name) for task in results.tasks]
        if any(found):
            rows.append([f"`{system.name}`", *("" if cell is None else show(cell) for cell in found)])
    return table(header, rows)


def value_text(cell: Cell) -> str:
    """The value with its 95 % interval in brackets."""
    return cell.text + (f" [{100 * cell.ci[0]:.1f}, {100 * cell.ci[1]:.1f}]" if cell.ci else "")


def delta_text(cell: Cell) -> str:
    """interference_delta with its interval; where it is undefined, the log ratio of errors or scores instead."""
    if cell.delta is None:
        ratio = cell.delta_entry.get("log_ratio")
        return "undefined" + ("" if ratio is None else f" (log ratio {signed(ratio)})")
    ci = cell.delta_entry.get("ci")
    return signed(cell.delta) + (f" [{signed(ci[0])}, {signed(ci[1])}]" if ci else "")


def undefined(results: Results, reading: str) -> str:
    reasons = undefined_reasons(results, reading)
    return "\n".join(f"- {task}: interference_delta is undefined: {reason}." for task, reason in reasons)


def kept(results: Results, reading: str) -> str:
    rows = [[f"`{summary.system.name}`", describe(summary.system), percent(summary.kept), len(summary.deltas),
             signed(summary.worst), summary.worst_task or "", ", ".join(summary.harmed) or "none"]
            for summary in merge_summaries(results, reading, COMBINED)]
    return table(["system (merges: best worst task first)", "method", "mean kept", "tasks", "worst delta", "worst task",
                  "worse than the base"], rows)


def breakdown(rows: list[list]) -> str:
    shown = [[f"`{system}`", task, percent(wer), *(percent(count / words) for count in counts), words]
             for task, system, words, *counts, wer in rows[1:]]
    return table(["system", "task", "WER", "substitutions", "deletions", "insertions", "words"], shown)


def listed(listing: Listing) -> str:
    return table(listing.columns, [[cell_text(cell) for cell in row] for row in listing.rows])


def commands(steps: list[Step], own: dict) -> str:
    found = [(f"{step.stage}: {step.makes}", step.command) for step in steps] + [("report", own["command"])]
    return "\n\n".join(f"{name}\n```\n{command}\n```" for name, command in found)
