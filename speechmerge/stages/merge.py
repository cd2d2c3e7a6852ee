"""speechmerge merge --adapters asr emotion --method ties --param k=20 --save lora --rank 16

Makes exp/merged/<method>/<task_combo>/runs/run_<time>/ with the merged weights and merge_metadata.json, or
--output-dir. A merge that is already there, of the same adapters with the same options, is used again.
"""
import argparse

from speechmerge.options import CommaList, boolean, key_value, mapping_or_value, split_name

HELP = "combine adapters or fine-tuned models of one base into one"


def add_arguments(parser):
    parser.add_argument("--adapters", nargs="+", action=CommaList, required=True,
                        help="folders, or names that `speechmerge list adapters` shows")
    parser.add_argument(
        "--method", default="uniform", help="`speechmerge list methods` shows all with their parameters"
    )
    parser.add_argument("--lambda", type=float, dest="lambda", help="the method's parameter lambda")
    parser.add_argument("--param", type=key_value, action="append", default=[], metavar="KEY=VALUE",
                        help="a parameter of the method; repeatable")
    parser.add_argument("--method-params", type=mapping_or_value, default={}, metavar="{KEY: VALUE, ...}",
                        help="several at once, as in a config")
    parser.add_argument("--merge-mode", choices=("common", "strict"), default="common",
                        help="parameters that not all adapters change: leave them as in the base, or refuse to merge")
    parser.add_argument(
        "--base", help="folder of the base model; needed for DoRA, full models and --save full where it cannot be found"
    )
    parser.add_argument(
        "--save", choices=("lora", "full", "delta"), default="lora", help="a PEFT adapter, a whole model, or the deltas"
    )
    parser.add_argument(
        "--rank", type=int, help="largest rank of the adapter; what it loses is reported. Default: as much as is needed"
    )
    parser.add_argument("--output-dir", help="default: exp/merged/<method>/<task_combo>/runs/run_<time>")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    parser.add_argument(
        "--force", type=boolean, default=False, help="merge again although it was done with the same inputs"
    )
    parser.add_argument("--evaluate", type=boolean, nargs="?", const=True, default=False,
                        help="then decode and score it on the merged tasks")
    parser.add_argument("--eval-split", type=split_name, default="dev", help="validation or test")
    parser.add_argument("--eval-options", type=mapping_or_value, default={}, metavar="{KEY: VALUE, ...}",
                        help="more options of evaluate-merged, such as {data: data, audio-context: dynamic}")


def run(args):
    from speechmerge.errors import UsageError
    from speechmerge.merge.registry import METHODS
    from speechmerge.systems import adapter_labels, find_adapters

    if args.rank is not None and (args.save != "lora" or args.rank < 1):
        raise UsageError(
            f"--rank: found {args.rank} with --save {args.save}, expected a positive number with --save lora"
        )
    systems = find_adapters(args.adapters, args.exp_dir)
    values = METHODS.get(args.method)(args.method, adapter_labels(systems), method_params(args)).values
    folder, kept = merged_folder(args, systems, values)
    print_merge(folder)
    if kept:
        print(f"already merged with the same adapters and options: {folder} (--force true merges again)")
    if args.evaluate:
        return evaluate(folder, args)


def method_params(args) -> dict:
    """The method's parameters from --method-params, --param and --lambda; later ones win."""
    from speechmerge.errors import UsageError

    if not isinstance(args.method_params, dict):
        raise UsageError(
            f"--method-params: found {args.method_params!r}, expected a mapping such as {{k: 20, lambda: 1.0}}"
        )
    given = {**args.method_params, **dict(args.param)}
    return given if getattr(args, "lambda") is None else {**given, "lambda": getattr(args, "lambda")}


def merged_folder(args, systems, values):
    """(folder of this merge, whether it was there before). Merges of the same adapters wait for
    each other, so that none is made twice."""
    import shutil
    import time
    from pathlib import Path

    from speechmerge.done import is_done, step_key
    from speechmerge.files import lock
    from speechmerge.merge.tag import task_combo
    from speechmerge.systems import adapter_labels, content_files

    files = [path for _, system in systems for path in content_files(system)]
    options = {"method": args.method, "params": values, "mode": args.merge_mode, "save": args.save, "rank": args.rank,
               "base": args.base, "adapters": [(name, system.path) for name, system in systems]}
    key = step_key(options, files)
    if args.output_dir:
        runs, choices = Path(args.output_dir).parent, [Path(args.output_dir)]
    else:
        runs = Path(args.exp_dir) / "merged" / args.method / task_combo(adapter_labels(systems)) / "runs"
        choices = sorted(runs.glob("run_*"), reverse=True)
    with lock(runs / "merge" if not args.output_dir else runs / f"{choices[0].name}.merge"):
        earlier = [] if args.force else [folder for folder in choices if is_done(folder, key)]
        if earlier:
            return earlier[0], True
        if args.output_dir:
            return make(args, systems, values, choices[0], key), False
        for stale in runs.glob(".run_*.part"):  # of a merge that was killed; nobody else writes here under this lock
            shutil.rmtree(stale)
        folder = runs / time.strftime("run_%Y%m%d_%H%M%S")
        number = 2
        while folder.exists():
            folder, number = folder.with_name(f"{folder.name.split('-')[0]}-{number}"), number + 1
        return make(args, systems, values, folder, key), False


def make(args, systems, values, folder, key):
    import logging

    from speechmerge.done import mark_done
    from speechmerge.files import atomic_dir
    from speechmerge.merge.run import merge
    from speechmerge.merge.save import check_target, write

    given = {parameter: value for parameter, value in values.items() if value is not None}
    merged = merge(
        [system.path for _, system in systems],
        method=args.method,
        base=args.base,
        merge_mode=args.merge_mode,
        names=[name for name, _ in systems],
        **given,
    )
    for label, names in merged.details["left_out"].items():
        logging.warning("%s: %d parameters are not changed by all adapters and stay as in the base, such as %s",
                        label, len(names), names[0])
    with atomic_dir(folder) as beside:
        check_target(folder)
        write(merged, beside, args.save, args.rank, args.base)
        mark_done(beside, key, [path.name for path in beside.iterdir()])
    return folder


def print_merge(folder):
    from speechmerge.merge.save import read_metadata

    metadata = read_metadata(folder)
    print(f"{metadata['tag']}: {folder}")
    if metadata["saved_as"] == "lora":
        lost = 100 * metadata["error"]["relative_total"]
        print(f"adapter of rank {metadata['rank']}, lost in recompression: {lost:.4g} % (Frobenius)")


def evaluate(folder, args):
    """The same as `speechmerge evaluate-merged --adapter-path FOLDER` with the base that the adapters name."""
    from speechmerge.errors import UsageError
    from speechmerge.merge.save import read_metadata
    from speechmerge.stages import evaluate_merged

    base = args.base or read_metadata(folder)["base"]["source"]
    words = ["--adapter-path", str(folder), "--split", args.eval_split, "--exp-dir", args.exp_dir, "--model", str(base)]
    for key, value in args.eval_options.items():
        words += [f"--{key}".replace("_", "-"), *map(str, value if isinstance(value, list) else [value])]
    parser = argparse.ArgumentParser(prog="speechmerge evaluate-merged", allow_abbrev=False, exit_on_error=False)
    evaluate_merged.add_arguments(parser)
    try:
        options, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(f"--eval-options: {error}") from error
    if unknown:
        raise UsageError(
            f"--eval-options: unexpected {unknown[0]!r}; `speechmerge evaluate-merged --help` lists the options"
        )
    return evaluate_merged.run(options)
