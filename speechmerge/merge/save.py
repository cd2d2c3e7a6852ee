"""Task vectors to disk: as a PEFT adapter, as full weights, or as deltas; written beside the target and renamed.

A PEFT adapter is written with alpha = rank and without rsLoRA or DoRA, so that its scaling is 1 for every tensor and
plain PEFT reads exactly B A. Without a rank, low-rank deltas keep their numerical rank (exact) and dense ones get full
rank. Factors and deltas are float32; full weights keep the base's storage types, added in float32.
"""
import json
import shutil
from pathlib import Path

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import atomic_dir, lock, write_json
from speechmerge.merge.checkpoint import Checkpoint
from speechmerge.merge.delta import LowRank, one_thread, recompress
from speechmerge.merge.fingerprint import Base, given_base
from speechmerge.merge.read import base_folder
from speechmerge.merge.safetensors_file import FLOATS, dtype_name, read_tensor, write_stream
from speechmerge.merge.task_vector import TaskVector
from speechmerge.provenance import provenance

METADATA = "merge_metadata.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".pkl", ".npz")
PREFIX = "base_model.model."


def save(vector: TaskVector, folder, as_="lora", rank=None, base=None) -> dict:
    """Write `vector` to `folder`, whole or not at all, and return its metadata. An older merge there is replaced.

    as_: "lora", "full" (needs the base's weights) or "delta". rank: largest rank of the adapter, its error is in the
    metadata. base: the base model's folder, where it is not known or should be named differently.
    """
    with atomic_dir(folder) as beside:
        check_target(Path(folder))
        return write(vector, beside, as_, rank, base)


def check_target(folder: Path):
    """A merge replaces an older merge, and never anything else."""
    with lock(folder):  # another merge may be replacing it
        foreign = (
            folder.exists() and not (folder / METADATA).is_file() and (not folder.is_dir() or any(folder.iterdir()))
        )
    if foreign:
        raise SpeechMergeError(f"{folder}: exists and is no merge; choose another --output-dir")


def write(vector: TaskVector, folder: Path, as_="lora", rank=None, base=None) -> dict:
    """`save` into a fresh folder that the caller makes appear atomically."""
    if as_ not in WRITERS:
        raise UsageError(f"save: found {as_!r}, expected one of {', '.join(WRITERS)}")
    if rank is not None and as_ != "lora":
        raise UsageError(f"rank: is for saving as lora, found save {as_!r}")
    known = vector.base
    if base is not None or as_ == "full":
        known = given_base(base or known.source, base_folder(known, base), known, vector.label)
    with one_thread():
        facts = WRITERS[as_](vector, Path(folder), known, rank)
    tag = vector.details.get("tag", vector.label)
    metadata = {
        **vector.details,
        "tag": tag if rank is None else f"{tag}_r{rank}",  # another rank is another system
        "task": vector.task,
        "language": vector.language,
        "base": vars(known),
        "saved_as": as_,
        **facts,
        "provenance": provenance(),
    }
    write_json(Path(folder) / METADATA, metadata)
    write_json(
        Path(folder) / "speechmerge.json",
        {"task": vector.task, "language": vector.language, "base": vars(known), "merged": metadata["tag"]},
    )
    return metadata


def write_lora(vector: TaskVector, folder: Path, base: Base, rank) -> dict:
    """adapter_model.safetensors and adapter_config.json. SpeechMergeError for parameters that LoRA cannot hold."""
    check_lora(vector)
    tensors, ranks, errors, norms = {}, {}, {}, {}
    for name, delta in sorted(vector.deltas.items()):
        small = recompress(delta, rank)
        module = name.removesuffix(".weight")
        ones = [1] * (len(delta.shape) - 2)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = small.delta.A.reshape(-1, *delta.shape[1:])
        tensors[f"{PREFIX}{module}.lora_B.weight"] = small.delta.B.reshape(delta.shape[0], -1, *ones)
        ranks[module], errors[name], norms[name] = small.delta.rank, small.error, small.norm
    layout = {key: (dtype_name(tensor), tuple(tensor.shape)) for key, tensor in tensors.items()}
    write_stream(folder / "adapter_model.safetensors", layout, tensors.__getitem__)
    write_json(folder / "adapter_config.json", adapter_config(ranks, base, vector.details.get("peft") or {}))
    return {"rank": max(ranks.values()), "requested_rank": rank, "error": error_report(errors, norms)}


