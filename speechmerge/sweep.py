"""A sweep: one merge per point of a search, scored on a validation split, ranked by its worst task.

The summary, exp/merged/<method>/<task_combo>/sweeps/sweep_<time>.json, is written after every point; an unfinished one
of the same adapters, search, split and data is gone on with. A larger budget goes on, too.
"""
import logging
import shutil
import time
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.decode import Options
from speechmerge.errors import SpeechMergeError
from speechmerge.evaluation import Evaluation, own_sets
from speechmerge.files import fingerprint, lock, read_json, sha256_file, write_json
from speechmerge.merge.config.spec import MergeSpec
from speechmerge.merge.registry import METHODS
from speechmerge.merge.run import prepare
from speechmerge.merge.save import save
from speechmerge.merge.tag import task_combo
from speechmerge.metrics.interference import rank
from speechmerge.models.options import CONTEXT_OPTIONS, TASK_OPTIONS, configured, model_from
from speechmerge.provenance import provenance
from speechmerge.search import searcher, warm_points, worst
from speechmerge.subset import write_subsets
from speechmerge.systems import adapter_labels, content_files, find_adapters, find_systems, training_records

log = logging.getLogger(__name__)


class Sweep:
    """`args`: what a spec does not hold: data, exp_dir, reading, keep_points, force, options of model and decoding."""

    def __init__(self, spec: MergeSpec, args):
        self.spec, self.args = spec, args
        self.systems = find_adapters(spec.adapters, args.exp_dir)
        self.labels = adapter_labels(self.systems)
        self.searcher = searcher(spec.search)
        self.check()
        names = [{"name": name or system.name, "task": system.task} for name, system in self.systems]
        self.sets = own_sets(names, args.exp_dir, spec.eval_tasks)
        self.folder = Path(args.exp_dir) / "merged" / spec.method / task_combo(self.labels) / "sweeps"

    def check(self):
        """Every point of a grid, or the first of a space, is refused before any is tried."""
        for values in getattr(self.searcher, "rows", None) or [self.searcher.ask([])]:
            point = self.spec.at(values)
            point.check_runnable("merge-sweep")
            METHODS.get(point.method)(point.method, self.labels, point.method_params, point.lambda_policy)
        self.prepared(point)

    def prepared(self, spec: MergeSpec):
        paths, names = zip(*((system.path, name) for name, system in self.systems))
        return prepare(paths, names=names, **spec.arguments())

    def run(self) -> dict:
        with lock(self.folder / "sweep"):
            path, summary = self.summary()
            if self.next(summary) is None:
                log.info("%s: already searched with the same inputs (--force true searches again)", path)
            else:
                self.search(path, summary)
        return {**summary, "path": str(path)}

    def next(self, summary: dict) -> dict | None:
        points = [(point["values"], worst(point)) for point in summary["points"]]
        return self.searcher.ask(points, [tuple(point) for point in summary["warm_points"]])

    def summary(self) -> tuple[Path, dict]:
        """The summary of an earlier sweep with the same key, or a new one."""
        spec, key = self.spec, self.key()
        for path in [] if self.args.force else sorted(self.folder.glob("sweep_*.json"), reverse=True):
            found = read_json(path)
            if found["key"] == key:
                return path, found
        shared = ("method", "merge_mode", "method_params", "transforms", "lambda_policy", "split", "search",
                  "eval_subset", "constraint_nonnegative")
        new = {"key": key, **{name: getattr(spec, name) for name in shared}, "reading": self.args.reading,
               "adapters": [system.path for _, system in self.systems], "eval_tasks": list(self.sets),
               "selected_on_test": spec.split == "test", "points": [], "ranking": [], **provenance()}
        new["warm_points"], refused = warm_points(spec.search, new)
        for reason in refused:
            log.warning("search.warm_start_sweeps: not used: %s", reason)
        return self.folder / time.strftime("sweep_%Y%m%d_%H%M%S.json"), new

    def key(self) -> str:
        """Of everything that decides what is found, but for the budget."""
        spec, args = self.spec, self.args
        contents = [[sha256_file(path) for path in content_files(system)] for _, system in self.systems]
        data = [DataDir.read(Path(args.data) / name / spec.split).fingerprint() for name in self.sets]
        search = {key: value for key, value in spec.search.items() if key != "budget"}
        model = [str(args.model), args.dtype, *(getattr(args, option) for option in CONTEXT_OPTIONS.values())]
        decided = [spec.method, spec.merge_mode, spec.method_params, spec.transforms, spec.lambda_policy, search]
        scored = [spec.split, spec.eval_subset, spec.constraint_nonnegative, args.reading, list(self.sets), data]
        told = {name: getattr(args, name) for name in TASK_OPTIONS if getattr(args, name, None) is not None}
        return fingerprint([decided, scored, contents, Options.of(args).deciding(), model, *([told] if told else [])])

    def search(self, path: Path, summary: dict):
        evaluation = self.evaluation()
        references = evaluation.references([system.path for _, system in self.systems])
        while (values := self.next(summary)) is not None:
            log.info("point %d of %d: %s", len(summary["points"]) + 1, self.searcher.size, values)
            summary["points"].append(self.score(values, evaluation, references))
            summary["ranking"] = rank({point["tag"]: point["interference_delta"] for point in summary["points"]})
            write_json(path, summary)
        if not self.args.keep_points:
            shutil.rmtree(self.folder / "points", ignore_errors=True)  # their locks

    def evaluation(self) -> Evaluation:
        args, data, split, subset = self.args, self.args.data, self.spec.split, self.spec.eval_subset
        if subset and subset["enabled"]:
            data, split = write_subsets(data, split, self.sets, subset, args.exp_dir)
        records = training_records([system for _, system in self.systems], args.exp_dir)
        model = model_from(args, records)
        configured(self.sets.values(), records, args)
        return Evaluation(model, self.sets, data, split, args.exp_dir, Options.of(args))

    def score(self, values: dict, evaluation: Evaluation, references) -> dict:
        """Merge, decode and score one point."""
        args, spec = self.args, self.spec.at(values)
        vector = self.prepared(spec).run(spec.threads)
        folder = self.folder / "points" / vector.details["tag"]
        save(vector, folder, as_="delta", base=spec.base)  # exact, and quicker than a LoRA of full rank
        [system] = find_systems([str(folder)], args.exp_dir)
        results = evaluation.compare([*references, system])
        entry = next(entry for entry in results["systems"] if entry["name"] == system.name)
        if not args.keep_points:
            shutil.rmtree(folder)
        deltas = {name: entry["interference_delta"][name].get(args.reading, {}).get("value") for name in self.sets}
        return {"values": values, "params": spec.method_params, "tag": system.name, "scores": entry["scores"],
                "interference_delta": deltas, "summary": entry["summary"][args.reading]}


def best_point(summary: dict) -> dict:
    """The point that the ranking puts first. SpeechMergeError where the search found none."""
    if not summary["ranking"]:
        raise SpeechMergeError(f"{summary['path']}: no point was scored")
    return next(point for point in summary["points"] if point["tag"] == summary["ranking"][0])
