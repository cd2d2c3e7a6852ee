"""Scores of merges of the same adapters on the same data: what the points of sweeps have in common.

Model, data directories, features and the decoded references are there once, for all points and all sweeps.
"""
import functools
import math
import shutil
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.decode import Options
from speechmerge.evaluation import Evaluation
from speechmerge.in_memory import Mixer
from speechmerge.merge.save import save
from speechmerge.models.options import configured, model_from
from speechmerge.subset import write_subsets
from speechmerge.systems import find_systems, training_records

DRAWN = {"enabled": True, "seed": 0, "shuffle": True, "stratified": True, "max_samples": None, "per_task": {}}


class Scorer:
    """systems: [(name, System)] that are merged; sets: name -> Task; split and subset: what decides; args: data, exp_dir,
    reading, keep_points, options of model and decoding."""

    def __init__(self, systems, sets: dict, split: str, subset: dict | None, args):
        self.systems, self.sets, self.split, self.args = systems, sets, split, args
        self.subset = subset if subset and subset["enabled"] else None
        self.evaluations: dict[float, Evaluation] = {}

    @functools.cached_property
    def mixer(self) -> Mixer:
        records = training_records([system for _, system in self.systems], self.args.exp_dir)
        configured(self.sets.values(), records, self.args)
        return Mixer(model_from(self.args, records))

    def evaluation(self, share: float = 1.0) -> Evaluation:
        """On the evaluation set, or on a share of it, drawn once."""
        if share not in self.evaluations:
            args, data, split = self.args, self.args.data, self.split
            if self.subset or share < 1:
                data, split = write_subsets(data, split, self.sets, self.sizes(share), args.exp_dir)
            self.evaluations[share] = Evaluation(self.mixer.model, self.sets, data, split, args.exp_dir, Options.of(args))
        return self.evaluations[share]

    def sizes(self, share: float) -> dict:
        """The settings of the evaluation subset with every size multiplied by `share`."""
        settings, sizes = self.subset or DRAWN, {}
        if share == 1:
            return settings
        for name, task in self.sets.items():
            limit = settings["per_task"].get(name, settings)["max_samples"]
            there = len(task.examples(DataDir.read(Path(self.args.data) / name / self.split)))
            sizes[name] = {"max_samples": math.ceil(share * min(there, limit or there))}
        return {**settings, "per_task": sizes}

    def score(self, merge, folder: Path, base=None, share: float = 1.0) -> dict:
        """Decode and score a :class:`speechmerge.merge.run.Merge`. Below `folder` it gets a record for the time being."""
        place, reading = folder / merge.details()["tag"], self.args.reading
        save(merge.outcome(), place, as_="none", base=base)
        [system] = find_systems([str(place)], self.args.exp_dir)
        evaluation = self.evaluation(share)
        references = evaluation.references([system.path for _, system in self.systems])
        results = evaluation.compare([*references, system], weights={system.name: lambda: self.mixer.applied(merge)})
        if not self.args.keep_points:
            shutil.rmtree(place)
        entry = next(entry for entry in results["systems"] if entry["name"] == system.name)
        found = {name: entry["interference_delta"][name].get(reading, {}) for name in self.sets}
        return {"tag": system.name, "scores": entry["scores"], "summary": entry["summary"][reading],
                "interference_delta": {name: delta.get("value") for name, delta in found.items()},
                "intervals": {name: delta["ci"] for name, delta in found.items() if "ci" in delta}}
