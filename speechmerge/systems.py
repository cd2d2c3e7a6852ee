"""What can be decoded: the base, adapters, merged models, routers over adapters. A system is a name and a folder.

exp/adapters.json lists adapters: {name: {"path": ..., "task": ...}}; merged models lie in exp/merged/*/*/runs/run_*/
with a merge_metadata.json that holds their tag; exp/routed.json lists routed systems (see route/index.py).
"""
from dataclasses import asdict, dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, update_json
from speechmerge.merge.read import our_notes
from speechmerge.registry import nearest
from speechmerge.route import index as routes
from speechmerge.tasks import TASKS, get_task

BASE = "base"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json", "delta.safetensors")

CONTENT = ("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "*config.json", "*.index.json", "delta.json")


@dataclass(frozen=True)
class System:
    name: str
    kind: str  # "base" | "adapter" | "merged" | "routed"
    path: str | None = None
    task: str | None = None  # of an adapter
    method: str | None = None  # of a merge; of a routed system its strategy
    params: dict | None = None
    routing: dict | None = None  # the router's folder, {label: folder of its adapter} and more, see route.systems.Routing

    def record(self) -> dict:
        return asdict(self)


def register_adapter(exp_dir, name: str, path, task: str):
    """Enter an adapter in exp/adapters.json, so that --adapters and --systems know it by its name."""
    update_json(Path(exp_dir) / "adapters.json", name, {"path": str(path), "task": task})


def known_adapters(exp_dir) -> dict[str, System]:
    index = Path(exp_dir) / "adapters.json"
    entries = read_json(index) if index.is_file() else {}
    return {name: System(name, "adapter", located(entry["path"], exp_dir), entry.get("task"))
            for name, entry in sorted(entries.items())}


def located(path: str, exp_dir) -> str:
    """Paths are as seen from the recipe's folder; from elsewhere they are looked up in the folders around the experiment."""
    around = [parent / path for parent in Path(exp_dir).absolute().parents]
    return str(next((place for place in (Path(path), *around) if place.exists()), path))


def known_merges(exp_dir) -> dict[str, System]:
    """Finished merges by tag; of several runs with one tag and one combination of tasks the latest. A tag that stands
    for several combinations is followed by the combination."""
    found: dict[tuple[str, str], System] = {}
    for path in sorted(Path(exp_dir).glob("merged/*/*/runs/run_*/merge_metadata.json")):
        folder, record = path.parent, read_json(path)
        if record.get("saved_as") != "none" and not any((folder / name).is_file() for name in WEIGHTS):
            continue
        combination, tag = folder.parent.parent.name, record.get("tag") or record["method"]
        found[tag, combination] = System(tag, "merged", str(folder), None, record["method"], record.get("params"))
    tags = [tag for tag, _ in found]
    named = {}
    for (tag, combination), system in found.items():
        name = tag if tags.count(tag) == 1 else f"{tag}@{combination}"
        named[name] = System(name, "merged", system.path, None, system.method, system.params)
    return named


def known_routed(exp_dir, names=("all",)) -> dict[str, System]:
    """Routed systems that `names` (with `all` and `routed`) ask for; SpeechMergeError where their adapters are gone."""
    adapters, found = {name: system.path for name, system in known_adapters(exp_dir).items()}, {}
    for name, entry in routes.known_routings(exp_dir).items():
        if not {name, "all", "routed"} & set(names):
            continue
        routing = routes.with_folders(entry, exp_dir, adapters)
        found[name] = System(name, "routed", routing["router"], None, entry["strategy"], entry["options"], routing)
    return found


def find_systems(names, exp_dir) -> list[System]:
    """`names`: base, names of adapters, tags of merges, names of routed systems, folders, `adapters`, `merged`, `routed`,
    `all`. Each once, in order."""
    adapters, merges, routed = known_adapters(exp_dir), known_merges(exp_dir), known_routed(exp_dir, names)
    base = System(BASE, "base")
    groups = {"all": [base, *adapters.values(), *merges.values(), *routed.values()], "adapters": list(adapters.values()),
              "merged": list(merges.values()), "routed": list(routed.values())}
    known = {BASE: base, **routed, **merges, **adapters}
    found = {}
    for name in names:
        chosen = groups[name] if name in groups else [known.get(name) or _folder(name, exp_dir)]
        found.update((system.name, system) for system in chosen)
    return list(found.values())


def _folder(name: str, exp_dir) -> System:
    path = Path(name)
    if not path.is_dir():
        known = [BASE, "all", *known_adapters(exp_dir), *known_merges(exp_dir), *routes.known_routings(exp_dir)]
        raise SpeechMergeError(f"system {name!r}: neither a folder nor known in {Path(exp_dir) / 'adapters.json'} or "
                               f"{Path(exp_dir) / 'merged'}; {nearest(name, known)}")
    for system in [*known_adapters(exp_dir).values(), *known_merges(exp_dir).values()]:
        if Path(system.path).resolve() == path.resolve():
            return system
    if (path / "merge_metadata.json").is_file():
        record = read_json(path / "merge_metadata.json")
        return System(record.get("tag") or path.name, "merged", str(path), None, record["method"], record.get("params"))
    return System(path.resolve().name, "adapter", str(path), our_notes(path)["task"])


def content_files(system: System) -> list[Path]:
    """The files that decide what a system computes."""
    if system.path is None:
        return []
    folder = Path(system.path)
    if system.kind == "routed":
        adapters = [System(label, "adapter", path) for label, path in sorted(system.routing["adapters"].items())]
        return [*routes.deciding_files(folder), *(file for adapter in adapters for file in content_files(adapter))]
    files = sorted(path for pattern in CONTENT for path in folder.glob(pattern))
    return files or [folder / "merge_metadata.json"]  # of a merge that is made in memory


def find_adapters(words, exp_dir) -> list[tuple[str | None, System]]:
    """[(name, System)]: folders or registered names in the order given. Unregistered folders have name None."""
    registered, found = known_adapters(exp_dir), []
    for word in words:
        for system in find_systems([word], exp_dir):
            if system.kind == "base":
                raise UsageError("--adapters: the base changes nothing; name adapters")
            if system.kind == "routed":
                raise UsageError(f"--adapters: {system.name} is no one set of weights; name adapters")
            named = system.name in registered and registered[system.name].path == system.path or system.kind == "merged"
            found.append((system.name if named else None, system))
    return found


def adapter_labels(systems) -> list[str]:
    """What the merged adapters are called in the name of their folder: registered name, else task, else folder."""
    return [name or system.task or system.name for name, system in systems]


def task_of(name: str, given: str | None, exp_dir):
    """The task of a set: as given, else of that name, else that of the adapter of that name."""
    adapter = known_adapters(exp_dir).get(name)
    return get_task(given or (adapter.task if adapter and name not in TASKS.names() else name))


def own_adapter(set_name: str, task: str, exp_dir) -> str | None:
    """The folder of the registered adapter of this set; where none has its name, of the only one of this task."""
    known = known_adapters(exp_dir)
    if set_name in known:
        return known[set_name].path
    paths = [system.path for system in known.values() if system.task == task]
    return paths[0] if len(paths) == 1 else None


def training_records(systems, exp_dir) -> list[dict]:
    """speechmerge.json of the adapters behind these systems; where there are none (the base), of all registered ones."""
    folders = [Path(path) for system in systems for path in _adapter_folders(system)]
    folders = folders or [Path(system.path) for system in known_adapters(exp_dir).values()]
    return [read_json(folder / "speechmerge.json") for folder in folders if (folder / "speechmerge.json").is_file()]


def _adapter_folders(system: System) -> list[str]:
    if system.kind == "routed":
        return list(system.routing["adapters"].values())
    if system.kind != "merged":
        return [system.path] if system.path else []
    return [adapter["path"] for adapter in read_json(Path(system.path) / "merge_metadata.json")["adapters"] if adapter["path"]]
