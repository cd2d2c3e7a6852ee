"""Adapters and models from disk to task vectors: from the headers of their files alone, tensors follow when they are used.

A LoRA is read from its own files, without its base.
What a folder is, is seen from what is in it: `adapter_config.json` (PEFT), `delta.json` (our own deltas), or the
weights of a full fine-tuned model, which need `base`. Whatever would change the meaning of the numbers and is not
handled is refused by name.
"""
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
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
    about, entries = read_json(folder / "delta.json"), read_header(folder / "delta.safetensors")

    def entry(key):
        if key not in entries:
            raise SpeechMergeError(
                f"{folder / 'delta.safetensors'}: key {key} is missing, delta.json names it; save it again"
            )
        return entries[key]

    deltas = {}
    for name, kind in about["parameters"].items():
        if kind["kind"] == "low_rank":
            B, A = (Stored(part, part.shape) for part in (entry(f"{name}.B"), entry(f"{name}.A")))
            deltas[name] = LowRank(B, A, 1.0, kind["shape"])
        else:
            deltas[name] = OnDisk(entry(f"{name}.dense"))
    sha256 = ContentHash([folder / "delta.safetensors"])
    return TaskVector(deltas, Base(**about["base"]), about["task"], about["language"], str(folder), {"sha256": sha256})


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
    names = [name for name, entry in tuned.entries.items() if entry.dtype in FLOATS and name not in only_here]
    deltas = {name: difference(tuned.entries[name], start.entry(name)) for name in names}
    known = given_base(base, start.folder, about["base"], str(folder))
    return TaskVector(deltas, known, about["task"], about["language"], str(folder),
                      {"sha256": ContentHash(tuned.files), "kind": "full", "not_in_base": sorted(only_here)})


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
    notes = read_json(path) if path.is_file() else {}
    base = notes.get("base") or {}
    return {"task": notes.get("task"), "language": notes.get("language"),
            "base": Base(base.get("source"), base.get("fingerprint"))}


def base_folder(base: Base, given=None) -> Path:
    """The folder of the base's weights, for what needs them. Raises SpeechMergeError where it cannot be found."""
    source = given or base.source
    if source is None:
        raise SpeechMergeError("the base model is needed but not known; give --base")
    return resolve_model_dir(source)