def check_lora(vector: TaskVector):
    """A LoRA holds matrices and kernels of modules, not biases, norms or embeddings."""
    for name, delta in vector.deltas.items():
        if len(delta.shape) < 2 or not name.endswith(".weight") or "embed" in name.rsplit(".", 2)[-2]:
            raise SpeechMergeError(
                f"key {name} {list(delta.shape)}: cannot be held by a LoRA; save as full or as delta"
            )


def error_report(errors: dict, norms: dict) -> dict:
    """Relative Frobenius errors of a recompression, per tensor and over all."""
    total = sum(norm ** 2 for norm in norms.values()) ** 0.5
    lost = sum(error ** 2 for error in errors.values()) ** 0.5
    relative = {name: errors[name] / norms[name] if norms[name] else 0.0 for name in errors}
    return {"relative_total": lost / total if total else 0.0, "relative": relative, "norm": total}


def adapter_config(ranks: dict[str, int], base: Base, extra: dict) -> dict:
    """A LoraConfig as plain PEFT loads it: scaling alpha / r = 1 everywhere, ranks that differ in rank_pattern."""
    usual = max(ranks.values(), key=lambda rank: (list(ranks.values()).count(rank), rank))
    pattern = {module: rank for module, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": None,
        **extra,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "target_modules": sorted(ranks),
        "modules_to_save": None,
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "base_model_name_or_path": base.source,
    }


def write_delta(vector: TaskVector, folder: Path, base: Base, rank) -> dict:
    """delta.safetensors (factors B, A or dense tensors, float32) and delta.json."""
    layout, parameters = {}, {}
    for name, delta in vector.deltas.items():
        low = isinstance(delta, LowRank)
        parameters[name] = {"kind": "low_rank" if low else "dense", "shape": list(delta.shape)}
        if low:
            layout[f"{name}.B"], layout[f"{name}.A"] = ("F32", tuple(delta.B.shape)), ("F32", tuple(delta.A.shape))
        else:
            layout[f"{name}.dense"] = ("F32", delta.shape)

    def make(key):
        name, part = key.rsplit(".", 1)
        delta = vector.deltas[name]
        return {"B": lambda: delta.B.float() * delta.scale, "A": lambda: delta.A.float(), "dense": delta.dense}[part]()

    write_stream(folder / "delta.safetensors", layout, make)
    write_json(folder / "delta.json", {"parameters": parameters, "base": vars(base), "task": vector.task,
                                       "language": vector.language})
    return {"rank": max((delta.rank for delta in vector.deltas.values() if isinstance(delta, LowRank)), default=None)}


def write_full(vector: TaskVector, folder: Path, base: Base, rank) -> dict:
    """model.safetensors = base + delta, one tensor at a time, and the base's config and tokenizer files."""
    start = Checkpoint(base_folder(base))
    for name, delta in vector.deltas.items():
        entry = start.entry(name)
        if entry.shape != delta.shape or entry.dtype not in FLOATS:
            raise SpeechMergeError(
                f"{entry.path}: key {name}: {entry.dtype} {list(entry.shape)}, the delta is {list(delta.shape)}"
            )

    def make(name):
        tensor = read_tensor(start.entries[name])
        return tensor.float() + vector.deltas[name].dense() if name in vector.deltas else tensor

    write_stream(
        folder / "model.safetensors", {name: (entry.dtype, entry.shape) for name, entry in start.entries.items()}, make
    )
    for path in sorted(start.folder.iterdir()):
        if path.is_file() and path.suffix not in WEIGHT_SUFFIXES and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    return {"rank": None}


WRITERS = {"lora": write_lora, "full": write_full, "delta": write_delta}


def read_metadata(folder) -> dict:
    """The metadata of a merge that `save` wrote."""
    return json.loads((Path(folder) / METADATA).read_text(encoding="utf-8"))
