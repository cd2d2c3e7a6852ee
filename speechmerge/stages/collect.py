"""speechmerge collect --adapters ../mini/exp/kws/lora ../asterisk/exp/asr/it --exp-dir exp

Enters adapters of other recipes in exp/adapters.json, so that --adapters and --systems know them by name; before that it
reads each of them and checks that all belong to one base.
"""
from speechmerge.options import CommaList

HELP = "check adapters made elsewhere and enter them in exp/adapters.json"


def add_arguments(parser):
    parser.add_argument("--adapters", nargs="+", action=CommaList, required=True, help="folders")
    parser.add_argument("--names", nargs="+", action=CommaList, help="what to call them; default: their task, or folder where tasks repeat")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")


def run(args):
    from pathlib import Path

    from speechmerge.merge.base import common_base
    from speechmerge.merge.read import read
    from speechmerge.systems import known_adapters, register_adapter

    vectors = [read(path) for path in args.adapters]
    names = names_of(args, [vector.task for vector in vectors])
    for vector in vectors:
        vector.norm()  # reads every value, and refuses what is not finite
    base = common_base([vector.base for vector in vectors], args.adapters)
    known = known_adapters(args.exp_dir)
    for name, path in zip(names, args.adapters):
        check_free(name, path, known.get(name), Path(args.exp_dir) / "adapters.json")
    for name, path, vector in zip(names, args.adapters, vectors):
        register_adapter(args.exp_dir, name, path, vector.task)
        print(f"{name:<22} task {vector.task or 'unknown':<14} {path}")
    print(f"base of all: {base}")


def names_of(args, tasks) -> list[str]:
    """One name for each adapter. Raises UsageError where they are not as many as the adapters, or not different."""
    from pathlib import Path

    from speechmerge.errors import UsageError

    unique = {task for task in tasks if task and tasks.count(task) == 1}
    names = args.names or [task if task in unique else Path(path).resolve().name for task, path in zip(tasks, args.adapters)]
    if len(names) != len(args.adapters):
        raise UsageError(f"--names: found {len(names)}, expected {len(args.adapters)}, as many as --adapters")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two adapters would be called {name!r}: choose with --names")
    return names


def check_free(name, path, registered, index):
    """Raises SpeechMergeError where the name already stands for another adapter."""
    from pathlib import Path

    from speechmerge.errors import SpeechMergeError

    if registered and Path(registered.path).resolve() != Path(path).resolve():
        raise SpeechMergeError(f"{index}: {name!r} is {registered.path}, not {path}; choose another name with --names")
