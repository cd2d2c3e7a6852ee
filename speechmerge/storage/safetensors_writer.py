"""One safetensors file written as its tensors come, by several threads and never held in memory.

    writer = Writer(path, room)                    # room: the longest that the header can become
    slot = writer.allocate("a.weight", "F32", (8, 4))
    writer.write(slot, 0, tensor)                  # elements 0.. of it, from any thread, in any order
    writer.close({"format": "pt"})

The header stands first in the file, but ranks are known only after the last tensor: room is left for it, padded with
spaces, which the format allows. Where the layout is known (`header_of`), the file equals what the reference
implementation writes: widest types first, then by name.
"""
import json
import math
import os
from dataclasses import dataclass

from speechmerge.errors import SpeechMergeError
from speechmerge.storage.safetensors_file import BYTES, FLOATS, torch_type

DIGITS = 20  # of the largest offset there can be


@dataclass(frozen=True)
class Slot:
    """The place of one tensor: `start`, in bytes from the beginning of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        return self.start + BYTES[self.dtype] * math.prod(self.shape)


class Writer:
    def __init__(self, path, room: int):
        self.room, self.slots, self.offset = room + -room % 8, {}, 0
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def allocate(self, name: str, dtype: str, shape) -> Slot:
        """The next free place. Not for several threads at once: the order of the calls is the order in the file."""
        slot = Slot(name, dtype, tuple(shape), self.offset)
        self.slots[name] = slot
        self.offset = slot.stop
        return slot

    def write(self, slot: Slot, first: int, tensor):
        """Elements first.. of the tensor, rounded to its storage type. SpeechMergeError for what it cannot hold."""
        tensor = _stored(slot, tensor).reshape(-1)
        width = BYTES[slot.dtype]
        if first < 0 or slot.start + (first + tensor.numel()) * width > slot.stop:
            raise SpeechMergeError(f"key {slot.name}: made {first + tensor.numel()} values, announced {list(slot.shape)}")
        if tensor.numel():
            self.write_bytes(slot, first * width, tensor.view(torch_type("U8")).numpy())

    def write_bytes(self, slot: Slot, first: int, data):
        data, position = memoryview(data), 8 + self.room + slot.start + first
        while data:
            count = os.pwrite(self.descriptor, data, position)
            data, position = data[count:], position + count

    def close(self, metadata: dict):
        """Write the header and sync. Without it the file is none."""
        text = json.dumps(_header(self.slots.values(), metadata), separators=(",", ":")).encode()
        if len(text) > self.room:
            raise SpeechMergeError(f"the header needs {len(text)} bytes, room was left for {self.room}")
        os.pwrite(self.descriptor, self.room.to_bytes(8, "little") + text.ljust(self.room), 0)
        os.ftruncate(self.descriptor, 8 + self.room + self.offset)  # a file whose last tensors are empty
        os.fsync(self.descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.descriptor)


def _header(slots, metadata: dict) -> dict:
    rows = {slot.name: {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [slot.start, slot.stop]}
            for slot in slots}
    return {"__metadata__": metadata, **rows}


def header_of(layout: dict, metadata: dict) -> tuple[int, list]:
    """(length of the header, names in the order of the file) of a known layout: name -> (dtype, shape)."""
    names, slots, offset = sorted(layout, key=lambda name: (-BYTES[layout[name][0]], name)), [], 0
    for name in names:
        slots.append(Slot(name, *layout[name], offset))
        offset = slots[-1].stop
    return len(json.dumps(_header(slots, metadata), separators=(",", ":")).encode()), names


def longest_header(names, dimensions: int, metadata: dict) -> int:
    """An upper bound for tensors of these names whose shapes are not known yet."""
    row = len('"":{"dtype":"F8_E4M3","shape":[],"data_offsets":[,]},') + (dimensions + 2) * (DIGITS + 1)
    return sum(len(json.dumps(name)) + row for name in names) + len(json.dumps(metadata)) + 32


def _stored(slot: Slot, tensor):
    """On the CPU, in the storage type. A value beyond its range would become infinite: refused."""
    import torch

    stored = tensor.detach().to("cpu", torch_type(slot.dtype)).contiguous()
    if slot.dtype in FLOATS and not math.isfinite(stored.sum(dtype=torch.float32).item()):
        bad = int((~torch.isfinite(stored)).sum())
        if bad:
            raise SpeechMergeError(f"key {slot.name}: {bad} merged values cannot be stored as {slot.dtype} (largest "
                                   f"magnitude {tensor.abs().max().item():g}); merge with a smaller scale, or store "
                                   "the base in a wider type")
    return stored
