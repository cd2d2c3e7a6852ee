"""speechmerge merge-sweep --adapters asr kws --method weighted --search-type grid --grid lambda=0.2,0.5,0.8 --split validation

Scores every point of the grid on the validation split and ranks them by max-min interference_delta:
exp/merged/<method>/<task_combo>/sweeps/sweep_<time>.json. Killed, the same command goes on with the points that are missing.
"""
import argparse

from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, key_value, mapping_or_value, split_name
from speechmerge.stages.decode import add_decode_arguments

HELP = "merge with every setting of a grid, score each on the validation split, rank them by the worst task"


def grid_axis(text: str) -> tuple[str, list]:
    """`lambda=0.2,0.5` -> ("lambda", [0.2, 0.5])."""
    name, value = key_value(text if "[" in text else text.replace("=", "=[", 1) + "]")
    if not isinstance(value, list) or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=V1,V2,..., found {text!r}")
    return name, value


def add_arguments(parser):
    parser.add_argument("--adapters", nargs="+", action=CommaList, required=True, help="folders, or names of registered adapters")
    parser.add_argument("--method", default="task_vector", help="`speechmerge list methods` shows all with their parameters")
    parser.add_argument("--merge-mode", choices=("common", "strict"), default="common", help="as for merge")
    parser.add_argument("--method-params", type=mapping_or_value, default={}, metavar="{KEY: VALUE, ...}", help="what all points share")
    parser.add_argument("--search", type=mapping_or_value, default={}, metavar="{type: grid, grid: {KEY: [...]}}", help="the search, as in a config")
    parser.add_argument("--search-type", help="overrides search.type; grid is what there is")
    parser.add_argument("--grid", nargs="+", type=grid_axis, default=[], metavar="KEY=V1,V2,...", help="overrides search.grid")
    parser.add_argument("--constraint-nonnegative", type=boolean, default=False, help="refuse points with negative values")
    parser.add_argument("--eval-tasks", nargs="+", action=CommaList, help="tasks or sets to score; default: those of the adapters")
    parser.add_argument("--split", type=split_name, default="dev", help="split that decides: validation, or train")
    parser.add_argument("--allow-test-selection", type=boolean, default=False, help="let the test split decide, and say so in the result")
    parser.add_argument("--reading", choices=("generation", "labels"), default="generation", help="which score decides")
    parser.add_argument("--save-merged", type=boolean, default=False, help="make the best point a run, as `speechmerge merge` does")
    parser.add_argument("--keep-points", type=boolean, default=False, help="keep the weights of every point")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/")
    parser.add_argument("--base", help="as for merge")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    add_model_arguments(parser)
    add_decode_arguments(parser)
    parser.add_argument("--force", type=boolean, default=False, help="search again although it was done with the same inputs")


def run(args):
    from speechmerge.errors import UsageError

    if args.split == "test" and not args.allow_test_selection:
        raise UsageError("merge-sweep: --split test would choose the parameters on the data that the final numbers come from, and make "
                         "them too good; search on validation (--allow-test-selection true does it all the same and records it)")
    from speechmerge.sweep import Sweep

    summary = Sweep(args, grid_of(args)).run()
    print_summary(summary)
    if args.save_merged:
        save_best(summary, args)


def grid_of(args) -> dict[str, list]:
    """Parameter -> values, from --grid over search.grid. Raises UsageError for another search or an empty one."""
    from speechmerge.errors import UsageError

    search = args.search if isinstance(args.search, dict) else {}
    kind = args.search_type or search.get("type", "grid")
    if kind != "grid":
        raise UsageError(f"merge-sweep: search.type {kind!r} is not there yet; expected grid")
    unknown = set(search) - {"type", "grid"}
    if unknown:
        raise UsageError(f"merge-sweep: search.{sorted(unknown)[0]}: unknown key; known: search.type, search.grid")
    grid = dict(args.grid) or search.get("grid") or {}
    if not grid or not all(isinstance(values, list) and values for values in grid.values()):
        raise UsageError("merge-sweep: nothing to search; give --grid lambda=0.2,0.5,0.8, or search.grid in the config")
    negative = [(name, value) for name, values in grid.items() for value in values if isinstance(value, (int, float)) and value < 0]
    if args.constraint_nonnegative and negative:
        raise UsageError(f"merge-sweep: constraint_nonnegative, but the grid has {negative[0][0]}={negative[0][1]}")
    return grid


def print_summary(summary: dict):
    from speechmerge.stages.score import aligned

    points = {point["tag"]: point for point in summary["points"]}
    rows = [["point", *summary["eval_tasks"], "worst", "mean"]]
    for tag in summary["ranking"]:
        point = points[tag]
        deltas = [point["interference_delta"].get(name) for name in summary["eval_tasks"]]
        values = [*deltas, point["summary"]["min"], point["summary"]["mean"]]
        words = " ".join(f"{name}={value}" for name, value in point["params"].items())
        rows.append([words, *("-" if value is None else f"{value:+.2f}" for value in values)])
    print(f"interference_delta on {summary['split']} by {summary['reading']}, best first\n{aligned(rows)}")
    print(f"written: {summary['path']}")


def save_best(summary: dict, args):
    """The best point as a run of `speechmerge merge`."""
    from speechmerge.stages import merge

    best = next(point for point in summary["points"] if point["tag"] == summary["ranking"][0])
    parser = argparse.ArgumentParser()
    merge.add_arguments(parser)
    words = ["--adapters", *args.adapters, "--method", args.method, "--merge-mode", args.merge_mode, "--exp-dir", args.exp_dir]
    options = parser.parse_args(words + (["--base", args.base] if args.base else []))
    options.method_params = {**args.method_params, **best["params"]}
    merge.run(options)
