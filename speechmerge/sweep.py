"""A sweep: one merge per point of a grid, scored on a validation split, ranked by its worst task.

The summary, exp/merged/<method>/<task_combo>/sweeps/sweep_<time>.json, is written after every point; an unfinished one of
the same adapters, grid, split and data is gone on with.
"""
import itertools
import logging
import shutil
import time
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.decode import Options
from speechmerge.evaluation import Evaluation, own_sets
from speechmerge.files import fingerprint, lock, read_json, sha256_file, write_json
from speechmerge.merge.registry import METHODS
from speechmerge.merge.run import merge
from speechmerge.merge.save import save
from speechmerge.merge.tag import task_combo
from speechmerge.metrics.interference import rank
from speechmerge.models.options import model_from
from speechmerge.provenance import provenance
from speechmerge.systems import adapter_labels, content_files, find_adapters, find_systems, training_records

log = logging.getLogger(__name__)


class Sweep:
    def __init__(self, args, grid: dict[str, list]):
        self.args, self.grid = args, grid
        self.systems = find_adapters(args.adapters, args.exp_dir)
        for params in self.points():  # all refused before the first is tried
            METHODS.get(args.method)(args.method, adapter_labels(self.systems), params)
        self.sets = own_sets([{"name": name or system.name, "task": system.task} for name, system in self.systems], args.exp_dir,
                             args.eval_tasks)
        self.folder = Path(args.exp_dir) / "merged" / args.method / task_combo(adapter_labels(self.systems)) / "sweeps"

    def points(self) -> list[dict]:
        """Every combination of the grid's values over what all points share."""
        rows = itertools.product(*self.grid.values())
        return [{**self.args.method_params, **dict(zip(self.grid, row))} for row in rows]

    def run(self) -> dict:
        with lock(self.folder / "sweep"):
            path, summary = self.summary()
            missing = [params for params in self.points() if params not in [point["params"] for point in summary["points"]]]
            if missing:
                self.search(missing, path, summary)
            else:
                log.info("%s: already searched with the same inputs (--force true searches again)", path)
        return {**summary, "path": str(path)}

    def summary(self) -> tuple[Path, dict]:
        """The summary of an earlier sweep with the same key, or a new one."""
        args, key = self.args, self.key()
        for path in [] if args.force else sorted(self.folder.glob("sweep_*.json"), reverse=True):
            found = read_json(path)
            if found["key"] == key:
                return path, found
        path = self.folder / time.strftime("sweep_%Y%m%d_%H%M%S.json")
        return path, {"key": key, "method": args.method, "merge_mode": args.merge_mode, "split": args.split, "reading": args.reading,
                      "adapters": [system.path for _, system in self.systems], "eval_tasks": list(self.sets),
                      "constraint_nonnegative": args.constraint_nonnegative, "search": {"type": "grid", "grid": self.grid},
                      "selected_on_test": args.split == "test", "points": [], "ranking": [], **provenance()}

    def key(self) -> str:
        args = self.args
        contents = [[sha256_file(path) for path in content_files(system)] for _, system in self.systems]
        data = [DataDir.read(Path(args.data) / name / args.split).fingerprint() for name in self.sets]
        return fingerprint([args.method, args.merge_mode, args.method_params, self.grid, args.split, args.reading, list(self.sets), data,
                            args.constraint_nonnegative, contents, Options.of(args).deciding(), str(args.model)])

    def search(self, missing, path: Path, summary: dict):
        args = self.args
        model = model_from(args, training_records([system for _, system in self.systems], args.exp_dir))
        evaluation = Evaluation(model, self.sets, args.data, args.split, args.exp_dir, Options.of(args))
        references = evaluation.references([system.path for _, system in self.systems])
        for number, params in enumerate(missing, 1):
            log.info("point %d of %d: %s", number, len(missing), params)
            summary["points"].append(self.score(params, evaluation, references))
            summary["ranking"] = rank({point["tag"]: point["interference_delta"] for point in summary["points"]})
            write_json(path, summary)
        if not args.keep_points:
            shutil.rmtree(self.folder / "points", ignore_errors=True)  # their locks

    def score(self, params: dict, evaluation: Evaluation, references) -> dict:
        """Merge, decode and score one point."""
        args = self.args
        vector = merge([system.path for _, system in self.systems], method=args.method, base=args.base, merge_mode=args.merge_mode,
                       names=[name for name, _ in self.systems], **params)
        folder = self.folder / "points" / vector.details["tag"]
        save(vector, folder, as_="delta", base=args.base)  # exact, and quicker than a LoRA of full rank
        [system] = find_systems([str(folder)], args.exp_dir)
        results = evaluation.compare([*references, system])
        entry = next(entry for entry in results["systems"] if entry["name"] == system.name)
        if not args.keep_points:
            shutil.rmtree(folder)
        deltas = {name: entry["interference_delta"][name].get(args.reading, {}).get("value") for name in self.sets}
        return {"params": params, "tag": system.name, "scores": entry["scores"], "interference_delta": deltas,
                "summary": entry["summary"][args.reading]}
