"""speechmerge merge --adapters asr emotion --method ties --param k=20 --save lora --rank 16 [--dry-run]

Makes exp/merged/<method>/<task_combo>/runs/run_<time>/ with the merged weights and merge_metadata.json, or
--output-dir. A merge that is already there, of the same adapters with the same options, is used again. --save none keeps
the metadata alone: the merge is made in memory whenever it is decoded.
"""
import argparse

from speechmerge.merge.config.legacy import translate  # noqa: F401  the command line reads older configs through it
from speechmerge.merge.config.spec_options import add_arguments as add_spec_arguments
from speechmerge.merge.config.spec_options import spec_of
from speechmerge.options import boolean, mapping_or_value, split_name

HELP = "combine adapters or fine-tuned models of one base into one"


def add_arguments(parser):
    add_spec_arguments(parser)
    parser.add_argument("--dry-run", type=boolean, nargs="?", const=True, default=False,
                        help="print what would be done: tensors, ranks, coefficients, bytes, memory")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    parser.add_argument("--coefficients", metavar="FILE", help="coefficients.yaml of an earlier run that learned them")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/, where coefficients are learned")
    parser.add_argument(
        "--force", type=boolean, default=False, help="merge again although it was done with the same inputs"
    )
    parser.add_argument("--evaluate", type=boolean, nargs="?", const=True, default=False,
                        help="then decode and score it on the merged tasks")
    parser.add_argument("--eval-split", type=split_name, default="dev", help="validation or test")
    parser.add_argument("--eval-options", type=mapping_or_value, default={}, metavar="{KEY: VALUE, ...}",
                        help="more options of evaluate-merged, such as {data: data, audio-context: dynamic}")


def run(args):
    import logging

    from speechmerge.merge.config.spec import SEARCH_KEYS
    from speechmerge.systems import find_adapters

    spec = spec_of(args)
    spec.check_runnable("merge")
    if unused := spec.unused(SEARCH_KEYS):
        logging.info("%s: for merge-sweep, not used by merge", ", ".join(unused))
    systems = find_adapters(spec.adapters, args.exp_dir)
    spec = learned(spec, systems, args)
    merge = prepared(spec, systems)
    if args.dry_run:
        from speechmerge.merge.plan import printable

        print("\n".join(printable(merge.plan(spec.save, spec.rank))))
        return
    folder, kept = merged_folder(spec, merge, systems, args.exp_dir, args.force)
    print_merge(folder)
    if kept:
        print(f"already merged with the same adapters and options: {folder} (--force true merges again)")
    if args.evaluate:
        return evaluate(folder, spec, args)


def learned(spec, systems, args):
    """The spec with coefficients from --coefficients, or learned now where it has an optimizer that does."""
    from speechmerge.errors import UsageError
    from speechmerge.merge.config.spec import LEARNED

    if not args.coefficients and spec.optimizer["type"] not in LEARNED:
        return spec
    from speechmerge.learn.run import learn, with_coefficients

    if args.coefficients:
        return with_coefficients(spec, args.coefficients)
    if args.dry_run:
        raise UsageError(f"--dry-run: {spec.optimizer['type']} has to learn the coefficients first; run it without, or give them "
                         "with --coefficients FILE")
    return learn(spec, systems, args.exp_dir, args.data, args.device, args.force)


def prepared(spec, systems):
    """The merge of a spec: everything that can be refused without computing is refused here."""
    from speechmerge.merge.run import prepare

    return prepare([system.path for _, system in systems], names=[name for name, _ in systems], **spec.arguments())


def merged_folder(spec, merge, systems, exp_dir, force=False):
    """(folder of this merge, whether it was there before). Merges of the same adapters wait for
    each other, so that none is made twice."""
    import functools
    import shutil
    import time
    from pathlib import Path

    from speechmerge.done import NAME, is_done, step_key
    from speechmerge.files import disk_errors, lock
    from speechmerge.merge.tag import task_combo
    from speechmerge.systems import adapter_labels, content_files

    files = [path for _, system in systems for path in content_files(system)]
    options = {**spec.arguments(), "params": merge.rule.values, "save": spec.save, "rank": spec.rank,
               "statistics": merge.statistics(),
               "adapters": [(name, system.path) for name, system in systems]}
    merge.start_hashing()

    @functools.cache
    def key():  # reads all inputs, so not before it is needed
        return step_key(options, files)

    if spec.output_dir:
        runs, choices = Path(spec.output_dir).parent, [Path(spec.output_dir)]
    else:
        runs = Path(exp_dir) / "merged" / spec.method / task_combo(adapter_labels(systems)) / "runs"
        choices = sorted(runs.glob("run_*"), reverse=True)
    place = choices[0] if spec.output_dir else runs
    with disk_errors(place), lock(runs / f"{choices[0].name}.merge" if spec.output_dir else runs / "merge"):
        earlier = [] if force else [folder for folder in choices if (folder / NAME).is_file() and is_done(folder, key())]
        if earlier:
            return earlier[0], True
        if spec.output_dir:
            return make(spec, merge, choices[0], key), False
        for stale in runs.glob(".run_*.part"):  # of a merge that was killed; nobody else writes here under this lock
            shutil.rmtree(stale)
        folder = runs / time.strftime("run_%Y%m%d_%H%M%S")
        number = 2
        while folder.exists():
            folder, number = folder.with_name(f"{folder.name.split('-')[0]}-{number}"), number + 1
        return make(spec, merge, folder, key), False


def make(spec, merge, folder, key):
    """Compute and write it; `key()` is the key of the finished step."""
    import logging

    from speechmerge.done import mark_done
    from speechmerge.files import atomic_dir
    from speechmerge.memory import keep_memory
    from speechmerge.merge.save import check_options, check_target, write

    keep_memory()
    check_options(spec.save, spec.rank)
    for label, names in merge.left_out.items():
        logging.warning("%s: %d parameters are not changed by all adapters and stay as in the base, such as %s",
                        label, len(names), names[0])
    with atomic_dir(folder) as beside:
        check_target(folder)
        vector = merge.outcome() if spec.save == "none" else merge.run(spec.threads, spec.device)
        write(vector, beside, spec.save, spec.rank, spec.base, spec.threads, spec.device)
        mark_done(beside, key(), [path.name for path in beside.iterdir()])
    return folder


def print_merge(folder):
    from speechmerge.merge.save import read_metadata

    metadata = read_metadata(folder)
    print(f"{metadata['tag']}: {folder}")
    if metadata["saved_as"] == "lora":
        lost = 100 * metadata["error"]["relative_total"]
        print(f"adapter of rank {metadata['rank']}, lost in recompression: {lost:.4g} % (Frobenius)")


def evaluate(folder, spec, args):
    """The same as `speechmerge evaluate-merged --adapter-path FOLDER` with the base that the adapters name."""
    from speechmerge.errors import UsageError
    from speechmerge.merge.save import read_metadata
    from speechmerge.stages import evaluate_merged

    base = spec.base or read_metadata(folder)["base"]["source"]
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
