"""The cross-task table of upstreams: superb.json, superb.md and the curve over alpha, from the cells' scores.json."""
import re
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_file, read_json, write_json, write_text
from speechmerge.metrics.superb import OURS, comparable, lower_is_better, references, superb_score
from speechmerge.provenance import provenance
from speechmerge.report.colours import INK
from speechmerge.report.figure import curve_style, png
from speechmerge.report.results_md import table

ALPHA = re.compile(r"alpha(\d+(?:\.\d+)?)")
NAMES = {"per": "PER", "wer": "WER", "eer": "EER", "slot_type_f1": "slot F1", "slot_value_cer": "slot CER"}
MINI = ("The references of the SUPERB score are of SUPERB's own corpora. On other data its size means nothing, and the order of "
        "upstreams hangs on the tasks whose references are close together: a point of ASV's EER counts as fifteen of accuracy in KS.")
THEIRS = {ours: task for task, (ours, _) in OURS.items()}  # {task here: SUPERB's name}


def write_results(exp_dir, upstreams: dict[str, str], tasks: list[str], low=None, high=None, seed: int = 0) -> str:
    """Write the three files; returns the Markdown. Raises SpeechMergeError where a cell is missing."""
    exp_dir = Path(exp_dir)
    cells = {name: {task: read_cell(exp_dir / name / task) for task in tasks} for name in upstreams}
    rows = {name: superb_row(cells[name]) for name in cells}
    results = {"upstreams": upstreams, "tasks": tasks, "cells": cells, "superb_s": scores_of(rows),
               "anchored": anchored(rows, cells, low, high), **provenance(seed=seed)}
    write_json(exp_dir / "superb.json", results)
    text = markdown(results)
    write_text(exp_dir / "superb.md", text)
    if len(curve := curve_points(upstreams)) > 1:
        with atomic_file(exp_dir / "superb.png", "wb") as file:
            file.write(draw_curve(curve, cells, tasks))
    return text


def read_cell(folder: Path) -> dict:
    """One upstream on one task: metrics as fractions, the 95 % interval of the deciding one."""
    if not (folder / "scores.json").is_file():
        raise SpeechMergeError(f"{folder}: not done yet (no scores.json); run the same command without --shard, or the "
                               "other shards")
    record = read_json(folder / "scores.json")
    found = record["generation"] or record["labels"]
    theirs = THEIRS.get(record["task"])
    wanted = [record["metric"], *(OURS[theirs][1].values() if theirs else ())]
    return {"task": record["task"], "metric": record["metric"], "n": record["n"], "ci": found["ci"],
            "ci_unit": found["ci_unit"], "values": {metric: found[metric] for metric in dict.fromkeys(wanted)}}


def superb_row(cells: dict[str, dict]) -> dict[str, dict[str, float]]:
    """{SUPERB's task: {its metric: percent}} of the tasks that SUPERB has."""
    row = {}
    for task, cell in cells.items():
        if task in THEIRS:
            metrics = OURS[THEIRS[task]][1]
            row[THEIRS[task]] = {theirs: 100 * cell["values"][ours] for theirs, ours in metrics.items()}
    return row


def scores_of(rows) -> dict[str, float]:
    return {name: superb_score(row) for name, row in rows.items() if row}


def anchored(rows, cells, low, high) -> dict | None:
    """The same formula with two of our own upstreams as 0 and 1000, over the tasks on which they differ the right way and
    by more than chance: neither's deciding metric lies in the other's interval. A share of a smaller gain is noise."""
    if not (low and high):
        return None
    tasks = [task for task in comparable(rows[low], rows[high])
             if apart(*(cells[name][OURS[task][0]] for name in (low, high)))]
    scores = {name: superb_score({task: row[task] for task in tasks}, rows[low], rows[high]) if tasks else None
              for name, row in rows.items()}
    return {"low": low, "high": high, "tasks": tasks, "left_out": sorted(rows[low].keys() - set(tasks)), "scores": scores}


