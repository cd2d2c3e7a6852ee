"""Task vectors to disk: as a PEFT adapter, as full weights, or as deltas; written beside the target and renamed.

A PEFT adapter is written with alpha = rank and without rsLoRA or DoRA, so that its scaling is 1 for every tensor and
plain PEFT reads exactly B A. Without a rank, low-rank deltas keep their numerical rank (exact) and dense ones get full
rank. Factors and deltas are float32; full weights keep the base's storage types, added in float32. Everything streams:
what is in memory is a few blocks, or for an adapter a few parameters, per thread.
"""
import json
import math
import os
import shutil
from pathlib import Path

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import atomic_dir, lock, write_json
from speechmerge.merge.base import Base, given_base, settle
from speechmerge.merge.compute import base_block, computing, ordered, units
from speechmerge.merge.delta import Computed, LowRank
from speechmerge.merge.read import base_folder
from speechmerge.merge.task_vector import TaskVector
from speechmerge.provenance import provenance
from speechmerge.storage.checkpoint import Checkpoint
from speechmerge.storage.safetensors_file import BYTES, FLOATS
from speechmerge.storage.safetensors_writer import Writer, header_of, longest_header
from speechmerge.storage.torch_write import TorchWriter

METADATA = "merge_metadata.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".pkl")
PREFIX = "base_model.model."
PIECE = 1 << 22  # bytes of unchanged weights that are copied at once


def save(vector: TaskVector, folder, as_="lora", rank=None, base=None, threads=None, device=None) -> dict:
    """Write `vector` to `folder`, whole or not at all, and return its metadata. An older merge there is replaced.

    as_: "lora", "full" (needs the base's weights) or "delta". rank: largest rank of the adapter, its error is in the
    metadata. base: the base model's folder, where it is not known or should be named differently.
    """
    with atomic_dir(folder) as beside:
        check_target(Path(folder))
        return write(vector, beside, as_, rank, base, threads, device)


def check_target(folder: Path):
    """A merge replaces an older merge, and never anything else."""
    with lock(Path(os.path.realpath(folder))):  # another merge may be replacing it
        foreign = (
            folder.exists() and not (folder / METADATA).is_file() and (not folder.is_dir() or any(folder.iterdir()))
        )
    if foreign:
        raise SpeechMergeError(f"{folder}: exists and is no merge; choose another --output-dir")


def write(vector: TaskVector, folder: Path, as_="lora", rank=None, base=None, threads=None, device=None) -> dict:
    """`save` into a fresh folder that the caller makes appear atomically."""
    check_options(as_, rank)
    known = vector.base
    if base is not None or as_ == "full":
        known = given_base(base or known.source, base_folder(known, base), known, vector.label)
    details, folder = dict(vector.details), Path(folder)
    side_file = details.pop("side_file", None)
    with computing(threads, device):
        facts = WRITERS[as_](vector, folder, known, rank)
        if side_file is not None and (arrays := side_file()):
            write_side_file(arrays, folder / "masks.safetensors")
    tag = details.get("tag", vector.label)
    metadata = {
        **details,
        "tag": tag if rank is None else f"{tag}_r{rank}",  # another rank is another system
        "task": vector.task,
        "language": vector.language,
        "base": known,
        "saved_as": as_,
        **facts,
        "provenance": provenance(),
    }
    metadata = settle(metadata)
    write_json(folder / METADATA, metadata)
    keys = {"task": vector.task, "language": vector.language, "base": metadata["base"], "merged": metadata["tag"]}
    write_json(folder / "speechmerge.json", keys)
    return metadata


def check_options(as_: str, rank):
    if as_ not in WRITERS:
        raise UsageError(f"save: found {as_!r}, expected one of {', '.join(WRITERS)}")
    if rank is not None and (as_ != "lora" or rank < 1):
        raise UsageError(f"rank: found {rank} with save {as_}, expected a positive number with save lora")


def write_lora(vector: TaskVector, folder: Path, base: Base, rank) -> dict:
    """adapter_model.safetensors and adapter_config.json; returns rank and errors."""
    check_lora(vector)
    names, ranks, errors, norms = sorted(vector.deltas), {}, {}, {}
    keys = [f"{PREFIX}{name.removesuffix('.weight')}.lora_{part}.weight" for name in names for part in "AB"]
    dimensions = max(len(delta.shape) for delta in vector.deltas.values())
    with Writer(folder / "adapter_model.safetensors", longest_header(keys, dimensions, note(vector))) as writer:
        made = ordered(lambda name: _recompressed(name, vector.deltas[name], rank), names)
        for name, small in zip(names, made):
            module, delta = name.removesuffix(".weight"), small.delta
            B, A = delta.factors()
            ones = [1] * (len(delta.shape) - 2)
            for part, factor in (("A", A.reshape(-1, *delta.shape[1:])), ("B", B.reshape(*B.shape, *ones))):
                slot = writer.allocate(f"{PREFIX}{module}.lora_{part}.weight", "F32", factor.shape)
                writer.write(slot, 0, factor)
            ranks[module], errors[name], norms[name] = delta.rank, small.error, small.norm
        writer.close(note(vector))
    write_json(folder / "adapter_config.json", adapter_config(ranks, base, vector.details.get("peft") or {}))
    return {"rank": max(ranks.values()), "requested_rank": rank, "error": error_report(errors, norms)}


def _recompressed(name: str, delta, rank):
    from speechmerge.merge.kernels.svd import recompress

    try:
        return recompress(delta, rank)
    except SpeechMergeError as error:
        raise SpeechMergeError(f"key {name}: {error}") from error


