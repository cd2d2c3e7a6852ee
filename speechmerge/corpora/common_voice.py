"""Common Voice's own files, read by every corpus that is made of its clips: TSV tables and release folders.

    for row in read_tsv("cv-corpus-4-2019-12-10/it/validated.tsv", required=("path", "sentence")):
        row["sentence"], row.line

Columns came, went and changed places from release to release (README of common-voice/cv-dataset), so they go by the
header. Nothing is quoted, and sentences hold single quotation marks: a reader that honours them swallows rows. `Null`,
`NA` and `nan` are words.
"""
import csv
from collections.abc import Iterator
from pathlib import Path

from speechmerge.errors import SpeechMergeError


class Row(dict):
    """{column: text} of one line; `place` is file:line, for messages."""

    place = ""


def read_tsv(path, required: tuple[str, ...] = (), escape: str | None = None) -> Iterator[Row]:
    """The rows below the header of a UTF-8 file, with or without BOM and with either line end.

    Short rows (a release leaves trailing empty fields out) are filled with "", lines without text are passed over.
    `escape`: a character that takes the next one's meaning away, as CoVoST's backslash. SpeechMergeError with file:line
    for a column of `required` that is not there, for more fields than columns, and for bytes that are not UTF-8.
    """
    path, header = Path(path), None
    with opened(path) as file:
        for number, raw in enumerate(file, 1):
            place = f"{path}:{number}"
            line = decoded(raw, place).rstrip("\r\n")
            if header is None:
                header = columns_of(line, required, place)
            elif line.strip():
                yield as_row(split_fields(line, escape, place), header, place)
    if header is None:
        raise SpeechMergeError(f"{path}: is empty, expected a header with {', '.join(required) or 'column names'}")


def opened(path: Path):
    try:
        return open(path, "rb")  # bytes: only \n ends a line, a lone \r or U+2028 is part of a sentence
    except OSError as error:
        raise SpeechMergeError(f"{path}: cannot be read ({error.strerror}); complete the corpus") from error


def decoded(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig" if place.endswith(":1") else "utf-8")
    except UnicodeDecodeError as error:
        raise SpeechMergeError(f"{place}: is not UTF-8 (byte {error.start} of the line); fetch it again") from error


def columns_of(line: str, required: tuple[str, ...], place: str) -> list[str]:
    header = line.split("\t")
    missing = [column for column in required if column not in header]
    if missing:
        raise SpeechMergeError(f"{place}: no column {missing[0]!r}, found {', '.join(header)[:200]}; "
                               "is this the right file, separated by tabs?")
    return header


def split_fields(line: str, escape: str | None, place: str) -> list[str]:
    if escape is None or escape not in line:
        return line.split("\t")
    try:
        return next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar=escape))
    except csv.Error as error:
        raise SpeechMergeError(f"{place}: cannot be parsed ({error}); correct the line or fetch it again") from error


def as_row(fields: list[str], header: list[str], place: str) -> Row:
    if len(fields) > len(header):
        raise SpeechMergeError(f"{place}: found {len(fields)} fields, expected at most the {len(header)} of the header")
    row = Row(zip(header, fields + [""] * (len(header) - len(fields))))
    row.place = place
    return row


def language_folder(root, language: str, table: str = "validated.tsv") -> Path:
    """The folder of one language: cv-corpus-<version>-<date>/<language>, <language>, or `root` itself.

    SpeechMergeError where there is none, or where several releases lie side by side.
    """
    root = Path(root)
    found = sorted(path.parent for path in root.glob(f"cv-corpus-*/{language}/{table}"))
    found = found or [folder for folder in (root / language, root) if (folder / table).is_file()][:1]
    if len(found) > 1:
        raise SpeechMergeError(f"{root}: several releases of Common Voice ({', '.join(p.parent.name for p in found)}); "
                               "leave the one that is meant")
    if not found:
        raise SpeechMergeError(f"{root}: no Common Voice for {language!r}, expected "
                               f"cv-corpus-<version>/{language}/{table} or {language}/{table}, with clips/ beside it")
    return found[0]
