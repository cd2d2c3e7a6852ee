"""Two or more experiments side by side: the same systems on the same sets, their differences with paired intervals, what
only one has, which settings differ.

    found = compare_experiments(["exp", "../other/exp"], "test")
    found.rows["generation"][0].differences[0].ci        # 95 %, of the second experiment minus the first

Everything is compared with the first experiment. Both sides of a difference are scored on the same resampled test sets.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.metrics import bootstrap
from speechmerge.report.settings import settings_of
from speechmerge.report.tables import READINGS, Results, TaskInfo, read_results
from speechmerge.scoring import ReferenceCache, read_hypotheses, read_readings
from speechmerge.systems import located


@dataclass(frozen=True)
class Difference:
    """Of one experiment and the first, in the metric's unit. `ci`: None where the references are not at hand."""
    value: float
    ci: list[float] | None
    sign: int

    @property
    def verdict(self) -> str:
        """'better' or 'worse' where the interval leaves out 0."""
        if self.ci is None or self.ci[0] <= 0 <= self.ci[1]:
            return ""
        return "better" if self.sign * self.value > 0 else "worse"


@dataclass(frozen=True)
class Row:
    """One system on one set. values, differences: one for each experiment (of the others for the latter), None where it
    has no such result."""
    task: TaskInfo
    system: str
    kind: str
    values: list[float | None]
    differences: list[Difference | None]


@dataclass(frozen=True)
class Comparison:
    """`only`: (what, in which experiments); `settings`: (of what, key, value in each experiment), those that differ;
    `notes`: why intervals are missing."""
    names: list[str]
    results: list[Results]
    rows: dict[str, list[Row]]
    only: list[tuple[str, str]]
    settings: list[list]
    notes: list[str]


def compare_experiments(folders: list, split: str) -> Comparison:
    """Raises SpeechMergeError where a set is not the same in all experiments that have it, with a line for each."""
    if len(folders) < 2:
        raise UsageError("--compare: found one experiment folder, expected at least two")
    results = [read_results(folder, split) for folder in folders]
    names = short_folders(folders)
    check_same_sets(results, names)
    scorer = Scorer(results)
    rows = {reading: rows_of(results, reading, scorer) for reading in READINGS}
    return Comparison(names, results, {reading: found for reading, found in rows.items() if found}, only(results, names),
                      differing(results), scorer.notes())


def short_folders(folders: list) -> list[str]:
    """As much of the end of each path as tells it from the others."""
    parts = [Path(folder).absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"--compare: {folders[0]} is there twice; give different folders")


def check_same_sets(results: list[Results], names: list[str]):
    problems = []
    for task in results[0].tasks:
        for other, name in zip(results[1:], names[1:]):
            if task.name in [info.name for info in other.tasks]:
                problems += [f"  {task.name}: {problem}" for problem in unlike(results[0], other, task.name, names[0], name)]
    if len({other.record.get("normaliser") for other in results}) > 1:
        found = ", ".join(f"{name}: {other.record.get('normaliser')}" for name, other in zip(names, results))
        problems.append(f"  all sets: transcripts were normalised differently ({found}); run speechmerge score with one")
    if problems:
        raise SpeechMergeError("these experiments were not scored on the same test sets:\n" + "\n".join(problems))


def unlike(first: Results, other: Results, name: str, first_name: str, other_name: str) -> list[str]:
    """What tells the set of this name in one experiment from that in the other."""
    one, two = first.task(name), other.task(name)
    for key in ("task", "metric", "n"):
        if getattr(one, key) != getattr(two, key):
            what = {"task": "the task", "metric": "the metric", "n": "the number of utterances"}[key]
            return [f"{what} is {getattr(one, key)} in {first_name}, {getattr(two, key)} in {other_name}; decode and score "
                    "both on the same data"]
    left, right = utterances(first, name), utterances(other, name)
    if left != right:
        here, there = left - right, right - left
        return [f"other utterances: {len(here)} are only in {first_name} (such as {min(here, default='none')}), {len(there)} "
                f"only in {other_name} (such as {min(there, default='none')}); decode both on the same data"]
    here, there = (targets(results, info) for results, info in ((first, one), (other, two)))
    if here is not None and there is not None and here != there:
        changed = min(id for id in here if here[id] != there.get(id))
        return [f"the references differ, for {changed} {here[changed]!r} in {first_name} and {there.get(changed)!r} in "
                f"{other_name}; prepare the data once and decode both on it"]
    return []


