"""Kaldi text tables: one `id value` per line, UTF-8, sorted by id in byte order (LC_ALL=C).

    rows, findings = read_table(Path("data/asr/test/text"))     # rows: {id: (value, line number)}

Everything that is wrong with a table is a `Finding`: the strict reader raises on the first one, `validate` lists all.
"""
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_text

# Zero-width joiner and non-joiner belong to the spelling of several Indic scripts; all other format characters do not
SPELLING_JOINERS = "\u200c\u200d"
NO_BREAK_SPACES = "\u00a0\u202f\u2007"
UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where it is, and what mends it. `line` is None where no line is meant."""
    file: str
    line: int | None
    id: str | None
    problem: str
    fix: str

    def __str__(self):
        place = ":".join(str(part) for part in (self.file, self.line, self.id) if part is not None)
        return f"{place}: {self.problem}; {self.fix}"


def fix_command(directory) -> str:
    """How a finding says that the repair is automatic."""
    return f"run `speechmerge validate --data {directory} --fix true`"


def invisible_characters(text: str) -> list[str]:
    """What nobody sees and every scorer counts: controls, zero-width and no-break spaces, direction marks, BOMs."""
    if text.isprintable():  # much faster, and true of almost every line
        return []
    return [c for c in text if c in NO_BREAK_SPACES
            or (unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in SPELLING_JOINERS and c != "\t")]


def read_lines(path: Path) -> tuple[list[str], list[Finding]]:
    """The lines of a text file without their ends, and what is wrong with its encoding."""
    repair = fix_command(path.parent)
    data, findings = path.read_bytes(), []
    if data.startswith(UTF8_BOM):
        findings.append(Finding(str(path), 1, None, "the file begins with a byte order mark (BOM)", repair))
        data = data[len(UTF8_BOM):]
    lines = []
    # splitlines() would also split at U+2028 or U+0085 inside a transcript
    raw_lines = data.split(b"\n")
    for number, raw in enumerate(raw_lines[:-1] if raw_lines[-1] == b"" else raw_lines, 1):
        if raw.endswith(b"\r"):
            if not any("CRLF" in finding.problem for finding in findings):
                findings.append(Finding(str(path), number, first_word(raw), "CRLF line end, expected LF", repair))
            raw = raw[:-1]
        try:
            lines.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})"
            convert = f"convert it, e.g. `iconv -f ISO-8859-1 -t UTF-8 {path}`"
            findings.append(Finding(str(path), number, first_word(raw), problem, convert))
            lines.append(raw.decode("utf-8", errors="replace"))
    return lines, findings


def first_word(raw: bytes) -> str | None:
    words = raw.split()
    return words[0].decode("utf-8", errors="replace") if words else None


def read_table(path: Path) -> tuple[dict[str, tuple[str, int]], list[Finding]]:
    """Read one table into {id: (value, line number)}; of duplicate ids the first line stands."""
    lines, findings = read_lines(path)
    rows, previous, sorted_so_far = {}, "", True
    for number, line in enumerate(lines, 1):
        if not line.strip(" \t"):
            findings.append(Finding(str(path), number, None, "empty line", fix_command(path.parent)))
            continue
        id, value = split_row(line)
        problems = row_problems(path, line, id, value)
        if id in rows:
            same = rows[id][0] == value
            problems = [(f"duplicate id, first on line {rows[id][1]}" + ("" if same else " with another value"),
                         fix_command(path.parent) if same else "delete the wrong one of the two lines")]
        elif id < previous and sorted_so_far:  # code point order is the byte order of UTF-8; one such finding is enough
            sorted_so_far = False
            problems.append((f"not sorted: {id!r} comes after {previous!r} (expected byte order, LC_ALL=C)",
                             fix_command(path.parent)))
        findings += [Finding(str(path), number, id, problem, fix) for problem, fix in problems]
        rows.setdefault(id, (value, number))
        previous = id
    return rows, findings


def row_problems(path: Path, line: str, id: str, value: str) -> list[tuple[str, str]]:
    """(problem, fix) for everything that can be seen in one line alone."""
    repair, problems = fix_command(path.parent), []
    if line[0] in " \t":
        problems.append(("the line begins with white space, expected an id", repair))
    if "/" in id:
        problems.append(("the id contains '/', which file names cannot", "rename the utterance in all tables"))
    if hidden := sorted({f"U+{ord(c):04X}" for c in invisible_characters(line)}):
        problems.append(("invisible character " + ", ".join(hidden), repair))
    if not value:
        problems.append(("empty transcript" if path.name == "text" else "the second column is missing", repair))
    return problems


def split_row(line: str) -> tuple[str, str]:
    """`id value with spaces` -> (id, value); the separator is one or more spaces or tabs, as in Kaldi."""
    line = line.strip(" \t")
    position = next((i for i, c in enumerate(line) if c in " \t"), len(line))
    return line[:position], line[position:].strip(" \t")


def write_table(path: Path, rows: dict[str, str]):
    """Write {id: value} sorted in byte order, atomically."""
    for id, value in rows.items():
        if not id or id.split() != [id] or "/" in id:
            raise SpeechMergeError(f"{path}: id {id!r} is empty or contains white space or '/'; rename the utterance")
        if "\n" in value or "\r" in value:
            raise SpeechMergeError(f"{path}:{id}: {value[:40]!r} has more than one line; join its lines with spaces")
    write_text(path, "".join(f"{id} {rows[id]}\n" for id in sorted(rows)))
