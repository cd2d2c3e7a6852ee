"""safetensors files read and written tensor by tensor: headers without torch, a block of one tensor in memory at a time.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header
{name: {"dtype", "shape", "data_offsets": [start, stop]}}, then the tensors' bytes. Every header is checked against the
file's size before anything is read, so a truncated download is named and not merged. Data is read by position into
fresh buffers: unlike a memory map, a file that is cut off meanwhile is an error and not a killed process.
"""
import json
import math
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from speechmerge.errors import SpeechMergeError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
         "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
         "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32",
         "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
FLOATS = ("F64", "F32", "F16", "BF16")
LONGEST_HEADER = 100_000_000  # bytes, the limit of the reference implementation
LONGEST_NAME = 1000  # characters
MOST_DIMENSIONS = 64  # of a tensor, the limit of torch
LARGEST_SIZE = 1 << 63  # of one dimension


class OpenFile:
    """A file that many tensors are read from, by several threads; open as long as one of them is in use."""

    def __init__(self, path):
        self.path, self.descriptor = Path(path), os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if stat.S_ISFIFO(os.fstat(self.descriptor).st_mode) or stat.S_ISCHR(os.fstat(self.descriptor).st_mode):
            raise SpeechMergeError(f"{path}: a pipe or device, expected a file")

    def read_into(self, buffer: memoryview, offset: int, name: str):
        """Fill `buffer` from byte `offset` on. Raises SpeechMergeError where the file ends before."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if not count:
                raise SpeechMergeError(f"{self.path}: key {name}: file ended early; was it changed while it was read?")
            done += count

    def __del__(self, close=os.close):  # a default, because modules are gone when the interpreter ends
        if hasattr(self, "descriptor"):
            close(self.descriptor)


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: offsets are from the beginning of the file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    file: OpenFile | None = field(default=None, compare=False, repr=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def bytes(self, first: int, last: int):
        """numpy uint8 of the bytes first..last of the tensor, in fresh memory."""
        import numpy as np

        data = np.empty(last - first, np.uint8)
        (self.file or OpenFile(self.path)).read_into(memoryview(data), self.start + first, self.name)
        return data


def read_header(path) -> dict[str, Entry]:
    """The tensors of a file by name. Raises SpeechMergeError for anything but a whole, well-formed file."""
    path = Path(path)
    try:
        file = OpenFile(path)
        size = os.fstat(file.descriptor).st_size
        length = int.from_bytes(os.pread(file.descriptor, 8, 0), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise SpeechMergeError(
                f"{path}: truncated or no safetensors file ({size} bytes, header says {length}); copy it again"
            )
        header = json.loads(os.pread(file.descriptor, length, 8).decode("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise SpeechMergeError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # includes JSON and UTF-8 errors
        raise SpeechMergeError(f"{path}: header is damaged ({error}); copy the file again") from error
    if not isinstance(header, dict):
        raise SpeechMergeError(f"{path}: header is damaged (no mapping); copy the file again")
    header.pop("__metadata__", None)
    entries = {name: _entry(file, name, fields, 8 + length, size) for name, fields in sorted(header.items())}
    _check_layout(path, entries.values(), 8 + length, size)
    return entries


def _unique(pairs):
    """A JSON object whose keys are all different, as the format demands."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _check_layout(path: Path, entries, start: int, size: int):
    """The tensors follow each other without holes, overlaps or bytes that belong to none."""
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != start:
            raise SpeechMergeError(
                f"{path}: key {entry.name}: begins at byte {entry.start}, expected {start}; copy the file again"
            )
        start = entry.stop
    if start != size:
        raise SpeechMergeError(f"{path}: {size} bytes, the header describes {start}; copy the file again")


def _entry(file: OpenFile, name: str, fields, offset: int, size: int) -> Entry:
    path = file.path
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise SpeechMergeError(f"{path}: key {ascii(name[:80])[1:-1]}: {len(name)} characters, not the name of a weight")
    try:
        dtype, shape = fields["dtype"], _sizes(fields["shape"])
        start, stop = _sizes(fields["data_offsets"])
        expected = BYTES[dtype] * math.prod(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise SpeechMergeError(
            f"{path}: key {name}: header entry is damaged or of an unknown type ({str(fields)[:200]})"
        ) from error
    if stop - start != expected:
        raise SpeechMergeError(
            f"{path}: key {name}: {dtype} {list(shape)} needs {expected} bytes, header gives {start}..{stop}"
        )
    if offset + stop > size:
        raise SpeechMergeError(
            f"{path}: truncated: key {name} ends at byte {offset + stop}, the file has {size}; copy it again"
        )
    return Entry(path, name, dtype, shape, offset + start, offset + stop, file)


def _sizes(values) -> tuple[int, ...]:
    """A list of sizes, checked before they are multiplied: thousands of digits would take hours."""
    if len(values) > MOST_DIMENSIONS or not all(type(value) is int and 0 <= value < LARGEST_SIZE for value in values):
        raise ValueError("sizes that are none")
    return tuple(values)


def read_bytes(entry: Entry, block: int = 1 << 22):
    """The tensor's bytes in blocks."""
    size = entry.stop - entry.start
    for first in range(0, size, block):
        yield entry.bytes(first, min(first + block, size))


def read_tensor(entry: Entry):
    """A torch tensor in its storage type. Raises SpeechMergeError for NaN and Inf."""
    return read_elements(entry, 0, entry.numel).reshape(entry.shape)


def read_elements(entry: Entry, first: int, last: int):
    """Elements first..last of the flattened tensor, in their storage type and memory of their own."""
    import torch

    width = BYTES[entry.dtype]
    if first == last:
        return torch.empty(0, dtype=torch_type(entry.dtype))
    tensor = torch.from_numpy(entry.bytes(first * width, last * width)).view(torch_type(entry.dtype))
    # one sum shows that all are finite; only where it is not (or overflows) each is looked at
    if entry.dtype in FLOATS and not math.isfinite(tensor.sum(dtype=torch.float32).item()):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise SpeechMergeError(f"{entry.path}: key {entry.name}: {bad} of {tensor.numel()} values are NaN or "
                                   "infinite; the training that made it diverged or the file is damaged")
    return tensor


def torch_type(dtype: str):
    import torch

    return getattr(torch, TORCH[dtype])
