"""Scores of decoded hypotheses: score.json beside each hyp, and exp/scores_<split>.json over all systems and sets.

    results = score_split("exp", "test")
    results["systems"][3]["interference_delta"]["intent"]["generation"]    # {"value": -0.2, "reason": None, "ci": ...}

A set is a folder name below exp/decode/<split>/<system>/: mostly the task's name; where one task is scored on several
data directories (languages), one set each. Two readings: "generation" (what the model wrote) and "labels" (the label
with the highest mean token log-probability; for verification the trial scores, alone where they are cosines).
"""
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_json, write_text
from speechmerge.metrics import bootstrap
from speechmerge.metrics.interference import NO_GAIN, interference_delta, log_ratio, oriented, rank, summary
from speechmerge.provenance import provenance
from speechmerge.tasks import get_task

log = logging.getLogger(__name__)
READINGS = ("generation", "labels")
NO_SINGLE, NO_BASE = "no single adapter to compare with", "the base was not decoded"


@dataclass(frozen=True)
class Options:
    normaliser: str = "basic"
    repetitions: int = bootstrap.REPETITIONS
    seed: int = bootstrap.SEED
    sets: tuple[str, ...] | None = None  # only these
    systems: tuple[str, ...] | None = None  # only these
    data: str | None = None  # data directories are DATA/<set>/<split>; default: as decode.json says


@dataclass
class Decoded:
    """One system on one set, scored. `replicates[reading]`: the deciding metric on resampled test sets."""
    folder: Path
    record: dict  # decode.json
    score: dict = field(default_factory=dict)  # score.json
    replicates: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def set(self) -> str:
        return self.folder.name

    @property
    def system(self) -> dict:
        return self.record["system"]

    def u(self, reading: str) -> float:
        return oriented(self.score[reading]["value"], self.score["higher_is_better"])

    def u_replicates(self, reading: str) -> np.ndarray:
        return oriented(self.replicates[reading], self.score["higher_is_better"])


@dataclass(frozen=True)
class References:
    """What the hypotheses of one data directory are compared with."""
    task: object
    targets: dict[str, str]
    labels: list[str] | None
    speakers: dict[str, str]
    languages: dict[str, str]
    data: DataDir | None = None


class ReferenceCache:
    """Data directories are read once for all systems."""

    def __init__(self, normaliser: str = "basic"):
        self.normaliser, self.found = normaliser, {}

    def get(self, task_name: str, data_dir: str, settings: dict | None = None) -> References:
        """`settings`: of the task, as decode.json keeps them."""
        key = task_name, data_dir, str(settings)
        if key not in self.found:
            task = get_task(task_name).configure(**settings or {})
            if task.kind == "transcription":
                task.normaliser = self.normaliser
            data = DataDir.read(data_dir)
            examples = task.examples(data)
            self.found[key] = References(
                task, {e.id: e.target for e in examples}, task.labels(data),
                {e.id: e.speaker for e in examples if e.speaker}, {e.id: e.language for e in examples if e.language}, data)
        return self.found[key]


def read_hypotheses(path) -> dict[str, str]:
    """`id text` lines; the text may be empty."""
    rows = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise SpeechMergeError(f"{path}: not there; run `speechmerge decode` first") from error
    except UnicodeDecodeError as error:
        raise SpeechMergeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); write it again") from error
    for number, line in enumerate(lines, 1):
        id, _, text = line.rstrip("\r").replace("\t", " ", 1).partition(" ")
        if not id:
            if line.strip():
                raise SpeechMergeError(f"{path}:{number}: the line begins with white space, expected `id text`")
            continue
        if id in rows:
            raise SpeechMergeError(f"{path}:{number}:{id}: duplicate id; keep one line per utterance")
        rows[id] = text.strip()
    return rows


def read_scores(path) -> dict[str, float]:
    """`id number` lines."""
    found = {}
    for id, value in read_hypotheses(path).items():
        try:
            found[id] = float(value)
        except ValueError as error:
            raise SpeechMergeError(f"{path}: {id}: found {value!r}, expected a number") from error
    return found


