"""PyTorch checkpoints (.pt, .pth, .bin, .ckpt) opened without torch and without running anything that stands in them.

    weights = open_torch_file("hubert_base_ls960.pt")
    weights.entries["encoder.layers.0.fc1.weight"]     # an Entry as of a safetensors file: type, shape, bytes from..to
    weights.container, weights.other, weights.beside   # "model"; what is no tensor in it; where else tensors are

torch.save writes a zip archive (since 1.6) whose members hold the storages as they are in memory, and before that
several pickles with the storages behind them. In both a contiguous tensor is a run of bytes of the file. Files that
were written on big-endian machines, TorchScript programs and whole pickled modules are refused.
"""
import contextlib
import io
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.storage.safetensors_file import BYTES, Entry, OpenFile
from speechmerge.storage.torch_pickle import DAMAGE, LARGEST, Foreign, Machine, Storage, Tensor
from speechmerge.storage.torch_zip import CheckedFile, Member, read_at, read_members

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
UPSTREAM, WRAPPER = "Upstream", "model."  # s3prl fine-tunes an object that has the model whose checkpoint it read
CONTAINERS = ("model", "state_dict", "model_state_dict", "model_weight", UPSTREAM)  # model_weight: converted for s3prl
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before 1.6
MOST_ENTRIES = 1_000_000  # keys that are looked at, nested ones included: dicts may contain each other
DEEPEST = 32  # dicts in dicts


@dataclass(frozen=True)
class Weight(Entry):
    """A tensor of a checkpoint. `member`: where it lies in the archive, None in the format before 1.6."""

    member: Member | None = field(default=None, compare=False, repr=False)

    def bytes(self, first: int, last: int):
        if self.member is not None:
            self.file.check(self.member, f"key {self.name}")
        return super().bytes(first, last)


@dataclass(frozen=True)
class Permuted(Weight):
    """One that lies in the file with its dimensions in another order, as a saved transpose. Strides in elements."""

    strides: tuple[int, ...] = ()

    def bytes(self, first: int, last: int):
        return _in_order(self, self.file)[first:last].copy()

    def view(self, data):
        """numpy uint8 [*shape, width]: the elements of `data`, as it lies in the file, in their right order."""
        import numpy as np

        width = BYTES[self.dtype]
        strides = [stride * width if size > 1 else 0 for size, stride in zip(self.shape, self.strides)]
        return np.lib.stride_tricks.as_strided(data, (*self.shape, width), (*strides, 1))


@lru_cache(maxsize=2)
def _in_order(entry: Permuted, file: OpenFile):
    """numpy uint8 of the whole tensor. The last two are kept, since tensors are read in blocks."""
    import numpy as np

    return np.ascontiguousarray(entry.view(Weight.bytes(entry, 0, entry.stop - entry.start))).reshape(-1)


@dataclass
class TorchFile:
    """The weights of a checkpoint. `members`: byte where one begins -> it; `places`: storage key -> (start, stop)."""

    file: CheckedFile
    members: dict[int, Member]
    places: dict[str, tuple[int, int]]
    storages: dict[str, Storage]
    tensors: list[Tensor]  # all of the file
    top: object
    container: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)  # what is no tensor in the container: name -> what it is
    beside: dict[str, int] = field(default_factory=dict)  # tensors elsewhere: key of the top level -> how many
    outside: list[tuple[Tensor, str]] = field(default_factory=list)  # these, and any other, and where they stand

    @property
    def path(self) -> Path:
        return self.file.path

    def verify(self):
        """Compare all storages with the archive's checksums, as reading a weight does. Before 1.6 there were none."""
        for start, _ in self.places.values() if self.members else ():
            self.file.check(self.members[start])

    def span(self, tensor: Tensor) -> tuple[int, int]:
        """From which to which byte of the file the elements of a tensor lie. KeyError: its storage is not there."""
        start, width = self.places[tensor.storage.key][0], tensor.storage.width
        first = start + tensor.storage.offset * width + tensor.offset * BYTES[tensor.dtype]
        if 0 in tensor.shape:
            return first, first
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides))
        return first, first + (reach + 1) * BYTES[tensor.dtype]


def read_torch_header(path, container=None) -> dict[str, Entry]:
    """The model's tensors of a file by name, as `safetensors_file.read_header` gives them."""
    return open_torch_file(path, container).entries


def containers(path) -> dict[str, int]:
    """Where tensors are in a file, and how many: key of the top level -> number ("": tensors at the top level)."""
    with _damage_of(path):
        return _counts(_open(path).top)


def open_torch_file(path, container=None) -> TorchFile:
    """The weights in `container` ("": the top level), or in the one that is a model's by its name.

    Raises SpeechMergeError for damaged files, files with no or several models, and tensors that are no plain ones.
    """
    with _damage_of(path):
        weights = _open(path)
        counts = _counts(weights.top)
        weights.container = _chosen(path, weights.top, counts, container)
        if weights.container:
            weights.beside = {key: count for key, count in counts.items() if key != weights.container}
        _fill(weights, _mapping(weights.top)[weights.container] if weights.container else weights.top)
    return weights


