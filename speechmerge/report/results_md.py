"""RESULTS.md: the numbers of the report as Markdown tables."""
from speechmerge.report.findings import describe, key_findings, merge_summaries, percent, signed
from speechmerge.report.origin import Step, base_source, versions
from speechmerge.report.plots import breakdown_rows
from speechmerge.report.tables import READINGS, Results


def results_markdown(results: Results, chosen_on: Results | None, steps: list[Step], own: dict, title: str) -> str:
    """`chosen_on`: results of the dev split, or None; `steps`: from origin.steps; `own`: provenance of the report."""
    parts = [f"# {title}", _environment(results, own), "## Key findings", _findings(results, chosen_on)]
    for reading in results.readings():
        parts += [f"## {READINGS[reading].capitalize()}", _values(results, reading), "interference_delta:", _deltas(results, reading),
                  _undefined(results, reading)]
        if merge_summaries(results, reading):
            parts += [f"## What merging keeps, {READINGS[reading]}", _kept(results, reading)]
    if len(rows := breakdown_rows(results)) > 1:
        parts += ["## Word errors", _breakdown(rows)]
    parts += ["## Commands", _commands(steps)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown table, the first column left, the others right; pipes and line breaks in cells are escaped."""
    def line(cells):
        return "| " + " | ".join(str(cell).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|", *map(line, rows)])


def _environment(results: Results, own: dict) -> str:
    rows = [["base model", base_source(results)], ["split", results.split], ["scored", results.record.get("date", own["date"])],
            ["commit", results.record.get("commit", own["commit"])], ["reported", own["date"]],
            *([name, version] for name, version in versions(results, own).items())]
    return table(["environment", "value"], rows)


def _findings(results: Results, chosen_on: Results | None) -> str:
    return "\n".join(f"- **{finding.headline}** {finding.title}. {finding.text}" for finding in key_findings(results, chosen_on))


def _header(results: Results) -> list[str]:
    return ["system", *(f"{task.name} ({task.label}, n={task.n})" for task in results.tasks)]


def _rows(results: Results, reading: str, show) -> list[list[str]]:
    rows = []
    for system in results.systems:
        cells = [results.cell(reading, system.name, task.name) for task in results.tasks]
        if any(cells):
            rows.append([f"`{system.name}`", *("" if cell is None else show(cell) for cell in cells)])
    return rows


def _values(results: Results, reading: str) -> str:
    """Values with their 95 % intervals in brackets."""
    def show(cell):
        return percent(cell.value) + (f" [{100 * cell.ci[0]:.1f}, {100 * cell.ci[1]:.1f}]" if cell.ci else "")

    return table(_header(results), _rows(results, reading, show))


def _deltas(results: Results, reading: str) -> str:
    """interference_delta with its interval; where it is undefined, the log ratio of errors or scores instead."""
    def show(cell):
        if cell.delta is None:
            ratio = cell.delta_entry.get("log_ratio")
            return "undefined" + ("" if ratio is None else f" (log ratio {signed(ratio)})")
        ci = cell.delta_entry.get("ci")
        return signed(cell.delta) + (f" [{signed(ci[0])}, {signed(ci[1])}]" if ci else "")

    return table(_header(results), _rows(results, reading, show))


def _undefined(results: Results, reading: str) -> str:
    return "\n".join(f"- {task}: interference_delta is undefined: {reason}." for task, reason in undefined_reasons(results, reading))


def undefined_reasons(results: Results, reading: str) -> list[tuple[str, str]]:
    """(task, reason) pairs, each once."""
    found = {}
    for task in results.tasks:
        for system in results.systems:
            cell = results.cell(reading, system.name, task.name)
            if cell and cell.delta is None:
                found[task.name, cell.reason or "not computed"] = True
    return list(found)


def _kept(results: Results, reading: str) -> str:
    rows = []
    for summary in merge_summaries(results, reading):
        rows.append([f"`{summary.system.name}`", describe(summary.system), percent(summary.kept), len(summary.deltas),
                     signed(summary.worst), summary.worst_task or "", ", ".join(summary.harmed) or "none"])
    return table(["merge (best worst task first)", "method", "mean kept", "tasks", "worst delta", "worst task",
                  "worse than the base"], rows)


def _breakdown(rows: list[list]) -> str:
    def show(row):
        task, system, words, *counts, wer = row
        return [f"`{system}`", task, percent(wer), *(percent(count / words) for count in counts), words]

    return table(["system", "task", "WER", "substitutions", "deletions", "insertions", "words"], [show(row) for row in rows[1:]])


def _commands(steps: list[Step]) -> str:
    return "\n\n".join(f"{step.stage}: {step.makes}\n```\n{step.command}\n```" for step in steps) or "No step left its command."
