"""A part of each data set to search on, drawn once: data directories of their own below exp/subsets.

    root, split = write_subsets("data", "dev", {"kws": get_task("kws")}, {"max_samples": 200, ...}, "exp")

The split's name (`dev.sub1a2b3c4d`) follows from the settings, so that hypotheses and scores never mix with those of
the whole set. What is drawn depends on the ids and the seed alone: a copied recipe draws the same.
"""
import hashlib
from collections import defaultdict
from pathlib import Path

from speechmerge.data.directory import DataDir
from speechmerge.files import fingerprint, lock, read_json, write_json

RECORD = "subset.json"


def write_subsets(data_root, split: str, sets: dict, settings: dict, exp_dir) -> tuple[Path, str]:
    """(folder that holds <set>/<split>/, that split). `sets`: name -> Task; `settings`: `eval_subset` of a config."""
    root, name = Path(exp_dir) / "subsets", f"{split}.sub{fingerprint(settings)[:8]}"
    for set_name, task in sets.items():
        limit = settings["per_task"].get(set_name, settings)["max_samples"]
        write_subset(DataDir.read(Path(data_root) / set_name / split), task, limit, settings, root / set_name / name)
    return root, name


def write_subset(data: DataDir, task, limit: int | None, settings: dict, folder: Path):
    """At most `limit` examples of `data`; what is there already, drawn from the same data, is kept."""
    record = {"data": str(data.path), "fingerprint": data.fingerprint(), "limit": limit, "settings": settings}
    with lock(folder):
        if (folder / RECORD).is_file() and {**read_json(folder / RECORD), "ids": None} == {**record, "ids": None}:
            return
        ids = choose(task, task.examples(data), limit, settings)
        part(data, task, ids, folder).write()
        write_json(folder / RECORD, {**record, "ids": sorted(ids)})


def part(data: DataDir, task, ids: set[str], folder: Path) -> DataDir:
    """The data directory of these examples. All labels stay: rare ones may be missing in the part."""
    labels = data.labels or (task.labels(data) if task.kind == "classification" else None)
    trials = [trial for trial in data.trials if trial.id in ids] if task.kind == "verification" else None
    utterances = ids if trials is None else {id for trial in trials for id in (trial.enrol, trial.test)}
    return DataDir(folder, {id: data.utterances[id] for id in sorted(utterances)}, labels, trials)


def choose(task, examples, limit: int | None, settings: dict) -> set[str]:
    """The ids of the chosen examples. Stratified: by label; tasks without labels as they say, mostly by language."""
    if limit is None or len(examples) <= limit:
        return {example.id for example in examples}
    groups = defaultdict(list)
    for example in examples:
        groups[task.stratum(example) if settings["stratified"] else None].append(example.id)
    sizes = shares([len(group) for group in groups.values()], limit)
    ordered = [sorted(group, key=order(settings)) for group in groups.values()]
    return {id for group, size in zip(ordered, sizes) for id in group[:size]}


def order(settings: dict):
    """Sort key of ids: by a hash with the seed, or as they are."""
    if not settings["shuffle"]:
        return lambda id: id
    return lambda id: hashlib.sha256(f"{settings['seed']}\n{id}".encode()).digest()


def shares(counts: list[int], total: int) -> list[int]:
    """`total` split in proportion to `counts`, by largest remainders."""
    exact = [total * count / sum(counts) for count in counts]
    sizes = [int(share) for share in exact]
    for place in sorted(range(len(counts)), key=lambda i: (sizes[i] - exact[i], i))[:total - sum(sizes)]:
        sizes[place] += 1
    return sizes
