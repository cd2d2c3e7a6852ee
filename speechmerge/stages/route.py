"""speechmerge route --router exp/router/languages --tasks hi it --data data --split test [--strategies "{soft: {}}"]

Decodes sets with a router and the adapters, every utterance with its own mix: exp/decode/<split>/<router>-<strategy>/<set>/,
with `routes` beside hyp. The systems are entered in exp/routed.json, so that decode, score and report know them.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, mapping_or_value, split_name
from speechmerge.stages.decode import add_decode_arguments, shard

HELP = "decode with a router: each utterance gets the adapters that a classifier on the base's encoder chooses"


def add_arguments(parser):
    parser.add_argument("--router", required=True, help="folder that train-router wrote")
    parser.add_argument("--strategies", type=mapping_or_value, default={}, help="{name: {option: value}} as for train-router; "
                        "default: those that are registered for this router")
    parser.add_argument("--adapters", type=mapping_or_value, default={}, help="{label: adapter}, where they are not called alike; default: "
                        "as this router's other systems")
    parser.add_argument("--base-labels", nargs="*", action=CommaList, default=[], help="labels without adapter: the base alone; "
                        "default likewise")
    parser.add_argument("--tasks", required=True, nargs="+", action=CommaList, help="or sets: DATA/<set>/<split>")
    parser.add_argument("--task", help="of all, where --tasks are sets (languages); default: that of the set's adapter")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/")
    parser.add_argument("--split", type=split_name, default="test", help="train, dev (validation) or test")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    add_model_arguments(parser)
    add_decode_arguments(parser)
    parser.add_argument("--bank-mb", type=int, help="of adapters in memory; the others are read when they are needed")
    parser.add_argument("--plots", type=int, default=0, help="pictures of the routing over time, of so many utterances per set")
    parser.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="the I-th share of N, from 1")
    parser.add_argument("--force", type=boolean, default=False, help="decode again what is there")


def run(args):
    from pathlib import Path

    from speechmerge.data.directory import DataDir
    from speechmerge.decode import Decoder, Options
    from speechmerge.models.options import configured, model_from
    from speechmerge.systems import find_systems, task_of, training_records

    systems = find_systems(chosen_systems(args), args.exp_dir)
    tasks = {name: task_of(name, args.task, args.exp_dir) for name in args.tasks}
    records = training_records(systems, args.exp_dir)
    model, options = model_from(args, records), Options.of(args)
    configured(tasks.values(), records, args)
    for name, task in tasks.items():
        data = DataDir.read(Path(args.data) / name / args.split)
        decoder = Decoder(model, task, data, args.split, args.exp_dir, options, args.shard, set_name=name)
        for system in systems:
            print(f"{decoder.folder(system)}: {decoder.decode(system, args.force)}{accuracy(decoder, system)}")
            if args.plots:
                draw(decoder, system, args.plots)


def chosen_systems(args) -> list[str]:
    """Names of the routed systems to decode, registered first where they are given."""
    from pathlib import Path

    from speechmerge.errors import UsageError
    from speechmerge.route.index import known_routings
    from speechmerge.route.systems import register

    router = Path(args.router)
    known = {name: entry for name, entry in known_routings(args.exp_dir).items() if Path(entry["router"]).resolve() == router.resolve()}
    if args.strategies:
        before = next(iter(known.values()), {})  # the adapters of a router's other systems, unless others are given
        adapters = args.adapters or before.get("adapters", {})
        return register(args.exp_dir, router, args.strategies, adapters, args.base_labels or before.get("base_labels", []))
    if not known:
        raise UsageError(f"--strategies is not given, and none is registered for {router} in {args.exp_dir}/routed.json")
    return list(known)


def accuracy(decoder, system) -> str:
    """How many utterances were routed to their own label, where these are known."""
    from speechmerge.route.router import Router
    from speechmerge.scoring import read_hypotheses

    path = decoder.folder(system) / "routes"
    if not path.is_file():
        return ""
    router = Router.load(system.routing["router"])
    truths = {id: decoder.truth(id, router.labels_from) for id in read_hypotheses(path)}
    if any(label not in router.labels for label in truths.values()):
        return ""
    right = sum(text.split()[0] == truths[id] for id, text in read_hypotheses(path).items())
    return f", {100 * right / len(truths):.1f} % routed to their own label"


def draw(decoder, system, count: int):
    """routes_<utterance>.png and .csv of the first utterances, beside hyp."""
    from speechmerge.files import atomic_file, write_text
    from speechmerge.report.timelines import timeline_plot
    from speechmerge.route.decode import Routed
    from speechmerge.route.timeline import parse_segments

    routed = Routed(decoder.model, system.routing)
    examples = decoder.examples[:count]
    for example, rows in zip(examples, routed.timelines(examples, decoder.cache)):
        truth = decoder.data.utterances[example.id].labels.get("segments", "")
        true = [(segment.start, segment.end, segment.label) for segment in parse_segments(truth, example.id)]
        plot = timeline_plot(f"routes_{example.id}", rows.numpy(), routed.router.labels, decoder.model.seconds(example), true)
        with atomic_file(decoder.folder(system) / f"{plot.name}.png", "wb") as file:
            file.write(plot.png)
        write_text(decoder.folder(system) / f"{plot.name}.csv", plot.csv())