def _fill(weights: TorchFile, chosen):
    """Entries and all that is none, from the mapping that holds the model."""
    inside, leaves = set(), [(".".join(map(_text, keys)), keys, value) for keys, value in _leaves(chosen)]
    wrapped = weights.container == UPSTREAM and all(name.startswith(WRAPPER) for name, _, _ in leaves)
    for name, keys, value in leaves:
        name = name.removeprefix(WRAPPER) if wrapped else name
        if type(value) is not Tensor:
            weights.other[name] = _kind(value)
            continue
        if name in weights.entries or not name.isprintable() or not all(type(key) is str for key in keys):
            raise SpeechMergeError(f"{weights.path}: key {name!r} stands there twice or is no name of a weight")
        weights.entries[name] = _entry(weights, name, value)
        inside.add(id(value))
    weights.entries = dict(sorted(weights.entries.items()))
    others = [tensor for tensor in weights.tensors if id(tensor) not in inside]
    weights.outside = [(tensor, "a tensor outside the weights") for tensor in others]
    if weights.container:  # the same object may stand elsewhere, too
        elsewhere = {key: value for key, value in _mapping(weights.top).items() if key != weights.container}
        weights.outside += [(value, f"a tensor in {_text(keys[0])!r}") for keys, value in _leaves(elsewhere)
                            if type(value) is Tensor and id(value) in inside]


@contextlib.contextmanager
def _damage_of(path):
    """What goes wrong in a file that others wrote is said with its name, in one line."""
    try:
        yield
    except OSError as error:
        raise SpeechMergeError(f"{path}: cannot be read ({error.strerror})") from error
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise SpeechMergeError(f"{path}: damaged, or no checkpoint of torch.save ({type(error).__name__}: {reason}); "
                               "copy it again, or save the model's state_dict() with torch.save") from error


def _open(path) -> TorchFile:
    file = CheckedFile(path)
    return _open_zip(file) if os.pread(file.descriptor, 4, 0) == b"PK\x03\x04" else _open_legacy(file)


def _open_zip(file: CheckedFile) -> TorchFile:
    members = read_members(file)
    names = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise SpeechMergeError(f"{file.path}: a zip archive without the one data.pkl of torch.save, found "
                               f"{', '.join(map(repr, list(members)[:5])) or 'nothing'}; expected a checkpoint")
    root = names[0].removesuffix("data.pkl")
    if root + "constants.pkl" in members:
        raise SpeechMergeError(f"{file.path}: a TorchScript program; save its weights alone: "
                               "torch.save(torch.jit.load(path).state_dict(), target)")
    packed = [name for name, member in members.items() if not member.stored]
    if packed:
        raise SpeechMergeError(f"{file.path}: {len(packed)} members such as {packed[0]!r} are compressed or encrypted, "
                               "torch.save only stores; load the file with torch and save it again")
    order = members.get(root + "byteorder")
    if order and read_at(file, order.start, min(10, order.stop - order.start)) != b"little":
        raise SpeechMergeError(f"{file.path}: byteorder is not little: written on a big-endian machine, or damaged; "
                               "load it with torch and save it again")
    member = members[names[0]]
    if member.stop - member.start > LARGEST:
        raise ValueError(f"data.pkl is larger than {LARGEST:,} bytes")
    file.check(member)
    size = member.stop - member.start
    machine = Machine(io.BytesIO(read_at(file, member.start, size)), size)
    top = machine.load()
    places = {name.removeprefix(root + "data/"): (at.start, at.stop)
              for name, at in members.items() if name.startswith(root + "data/")}
    starts = {at.start: at for at in members.values()}
    return TorchFile(file, starts, places, machine.storages, machine.tensors, top)


def _open_legacy(file: CheckedFile) -> TorchFile:
    """Five pickles: magic number, version, machine, object, keys of the storages; then for each of these the number
    of its elements in 8 bytes and its elements, little-endian."""
    size = os.fstat(file.descriptor).st_size
    with open(file.path, "rb") as stream:
        machine = Machine(stream, size)
        if machine.load() != MAGIC or machine.load() != PROTOCOL:
            raise ValueError("it begins with another magic number or version")
        about, top, keys = machine.load(), machine.load(), machine.load()
        at = stream.tell()
    if type(about) is not dict or about.get("little_endian") is not True:
        raise SpeechMergeError(f"{file.path}: little_endian is not True: written on a big-endian machine, or damaged; "
                               "load it with torch and save it again")
    places = {}
    for key in keys:
        storage = machine.storages[key]
        count = int.from_bytes(read_at(file, at, 8), "little") if at + 8 <= size else None
        stop = at + 8 + storage.count * storage.width
        if key in places or count != storage.count or stop > size:
            raise ValueError(f"storage {key[:20]!r} ends at byte {stop} and has {storage.count} elements, the file has "
                             f"{size} bytes and says {count} elements")
        places[key], at = (at + 8, stop), stop
    if at != size:
        raise ValueError(f"{size} bytes, its storages end at {at}")
    return TorchFile(file, {}, places, machine.storages, machine.tensors, top)


