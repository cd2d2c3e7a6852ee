"""Text files of publishers: lines as they are, with one clear error for what cannot be read.

    for number, line in numbered_lines(root / "test" / "stm" / "talk.stm"):

Lines end where the publisher ended them: a U+2028 or U+0085 inside a transcript is not an end. A BOM and the carriage
returns of CRLF are no part of a line.
"""
from pathlib import Path

from speechmerge.errors import SpeechMergeError


def read_lines(path, encoding: str = "utf-8") -> list[str]:
    """The lines without their ends. SpeechMergeError for a file that is not there or in another encoding."""
    path = Path(path)
    try:
        text = path.read_bytes().decode(encoding)
    except FileNotFoundError as error:
        raise SpeechMergeError(f"{path}: not there; complete the download of the corpus") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise SpeechMergeError(f"{path}:{line}: not {encoding} ({byte}); copy the file again") from error
    lines = text.removeprefix("\ufeff").split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def numbered_lines(path, encoding: str = "utf-8") -> list[tuple[int, str]]:
    """(line number, line) of every line that is not blank."""
    return [(number, line) for number, line in enumerate(read_lines(path, encoding), 1) if line.strip()]