def apart(first: dict, second: dict) -> bool:
    values = [cell["values"][cell["metric"]] for cell in (first, second)]
    return not any(cell["ci"][0] <= value <= cell["ci"][1] for cell, value in zip((first, second), reversed(values)))


def markdown(results: dict) -> str:
    """Upstreams by tasks, percent with intervals; then the scores."""
    tasks, cells, anchors = results["tasks"], results["cells"], results["anchored"]
    first = next(iter(cells.values()))
    header = ["upstream", *(f"{THEIRS.get(task, task)} {heading(task, first[task])}" for task in tasks), "SUPERB_S"]
    header += [f"{anchors['low']} 0, {anchors['high']} 1000"] if anchors else []
    rows = []
    for name in cells:
        row = [name, *(cell_text(cells[name][task]) for task in tasks), number(results["superb_s"].get(name))]
        rows.append(row + ([number(anchors["scores"][name])] if anchors else []))
    sizes = ", ".join(f"{THEIRS.get(task, task)} {first[task]['n']}" for task in tasks)
    notes = [f"Percent, [95 % interval by bootstrap]; test items: {sizes}.", MINI]
    if anchors and anchors["left_out"]:
        notes.append(f"Not in the last column, since {anchors['high']} is not better than {anchors['low']} beyond chance there: "
                     f"{', '.join(anchors['left_out'])}.")
    origin = f"`{results['command']}` (seed {results['seed']}, commit {results['commit']})"
    return "\n\n".join([table(header, rows), *notes, origin]) + "\n"


def heading(task: str, cell: dict) -> str:
    theirs = THEIRS.get(task)
    arrows = []
    for metric in cell["values"]:
        if theirs and metric in references()["tasks"][theirs]:
            arrows.append(f"{NAMES.get(metric, metric)} {'↓' if lower_is_better(theirs, metric) else '↑'}")
        else:
            arrows.append(NAMES.get(metric, metric))
    return ", ".join(arrows)


def cell_text(cell: dict) -> str:
    texts = []
    for metric, value in cell["values"].items():
        interval = f" [{100 * cell['ci'][0]:.1f}, {100 * cell['ci'][1]:.1f}]" if metric == cell["metric"] else ""
        texts.append(f"{100 * value:.1f}{interval}")
    return ", ".join(texts)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def curve_points(upstreams) -> list[tuple[float, str]]:
    """[(alpha, name)] of upstreams that are named alpha<number>, ascending."""
    return sorted((float(match[1]), name) for name in upstreams if (match := ALPHA.fullmatch(name)))


def draw_curve(points, cells, tasks) -> bytes:
    """PNG: a small plot per task of its deciding metric over alpha, with 95 % intervals."""
    from matplotlib.figure import Figure

    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.1 * rows), layout="constrained")
    alphas = [alpha for alpha, _ in points]
    for place, task in enumerate(tasks):
        axes, found = figure.add_subplot(rows, columns, place + 1), [cells[name][task] for _, name in points]
        values = [100 * cell["values"][cell["metric"]] for cell in found]
        low, high = ([100 * cell["ci"][side] for cell in found] for side in (0, 1))
        axes.fill_between(alphas, low, high, color="#d5d9de", zorder=1)
        axes.plot(alphas, values, linewidth=1.4, markersize=4, zorder=2, **curve_style(0))
        metric = found[0]["metric"]
        better = "lower" if metric in ("wer", "per", "eer") else "higher"
        title = f"{THEIRS.get(task, task)}: {NAMES.get(metric, metric)} in %, {better} is better"
        axes.set_title(title, fontsize=7, color=INK, loc="left")
        axes.tick_params(colors=INK, labelsize=7)
        axes.set_xticks(alphas)
        axes.grid(color="#e8eaed", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("alpha: 0 is the pre-trained upstream, 1 the fine-tuned one", fontsize=8, color=INK)
    return png(figure)