def _entry(weights: TorchFile, name: str, tensor: Tensor) -> Entry:
    """Where the bytes of a tensor lie. SpeechMergeError where it is no plain tensor or does not fit its storage."""
    where, storage = f"{weights.path}: key {name}", tensor.storage
    if tensor.refused:
        raise SpeechMergeError(f"{where}: a tensor {tensor.refused}, which cannot be merged; save it as a plain one")
    if storage.key not in weights.places:
        raise SpeechMergeError(f"{where}: its storage {storage.key[:20]!r} is missing in the file; copy it again")
    (start, stop), whole = weights.places[storage.key], weights.storages[storage.key]
    if stop - start != whole.count * whole.width:
        raise SpeechMergeError(f"{where}: its storage has {stop - start} bytes, expected {whole.count * whole.width}; "
                               "copy the file again")
    first, last = weights.span(tensor)
    if last > start + (storage.offset + storage.count) * storage.width:
        raise SpeechMergeError(f"{where}: {tensor.dtype} {list(tensor.shape)} reaches from byte {first} to {last}, its "
                               f"storage from {start} to {stop}; the file is damaged")
    permuted = _permuted(tensor)
    if permuted is None:
        raise SpeechMergeError(f"{where}: shape {list(tensor.shape)} with strides {list(tensor.strides)} has gaps or "
                               "uses elements twice; save it as tensor.contiguous()")
    fields = (weights.path, name, tensor.dtype, tensor.shape, first, last, weights.file, weights.members.get(start))
    return Permuted(*fields, tensor.strides) if permuted else Weight(*fields)


def _permuted(tensor: Tensor) -> bool | None:
    """False: elements follow each other in order; True: in another order of the dimensions; None: not at all."""
    if 0 in tensor.shape:
        return False
    dimensions = [(stride, size) for stride, size in zip(tensor.strides, tensor.shape) if size > 1]
    expected, ordered = 1, sorted(dimensions)
    for stride, size in ordered:
        if stride != expected:
            return None
        expected *= size
    return dimensions != ordered[::-1]


def _mapping(value) -> dict | None:
    """A dict, or the items of an object of a class that is one."""
    found = value.items if type(value) is Foreign else value
    return found if type(found) is dict else None


def _leaves(value):
    """(keys, value) of everything in nested mappings that is none itself, in order."""
    waiting, left = [((), value)], MOST_ENTRIES
    while waiting:
        keys, value = waiting.pop()
        found = _mapping(value)
        if found is None:
            yield keys, value
            continue
        left -= len(found)
        if left < 0 or len(keys) > DEEPEST:
            raise ValueError(f"more than {MOST_ENTRIES:,} keys, or dicts nested more than {DEEPEST} deep")
        waiting.extend(((*keys, key), each) for key, each in reversed(found.items()))


def _counts(top) -> dict[str, int]:
    """Number of tensors per key of the top level; "" for those directly there."""
    counts: dict[str, int] = {}
    for keys, value in _leaves(top) if _mapping(top) is not None else ():
        if type(value) is Tensor:
            place = "" if len(keys) == 1 else _text(keys[0])
            counts[place] = counts.get(place, 0) + 1
    return counts


def _chosen(path, top, counts: dict[str, int], container=None) -> str:
    """The container that holds the model: as given, by its name, or because there is no other."""
    if not counts:
        raise SpeechMergeError(f"{path}: found {_kind(top)} and no tensors in it, expected a dict of tensors; save the "
                               "model's state_dict() with torch.save")
    named = [key for key in counts if key in _mapping(top)]
    if container is not None:
        if container and container not in named:
            raise SpeechMergeError(f"{path}: key {container}: no tensors there; found {_listed(counts)}")
        return container
    known = [key for key in named if key in CONTAINERS]
    found = known or [""] * ("" in counts) or [key for key in named if "optim" not in key.lower()]
    if len(found) == 1:
        return found[0]
    raise SpeechMergeError(f"{path}: no one model among its tensors, found {_listed(counts)}; expected one of "
                           f"{', '.join(CONTAINERS)}; save the one that is meant alone: torch.save(checkpoint[key], x)")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{key[:80] or 'top level'!r} ({count} tensors)" for key, count in list(counts.items())[:20])


def _text(key) -> str:
    return key if type(key) is str else f"<{key.kind if type(key) is Foreign else key}>"


def _kind(value) -> str:
    """What a value is, for people: its type, and a short value's text."""
    if type(value) is Foreign:
        return f"an object of {value.kind[:80]!r}"
    short = type(value) in (int, float, bool, type(None)) and abs(value or 0) < 1 << 63
    return f"{type(value).__name__} {value}" if short else f"a {type(value).__name__}"
