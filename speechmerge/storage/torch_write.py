"""A copy of a PyTorch checkpoint in which some tensors have other values and everything else is the same.

    writer = TorchWriter(open_torch_file(base), folder / "model.pt", names)
    slot = writer.slots["encoder.layers.0.fc1.weight"]
    writer.write(slot, 0, tensor)                  # elements 0.. of it, from any thread or forked process, in any order
    writer.close()

Whatever stands around the weights (configuration, arguments, dictionaries, optimizer) is copied byte by byte, so that
fairseq and s3prl load the copy as they load the source. Types and shapes stay as they are. Only the checksums of the
changed storages are new. Weights that share memory are written once, and must be given the same bytes.
"""
import bisect
import fcntl
import itertools
import os
import struct
import tempfile

from speechmerge.errors import SpeechMergeError
from speechmerge.storage.safetensors_file import Entry, OpenFile
from speechmerge.storage.safetensors_writer import Writer
from speechmerge.storage.torch_file import Permuted, TorchFile, open_torch_file
from speechmerge.storage.torch_zip import BLOCK, checksum, write_checksum

RECORD = struct.Struct("<3Q")  # of what was written: number of the slot, first byte, bytes


class TorchWriter(Writer):
    """Raises SpeechMergeError where other tensors than `names` would change, too. A context manager.

    Threads and forked processes may write: what `close` must know of their writing stands in files without a name.
    """

    def __init__(self, source: TorchFile, target, names):
        self.source, self.target = source, target
        self.slots = {name: _known(source, name) for name in names}
        self.numbers = {name: number for number, name in enumerate(self.slots)}
        self.owners = _owners(source, self.slots)
        later = [name for name, slot in self.slots.items() if self.owners[name] != name or isinstance(slot, Permuted)]
        sizes = [self.slots[name].stop - self.slots[name].start for name in later]
        self.later = dict(zip(later, itertools.accumulate([0, *sizes])))  # name -> place in `waiting`
        if os.path.exists(target) and os.path.samefile(target, source.path):
            raise SpeechMergeError(f"{target}: would be written over itself; choose another folder")
        self.descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            folder = os.path.dirname(os.path.abspath(target))
            self.journal = tempfile.TemporaryFile("wb+", 0, dir=folder)  # a RECORD of each piece
            self.waiting = tempfile.TemporaryFile("wb+", 0, dir=folder)  # tied and permuted weights, until `close`
            fcntl.fcntl(self.journal, fcntl.F_SETFL, fcntl.fcntl(self.journal, fcntl.F_GETFL) | os.O_APPEND)
            self._copy_rest()
        except BaseException:
            os.close(self.descriptor)
            raise

    def write_bytes(self, slot: Entry, first: int, data):
        """Bytes first.. of a tensor, in the order of its dimensions and its storage type. Each byte once."""
        data = memoryview(data)
        data = data.cast("B") if data.nbytes else b""
        if first < 0 or first + len(data) > slot.stop - slot.start:
            raise SpeechMergeError(
                f"key {slot.name}: made {first + len(data)} bytes, expected {slot.stop - slot.start}"
            )
        if slot.name in self.later:
            _write(self.waiting.fileno(), self.later[slot.name] + first, data)
        else:
            _write(self.descriptor, slot.start + first, data)
        os.write(self.journal.fileno(), RECORD.pack(self.numbers[slot.name], first, len(data)))

    def close(self, metadata=None):
        """Checksums, and to the disk. Raises SpeechMergeError where bytes are missing or tied weights differ.

        There is no place for `metadata`: the file holds what the source holds.
        """
        self._check_whole()
        for name in self.later:
            if isinstance(self.slots[name], Permuted):
                self._write_permuted(self.slots[name])
        written = OpenFile(self.target)
        for name in self.later:
            if self.owners[name] != name:
                self._compare_tied(self.slots[name], written)
        starts = sorted(slot.start for slot in self.slots.values() if slot.stop > slot.start)
        for member in self.source.members.values():
            if _any_within(starts, member.start, member.stop):
                self.source.file.check(member)  # what stays of it must not get a right checksum if it is wrong
                write_checksum(self.descriptor, self.source.file, member, checksum(written, member))
        os.fsync(self.descriptor)

    def __exit__(self, *_):
        self.journal.close()
        self.waiting.close()
        super().__exit__(*_)

    def _copy_rest(self):
        """Everything that is not replaced."""
        size, at, buffer = os.fstat(self.source.file.descriptor).st_size, 0, memoryview(bytearray(BLOCK))
        os.ftruncate(self.descriptor, size)
        ranges = sorted((self.slots[name].start, self.slots[name].stop) for name in set(self.owners.values()))
        for start, stop in [*ranges, (size, size)]:
            for offset in range(at, start, BLOCK):
                block = buffer[: min(BLOCK, start - offset)]
                self.source.file.read_into(block, offset, "of the archive")
                _write(self.descriptor, offset, block)
            at = max(at, stop)

    def _check_whole(self):
        """Every byte was written, and once."""
        self.journal.seek(0)
        ends = dict.fromkeys(self.numbers.values(), 0)
        for number, first, length in sorted(RECORD.iter_unpack(self.journal.read())):
            ends[number] = first + length if first == ends[number] else -1
        for slot, end in zip(self.slots.values(), ends.values()):
            if end != slot.stop - slot.start:
                raise SpeechMergeError(
                    f"key {slot.name}: not every one of its {slot.stop - slot.start} bytes was written once"
                )

    def _write_permuted(self, slot: Permuted):
        """A tensor in another order is written when it is whole."""
        import numpy as np

        size = slot.stop - slot.start
        ordered, stored = np.empty(size, np.uint8), np.empty(size, np.uint8)
        _read(self.waiting.fileno(), self.later[slot.name], memoryview(ordered))
        view = slot.view(stored)
        view[...] = ordered.reshape(view.shape)
        _write(self.descriptor, slot.start, memoryview(stored))

    def _compare_tied(self, slot: Entry, written: OpenFile):
        """A weight that shares its memory got the bytes of the one whose bytes were written."""
        for first in range(0, slot.stop - slot.start, BLOCK):
            length = min(BLOCK, slot.stop - slot.start - first)
            own, other = bytearray(length), bytearray(length)
            _read(self.waiting.fileno(), self.later[slot.name] + first, memoryview(own))
            written.read_into(memoryview(other), slot.start + first, slot.name)
            if own != other:
                raise SpeechMergeError(f"{self.source.path}: key {slot.name} shares its memory with key "
                                       f"{self.owners[slot.name]}, but they would become different; merge both alike")


