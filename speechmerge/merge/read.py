"""Adapters and models from disk to task vectors: from the headers of their files alone, tensors follow when they are used.

A LoRA is read from its own files, without its base.
What a folder is, is seen from what is in it: `adapter_config.json` (PEFT), `delta.json` (our own deltas), or the
weights of a full fine-tuned model, which need `base`. Whatever would change the meaning of the numbers and is not
handled is refused by name.
"""
import math
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_mapping
from speechmerge.hashes import ContentHash
from speechmerge.merge.base import Base, given_base
from speechmerge.merge.delta import Delta, Difference, LowRank, Stored, floats
from speechmerge.merge.task_vector import TaskVector
from speechmerge.storage.checkpoint import Checkpoint, is_weights, resolve_model_dir
from speechmerge.storage.safetensors_file import FLOATS, read_header


def read(source, base=None, name=None) -> TaskVector:
    """The task vector of a folder (or a TaskVector as it is).

    `base`: folder or cached hub id of the base model; needed only for DoRA, fully saved modules, trained biases and
    full fine-tuned models, and where given the vector must belong to it. `name`: what to call it.
    """
    if isinstance(source, TaskVector):
        vector = source
    else:
        folder = Path(source).expanduser()
        if not folder.is_dir() and not is_weights(folder):
            raise SpeechMergeError(
                f"adapter {source}: no such folder; `speechmerge list adapters` shows the registered ones"
            )
        vector = _reader(folder)(folder, base)
    if base is not None:
        known = given_base(base, resolve_model_dir(base), vector.base, vector.origin or vector.label)
        vector = TaskVector(**{**vars(vector), "base": known})
    return TaskVector(**{**vars(vector), "details": {**vector.details, "name": name}}) if name else vector


def _reader(folder: Path):
    if (folder / "adapter_config.json").is_file():
        from speechmerge.merge.read_peft import read_peft

        return read_peft
    if (folder / "delta.json").is_file():
        return read_delta
    if any(folder.glob("adapter_model.*")):
        raise SpeechMergeError(
            f"{folder}: adapter weights without adapter_config.json, so that rank and scaling are unknown"
        )
    return read_full


def read_delta(folder, base=None) -> TaskVector:
    """What `TaskVector.save(as_="delta")` wrote."""
    folder = Path(folder)
    path, entries = folder / "delta.safetensors", read_header(folder / "delta.safetensors")
    about = notes_of(folder / "delta.json")
    if not isinstance(about.get("parameters"), dict) or not about["parameters"]:
        raise SpeechMergeError(f"{folder / 'delta.json'}: key parameters: expected an object that names what is changed")
    deltas = {name: _saved(folder, entries, name, kind) for name, kind in about["parameters"].items()}
    parts = {name: "BA" if isinstance(delta, LowRank) else ["dense"] for name, delta in deltas.items()}
    if lost := sorted(set(entries) - {f"{name}.{part}" for name in parts for part in parts[name]}):
        raise SpeechMergeError(f"{path}: key {lost[0]}: delta.json does not name it; save it again")
    details = {"sha256": ContentHash([path])}
    return TaskVector(deltas, about["base"], about["task"], about["language"], str(folder), details)


def _saved(folder: Path, entries: dict, name: str, kind) -> Delta:
    """One delta of a folder that holds its factors, or itself."""
    path, shape = folder / "delta.safetensors", kind.get("shape") if isinstance(kind, dict) else None
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise SpeechMergeError(f"{folder / 'delta.json'}: key {name}: found {kind!a}, expected kind and shape")

    def entry(part):
        if f"{name}.{part}" not in entries:
            raise SpeechMergeError(f"{path}: key {name}.{part} is missing, delta.json names it; save it again")
        found = entries[f"{name}.{part}"]
        if found.dtype not in FLOATS:
            raise SpeechMergeError(f"{path}: key {found.name}: type {found.dtype}, expected one of {', '.join(FLOATS)}")
        return found

    if kind.get("kind") == "dense":
        dense = entry("dense")
        if list(dense.shape) != shape:
            raise SpeechMergeError(f"{path}: key {dense.name}: shape {list(dense.shape)}, delta.json says {shape}")
        return OnDisk(dense)
    B, A = entry("B"), entry("A")
    if kind.get("kind") != "low_rank" or not shape:
        raise SpeechMergeError(f"{folder / 'delta.json'}: key {name}: found {kind!a}, expected kind low_rank or dense")
    if len(B.shape) != 2 or B.shape[0] != shape[0]:
        raise SpeechMergeError(f"{path}: key {B.name}: shape {list(B.shape)} does not fit {shape} in delta.json")
    if A.shape != (B.shape[1], math.prod(shape[1:])):
        raise SpeechMergeError(f"{path}: key {A.name}: shape {list(A.shape)} does not fit {B.name} {list(B.shape)}")
    return LowRank(Stored(B, B.shape), Stored(A, A.shape), 1.0, tuple(shape))


