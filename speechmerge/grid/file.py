"""A grid file: phases of cells, one cell for each combination of the axes' values. See docs/cluster.md.

    exp_dir: exp/small
    values: {data: data/asr}
    phases:
      train:
        axes: {model: [{name: tiny, path: openai/whisper-tiny}], language: [hi, it], rank: [8, 16]}
        exclude: [{language: it, rank: 16}]
        values: {out: "{exp_dir}/{model}/{language}_r{rank}"}
        commands:
          - [speechmerge, train, --task, asr, --model, "{model.path}", --rank, "{rank}", --output-dir, "{out}"]
        outputs: ["{out}/done.json"]
        results: {dev_wer: ["{out}/speechmerge.json", dev, wer]}   # file and keys; a column of the table
        each: {}         # more axes, of the table alone: a cell has a row for each of their values
        resources: {gpus: 1, mem: 64G, time: "24:00:00", num_threads: 4, max_jobs: 20}   # of each node: nodes: 2
      merge:
        needs: [train]   # phases of this file, "other.yaml:phase" of one beside it, or all of "other.yaml"
"""
import re
from dataclasses import dataclass, field
from pathlib import Path

from speechmerge.config import read_yaml
from speechmerge.errors import UsageError
from speechmerge.registry import nearest

GRID_KEYS = ("exp_dir", "help", "values", "phases")
PHASE_KEYS = ("axes", "cell", "commands", "each", "exclude", "help", "needs", "outputs", "resources", "results",
              "values")
RESOURCES = {"gpus": int, "max_jobs": int, "mem": str, "nodes": int, "num_threads": int, "processes": int, "time": str}
NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("device", "exp_dir", "folder", "phase", "processes")


@dataclass(frozen=True)
class Phase:
    grid: str  # name of the grid
    path: Path  # of its file
    name: str
    exp_dir: str
    axes: dict[str, list]
    commands: list[list[str]]
    values: dict = field(default_factory=dict)  # templates, those of the grid first
    cell: str | None = None  # template of a cell's name
    exclude: list[dict] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    results: dict[str, list] = field(default_factory=dict)
    each: dict[str, list] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    resources: dict = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.path}: {self.name}"

    @property
    def folder(self) -> Path:
        """What is known of the phase's cells; what they make lies where their commands say."""
        return Path(self.exp_dir) / "grid" / self.grid / self.name


def read_grid(path, given: dict | None = None, strict: bool = True) -> dict[str, Phase]:
    """The phases of a grid file. `given`: values over those of the file, such as exp_dir; strict: it has them all.

    UsageError names the file, the phase and the key, what was found and what was expected.
    """
    path, data = Path(path), read_yaml(path)
    check_keys(path, data, GRID_KEYS)
    values = {"exp_dir": "exp", **typed(path, "values", data.get("values"), dict)}
    if "exp_dir" in data:
        values["exp_dir"] = data["exp_dir"]
    for name, value in (given or {}).items():
        if name in values:
            values[name] = value
        elif strict:
            raise UsageError(f"{path}: there is no value {name!r} to change; {nearest(name, values)}")
    exp_dir = values.pop("exp_dir")
    if not isinstance(exp_dir, str) or not exp_dir:
        raise UsageError(f"{path}: exp_dir: expected a folder, found {exp_dir!r}")
    phases = typed(path, "phases", data.get("phases"), dict)
    if not phases:
        raise UsageError(f"{path}: phases: found none, expected at least one `name: {{axes, commands}}`")
    return {name: read_phase(path, name, phase, exp_dir, values) for name, phase in phases.items()}


def read_phase(path: Path, name: str, data, exp_dir: str, values: dict) -> Phase:
    where = f"{path}: {name}"
    check_name(path, name, "phase")
    if not isinstance(data, dict):
        raise UsageError(f"{where}: expected `axes:` and `commands:`, found {data!r}")
    check_keys(where, data, PHASE_KEYS)
    axes = typed(where, "axes", data.get("axes"), dict)
    each = typed(where, "each", data.get("each"), dict)
    for axis, entries in [*axes.items(), *each.items()]:
        check_axis(where, axis, entries)
    own = typed(where, "values", data.get("values"), dict)
    for key in [*values, *own]:
        check_name(where, key, "value")
        if key in {**axes, **each} or key in RESERVED:
            raise UsageError(
                f"{where}: values: {key!r} is {'reserved' if key in RESERVED else 'an axis'}, choose another name")
    exclude = typed(where, "exclude", data.get("exclude"), list)
    for entry in exclude:
        check_exclusion(where, entry, axes)
    return Phase(path.stem, path, name, exp_dir, axes, commands(where, data.get("commands")), {**values, **own},
                 data.get("cell"), exclude, words(f"{where}: outputs", data.get("outputs") or []),
                 check_results(where, data.get("results")), each, words(f"{where}: needs", data.get("needs") or []),
                 check_resources(where, data.get("resources")))


def check_keys(where, data: dict, known):
    for key in data:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")


