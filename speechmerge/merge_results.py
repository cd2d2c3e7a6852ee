"""What is known of a merge, beside it: results per run, per split, per task, and an append-only index.

    exp/merged/<method>/<task_combo>/runs/run_<time>/eval_results_<split>.json
    exp/merged/<method>/<task_combo>/eval/<split>/eval_results_<tag>_<split>.json
    exp/merged/<method>/<task_combo>/eval/<split>/per_task/<task>/<task>_<tag>_metrics.json
    exp/merged/<method>/<task_combo>/eval/index.json                              every evaluation there was
    exp/<task>/metrics/eval/<split>/merged/<other_tasks>/<tag>/metrics.json       link to the per-task file
"""
import os
from pathlib import Path

from speechmerge.files import append_index, read_json, write_json

INDEXED = ("tag", "method", "params", "split", "run", "summary", "results", "date")


def write_merge_results(exp_dir, results: dict):
    """Distribute exp/scores_<split>.json to the merges. One that lies outside exp/merged gets only the first file."""
    for entry in results["systems"]:
        if entry["kind"] == "merged" and entry["path"] and Path(entry["path"]).is_dir():
            write_one(Path(exp_dir), entry, results)


def write_one(exp_dir: Path, entry: dict, results: dict):
    run, split, tag = Path(entry["path"]), results["split"], entry["name"]
    found = {
        "tag": tag, "method": entry["method"], "params": entry["params"], "split": split, "run": run.name,
        **{key: entry[key] for key in ("adapters", "own_sets", "summary")}, "base": results["base"],
        "results": {s: {key: entry[key][s] for key in ("scores", "interference_delta")} for s in entry["scores"]},
        **{key: results[key] for key in ("command", "date", "commit", "versions")},
    }
    write_json(run / f"eval_results_{split}.json", found)
    if run.parent.name != "runs" or exp_dir.resolve() not in run.resolve().parents:
        return
    combination = run.parent.parent
    write_json(combination / "eval" / split / f"eval_results_{tag}_{split}.json", found)
    for name in entry["scores"]:
        write_task(exp_dir, combination, found, name)
    enter_in_index(combination / "eval" / "index.json", found)


def enter_in_index(index: Path, found: dict):
    """Append, unless the last evaluation of this merge on this split had the same results."""
    earlier = read_json(index) if index.is_file() else []
    same = [entry for entry in earlier if (entry["tag"], entry["split"]) == (found["tag"], found["split"])]
    if not same or any(same[-1][key] != found[key] for key in ("run", "results")):
        append_index(index, {key: found[key] for key in INDEXED})


def write_task(exp_dir: Path, combination: Path, found: dict, name: str):
    """The full metrics of one task, and the link from the task's own folder."""
    tag, split = found["tag"], found["split"]
    score = read_json(exp_dir / "decode" / split / tag / name / "score.json")
    file = combination / "eval" / split / "per_task" / name / f"{name}_{tag}_metrics.json"
    deltas = found["results"][name]["interference_delta"]
    write_json(file, {**score, "interference_delta": deltas, "tag": tag, "run": found["run"]})
    others = [other for other in found["own_sets"] if other != name]
    link = exp_dir / name / "metrics" / "eval" / split / "merged" / ("_".join(others) or "none") / tag / "metrics.json"
    make_link(link, file)


def make_link(link: Path, target: Path):
    """A relative link, so that exp/ can be moved; replaced atomically."""
    link.parent.mkdir(parents=True, exist_ok=True)
    beside = link.with_name(f".{link.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
    os.replace(beside, link)
