"""speechmerge demo --exp-dir exp --data data [--systems base adapters routed] [--port 7860]

A page on this machine: record or upload speech and see what a router makes of it and what the base, adapters, merges and
routed systems answer, with the time of each.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, split_name
from speechmerge.stages.decode import add_task_arguments

HELP = "a local page: speak, and see routing, the answers of all systems and their times"


def add_arguments(parser):
    parser.add_argument("--systems", nargs="+", action=CommaList, default=["all"],
                        help="base, names out of exp/adapters.json, tags of merges, folders, adapters, merged, routed, all")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    parser.add_argument("--tasks", nargs="+", action=CommaList, default=[], help="or sets: DATA/<set>/<split>; default: the adapters'")
    parser.add_argument("--task", help="of all, where --tasks are sets (languages); default: that of the set's adapter")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/, for label sets and examples")
    parser.add_argument("--split", type=split_name, default="test", help="of the examples")
    parser.add_argument("--examples", type=int, default=5, help="utterances of each set to choose from; 0: none")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="longest sound, where the model could take longer ones")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0 is open to all who reach this machine")
    parser.add_argument("--port", type=int, help="default: 7860, or a free one where it is taken")
    parser.add_argument("--open", type=boolean, nargs="?", const=True, default=False, help="open the page in a browser")
    parser.add_argument("--keep-gb", type=float, default=4.0, help="memory for weights of adapters and merges beside the base's; "
                        "what does not fit is put in place anew for each sound")
    parser.add_argument("--num-beams", type=int, default=1, help="beam width; 1: greedy")
    add_model_arguments(parser)
    add_task_arguments(parser)


def run(args):
    from speechmerge.demo.page import Page, bind, import_gradio, serve, warmed
    from speechmerge.errors import UsageError

    if args.examples < 0 or args.max_seconds <= 0 or args.keep_gb < 0:
        raise UsageError("demo: --examples and --keep-gb are numbers from 0, --max-seconds is one above 0")
    import_gradio()  # before minutes of loading
    listening = bind(args.host, args.port)
    listener = load(args)
    warm_up = warmed(listener)
    print(f"loaded {len(listener.systems)} systems in {listener.loading:.1f} s, warm after {warm_up:.1f} s", flush=True)
    serve(Page(listener, warm_up, args.max_seconds), about(listener, args), args.host, args.port, args.open, listening)


def load(args):
    from speechmerge.demo.listener import Listener
    from speechmerge.demo.subjects import find_subjects, find_tasks
    from speechmerge.models.options import configured, model_from
    from speechmerge.systems import find_systems, training_records

    systems = find_systems(args.systems, args.exp_dir)
    tasks = find_tasks(args.tasks, args.task, args.exp_dir)
    records = training_records(systems, args.exp_dir)
    model = model_from(args, records)
    configured(tasks.values(), records, args)
    subjects = find_subjects(tasks, model, args.data, args.split, args.examples)
    keep = 0 if args.quantization else int(args.keep_gb * 2**30)  # packed weights cannot be exchanged like others
    return Listener(model, systems, subjects, args.exp_dir, args.num_beams, keep)


def about(listener, args) -> str:
    """One line on what is being listened with."""
    from collections import Counter
    from pathlib import Path

    counts = Counter(system.kind for system in listener.systems)
    words = {"adapter": "adapter", "merged": "merge", "routed": "routed system"}
    there = ", ".join(f"{counts[kind]} {word}{'s' * (counts[kind] > 1)}" for kind, word in words.items() if counts[kind])
    return (f"{Path(listener.model.source).name} on {listener.model.device}, {there or 'no adapters'} of "
            f"{Path(args.exp_dir).resolve().parent.name}/{Path(args.exp_dir).name}. Nothing leaves this machine.")