def utterances(results: Results, name: str) -> set[str]:
    """Ids of what was decoded, of all systems."""
    found = set()
    for system in results.systems:
        folder = results.decode_dir(system.name, name)
        for file in ("hyp", "scores"):
            if (folder / file).is_file():
                found |= set(read_hypotheses(folder / file))
                break
    return found


def data_folder(results: Results, task: TaskInfo) -> str | None:
    folder = located(task.data, results.exp_dir)
    return folder if Path(folder).is_dir() else None


def targets(results: Results, task: TaskInfo) -> dict[str, str] | None:
    """References by utterance; None where the data is not at hand."""
    folder = data_folder(results, task)
    settings = next((record["settings"] for record in decodings(results, task.name) if record.get("settings")), None)
    return ReferenceCache().get(task.task, folder, settings).targets if folder else None


def decodings(results: Results, name: str) -> list[dict]:
    return [found for system in results.systems if (found := results.decoding(system.name, name))]


class Scorer:
    """Replicates of any system of any experiment, on the data of the first experiment that has it at hand."""

    def __init__(self, results: list[Results]):
        self.results, self.cache = results, ReferenceCache(results[0].record.get("normaliser", "basic"))
        self.missing: dict[str, str] = {}

    def replicates(self, results: Results, system: str, name: str, reading: str) -> np.ndarray | None:
        task = results.task(name)
        found = [folder for other in self.results for info in other.tasks if info.name == name
                 if (folder := data_folder(other, info))]
        if not found:
            self.missing[name] = task.data
            return None
        folder = results.decode_dir(system, name)
        settings = (results.decoding(system, name) or {}).get("settings")
        references = self.cache.get(task.task, found[0], settings)
        hyps, scores = read_readings(folder).get(reading, (None, None))
        if hyps is None:
            return None
        return references.task.replicates(references.targets, hyps, speakers=references.speakers,
                                          languages=references.languages, scores=scores)[0]

    def notes(self) -> list[str]:
        return [f"{name}: no intervals, since its references ({data}) are not here." for name, data in self.missing.items()]


def rows_of(results: list[Results], reading: str, scorer: Scorer) -> list[Row]:
    """Every system on every set that the first experiment shares with another one."""
    first, found = results[0], []
    for task in first.tasks:
        for system in first.systems:
            cells = [other.cell(reading, system.name, task.name) for other in results]
            if cells[0] is None or not any(cells[1:]):
                continue
            values = [cell and cell.value for cell in cells]
            replicates = [cell and scorer.replicates(other, system.name, task.name, reading)
                          for other, cell in zip(results, cells)]
            differences = [difference(task, values, replicates, place) for place in range(1, len(results))]
            found.append(Row(task, system.name, system.kind, values, differences))
    return found


def difference(task: TaskInfo, values: list, replicates: list, place: int) -> Difference | None:
    """Of the experiment at this place and the first."""
    if values[place] is None:
        return None
    paired = replicates[0] is not None and replicates[place] is not None
    ci = bootstrap.interval(replicates[place] - replicates[0]) if paired else None
    return Difference(values[place] - values[0], ci, task.sign)


def only(results: list[Results], names: list[str]) -> list[tuple[str, str]]:
    """(system or set, where it is) of everything that some experiment lacks."""
    found = []
    for what, get in (("set", lambda other: [task.name for task in other.tasks]),
                      ("system", lambda other: [system.name for system in other.systems])):
        lists = [get(other) for other in results]
        for name in dict.fromkeys(name for names_ in lists for name in names_):
            if not all(name in names_ for names_ in lists):
                found.append((f"{what} {name}", ", ".join(where for where, names_ in zip(names, lists) if name in names_)))
    return found


def differing(results: list[Results]) -> list[list]:
    """[of what, setting, its value in each experiment] where they are not all the same."""
    found = [settings_of(other) for other in results]
    rows = []
    for what in dict.fromkeys(key for settings in found for key in settings):
        if not all(what in settings for settings in found):
            continue  # `only` says so
        keys = dict.fromkeys(key for settings in found for key in settings[what])
        for key in keys:
            values = [settings[what].get(key, "not set") for settings in found]
            if any(value != values[0] for value in values[1:]):
                rows.append([what, key, *values])
    return rows
