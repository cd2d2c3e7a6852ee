"""The numbers of the report: read from `exp/scores_<split>.json` and the `score.json` files below `exp/decode/<split>`.

A cell is one system on one task under one reading. What counts as a task here is a set of the scores: a task's name,
or, where one task is scored on several data directories (languages), the name of one of these. Two readings:
"generation" (what the model wrote) and "labels" (the label with the highest mean token log-probability). Values are
fractions; only what prints them makes percent of them (of BLEU: points).
"""

from dataclasses import dataclass, field
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from speechmerge.metrics.interference import NO_GAIN
from speechmerge.report.wording import POINTS, natural, short_names, shown

READINGS = {"generation": "free generation", "labels": "label scoring"}
NAMES = {"wer": "WER", "per": "PER", "cer": "CER", "eer": "EER", "uar": "UAR", "bleu": "BLEU", "chrf": "chrF", "f1": "F1",
         "slu_f1": "SLU-F1"}
REASONS = {NO_GAIN: "the single adapter gains no more than noise over the base"}


@dataclass(frozen=True)
class Cell:
    """`delta`: the entry of interference_delta (value, reason, ci, ...); `details`: all metrics of the reading."""
    value: float
    ci: tuple[float, float] | None
    delta_entry: dict
    details: dict

    @property
    def text(self) -> str:
        """The value in its unit."""
        return shown(self.value, self.details.get("metric", ""))

    @property
    def delta(self) -> float | None:
        return self.delta_entry.get("value")

    @property
    def reason(self) -> str | None:
        """Why interference_delta is undefined; None where it is defined."""
        reason = self.delta_entry.get("reason")
        return REASONS.get(reason, reason)

    @property
    def kept(self) -> float | None:
        """Share of the single adapter's gain over the base: 1 keeps all of it, 0 is no better than the base."""
        return None if self.delta is None else 1 + self.delta


@dataclass(frozen=True, eq=False)
class System:
    """`label`: the short name in tables and plots. `tasks`: those that the system was made for; none for the base."""
    name: str
    label: str
    kind: str
    tasks: tuple[str, ...] = ()
    method: str | None = None
    params: dict = field(default_factory=dict)
    path: str | None = None


@dataclass(frozen=True)
class TaskInfo:
    """`task`: its name in the task registry; `data`: the data directory that it was decoded on."""
    name: str
    task: str
    data: str
    metric: str
    higher_is_better: bool
    n: int

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1

    @property
    def label(self) -> str:
        """'WER ↓': the metric and the direction that is better."""
        return f"{self.metric_name} {'↑' if self.higher_is_better else '↓'}"

    @property
    def unit(self) -> str:
        return "points" if self.metric in POINTS else "%"

    @property
    def metric_name(self) -> str:
        return NAMES.get(self.metric, self.metric)


@dataclass
class Results:
    """Everything measured on one split. `cells[reading][system name, task name]`; a missing key was not measured."""
    split: str
    exp_dir: Path
    tasks: list[TaskInfo]
    systems: list[System]
    cells: dict[str, dict[tuple[str, str], Cell]]
    record: dict

    def of_kind(self, kind: str) -> list[System]:
        return [system for system in self.systems if system.kind == kind]

    def readings(self) -> list[str]:
        return [reading for reading in READINGS if self.cells[reading]]

    def cell(self, reading: str, system: str, task: str) -> Cell | None:
        return self.cells[reading].get((system, task))

    def task(self, name: str) -> TaskInfo:
        return next(task for task in self.tasks if task.name == name)

    def adapter_of(self, task: str) -> System | None:
        """The single adapter of a task: what a merge is compared with."""
        return next((system for system in self.of_kind("adapter") if task in system.tasks), None)

    def gain_over_base(self, reading: str, system: str, task: TaskInfo) -> float | None:
        """u(system) - u(base), as a fraction; what can be said where interference_delta is undefined."""
        cell = self.cell(reading, system, task.name)
        base = next((found for b in self.of_kind("base") if (found := self.cell(reading, b.name, task.name))), None)
        return None if cell is None or base is None else task.sign * (cell.value - base.value)

    def decode_dir(self, system: str, task: str) -> Path:
        return self.exp_dir / "decode" / self.split / system / task

    def decoding(self, system: str, task: str) -> dict | None:
        """What decode.json says of it; None where it was not decoded here."""
        path = self.decode_dir(system, task) / "decode.json"
        return read_json(path) if path.is_file() else None


