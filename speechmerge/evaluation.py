"""Decode and score some systems on some sets in one go: what evaluate-merged, merge --evaluate and the sweeps share.

    evaluation = Evaluation(model, {"asr": get_task("asr"), "kws": get_task("kws")}, "data", "dev", "exp")
    results = evaluation.compare(find_systems(["base", "asr", "kws", "exp/merged/.../run_..."], "exp"))
"""
import contextlib
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.decode import Decoder, Options
from speechmerge.errors import SpeechMergeError
from speechmerge.merge_results import write_merge_results
from speechmerge.scoring import Options as ScoreOptions
from speechmerge.scoring import compare
from speechmerge.systems import BASE, System, known_adapters, task_of


class Evaluation:
    """Holds the model and each set's features, so that many systems follow each other at the cost of decoding alone."""

    def __init__(self, model, sets: dict, data_root, split: str, exp_dir, options=Options()):
        """`sets`: name of the folder below `data_root` -> Task."""
        self.split, self.exp_dir, self.data_root = split, Path(exp_dir), str(data_root)
        self.decoders = {
            name: Decoder(model, task, DataDir.read(Path(data_root) / name / split), split, exp_dir, options, set_name=name)
            for name, task in sets.items()
        }
        self.scored = {}  # what was scored once: base and single adapters come with every merge

    def decode(self, systems, force: bool = False, weights=None):
        for system in systems:
            own = (weights or {}).get(system.name)
            with own() if own else contextlib.nullcontext():
                for decoder in self.decoders.values():
                    decoder.decode(system, force, carried=own is not None)

    def references(self, adapters) -> list[System]:
        """The base, and the single adapter of each set: those of `adapters` (paths), else the registered ones."""
        paths = {Path(path).resolve() for path in adapters}
        known = list(known_adapters(self.exp_dir).values())
        inside = [system for system in known if Path(system.path).resolve() in paths]
        return [System(BASE, "base"), *(inside or [system for system in known if system.name in self.decoders])]

    def compare(self, systems, force: bool = False, weights=None) -> dict:
        """Decode what is missing, then compare `systems` on the sets; exp/scores_<split>.json stays as it is.

        weights: {name of a system: function that returns a context in which the model has its weights}, for those that
        are not to be read from disk.
        """
        if force:
            self.scored.clear()
        self.decode(systems, force, weights)
        names = tuple(system.name for system in systems)
        options = ScoreOptions(sets=tuple(self.decoders), systems=names, data=self.data_root)
        results = compare(self.exp_dir, self.split, options, self.scored)
        write_merge_results(self.exp_dir, results)
        return results


def own_sets(adapters, exp_dir, chosen=None) -> dict:
    """Set name -> Task: those that were asked for, else one for each adapter that was merged ([{"name", "task"}])."""
    names = list(chosen or dict.fromkeys(adapter.get("name") or adapter["task"] for adapter in adapters))
    if not names:
        raise SpeechMergeError("the merge does not say which tasks its adapters were made for; name them with --eval-tasks")
    return {name: task_of(name, None, exp_dir) for name in names}