def score_reading(references: References, hyps, scores, options: Options) -> tuple[dict, np.ndarray]:
    """(all metrics with the 95 % interval of the deciding one, its replicates)."""
    task, targets, speakers = references.task, references.targets, references.speakers
    found = task.score(targets, hyps, speakers=speakers, languages=references.languages, scores=scores,
                       labels=references.labels)
    replicates, unit = task.replicates(targets, hyps, speakers=speakers, languages=references.languages, scores=scores,
                                       repetitions=options.repetitions, seed=options.seed)
    return {**found, "ci": bootstrap.interval(replicates), "ci_unit": unit}, replicates


def other_intervals(references: References, hyps, scores, options: Options) -> dict[str, list[float]]:
    """95 % intervals of the metrics that do not decide, by name, on the same resampled sets."""
    task, targets = references.task, references.targets
    ids = task.scored_ids(targets, hyps)
    counts, _ = task.resampled(ids, references.speakers, options.repetitions, options.seed)
    found = task.more_replicates(targets, hyps, counts, languages=references.languages, scores=scores)
    return {name: bootstrap.interval(values) for name, values in found.items()}


def score_decoded(folder, options=Options(), cache: ReferenceCache | None = None) -> Decoded:
    """Score exp/decode/<split>/<system>/<set> and write its score.json."""
    folder = Path(folder)
    decoded = Decoded(folder, read_json(folder / "decode.json"))
    data = str(Path(options.data) / decoded.set / folder.parent.parent.name) if options.data else decoded.record["data"]
    settings = decoded.record.get("settings")
    references = (cache or ReferenceCache(options.normaliser)).get(decoded.record["task"], data, settings)
    readings = {reading: None for reading in READINGS}
    try:
        for reading, (hyps, scores) in read_readings(folder).items():
            readings[reading], decoded.replicates[reading] = score_reading(references, hyps, scores, options)
    except SpeechMergeError as error:
        raise SpeechMergeError(f"{folder}: {error}") from error
    if missing := (readings["generation"] or readings["labels"])["n_missing"]:
        log.warning("%s: %d of %d hypotheses are missing and count as errors", folder, missing, len(references.targets))
    task = references.task
    decoded.score = {"task": task.name, "set": decoded.set, "data": data, "key": decoded.record["key"],
                     "metric": task.metric, "higher_is_better": task.higher_is_better,
                     "n": len(references.targets), **readings}
    write_published(references, folder)
    write_json(folder / "score.json", decoded.score)
    return decoded


def write_published(references: References, folder: Path):
    """What the hypotheses are in the forms of others (Task.published): lines of JSON, or one object."""
    hyps = read_hypotheses(folder / "hyp") if (folder / "hyp").is_file() else {}
    for name, content in references.task.published(references.data, references.targets, hyps).items():
        if isinstance(content, list):
            write_text(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content))
        else:
            write_json(folder / name, content)


def read_readings(folder: Path) -> dict[str, tuple[dict, dict | None]]:
    """{reading: (hypotheses, verification scores or None)} of what a decode folder holds."""
    if (folder / "scores").is_file() and not (folder / "hyp").is_file() and not (folder / "hyp_labels").is_file():
        return {"labels": ({}, read_scores(folder / "scores"))}  # cosines: nothing was written
    found = {"generation": (read_hypotheses(folder / "hyp"), None)}
    if (folder / "hyp_labels").is_file():
        scores = read_scores(folder / "scores") if (folder / "scores").is_file() else None
        found["labels"] = (read_hypotheses(folder / "hyp_labels"), scores)
    return found


def score_split(exp_dir, split: str, options=Options()) -> dict:
    """Score everything that was decoded on a split and write exp/scores_<split>.json, which is also returned."""
    results = compare(exp_dir, split, options)
    write_json(Path(exp_dir) / f"scores_{split}.json", results)
    return results


