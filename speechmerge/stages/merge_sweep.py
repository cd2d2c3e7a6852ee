"""speechmerge merge-sweep --adapters asr kws --method weighted --grid lambda=0.2,0.5,0.8 --split validation
speechmerge merge-sweep --config conf/merge/weighted_delta_sweep_bayes.yaml --adapters asr kws
speechmerge merge-sweep --adapters asr kws --method auto --time-budget 1800 --save-merged true

Scores every point of a grid, or those that a Bayesian search proposes, on the validation split and ranks them by
max-min interference_delta: exp/merged/<method>/<task_combo>/sweeps/sweep_<time>.json. Killed, the same command goes on
where it was.
"""
from speechmerge.merge.config.legacy import translate  # noqa: F401  the command line reads older configs through it
from speechmerge.merge.config.spec_options import add_arguments as add_spec_arguments
from speechmerge.merge.config.spec_options import spec_of, words_of
from speechmerge.models.options import add_model_arguments
from speechmerge.options import boolean
from speechmerge.stages.decode import add_decode_arguments

HELP = "merge with many settings, of a grid or a search; score each on validation, rank them by the worst task"


def add_arguments(parser):
    add_spec_arguments(parser, method="task_vector", searching=True)
    parser.add_argument("--allow-test-selection", type=boolean, default=False,
                        help="let the test split decide, and say so in the result")
    parser.add_argument("--time-budget", type=float, default=600.0, help="seconds, of --method auto: tries the methods by itself")
    parser.add_argument("--reading", choices=("generation", "labels"), default="generation", help="which score decides")
    parser.add_argument("--keep-points", type=boolean, default=False, help="keep what says how each point was merged: a folder that --systems takes")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    add_model_arguments(parser)
    add_decode_arguments(parser)
    parser.add_argument("--force", type=boolean, default=False,
                        help="search again although it was done with the same inputs")


def run(args):
    if args.method == "auto":
        return run_auto(args)
    spec = spec_of(args)
    check(spec, args)
    from speechmerge.sweep import Sweep  # and torch, after everything that can be refused without

    summary = Sweep(spec, args).run()
    print_summary(summary)
    if spec.save_merged:
        from speechmerge.sweep import best_point

        save(spec.at(best_point(summary)["values"]), args)


def run_auto(args):
    """Every method with its default ranges, for as long as --time-budget allows."""
    from speechmerge.errors import UsageError

    if args.search or args.grid or args.search_type or args.param or args.method_params or args.lambda_policy:
        raise UsageError("--method auto: chooses method, parameters and search by itself; leave --search, --grid, --param and "
                         "--lambda-policy out, or name a method")
    args.method = "uniform"  # any: what is left of the spec counts
    spec = spec_of(args)
    check_split(spec, args)
    from speechmerge.auto import Auto

    auto = Auto(spec, args)
    table = auto.run()
    print_auto(table)
    if spec.save_merged:
        save(auto.best(table), args)


def print_auto(table: dict):
    from speechmerge.stages.score import aligned

    rows = [["method", "worst", "mean", "points", "values"]]
    for name in table["ranking"]:
        found = table["methods"][name]
        words = " ".join(f"{key}={value}" for key, value in found["values"].items())
        deltas = [found["summary"][key] for key in ("min", "mean")]
        rows.append([name, *("-" if value is None else f"{value:+.2f}" for value in deltas), str(found["points"]), words])
    print(f"interference_delta on {table['split']} by {table['reading']}, best first\n{aligned(rows)}")
    for name, reason in table["failed"].items():
        print(f"not tried: {name}: {reason}")
    print(f"written: {table['path']}")


def check(spec, args):
    """UsageError for a search that cannot be meant."""
    import logging

    from speechmerge.errors import UsageError
    from speechmerge.merge.config.spec import RESULT_KEYS

    if not spec.search:
        raise UsageError("search: nothing to search; give --grid lambda=0.2,0.5,0.8, or search in the config")
    check_split(spec, args)
    unused = spec.unused(RESULT_KEYS)
    if unused and not spec.save_merged:
        logging.info("merge-sweep: %s: for the best point, which is only made with --save-merged true",
                     ", ".join(unused))


def check_split(spec, args):
    from speechmerge.errors import UsageError

    if spec.split == "test" and not args.allow_test_selection:
        raise UsageError("merge-sweep: --split test would choose the parameters on the data that the final numbers "
                         "come from, and make them too good; search on validation (--allow-test-selection true does it all "
                         "the same and records it)")


def print_summary(summary: dict):
    from speechmerge.stages.score import aligned

    points = {point["tag"]: point for point in summary["points"]}
    rows = [["point", *summary["eval_tasks"], "worst", "mean"]]
    for tag in summary["ranking"]:
        point = points[tag]
        deltas = [point["interference_delta"].get(name) for name in summary["eval_tasks"]]
        values = [*deltas, point["summary"]["min"], point["summary"]["mean"]]
        words = " ".join(f"{name}={value}" for name, value in point["values"].items())
        rows.append([words, *("-" if value is None else f"{value:+.2f}" for value in values)])
    print(f"interference_delta on {summary['split']} by {summary['reading']}, best first\n{aligned(rows)}")
    unknown = [name for name in summary["eval_tasks"]
               if all(point["interference_delta"].get(name) is None for point in points.values())]
    if unknown:
        print(f"{', '.join(unknown)}: not compared, the order is that of the others: on {summary['split']} the own adapter gains "
              "no more than noise over the base (or is missing); use more utterances")
    print(f"written: {summary['path']}")


def save(best, args):
    """The best point, a spec without a search, as a run of `speechmerge merge`."""
    from speechmerge import cli
    from speechmerge.stages import merge

    merge.run(cli.parse("merge", merge, [*words_of(best), "--exp-dir", args.exp_dir]))
