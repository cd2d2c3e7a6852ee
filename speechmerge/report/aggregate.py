"""One table of whatever a grid has finished: a row for each cell, its axes, its state, its results.

    rows = aggregate(in_order("conf/grid/mini.yaml"))
    write_tables(rows, "exp/grid/mini")                    # results.csv, results.md
"""
import csv
import io
import logging
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_text
from speechmerge.grid.cells import DONE, state
from speechmerge.grid.expand import Cell, cells
from speechmerge.grid.file import Phase
from speechmerge.grid.queue import queue, queued

log = logging.getLogger(__name__)
FIRST, LAST = ("grid", "phase", "cell"), ("seconds", "state", "remark")


def aggregate(phases: list[Phase]) -> list[dict]:
    """Rows in the order of the phases and their cells; results of cells that are not finished are left out."""
    rows, now = [], queue(phases)
    for phase in phases:
        waiting, _ = queued(phase, now)
        for cell in cells(phase):
            rows += cell_rows(cell, *state(cell, waiting))
    return rows


def cell_rows(cell: Cell, state: str, remark: str) -> list[dict]:
    """One row, or with `each` as many as that has; one where the cell is not finished."""
    found = {"grid": cell.phase.grid, "phase": cell.phase.name, "cell": cell.name, **cell.axes}
    last = {"state": state, "remark": remark}
    if state != DONE:
        return [{**found, **last}]
    last["seconds"] = read_json(cell.folder / "cell.json")["seconds"]
    return [{**found, **values, **picked(cell, results), **last} for values, results in cell.rows]


def picked(cell: Cell, results: dict) -> dict:
    found = {}
    for column, (path, *keys) in results.items():
        try:
            found[column] = pick(read_json(path), keys, path)
        except SpeechMergeError as error:
            log.warning("%s: %s: %s", cell.name, column, error)
    return found


def pick(data, keys: list[str], where):
    """A value within JSON: keys of objects; of a list the number, or the name of an object in it (`name: ties`)."""
    for key in keys:
        where = f"{where}: {key}"
        if isinstance(data, dict) and key in data:
            data = data[key]
        elif isinstance(data, list):
            fits = [entry for number, entry in enumerate(data)
                    if key == str(number) or isinstance(entry, dict) and entry.get("name") == key]
            if not fits:
                raise SpeechMergeError(f"{where}: not among the {len(data)} entries")
            data = fits[0]
        else:
            raise SpeechMergeError(f"{where}: not there")
    if isinstance(data, (dict, list)):
        raise SpeechMergeError(f"{where}: found a {type(data).__name__}, expected one value")
    return data


def columns(rows: list[dict]) -> list[str]:
    """Axes in the order in which they appear, then results, between what all rows have. Empty columns are left out."""
    filled = dict.fromkeys(key for row in rows for key, value in row.items() if value not in (None, ""))
    return [*FIRST, *(key for key in filled if key not in (*FIRST, *LAST)), *(key for key in LAST if key in filled)]


def csv_text(rows: list[dict]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns(rows), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def markdown(rows: list[dict]) -> str:
    heads = columns(rows)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(shown(row.get(head)) for head in heads) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def shown(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def write_tables(rows: list[dict], folder) -> Path:
    folder = Path(folder)
    write_text(folder / "results.csv", csv_text(rows))
    write_text(folder / "results.md", markdown(rows))
    return folder / "results.csv"