class OnDisk(Delta):
    """A dense delta in a file."""

    def __init__(self, entry):
        self.entry, self.shape = entry, entry.shape

    def block(self, start, stop):
        return floats(self.entry, start, stop)


def read_full(folder, base=None) -> TaskVector:
    """A full fine-tuned model as its difference from `base`."""
    about = our_notes(folder)
    base = base or about["base"].source
    if base is None:
        raise SpeechMergeError(
            f"{folder}: the weights of a full model become a task vector only relative to its base; give --base"
        )
    tuned, start = Checkpoint(folder), Checkpoint(base)
    only_here = _compare_keys(tuned, start)
    names = [name for name, entry in tuned.entries.items()
             if name not in only_here and _is_weight(entry, start.entry(name))]
    deltas = {name: difference(tuned.entries[name], start.entry(name)) for name in names}
    known = given_base(base, start.folder, about["base"], str(folder))
    return TaskVector(deltas, known, about["task"], about["language"], str(folder),
                      {"sha256": ContentHash(tuned.files), "kind": "full", "not_in_base": sorted(only_here)})


def _is_weight(tuned, start) -> bool:
    """Whether a tensor is merged: integers (counters) are not. SpeechMergeError where it would be left out silently."""
    for entry, other in ((tuned, start), (start, tuned)):
        if entry.dtype not in FLOATS and (entry.dtype.startswith("F8") or other.dtype in FLOATS):
            raise SpeechMergeError(f"{entry.path}: key {entry.name}: type {entry.dtype} cannot be merged, {other.path} has "
                                   f"{other.dtype}; expected one of {', '.join(FLOATS)}")
    return tuned.dtype in FLOATS


def _compare_keys(tuned: Checkpoint, start: Checkpoint) -> set[str]:
    """Keys that the base lacks: a head that was added. SpeechMergeError where the fine-tuned model lacks any of the
    base's, since then it is not a model of this base, or a part of it was lost."""
    lost = sorted(set(start.entries) - set(tuned.entries))
    if lost:
        raise SpeechMergeError(f"{start.folder}: {len(lost)} of {len(start.entries)} keys are not in {tuned.folder}: "
                               f"{', '.join(lost[:5])}; give the base in the same class and format")
    return set(tuned.entries) - set(start.entries)


def difference(tuned, start) -> Difference:
    """The delta of one tensor between two files. Raises SpeechMergeError for other shapes."""
    if tuned.shape != start.shape:
        raise SpeechMergeError(
            f"{tuned.path}: key {tuned.name}: shape {list(tuned.shape)}, the base has {list(start.shape)}"
        )
    return Difference(tuned, start)


def our_notes(folder) -> dict:
    """task, language and base from speechmerge.json, which training and merging leave in their folders."""
    path = Path(folder) / "speechmerge.json"
    return notes_of(path) if path.is_file() else {"task": None, "language": None, "base": Base()}


def notes_of(path: Path) -> dict:
    """A JSON object whose task and language are names, if any, and whose base is a Base."""
    notes = read_mapping(path)
    base = {} if notes.get("base") is None else notes["base"]
    if not isinstance(base, dict):
        raise SpeechMergeError(f"{path}: key base: found {base!a}, expected an object with source and fingerprint")
    words = {"task": notes.get("task"), "language": notes.get("language"), "base.source": base.get("source"),
             "base.fingerprint": base.get("fingerprint")}
    for key, word in words.items():
        if word is not None and not isinstance(word, str):
            raise SpeechMergeError(f"{path}: key {key}: found {str(word)[:80]!a}, expected a name or null")
    return {**notes, **words, "base": Base(words["base.source"], words["base.fingerprint"])}


def base_folder(base: Base, given=None) -> Path:
    """The folder of the base's weights, for what needs them. Raises SpeechMergeError where it cannot be found."""
    source = given or base.source
    if source is None:
        raise SpeechMergeError("the base model is needed but not known; give --base")
    return resolve_model_dir(source)
