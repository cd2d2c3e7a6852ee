"""What an analysis is: options, what it looks at, and findings: numbers, pictures, a short table.

A new one is a class under `@ANALYSES.register("name")` in a file of this package. The files are imported to list
them, so that they import torch and the model inside functions only.
"""
import functools
from dataclasses import dataclass, field
from pathlib import Path

from speechmerge.errors import UsageError
from speechmerge.files import fingerprint
from speechmerge.merge.config.checks import section
from speechmerge.registry import Registry
from speechmerge.systems import content_files, task_of, training_records

ANALYSES = Registry("analysis", "speechmerge.analysis")
DECIDING = ("dtype", "audio_context", "audio_context_min", "audio_context_step", "num_beams", "verification", "prompt",
            "inputs", "target_format")  # options of model and decoding that change results
TOTAL = "total"  # the row of all layers together


@dataclass(frozen=True)
class Findings:
    """`data`: for analysis.json; `plots`: each a PNG and its numbers as CSV; `lines`: for people, on stdout."""

    data: dict
    plots: list = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


class Study:
    """The adapters that are looked at, and on demand their deltas, the base model and data."""

    def __init__(self, systems, args):
        """systems: [(name or None, System)]; args: the options of `speechmerge analyze`."""
        self.names = [name or system.name for name, system in systems]
        self.systems, self.args = [system for _, system in systems], args
        if double := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise UsageError(f"--adapters: {double[0]} is there twice; each once")
        self.exp_dir, self.output_dir, self.split = Path(args.exp_dir), Path(args.output_dir), args.split

    @functools.cached_property
    def vectors(self) -> list:
        """Task vectors of one base. SpeechMergeError where they are not."""
        from speechmerge.merge.base import common_base
        from speechmerge.merge.read import read
        from speechmerge.merge.task_vector import check_shapes

        found = [read(system.path, name=name) for name, system in zip(self.names, self.systems)]
        common_base([vector.base for vector in found], self.names)
        check_shapes(found)
        return found

    @functools.cached_property
    def records(self) -> list[dict]:
        return training_records(self.systems, self.exp_dir)

    @functools.cached_property
    def model(self):
        from speechmerge.models.options import model_from

        return model_from(self.args, self.records)

    def base_fingerprint(self) -> str:
        """Of the base's weights; the model is not loaded for it."""
        from speechmerge.models.base import find_model
        from speechmerge.storage.checkpoint import model_fingerprint

        return model_fingerprint(find_model(self.args.model)[0]) if self.args.model else self.model.fingerprint()

    def sets(self, chosen: str | None = None) -> dict:
        """Set name -> Task, as the adapters were trained: the words of `chosen`, default the adapters' own."""
        from speechmerge.models.options import configured

        names = words_of(chosen) or map(self.own_set, self.names)
        found = {name: task_of(name, self.args.task, self.exp_dir) for name in names}
        configured(found.values(), self.records, self.args)
        return found

    def own_set(self, name: str) -> str:
        """The set that an adapter is judged on: that of its name, else that of its task (asr_r16: asr)."""
        task = self.systems[self.names.index(name)].task
        return task if task and not (Path(self.args.data) / name / self.split).is_dir() else name

    def data(self, set_name: str, task, limit: int = 0, seed: int = 0):
        """(folder that holds <set>/<split>/, that split): all of it, or at most `limit` examples, drawn once."""
        if not limit:
            return Path(self.args.data), self.split
        from speechmerge.subset import write_subsets

        settings = {"max_samples": limit, "seed": seed, "shuffle": True, "stratified": True, "per_task": {}}
        return write_subsets(self.args.data, self.split, {set_name: task}, settings, self.exp_dir)

    def files(self) -> list[Path]:
        """The files that decide what the adapters do."""
        return [path for system in self.systems for path in content_files(system)]


class Analysis:
    """`parameters`: its options; `uses_model`: whether base model and data decide its result, too."""

    parameters: tuple = ()
    uses_model = False

    def __init__(self, study: Study, options: dict):
        self.study, self.values = study, section("options", self.parameters, options)

    def key(self) -> str:
        """Of what decides the result beside the adapters' files and the options."""
        if not self.uses_model:
            return ""
        from speechmerge.data.directory import DataDir

        study, args = self.study, self.study.args
        sets = study.sets(self.values.get("sets"))
        prints = [DataDir.read(Path(args.data) / name / study.split).fingerprint() for name in sets]
        return fingerprint([study.base_fingerprint(), study.split, sorted(sets), prints,
                            {name: getattr(args, name) for name in DECIDING}])

    def run(self) -> Findings:
        raise NotImplementedError


def words_of(text: str | None) -> list[str]:
    """Of an option: apart by commas or spaces."""
    return str(text or "").replace(",", " ").split()


def number(value, digits: int = 6) -> float | None:
    """For JSON and CSV: None where it is not defined."""
    value = float(value)
    return round(value, digits) if value == value and abs(value) != float("inf") else None


def table(head: list[str], rows: list[list], width: int = 9) -> list[str]:
    """Lines with the first column to the left, numbers with three decimals to the right."""
    first = max(len(str(row[0])) for row in [head, *rows]) + 1
    widths = [max(width, len(name) + 1) for name in head[1:]]

    def cell(value):
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    return [f"{row[0]:<{first}}" + "".join(f"{cell(value):>{size}}" for value, size in zip(row[1:], widths))
            for row in [head, *rows]]
