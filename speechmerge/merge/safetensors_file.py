"""safetensors files read and written tensor by tensor: headers without torch, one tensor in memory at a time.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header
{name: {"dtype", "shape", "data_offsets": [start, stop]}}, then the tensors' bytes. Every header is checked against the
file's size before anything is read, so a truncated download is named and not merged.
"""
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
         "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
LONGEST_HEADER = 100_000_000  # bytes, the limit of the reference implementation


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: offsets are from the beginning of the file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path) -> dict[str, Entry]:
    """The tensors of a file by name. Raises SpeechMergeError for anything but a whole, well-formed file."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise SpeechMergeError(
                    f"{path}: truncated or no safetensors file ({size} bytes, header says {length}); copy it again"
                )
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise SpeechMergeError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # includes JSON and UTF-8 errors
        raise SpeechMergeError(f"{path}: header is damaged ({error}); copy the file again") from error
    if not isinstance(header, dict):
        raise SpeechMergeError(f"{path}: header is damaged (no mapping); copy the file again")
    header.pop("__metadata__", None)
    return {name: _entry(path, name, fields, 8 + length, size) for name, fields in sorted(header.items())}


def _entry(path: Path, name: str, fields, offset: int, size: int) -> Entry:
    try:
        dtype, shape = fields["dtype"], tuple(map(int, fields["shape"]))
        start, stop = map(int, fields["data_offsets"])
        expected = BYTES[dtype] * math.prod(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise SpeechMergeError(
            f"{path}: key {name}: header entry is damaged or of an unknown type ({fields})"
        ) from error
    if min(shape, default=0) < 0 or start < 0 or stop - start != expected:
        raise SpeechMergeError(
            f"{path}: key {name}: {dtype} {list(shape)} needs {expected} bytes, header gives {start}..{stop}"
        )
    if offset + stop > size:
        raise SpeechMergeError(
            f"{path}: truncated: key {name} ends at byte {offset + stop}, the file has {size}; copy it again"
        )
    return Entry(path, name, dtype, shape, offset + start, offset + stop)


def read_bytes(entry: Entry, block: int = 1 << 24):
    """The tensor's bytes in blocks."""
    with open(entry.path, "rb") as file:
        file.seek(entry.start)
        left = entry.stop - entry.start
        while left:
            data = file.read(min(block, left))
            if not data:
                raise SpeechMergeError(
                    f"{entry.path}: key {entry.name}: file ended early; was it changed while it was read?"
                )
            left -= len(data)
            yield data


def read_tensor(entry: Entry):
    """A torch tensor in its storage type. Raises SpeechMergeError for NaN and Inf."""
    import torch

    dtype = _torch_types()[entry.dtype]
    data = bytearray().join(read_bytes(entry))
    tensor = torch.frombuffer(data, dtype=dtype).reshape(entry.shape) if data else torch.empty(entry.shape, dtype=dtype)
    if entry.dtype in FLOATS and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise SpeechMergeError(f"{entry.path}: key {entry.name}: {bad} of {tensor.numel()} values are NaN or infinite; "
                               "the training that made it diverged or the file is damaged")
    return tensor


def _torch_types() -> dict:
    import torch

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
             "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32",
             "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    return {name: getattr(torch, dtype) for name, dtype in names.items()}


def write_stream(path, layout: dict[str, tuple[str, tuple]], make):
    """Write a file one tensor at a time. `layout`: name -> (dtype, shape); `make(name)` gives the tensor.

    Widest types first and then by name, as the reference implementation writes, so that equal tensors are equal files.
    """
    names = sorted(layout, key=lambda name: (-BYTES[layout[name][0]], name))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        dtype, shape = layout[name]
        stop = offset + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes(name, make(name), *layout[name]))
        file.flush()
        os.fsync(file.fileno())


def _bytes(name: str, tensor, dtype: str, shape) -> memoryview:
    import torch

    if tuple(tensor.shape) != tuple(shape):
        raise SpeechMergeError(f"key {name}: made {list(tensor.shape)}, announced {list(shape)}")
    tensor = tensor.detach().to("cpu", _torch_types()[dtype]).contiguous()
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")


def dtype_name(tensor) -> str:
    """"F32" for torch.float32."""
    return {dtype: name for name, dtype in _torch_types().items()}[tensor.dtype]
