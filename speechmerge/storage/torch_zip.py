"""The zip archives that torch.save writes, read by position: where each member's bytes lie in the file.

Layout (APPNOTE 6.3.10 of the zip format): per member a local header, its name, padding, its bytes (stored, never
compressed) and, with flag bit 3, a descriptor behind them; then the central directory, with zip64 fields for what does
not fit 32 bits; then the end record. Only whole, well-formed archives without overlaps are read.
"""
import os
import struct
import zlib
from dataclasses import dataclass

from speechmerge.errors import SpeechMergeError
from speechmerge.storage.safetensors_file import OpenFile

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
LARGEST_DIRECTORY = 1 << 24  # bytes; a member takes about 60
FULL = 0xFFFFFFFF  # the value stands in a zip64 field
BLOCK = 1 << 22


@dataclass(frozen=True)
class Member:
    """One file of the archive. `header` and `record`: offsets of its local header and of its directory record."""

    name: str
    header: int
    record: int
    start: int
    stop: int
    crc: int
    flags: int
    stored: bool  # neither compressed nor encrypted


def read_members(file: OpenFile) -> dict[str, Member]:
    """The members by name, in the order of the file. Raises SpeechMergeError for anything but a whole archive."""
    try:
        size = os.fstat(file.descriptor).st_size
        first, last, count = _directory(file, size)
        found = sorted(_records(file, first, last, count), key=lambda member: member.header)
    except (struct.error, ValueError) as error:
        raise SpeechMergeError(f"{file.path}: truncated or damaged zip archive ({error}); copy it again") from error
    members = {}
    for member, after in zip(found, [member.header for member in found[1:]] + [first]):
        if member.stop > after or member.name in members:
            raise SpeechMergeError(f"{file.path}: member {member.name!r} overlaps the next or stands there twice; "
                                   "copy the file again")
        members[member.name] = member
    return members


def read_at(file: OpenFile, offset: int, length: int) -> bytes:
    data = bytearray(length)
    file.read_into(memoryview(data), offset, "of the archive")
    return bytes(data)


def _directory(file: OpenFile, size: int) -> tuple[int, int, int]:
    """(first byte, byte behind the last, number of records) of the central directory."""
    tail = read_at(file, max(0, size - 65_557), min(size, 65_557))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("no end record")
    end = size - len(tail) + at
    _, disk, _, _, count, length, first, comment = END.unpack_from(tail, at)
    if end + END.size + comment != size or disk not in (0, 0xFFFF):
        raise ValueError("bytes behind the end record, or several disks")
    before = max(0, end - LOCATOR64.size)
    locator = read_at(file, before, end - before)
    if locator.startswith(b"PK\x06\x07"):
        end = LOCATOR64.unpack(locator)[2]
        if end + END64.size > size:
            raise ValueError("the zip64 end record lies beyond the file")
        magic, _, _, _, _, _, _, count, length, first = END64.unpack(read_at(file, end, END64.size))
        if magic != b"PK\x06\x06":
            raise ValueError("no zip64 end record")
    if first + length != end or length > LARGEST_DIRECTORY:
        raise ValueError(f"the directory at {first} has {length} bytes, the end record stands at {end}")
    return first, end, count


def _records(file: OpenFile, first: int, last: int, count: int):
    directory, at = read_at(file, first, last - first), 0
    for _ in range(count):
        fields = CENTRAL.unpack_from(directory, at)
        magic, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, _, header = fields
        if magic != b"PK\x01\x02" or at + CENTRAL.size + name + extra + comment > len(directory):
            raise ValueError(f"no directory record at byte {first + at}")
        behind = at + CENTRAL.size + name
        text = directory[behind - name : behind]
        size, packed, header = _wide(directory[behind : behind + extra], [size, packed, header])
        stored = method == 0 and packed == size and not flags & 1  # bit 0: encrypted
        yield _member(file, text, header, first + at, packed, crc, flags, stored, first)
        at = behind + extra + comment
    if at != len(directory):
        raise ValueError(f"{len(directory)} bytes of directory, its {count} records have {at}")


def _wide(fields: bytes, values: list[int]) -> list[int]:
    """The values that did not fit 32 bits, from the zip64 extra field (id 1), which holds only these, in this order."""
    at, wide = 0, b""
    while at + 4 <= len(fields):
        kind, length = struct.unpack_from("<2H", fields, at)
        if kind == 1:
            wide = fields[at + 4 : at + 4 + length]
        at += 4 + length
    missing = [index for index, value in enumerate(values) if value == FULL]
    for place, index in enumerate(missing):
        (values[index],) = struct.unpack_from("<Q", wide, 8 * place)
    return values


def _member(file: OpenFile, text: bytes, header: int, record: int, size: int, crc: int, flags: int, stored: bool,
            end: int) -> Member:
    """Where the bytes begin is known from the local header alone."""
    length = LOCAL.size + len(text)
    if header + length > end:
        raise ValueError(f"member {_shown(text)} begins at byte {header}, behind the data")
    local = read_at(file, header, length)
    magic, _, _, _, _, _, own, _, _, name, extra = LOCAL.unpack_from(local)
    start = header + length + extra
    if magic != b"PK\x03\x04" or start + size > end:
        raise ValueError(f"member {_shown(text)}: no local header of {size} bytes at byte {header}")
    if name != len(text) or local[LOCAL.size :] != text or own not in (0, crc):
        raise ValueError(f"member {_shown(text)}: local header and directory differ")
    return Member(text.decode("utf-8", "replace"), header, record, start, start + size, crc, flags, stored)


def _shown(text: bytes) -> str:
    return repr(text[:80].decode("utf-8", "replace"))


def checksum(file: OpenFile, member: Member) -> int:
    """CRC-32 of a member's bytes as they are."""
    crc, buffer = 0, bytearray(min(BLOCK, member.stop - member.start))
    for offset in range(member.start, member.stop, BLOCK):
        block = memoryview(buffer)[: min(BLOCK, member.stop - offset)]
        file.read_into(block, offset, member.name)
        crc = zlib.crc32(block, crc)
    return crc


class CheckedFile(OpenFile):
    """An archive that compares each member that is used with its checksum, once: torch.load does not, so that a flipped
    bit would be a wrong weight."""

    def __init__(self, path):
        super().__init__(path)
        self.checked = set()

    def check(self, member: Member, what: str = "the archive"):
        """Raises SpeechMergeError for other bytes than were saved. Members saved without a checksum have 0."""
        if member.name in self.checked:
            return
        if member.crc and (found := checksum(self, member)) != member.crc:
            raise SpeechMergeError(f"{self.path}: {what}: {member.name!r} is damaged (CRC-32 {found:08x}, the archive "
                                   f"says {member.crc:08x}); copy the file again")
        self.checked.add(member.name)


def write_checksum(descriptor: int, file: OpenFile, member: Member, crc: int):
    """Set a member's CRC-32 in a copy of `file`: in the local header, in the descriptor, in the directory."""
    value, old = struct.pack("<L", crc), struct.pack("<L", member.crc)
    os.pwrite(descriptor, value, member.record + 16)
    if not member.flags & 8:
        os.pwrite(descriptor, value, member.header + 14)
        return
    if read_at(file, member.header + 14, 4) != bytes(4):
        os.pwrite(descriptor, value, member.header + 14)
    behind = read_at(file, member.stop, 8)
    place = 4 if behind == b"PK\x07\x08" + old else 0
    if behind[place : place + 4] != old:
        raise SpeechMergeError(f"{file.path}: member {member.name!r} has no descriptor behind its bytes; copy it again")
    os.pwrite(descriptor, value, member.stop + place)