def compare(exp_dir, split: str, options=Options(), scored: dict | None = None) -> dict:
    """Score what was decoded on a split and compare the systems.

    `scored` carries scores from one call to the next, {(folder, decode key): Decoded}, for callers that keep the options' data.
    Raises SpeechMergeError where nothing was decoded, hypotheses and data do not belong together, or bases differ.
    """
    cache = ReferenceCache(options.normaliser)
    folders = decoded_folders(Path(exp_dir), split, options.sets, options.systems)
    scored = {} if scored is None else scored
    keys = [(folder, read_json(folder / "decode.json")["key"]) for folder in folders]
    scored.update((key, score_decoded(key[0], options, cache)) for key in keys if key not in scored)
    decoded = [scored[key] for key in keys]
    base = one_base(decoded)
    table = {(item.folder.parent.name, item.set): item for item in decoded}
    systems = [system_entry(name, table) for name in system_order(decoded)]
    return {"split": split, "base": base, "tasks": sorted({item.set for item in decoded}), "systems": systems,
            "ranking": {reading: ranking(systems, reading) for reading in READINGS},
            "normaliser": options.normaliser, **provenance(seed=options.seed, repetitions=options.repetitions)}


def decoded_folders(exp_dir: Path, split: str, sets=None, systems=None) -> list[Path]:
    """The finished decode folders of a split. Raises SpeechMergeError where there are none of what was asked for."""
    folders = sorted(path.parent for path in (exp_dir / "decode" / split).glob("*/*/decode.json"))
    there = {folder.name for folder in folders}
    for name in [*(sets or ())] if folders else [split]:
        if name not in there:
            splits = sorted(path.name for path in (exp_dir / "decode").glob("*") if path.is_dir())
            raise SpeechMergeError(f"{exp_dir / 'decode' / split}: nothing decoded on {name!r} (sets here: "
                                   f"{', '.join(sorted(there)) or 'none'}; splits: {', '.join(splits) or 'none'}); "
                                   "run `speechmerge decode` first")
    chosen = [folder for folder in folders if not sets or folder.name in sets]
    chosen = [folder for folder in chosen if not systems or folder.parent.name in systems]
    if not chosen:
        raise SpeechMergeError(f"{exp_dir / 'decode' / split}: none of the systems {', '.join(systems)} was decoded "
                               "here; run `speechmerge decode` first")
    return chosen


def one_base(decoded: list[Decoded]) -> dict:
    """The base model behind all hypotheses; comparing over different ones would be meaningless."""
    seen = {item.record.get("model", {}).get("fingerprint"): item for item in decoded}
    if len(seen) > 1:
        first, second = list(seen.values())[:2]
        raise SpeechMergeError(f"{first.folder} and {second.folder} were decoded with different base models; "
                               "decode all systems again with one --model")
    return next(iter(seen.values())).record.get("model", {})


def system_order(decoded: list[Decoded]) -> list[str]:
    """Base, adapters, merges; by name within a kind."""
    kinds = {"base": 0, "adapter": 1, "merged": 2}
    found = {item.folder.parent.name: kinds.get(item.system["kind"], 3) for item in decoded}
    return sorted(found, key=lambda name: (found[name], name))


def system_entry(name: str, table: dict[tuple[str, str], Decoded]) -> dict:
    items = {item.set: item for (system, _), item in table.items() if system == name}
    record = next(iter(items.values())).system
    entry = {"name": name, **{key: record.get(key) for key in ("kind", "task", "method", "params", "path")}}
    entry["params"] = entry["params"] or {}
    entry["adapters"] = merged_adapters(entry, record.get("routing"))
    entry["own_sets"] = own_sets(entry, items, table)
    entry["scores"] = {s: {r: item.score[r] and item.score[r]["value"] for r in READINGS} for s, item in items.items()}
    entry["interference_delta"] = {s: {r: delta_entry(item, entry, table, r) for r in READINGS if item.score[r]}
                                   for s, item in items.items()}
    entry["summary"] = {r: summary(own_deltas(entry, r)) for r in READINGS}
    return entry