def note(vector: TaskVector) -> dict:
    """What the weights' own header says of their making, for a file that was parted from its folder."""
    about = {key: vector.details[key] for key in ("tag", "method", "params") if key in vector.details}
    return {"format": "pt", **({"speechmerge": json.dumps(about, sort_keys=True)} if about else {})}


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
    parameters, parts = {}, []
    for name in sorted(vector.deltas):
        delta = vector.deltas[name]
        made_whole = isinstance(delta, (LowRank, Computed))
        parts += [(name, None)] if made_whole else [(name, unit) for unit in units(name, delta.shape) or [[]]]
        parameters[name] = {"kind": "dense", "shape": list(delta.shape)}
    keys = [f"{name}.{part}" for name in parameters for part in ("B", "A", "dense")]
    dimensions = max(2, *(len(delta.shape) for delta in vector.deltas.values()))
    slots, ranks = {}, []

    def make(part):
        name, unit = part
        delta = vector.deltas[name].loaded()
        if isinstance(delta, LowRank):
            return delta.factors()
        return [(block, delta.block(block.start, block.stop)) for block in unit or sum(units(name, delta.shape), [])]

    with Writer(folder / "delta.safetensors", longest_header(keys, dimensions, note(vector))) as writer:
        for (name, _), made in zip(parts, ordered(make, parts)):
            if isinstance(made, tuple):
                parameters[name]["kind"] = "low_rank"
                ranks.append(made[0].shape[1])
                for key, factor in zip("BA", made):
                    writer.write(writer.allocate(f"{name}.{key}", "F32", factor.shape), 0, factor)
                continue
            if name not in slots:
                slots[name] = writer.allocate(f"{name}.dense", "F32", vector.deltas[name].shape)
            for block, tensor in made:
                writer.write(slots[name], first_element(block), tensor)
        writer.close(note(vector))
    write_json(folder / "delta.json", {"parameters": parameters, "base": settle(base), "task": vector.task,
                                       "language": vector.language})
    return {"rank": max(ranks, default=None)}


def first_element(block) -> int:
    """Place of a block's first value in the flattened parameter."""
    return block.start * math.prod(block.shape[1:])


def write_full(vector: TaskVector, folder: Path, base: Base, rank) -> dict:
    """model.safetensors = base + delta, block by block, and the base's config and tokenizer files."""
    start = check_full(vector, base)
    with full_writer(start, vector, folder) as writer:
        slots = {name: writer.slots[entry.name] for name, entry in start.entries.items() if entry.name in writer.slots}

        def fill(part):
            name, work = part
            entry = start.entries[name]
            if name not in vector.deltas:
                stop = min(work + PIECE, entry.numel * BYTES[entry.dtype])
                return writer.write_bytes(slots[name], work, entry.bytes(work, stop))
            delta = vector.deltas[name].loaded()
            for block in work:
                values = delta.block(block.start, block.stop).add_(base_block(entry, block.start, block.stop))
                writer.write(slots[name], first_element(block), values)

        for _ in ordered(fill, _full_parts(start, vector, slots)):
            pass
        writer.close(note(vector))
    for path in sorted(start.folder.iterdir()) if start.folder.is_dir() else ():
        if path.is_file() and path.suffix not in WEIGHT_SUFFIXES and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    return {"rank": None}


def full_writer(start: Checkpoint, vector: TaskVector, folder: Path):
    """A writer with slots by name. A checkpoint of PyTorch, such as fairseq's and s3prl's, is copied with everything
    around its weights; what transformers would load becomes safetensors."""
    if start.torch is not None and not start.torch.path.name.startswith("pytorch_model"):
        return TorchWriter(start.torch, folder / start.torch.path.name, sorted(vector.deltas))
    layout = {entry.name: (entry.dtype, entry.shape) for entry in start.entries.values()}  # the base's own names
    room, names = header_of(layout, note(vector))
    writer = Writer(folder / "model.safetensors", room)
    for name in names:
        writer.allocate(name, *layout[name])
    return writer


def check_full(vector: TaskVector, base: Base) -> Checkpoint:
    """The base's weights, which have every changed parameter in its shape, or SpeechMergeError."""
    start = Checkpoint(base_folder(base))
    for name, delta in vector.deltas.items():
        entry = start.entry(name)
        if entry.shape != delta.shape or entry.dtype not in FLOATS:
            raise SpeechMergeError(
                f"{entry.path}: key {name}: {entry.dtype} {list(entry.shape)}, the delta is {list(delta.shape)}"
            )
    return start


def _full_parts(start: Checkpoint, vector: TaskVector, slots):
    """(name, blocks to add or the first byte to copy from), the largest parameters first so that no thread is left."""
    for name in sorted(slots, key=lambda name: (-start.entries[name].numel, name)):
        entry = start.entries[name]
        if name in vector.deltas:
            yield from ((name, unit) for unit in units(name, entry.shape))
        else:
            yield from ((name, first) for first in range(0, entry.numel * BYTES[entry.dtype], PIECE))


def write_nothing(vector: TaskVector, folder: Path, base: Base, rank) -> dict:
    """The metadata alone, from which the merge is made in memory whenever it is used."""
    return {"rank": None}


WRITERS = {"lora": write_lora, "full": write_full, "delta": write_delta, "none": write_nothing}


def write_side_file(arrays: dict, path: Path):
    """What a method leaves for those who apply its result: numpy arrays, such as masks."""
    from safetensors.numpy import save_file

    save_file({name: arrays[name] for name in sorted(arrays)}, str(path))


def read_metadata(folder) -> dict:
    """The metadata of a merge that `save` wrote."""
    return json.loads((Path(folder) / METADATA).read_text(encoding="utf-8"))
