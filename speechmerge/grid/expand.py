"""The cells of a phase: one for each combination of its axes' values, with its commands as lists of words.

A value takes a place of its own in a word and is never read as shell text: "{language}" is one word, whatever it holds,
and a list that is a word's only content becomes several words.
"""
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from speechmerge.config import as_argument
from speechmerge.errors import UsageError
from speechmerge.files import fingerprint
from speechmerge.grid.file import Phase
from speechmerge.registry import nearest

FIELD = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)\}")
CELL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,149}")


@dataclass(frozen=True)
class Cell:
    phase: Phase
    number: int  # from 1
    name: str
    axes: dict  # axis -> value, of a mapping its name
    commands: list[list[str]]
    outputs: list[str]
    rows: list[tuple[dict, dict[str, list[str]]]]  # (values of the axes of `each`, {column: [file, key, ...]})
    key: str  # of what is done, wherever and by how many: with a changed command a cell has to be run again

    @property
    def folder(self) -> Path:
        return self.phase.folder / "cells" / self.name

    @property
    def log(self) -> Path:
        return self.phase.folder / "log" / f"{self.name}.log"


def cells(phase: Phase, gpus: int | None = None) -> list[Cell]:
    """Numbered in the order of the axes, the last of them fastest. gpus: instead of the phase's resources.

    UsageError where there is none, where two have one name, or where a template names what is not there.
    """
    found = []
    gpus = phase.resources.get("gpus", 0) if gpus is None else gpus
    for entries in itertools.product(*phase.axes.values()):
        point = dict(zip(phase.axes, entries))
        if not any(excluded(rule, point, phase) for rule in phase.exclude):
            found.append(make_cell(phase, len(found) + 1, point, gpus))
    names = [cell.name for cell in found]
    if not found:
        raise UsageError(f"{phase.where}: exclude leaves no cell")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{phase.where}: two cells are called {twice}; give `cell:` a template with all axes")
    return found


def make_cell(phase: Phase, number: int, point: dict, gpus: int) -> Cell:
    values = {"exp_dir": phase.exp_dir, "phase": phase.name, "device": "cuda" if gpus else "cpu",
              "processes": phase.resources.get("processes", gpus or 1)}
    values.update(fields(point, values, phase.where))
    name = cell_name(phase, point, values)
    values["folder"] = str(phase.folder / "cells" / name)
    for key, template in phase.values.items():
        values[key] = fill_value(template, values, f"{phase.where}: values: {key}")
    outputs = [word for template in phase.outputs for word in fill(template, values, f"{phase.where}: outputs")]
    key = fingerprint({"commands": command_words(phase, {**values, "device": "any", "processes": 1}), "outputs": outputs})
    return Cell(phase, number, name, names(point), command_words(phase, values), outputs, result_rows(phase, values),
                key)


def command_words(phase: Phase, values: dict) -> list[list[str]]:
    return [[word for template in command for word in fill(template, values, f"{phase.where}: commands")]
            for command in phase.commands]


def result_rows(phase: Phase, values: dict) -> list[tuple[dict, dict]]:
    found = []
    for entries in itertools.product(*phase.each.values()):
        point = dict(zip(phase.each, entries))
        more = {**values, **fields(point, values, f"{phase.where}: each")}
        found.append((names(point), {
            column: [word for template in place for word in fill(str(template), more, f"{phase.where}: results")]
            for column, place in phase.results.items()
        }))
    return found


def fields(point: dict, values: dict, where: str) -> dict:
    """{"model": "tiny", "model.path": "openai/whisper-tiny", "rank": 8}; what a mapping holds may name other axes."""
    found = names(point)
    for axis, value in point.items():
        for key, entry in value.items() if isinstance(value, dict) else ():
            found[f"{axis}.{key}"] = entry
    known = {**values, **found}
    return {key: fill_value(value, known, f"{where}: {key}") if "." in key else value for key, value in found.items()}


def names(point: dict) -> dict:
    return {axis: plain(value) for axis, value in point.items()}


def plain(value):
    return value["name"] if isinstance(value, dict) else value


def cell_name(phase: Phase, point: dict, values: dict) -> str:
    """model_language_rank8: numbers have their axis before them."""
    if phase.cell is not None:
        [name] = fill(str(phase.cell), values, f"{phase.where}: cell")
    else:
        parts = [
            plain(value) if isinstance(plain(value), str) else axis + as_argument(value)
            for axis, value in point.items()
        ]
        name = "_".join(part.replace("/", "-") for part in parts) or phase.name
    if not CELL.fullmatch(name):
        raise UsageError(
            f"{phase.where}: {name!r} is no name for a cell: expected letters, digits and . _ + = -, at most 150; "
            "give `cell:` a template")
    return name


def excluded(rule: dict, point: dict, phase: Phase) -> bool:
    """Do all values of a rule fit? `{target: "{source}"}` is where both are the same."""
    return all(fill(as_argument(value), names(point), f"{phase.where}: exclude") == [as_argument(plain(point[axis]))]
               for axis, value in rule.items())


def fill_value(template, values: dict, where: str):
    if isinstance(template, str):
        found = fill(template, values, where)
        whole = FIELD.fullmatch(template)
        return values[whole[1]] if whole else found[0]
    if isinstance(template, list):
        return [word for entry in template for word in fill(as_argument(entry), values, where)]
    if isinstance(template, (bool, int, float)):
        return template
    raise UsageError(f"{where}: expected a value or a [list], found {template!r}")


def fill(template: str, values: dict, where: str) -> list[str]:
    """The words that a template stands for: one, or as many as the list has that is its only content."""
    whole = FIELD.fullmatch(template)
    if whole and isinstance(look_up(whole[1], values, where), list):
        return [as_argument(entry) for entry in values[whole[1]]]

    def text(match) -> str:
        value = look_up(match[1], values, where)
        if isinstance(value, (list, dict)):
            raise UsageError(f"{where}: {match[0]} is a list and can only be a word of its own, found {template!r}")
        return as_argument(value)

    return [FIELD.sub(text, template)]


def look_up(name: str, values: dict, where: str):
    if name not in values:
        raise UsageError(f"{where}: there is no {{{name}}}; {nearest(name, values)}")
    return values[name]