def _write(descriptor: int, offset: int, data):
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _read(descriptor: int, offset: int, buffer: memoryview):
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        buffer, offset = buffer[count:], offset + count


def write_torch_file(source, target, replace: dict, container=None):
    """Copy `source` to `target`; `replace`: name -> function that yields the tensor's new bytes in blocks."""
    weights = open_torch_file(source, container)
    with TorchWriter(weights, target, replace) as writer:
        for name, make in replace.items():
            first = 0
            for block in make():
                writer.write_bytes(writer.slots[name], first, block)
                first += memoryview(block).nbytes
        writer.close()


def _known(source: TorchFile, name: str) -> Entry:
    if name not in source.entries:
        raise SpeechMergeError(f"{source.path}: key {name} is not among its {len(source.entries)} weights")
    return source.entries[name]


def _owners(source: TorchFile, entries: dict[str, Entry]) -> dict[str, str]:
    """name -> the name whose bytes are written for it: its own, or that of the weight whose memory it shares."""
    owners, firsts = {}, []
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, -entry.stop, entry.name)):
        if not firsts or entry.start >= firsts[-1].stop or entry.start == entry.stop:
            owners[entry.name] = entry.name
            firsts += [entry] if entry.stop > entry.start else []
        elif entry.stop <= firsts[-1].stop and Permuted not in (type(entry), type(firsts[-1])):
            owners[entry.name] = firsts[-1].name
        else:
            raise SpeechMergeError(f"{source.path}: keys {firsts[-1].name} and {entry.name} share memory in different "
                                   "ways; save them apart (tensor.clone())")
    starts, stops = [entry.start for entry in firsts], [entry.stop for entry in firsts]
    for start, stop, what in _kept(source, entries):
        place = bisect.bisect_left(starts, stop) - 1  # the last that begins before `stop`
        if start < stop and place >= 0 and stops[place] > start:
            raise SpeechMergeError(f"{source.path}: key {firsts[place].name} shares its memory with {what}, which is "
                                   "not to be changed; change both alike, or save them apart (tensor.clone())")
    return owners


def _kept(source: TorchFile, entries: dict[str, Entry]):
    """(start, stop, name) of every tensor that keeps its values, as far as the file holds it."""
    for name, entry in source.entries.items():
        if name not in entries:
            yield entry.start, entry.stop, f"key {name}"
    for tensor, what in source.outside:
        if tensor.storage is not None and tensor.storage.key in source.places:
            yield *(source.span(tensor) if tensor.dtype else source.places[tensor.storage.key]), what


def _any_within(starts: list[int], start: int, stop: int) -> bool:
    place = bisect.bisect_left(starts, start)
    return place < len(starts) and starts[place] < stop