def read_results(exp_dir, split: str) -> Results:
    """Raises SpeechMergeError, with the command that mends it, where scores are missing or incomplete."""
    exp_dir = Path(exp_dir)
    path = exp_dir / f"scores_{split}.json"
    command = f"speechmerge score --exp-dir {exp_dir} --split {split}"
    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there, so there is nothing to report; run {command}")
    record = read_json(path)
    for key in ("tasks", "systems"):
        if not record.get(key):
            raise SpeechMergeError(f"{path}: no {key!r} in it, so there is nothing to report; run {command}")
    for entry in record["systems"]:
        _check_system(entry, path, command)
    labels = short_names(record["systems"])
    systems = [_system(entry, labels[entry["name"]]) for entry in record["systems"]]
    kinds = list(dict.fromkeys(system.kind for system in systems))
    systems.sort(key=lambda system: (kinds.index(system.kind), natural(system.name)))
    results = Results(split, exp_dir, [], systems, {reading: {} for reading in READINGS}, record)
    for name in record["tasks"]:
        results.tasks.append(_read_task(results, name, command))
    return results


def _check_system(entry: dict, path: Path, command: str):
    missing = [key for key in ("name", "kind", "scores") if key not in entry]
    if missing:
        raise SpeechMergeError(f"{path}: system {entry.get('name', '?')!r} has no {missing[0]!r}; run {command}")


def _system(entry: dict, label: str) -> System:
    tasks = () if entry["kind"] == "base" else tuple(entry.get("own_sets") or ())
    return System(
        entry["name"], label, entry["kind"], tasks, entry.get("method"), entry.get("params") or {}, entry.get("path")
    )


def _read_task(results: Results, task: str, command: str) -> TaskInfo:
    """Fill in the cells of one task; all systems must have been scored by the same metric on as many utterances."""
    seen = {}
    for entry in results.record["systems"]:
        if task not in entry["scores"]:
            continue
        path = results.decode_dir(entry["name"], task) / "score.json"
        if not path.is_file():
            raise SpeechMergeError(f"{path}: not there, but scores_{results.split}.json lists it; run {command}")
        score = read_json(path)
        seen[tuple(score[key] for key in ("task", "data", "metric", "higher_is_better", "n"))] = path
        for reading in READINGS:
            if score.get(reading) is not None:
                results.cells[reading][entry["name"], task] = _cell(entry, task, reading, score[reading], path, command)
    if not seen:
        raise SpeechMergeError(
            f"{results.exp_dir}: task {task!r} is listed, but no system has a score on it; run {command}"
        )
    if len(seen) > 1:
        found = "; ".join(f"{path}: {metric} on {data}, n={n}" for (_, data, metric, _, n), path in seen.items())
        raise SpeechMergeError(
            f"task {task!r}: systems were scored differently ({found}); run speechmerge decode, then {command}"
        )
    return TaskInfo(task, *next(iter(seen)))


def _cell(entry: dict, task: str, reading: str, score: dict, path: Path, command: str) -> Cell:
    value = entry["scores"][task].get(reading)
    if value != score["value"]:
        raise SpeechMergeError(f"{path}: {reading} value {score['value']} differs from {value} in the scores file, "
                               f"so one of them is old; run {command}")
    delta = entry.get("interference_delta", {}).get(task, {}).get(reading, {})
    return Cell(score["value"], tuple(score["ci"]) if score.get("ci") else None, delta, score)


def breakdown_rows(results: Results) -> list[list]:
    """Word errors: a header, then task, system, reference words, S, D, I (counts), WER."""
    rows = [["task", "system", "words", "substitutions", "deletions", "insertions", "wer"]]
    for task in results.tasks:
        for system in results.systems:
            cell = results.cell("generation", system.name, task.name)
            if cell and task.metric == "wer":
                counts = [cell.details[key] for key in rows[0][2:6]]
                rows.append([task.name, system.name, *counts, cell.value])
    return rows


def undefined_reasons(results: Results, reading: str) -> list[tuple[str, str]]:
    """(task, why interference_delta is undefined there), each once."""
    found = {}
    for task in results.tasks:
        for system in results.systems:
            cell = results.cell(reading, system.name, task.name)
            if cell and cell.delta is None:
                found[task.name, cell.reason] = True
    return list(found)
