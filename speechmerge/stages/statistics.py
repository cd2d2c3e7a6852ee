"""speechmerge statistics --adapters asr kws --kind gram fisher --model egs/mini/base --data data --split train

Runs base + adapter over the adapter's own data and writes <adapter>/statistics/<kind>.{safetensors,json}, which the
merge methods fisher, regmean and regmean_plus_plus read; what is there and unchanged is kept. The data of adapter NAME
is DATA/NAME/SPLIT, or DATA/<its task>/SPLIT where there is none of its name.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, split_name

HELP = "measure adapters on their data for fisher and regmean merges: <adapter>/statistics/"


def add_arguments(parser):
    parser.add_argument("--adapters", nargs="+", action=CommaList, required=True,
                        help="folders, or names that `speechmerge list adapters` shows")
    parser.add_argument("--kind", nargs="+", action=CommaList,
                        help="gram (for regmean; the default), fisher, regmean_plus_plus (of exactly those that will be merged)")
    parser.add_argument("--merges", nargs="+", metavar="FILE", help="instead: the kinds that these merge configs need")
    parser.add_argument("--data", default="data", help="folder that holds <adapter or task>/<split>/")
    parser.add_argument("--split", type=split_name, default="train", help="train, or dev (validation)")
    parser.add_argument("--task", help="of all adapters; default: the one each was trained for")
    parser.add_argument("--max-examples", type=int, default=256, help="utterances of each, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--off-diagonal", type=float, default=0.9, help="of regmean_plus_plus, as for the merge")
    parser.add_argument("--memory-mb", type=int, default=4096,
                        help="for sums over the examples; what does not fit is collected in another pass")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    add_model_arguments(parser)
    parser.add_argument("--force", type=boolean, default=False, help="measure again what is there")


def run(args):
    from speechmerge.errors import UsageError
    from speechmerge.merge.statistics import KINDS

    kinds = args.kind or (kinds_of(args.merges) if args.merges else ["gram"])
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--kind {kind}: expected one of {', '.join(KINDS)}")
    if not kinds:
        return
    if args.split == "test":
        raise UsageError("--split test: what a merge is made of must not be seen in the test data; use train or dev")
    from speechmerge.models.options import configured, model_from
    from speechmerge.statistics import Options, Source, collect
    from speechmerge.systems import find_adapters, training_records

    options = Options(args.max_examples, args.seed, args.off_diagonal, args.memory_mb)
    systems = [system for _, system in find_adapters(args.adapters, args.exp_dir)]
    tasks = [adapter_task(system, args) for system in systems]
    data = [adapter_data(system, task, args) for system, task in zip(systems, tasks)]
    records = training_records(systems, args.exp_dir)
    model = model_from(args, records)
    for task in configured(tasks, records, args):
        task.adapt(model)
    sources = [Source(model, *each, args.split, options) for each in zip(systems, tasks, data)]
    for kind in kinds:
        for source, done in zip(sources, collect(sources, kind, options, args.force)):
            kept = "" if done == "made" else "already measured with the same inputs (--force true measures again), "
            print(f"{source.system.name}: {kept}{kind} of {len(source.batches)} examples in "
                  f"{source.system.path}/statistics")


def kinds_of(configs) -> list[str]:
    """What the methods of these merge configs must have measured; empty where they need nothing."""
    from speechmerge.config import read_yaml
    from speechmerge.merge.registry import METHODS

    methods = [METHODS.get(read_yaml(path).get("method", "uniform")) for path in configs]
    return sorted({method.kind for method in methods} - {None})


def adapter_task(system, args):
    from speechmerge.errors import UsageError
    from speechmerge.tasks import get_task

    if not (args.task or system.task):
        raise UsageError(f"--adapters {system.name}: nothing says which task it was trained for; give --task")
    return get_task(args.task or system.task)


def adapter_data(system, task, args):
    from pathlib import Path

    from speechmerge.data.directory import DataDir

    own = Path(args.data) / system.name / args.split
    return DataDir.read(own if own.is_dir() else Path(args.data) / task.name / args.split)
