"""A sweep: one merge per point of a search, scored on a validation split, ranked by its worst task.

The summary, exp/merged/<method>/<task_combo>/sweeps/sweep_<time>.json, is written after every point; an unfinished one
of the same adapters, search, split and data is gone on with, by any number of workers at once: start the same command
again. A larger budget goes on, too. No weights are written: a point is a mix in an adapter bank, or made in memory.
"""
import logging
import math
import shutil
import time
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.decode import Options
from speechmerge.errors import SpeechMergeError
from speechmerge.evaluation import own_sets
from speechmerge.files import fingerprint, lock, read_json, sha256_file
from speechmerge.merge.config.spec import MergeSpec
from speechmerge.merge.registry import METHODS
from speechmerge.merge.run import prepare
from speechmerge.merge.tag import task_combo
from speechmerge.models.options import CONTEXT_OPTIONS, TASK_OPTIONS
from speechmerge.provenance import provenance
from speechmerge.scorer import Scorer
from speechmerge.search import searcher, warm_points
from speechmerge.search.halving import at_rung, goes_on
from speechmerge.search.journal import DONE, STOPPED, Claim, Journal
from speechmerge.search.warm import worst
from speechmerge.systems import adapter_labels, content_files, find_adapters

log = logging.getLogger(__name__)


class Sweep:
    """`args`: what a spec does not hold: data, exp_dir, reading, keep_points, force, options of model and decoding."""

    def __init__(self, spec: MergeSpec, args, scorer: Scorer | None = None, deadline: float = math.inf):
        """scorer: of an earlier sweep of the same adapters on the same data; deadline: time.monotonic() after which no
        point is begun."""
        self.spec, self.args, self.deadline = spec, args, deadline
        self.systems = find_adapters(spec.adapters, args.exp_dir)
        self.labels = adapter_labels(self.systems)
        self.searcher = searcher(spec.search)
        self.check()
        names = [{"name": name or system.name, "task": system.task} for name, system in self.systems]
        self.sets = own_sets(names, args.exp_dir, spec.eval_tasks)
        self.scorer = scorer or Scorer(self.systems, self.sets, spec.split, spec.eval_subset, args)
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
            path, found = self.summary()
            journal = Journal(path, found)
        claim = journal.claim(self.searcher)
        if claim is None:
            log.info("%s: already searched with the same inputs (--force true searches again)", path)
        else:
            self.search(journal, claim)
        if others := journal.running():
            log.warning("%s: %d points are still being tried by other workers", path, others)
        return {**journal.read(), "path": str(path)}

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
        return self.unused(time.strftime("sweep_%Y%m%d_%H%M%S")), new

    def unused(self, stem: str) -> Path:
        """A name for a new summary: two sweeps of one second are two files, which sort in the order of their making."""
        path, number = self.folder / f"{stem}.json", 2
        while path.exists():
            path, number = self.folder / f"{stem}_{number}.json", number + 1
        return path

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

    def search(self, journal: Journal, claim: Claim | None):
        while claim is not None:
            log.info("point %d of %d: %s", claim.number + 1, self.searcher.size, claim.values)
            try:
                journal.finish(claim, self.climb(claim.values, journal))
            finally:
                claim.release()
            claim = journal.claim(self.searcher) if time.monotonic() < self.deadline else None
        if not (self.args.keep_points or journal.running()):
            shutil.rmtree(self.folder / "points", ignore_errors=True)  # metadata and locks

    def climb(self, values: dict, journal: Journal) -> dict:
        """Score one point, on parts of the data first where the search says so."""
        halving, rungs = self.spec.search.get("halving"), {}
        for rung in halving["rungs"] if halving else ():
            found = self.score(values, rung)
            rungs[str(rung)] = worst(found)
            others = at_rung(journal.read()["points"], rung)
            if not goes_on(rungs[str(rung)], others, halving["keep"]):
                return {**found, "state": STOPPED, "rungs": rungs}
        return {**self.score(values), "state": DONE, **({"rungs": rungs} if rungs else {})}

    def score(self, values: dict, share: float = 1.0) -> dict:
        """Merge, decode and score one point, on this share of the evaluation set."""
        spec = self.spec.at(values)
        found = self.scorer.score(self.prepared(spec), self.folder / "points", spec.base, share)
        return {"values": values, "params": spec.method_params, **found}


def best_point(summary: dict) -> dict:
    """The point that the ranking puts first. SpeechMergeError where the search found none."""
    if not summary["ranking"]:
        raise SpeechMergeError(f"{summary['path']}: no point was scored")
    return next(point for point in summary["points"] if point["tag"] == summary["ranking"][0])
