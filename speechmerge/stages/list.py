"""speechmerge list methods | policies | transforms | learners | tasks | corpora | models | adapters: what there is."""
import inspect

HELP = "print the registered methods, policies, transforms, learners, tasks, corpora or model families, or the trained adapters"
REGISTRIES = {"methods": "speechmerge.merge:METHODS", "policies": "speechmerge.merge.registry:POLICIES",
              "transforms": "speechmerge.merge.registry:TRANSFORMS", "learners": "speechmerge.learn:LEARNERS", "tasks": "speechmerge.tasks:TASKS",
              "corpora": "speechmerge.corpora:CORPORA", "models": "speechmerge.models:FAMILIES",
              "classifiers": "speechmerge.route:CLASSIFIERS", "strategies": "speechmerge.route:STRATEGIES",
              "analyses": "speechmerge.analysis:ANALYSES"}


def add_arguments(parser):
    parser.add_argument("what", choices=[*REGISTRIES, "adapters"], help="what to list")
    parser.add_argument("--exp-dir", default="exp", help="where trained adapters are registered")


def run(args):
    if args.what == "adapters":
        return print_adapters(args.exp_dir)
    import importlib

    module, name = REGISTRIES[args.what].split(":")
    registry = getattr(importlib.import_module(module), name)
    for entry_name in registry.names():
        entry = registry.get(entry_name)
        print(f"{entry_name:<22} {first_line(entry)}{facts(entry)}")
        declared = getattr(entry, "declared", None)
        for parameter in declared() if declared else getattr(entry, "parameters", ()):
            print(f"{'':<24} {parameter}")


def facts(entry) -> str:
    """Of a task: its metric with the better direction, and the prompt that models without a token for it are given."""
    if not hasattr(entry, "higher_is_better"):
        return ""
    better = "higher" if entry.higher_is_better else "lower"
    prompt = f"; prompt: {entry.prompt!r}" if entry.prompt else ""
    return f"\n{'':<24} metric {entry.metric}, {better} is better{prompt}"


def first_line(entry) -> str:
    return (inspect.getdoc(entry) or "").split("\n")[0]


def print_adapters(exp_dir):
    from pathlib import Path

    from speechmerge.files import read_json

    adapters = read_json(Path(exp_dir) / "adapters.json")
    for name, entry in sorted(adapters.items()):
        print(f"{name:<22} task {entry['task']:<14} {entry['path']}")