def merged_adapters(entry: dict, routing: dict | None = None) -> list[dict]:
    """The adapters that went into a merged system, as its metadata lists them: [{"path", "task", ...}]; of a routed one
    those that it chooses from."""
    if entry["kind"] == "routed":
        return [{"path": path, "task": None} for path in (routing or {}).get("adapters", {}).values()]
    metadata = Path(entry["path"] or "") / "merge_metadata.json"
    return read_json(metadata).get("adapters", []) if entry["kind"] == "merged" and metadata.is_file() else []


def adapter_paths(entry: dict) -> set[Path]:
    return {Path(adapter["path"]).resolve() for adapter in entry["adapters"] if adapter.get("path")}


def is_from(item: Decoded, paths: set[Path]) -> bool:
    return bool(item.system.get("path")) and Path(item.system["path"]).resolve() in paths


def fits(system: dict, item: Decoded) -> bool:
    """Is this adapter the single-task reference of the item's set? Its name or its task is the set's."""
    of_its_task = system.get("task") == item.set == item.record["task"]
    return system["kind"] == "adapter" and (system["name"] == item.set or of_its_task)


def single_adapter(entry: dict, item: Decoded, table) -> Decoded | None:
    """The adapter whose gain is the measure: itself, one that went into the merge, or the one named as the set."""
    if fits(entry, item):
        return item
    paths = adapter_paths(entry)
    fitting = [other for (_, s), other in table.items() if s == item.set and fits(other.system, other)]
    return min(fitting, default=None, key=lambda other: (
        not is_from(other, paths), other.system["name"] != item.set, other.system["name"]))


def delta_entry(item: Decoded, entry: dict, table, reading: str) -> dict:
    """interference_delta of one system on one set with a paired 95 % interval; reason None where it is defined."""
    single = single_adapter(entry, item, table)
    base = next((other for (_, s), other in table.items() if s == item.set and other.system["kind"] == "base"), None)
    if base is None or not base.score[reading]:
        return {"value": None, "reason": NO_BASE}
    if single is None or not single.score[reading]:
        return {"value": None, "reason": NO_SINGLE}
    gains = single.u_replicates(reading) - base.u_replicates(reading)
    se_gain = bootstrap.standard_error(gains)
    value, status = interference_delta(item.u(reading), single.u(reading), base.u(reading), se_gain)
    found = {"value": value, "reason": None if status == "ok" else status, "single": single.system["name"],
             "gain": single.u(reading) - base.u(reading), "se_gain": se_gain}
    if status == NO_GAIN:
        values = (item.score[reading]["value"], single.score[reading]["value"])
        return {**found, "log_ratio": log_ratio(*values, item.score["higher_is_better"])}
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = (item.u_replicates(reading) - single.u_replicates(reading)) / gains
    return {**found, "ci": bootstrap.interval(replicates[np.isfinite(replicates)])}


def own_sets(entry: dict, items: dict[str, Decoded], table) -> list[str]:
    """The sets a system was made for: an adapter its own; a merge those of its adapters (all if unknown)."""
    if entry["kind"] == "adapter":
        return sorted(s for s, item in items.items() if fits(entry, item))
    paths = adapter_paths(entry)
    adapters = [item for item in table.values() if item.system["kind"] == "adapter"]
    names = {item.system["name"] for item in adapters if is_from(item, paths)}
    names |= {adapter.get("task") for adapter in entry["adapters"]}
    return sorted(s for s in items if s in names) or sorted(items)


def own_deltas(entry: dict, reading: str) -> dict[str, float | None]:
    return {s: entry["interference_delta"][s].get(reading, {}).get("value") for s in entry["own_sets"]}


def ranking(systems: list[dict], reading: str) -> list[str]:
    """Merged systems of the same own sets compete; those of more sets come first, since fewer are easier to keep."""
    groups: dict[tuple, dict] = {}
    for entry in systems:
        deltas = own_deltas(entry, reading)
        if entry["kind"] == "merged" and any(delta is not None for delta in deltas.values()):
            groups.setdefault(tuple(entry["own_sets"]), {})[entry["name"]] = deltas
    ordered = sorted(groups, key=lambda sets: (-len(sets), sets))
    return [name for sets in ordered for name in rank(groups[sets])]
