"""speechmerge evaluate-merged --adapter-path DIR | --method ties --tasks asr kws --run-id latest, --split test
speechmerge evaluate-merged --adapters asr kws --method ties --param k=10 --split test     in memory, no weights written

Decodes the merge, the base and the single adapters on the merged tasks (what is there is kept), prints the comparison and
writes eval_results_<split>.json beside the merge.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, key_value, split_name
from speechmerge.stages.decode import add_decode_arguments

HELP = "decode and score a saved merge against the base and the single adapters"


def add_arguments(parser):
    which = parser.add_argument_group("which merge")
    which.add_argument("--adapter-path", help="its folder, or its tag")
    which.add_argument("--adapters", nargs="+", action=CommaList,
                       help="or: merge these in memory by --method; only metadata and results are written")
    which.add_argument("--param", type=key_value, action="append", default=[], metavar="KEY=VALUE",
                       help="of the method, for --adapters; repeatable. Anything else (policies, transforms): merge --save none")
    which.add_argument("--method", help="or: the method of a saved merge ...")
    which.add_argument("--tasks", nargs="+", action=CommaList, help="... the adapters that were merged ...")
    which.add_argument("--run-id", default="latest", help="... and run_<time> below exp/merged/<method>/<tasks>/runs, or latest")
    parser.add_argument("--eval-tasks", nargs="+", action=CommaList, help="tasks or sets to evaluate on; default: those merged")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/")
    parser.add_argument("--split", type=split_name, default="test", help="test, validation or train")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    add_model_arguments(parser)
    add_decode_arguments(parser)
    parser.add_argument("--force", type=boolean, default=False, help="decode again what is there")


def run(args):
    from speechmerge.errors import UsageError
    from speechmerge.systems import find_systems

    if bool(args.adapter_path) == bool(args.method):
        raise UsageError("evaluate-merged: name the merge by --adapter-path DIR, by --method M --tasks A B --run-id latest, or "
                         "by --adapters A B --method M")
    folder = args.adapter_path or str(merge_in_memory(args) if args.adapters else find_run(args.exp_dir, args.method, args.tasks, args.run_id))
    [system] = find_systems([folder], args.exp_dir)
    if system.kind != "merged":
        raise UsageError(f"evaluate-merged: {folder} holds no merge_metadata.json; use `speechmerge evaluate` for {system.kind}s")
    print_comparison(compare(system, args), system)


def merge_in_memory(args):
    """The run bundle of a merge whose weights are made when it is decoded."""
    from speechmerge.merge.config.spec import MergeSpec
    from speechmerge.stages.merge import merged_folder, prepared
    from speechmerge.systems import find_adapters

    spec = MergeSpec.of({"adapters": args.adapters, "method": args.method, "method_params": dict(args.param), "save": "none"})
    spec.check_runnable("merge")
    systems = find_adapters(spec.adapters, args.exp_dir)
    folder, _ = merged_folder(spec, prepared(spec, systems), systems, args.exp_dir)
    return folder


def find_run(exp_dir, method: str, names, run_id: str):
    """The folder of a merge by method, merged adapters and run. Raises SpeechMergeError with what is there."""
    from pathlib import Path

    from speechmerge.errors import SpeechMergeError, UsageError
    from speechmerge.merge.save import METADATA
    from speechmerge.merge.tag import task_combo

    if not names:
        raise UsageError("evaluate-merged: --method needs --tasks, the adapters that were merged")
    runs = Path(exp_dir) / "merged" / method / task_combo(names) / "runs"
    finished = sorted(path.parent for path in runs.glob(f"run_*/{METADATA}"))
    chosen = finished[-1:] if run_id == "latest" else [run for run in finished if run.name == run_id]
    if not chosen:
        there = ", ".join(run.name for run in finished) or "no finished run"
        raise SpeechMergeError(f"{runs}: expected {run_id}, found {there}; make it with "
                               f"`speechmerge merge --adapters {' '.join(names)} --method {method}`")
    return chosen[0]


def compare(system, args) -> dict:
    """Results of base, single adapters and the merge on the tasks that were merged, or on --eval-tasks."""
    from speechmerge.decode import Options
    from speechmerge.evaluation import Evaluation, own_sets
    from speechmerge.merge.save import read_metadata
    from speechmerge.models.options import configured, model_from
    from speechmerge.systems import training_records

    adapters = read_metadata(system.path)["adapters"]
    sets = own_sets(adapters, args.exp_dir, args.eval_tasks)
    records = training_records([system], args.exp_dir)
    model = model_from(args, records)
    configured(sets.values(), records, args)
    evaluation = Evaluation(model, sets, args.data, args.split, args.exp_dir, Options.of(args))
    return evaluation.compare([*evaluation.references([adapter["path"] for adapter in adapters]), system], args.force)


def print_comparison(results: dict, system):
    from speechmerge.stages.score import print_tables

    print_tables(results)
    print(f"written: {system.path}/eval_results_{results['split']}.json")