def check_name(where, name, what: str):
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{where}: {name!r} is no name for a {what}: expected small letters, digits and _")


def typed(where, key: str, value, kind):
    if value is None:
        return kind()
    if not isinstance(value, kind):
        expected = "`key: value` lines" if kind is dict else "a [list]"
        raise UsageError(f"{where}: {key}: expected {expected}, found {value!r}")
    return value


def words(where: str, value) -> list[str]:
    """A list of words. Unquoted {rank} is a mapping to YAML, and numbers are what they look like."""
    if not isinstance(value, list):
        raise UsageError(f"{where}: expected a [list] of words, found {value!r}")
    for word in value:
        if isinstance(word, dict):
            name = "".join(word)
            raise UsageError(f'{where}: found {{{name}}} without quotes, expected "{{{name}}}"')
        if isinstance(word, (list, type(None))):
            raise UsageError(f"{where}: expected words, found {word!r}")
    return ["true" if word is True else "false" if word is False else str(word) for word in value]


def commands(where: str, value) -> list[list[str]]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where}: commands: expected a list of [lists, of, words], found {value!r}")
    return [words(f"{where}: commands: {number}", command) for number, command in enumerate(value, 1)]


def check_axis(where: str, axis: str, entries):
    """All values of an axis are of one type: [hi, no] has a Norwegian that YAML reads as false."""
    check_name(where, axis, "axis")
    if axis in RESERVED:
        raise UsageError(f"{where}: axes: {axis!r} is reserved, choose another name")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{where}: axes: {axis}: expected a [list] of values, found {entries!r}")
    kinds = {"number" if type(entry) in (int, float) else type(entry).__name__ for entry in entries}
    if len(kinds) > 1 or not kinds <= {"number", "str", "bool", "dict"}:
        raise UsageError(
            f"{where}: axes: {axis}: expected values of one type, found {entries!r} (YAML reads no, yes, on and off as "
            'true and false: write "no")')
    for entry in entries:
        if isinstance(entry, dict) and (not isinstance(entry.get("name"), str) or set(entry) != set(entries[0])):
            raise UsageError(f"{where}: axes: {axis}: expected a name and the same keys in each, found {entry!r}")


def check_exclusion(where: str, entry, axes: dict):
    if not isinstance(entry, dict) or not entry:
        raise UsageError(f"{where}: exclude: expected entries {{axis: value}}, found {entry!r}")
    for axis in entry:
        if axis not in axes:
            raise UsageError(f"{where}: exclude: there is no axis {axis!r}; {nearest(str(axis), axes)}")


def check_results(where: str, value) -> dict:
    for column, place in typed(where, "results", value, dict).items():
        words(f"{where}: results: {column}", place)
        if len(place) < 2:
            raise UsageError(f"{where}: results: {column}: expected [file.json, key, ...], found {place!r}")
    return value or {}


def check_resources(where: str, value) -> dict:
    resources = typed(where, "resources", value, dict)
    for key, entry in resources.items():
        if key not in RESOURCES:
            raise UsageError(f"{where}: resources: unknown key {key!r}; {nearest(str(key), RESOURCES)}")
        if type(entry) is not RESOURCES[key] or entry == "" or " " in str(entry):
            quoted = ' in quotes, as "24:00:00"' if key == "time" else ""
            expected = "a whole number" if RESOURCES[key] is int else f"one word{quoted}"
            raise UsageError(f"{where}: resources: {key}: expected {expected}, found {entry!r}")
    return resources


def in_order(path, given: dict | None = None, only=()) -> list[Phase]:
    """All phases of a grid file and those that they need, of other files too, each after what it needs.

    given: as in `read_grid`, for other files too where they know the names; only: names of phases of this file; those
    that they need come along.
    """
    phases = read_grid(path, given)
    for name in only:
        if name not in phases:
            raise UsageError(f"{path}: there is no phase {name!r}; {nearest(name, phases)}")
    found: dict[tuple, Phase] = {}
    for phase in phases.values():
        if not only or phase.name in only:
            visit(phase, given, found, [])
    return list(found.values())


def needed(phase: Phase, given: dict | None = None) -> list[Phase]:
    """The phases that a phase needs directly: those it names, and all of a file that it names."""
    found = []
    for need in phase.needs:
        file, _, name = need.rpartition(":")
        if not file and name.endswith((".yaml", ".yml")):
            file, name = name, ""
        known = read_grid(phase.path.parent / file if file else phase.path, given, strict=False)
        if name and name not in known:
            raise UsageError(f"{phase.where}: needs: there is no phase {need!r}; {nearest(name, known)}")
        found += [known[name]] if name else known.values()
    return found


def visit(phase: Phase, given, found: dict, above: list):
    key = (phase.path.resolve(), phase.name)
    if key in above:
        raise UsageError(f"{phase.where}: needs itself: {' -> '.join(name for _, name in [*above, key])}")
    if key in found:
        return
    for other in needed(phase, given):
        visit(other, given, found, [*above, key])
    found[key] = phase
