"""Times of phones and words beside a data directory, as CTM tables or as Praat TextGrids.

    times = read_times(Path("data/asr/dev"))     # {utterance: Times}, {} where there are no files
    write_times(Path("data/asr/dev"), times)     # phones.ctm and words.ctm

CTM, one line for each piece in order of time, seconds: `utterance channel start duration text`. TextGrids, as the
Montreal Forced Aligner writes them, stand in `textgrid/UTTERANCE.TextGrid` with the tiers `phones` and `words` (long
format). Silence is no piece. CTM goes before TextGrid where both are there.
"""
import re
from dataclasses import dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_text

TABLES = ("phones", "words")
FOLDER = "textgrid"
SILENCE = {"", "sil", "sp", "spn", "<eps>", "SIL", "SPN"}  # how aligners write that nothing is said
OVERLAP = 0.0051  # s; pieces may overlap by rounding to hundredths, no more
MARK = re.compile(r'(xmin|xmax|text|name|class) = ("(?:[^"]|"")*"|[-+.\deE]+)')


@dataclass(frozen=True)
class Piece:
    """What is said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Times:
    """The phones (IPA) and the words of one utterance in order of time."""

    phones: tuple[Piece, ...]
    words: tuple[Piece, ...] = ()


def files_of(folder: Path) -> list[Path]:
    """The files that `read_times` reads there."""
    tables = [folder / f"{name}.ctm" for name in TABLES if (folder / f"{name}.ctm").is_file()]
    return tables if folder / "phones.ctm" in tables else sorted((folder / FOLDER).glob("*.TextGrid"))


def read_times(folder: Path) -> dict[str, Times]:
    """Raises SpeechMergeError naming the line of whatever is not as it should be."""
    files = files_of(folder)
    if files and files[0].suffix == ".TextGrid":
        return {file.stem: read_textgrid(file) for file in files}
    tables = {file.stem: read_ctm(file) for file in files}
    return {id: Times(phones, tables.get("words", {}).get(id, ())) for id, phones in tables.get("phones", {}).items()}


def read_ctm(path: Path) -> dict[str, tuple[Piece, ...]]:
    """{utterance: its pieces}; of a sixth column (confidence) nothing is used."""
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        columns = line.split()
        if not columns or line.startswith(";;"):
            continue
        try:
            id, _, start, length, text = columns[:5]
            start, length = float(start), float(length)
        except ValueError as error:
            raise SpeechMergeError(f"{path}:{number}: found {line[:60]!r}, expected `utterance channel start duration "
                                   "text`; make it again with `speechmerge align`") from error
        own = found.setdefault(id, [])
        check(f"{path}:{number}:{id}", own[-1] if own else None, start, start + length)
        if text not in SILENCE:
            own.append(Piece(start, start + length, text))
    return {id: tuple(pieces) for id, pieces in found.items()}


def check(place: str, previous: Piece | None, start: float, end: float):
    if not 0 <= start < float("inf") or not start <= end < float("inf"):
        raise SpeechMergeError(f"{place}: found a piece from {start:g} to {end:g} s, expected times from 0 on, the end "
                               "after the start")
    if previous and start < previous.end - OVERLAP:
        raise SpeechMergeError(f"{place}: begins at {start:g} s, before {previous.text!r} ends at {previous.end:g} s; "
                               "expected lines in order of time")


def read_textgrid(path: Path) -> Times:
    """Praat's long text format, UTF-8 or UTF-16, interval tiers alone; tiers other than `phones` and `words` are passed
    over."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpeechMergeError(f"{path}: neither UTF-8 nor UTF-16; save it as UTF-8 in Praat") from error
    tiers = {name: intervals(path, body) for name, body in tiers_of(text)}
    phones = next((name for name in ("phones", "phone") if name in tiers), None)
    if phones is None:
        raise SpeechMergeError(f"{path}: tiers {sorted(tiers)}, expected one named phones (Praat's long text format)")
    return Times(tiers[phones], tiers.get("words", tiers.get("word", ())))


def tiers_of(text: str) -> list[tuple[str, str]]:
    """(name, its lines) of each interval tier; a speaker's name before it (`anna - phones`) is left away."""
    parts = re.split(r"item \[\d+\]:", text)[1:]
    found = []
    for part in parts:
        marks = dict(reversed(MARK.findall(part)))  # of each key the first
        if marks.get("class") == '"IntervalTier"':
            found.append((marks.get("name", '""').strip('"').split(" - ")[-1].strip(), part))
    return found


def intervals(path: Path, body: str) -> tuple[Piece, ...]:
    found = []
    for number, part in enumerate(re.split(r"intervals \[\d+\]:?", body)[1:], 1):
        marks = dict(MARK.findall(part))
        try:
            start, end = float(marks["xmin"]), float(marks["xmax"])
            text = marks["text"][1:-1].replace('""', '"').strip()
        except (KeyError, ValueError) as error:
            raise SpeechMergeError(f"{path}: interval {number} has no xmin, xmax and text; expected Praat's long text "
                                   "format") from error
        check(f"{path}: interval {number}", found[-1] if found else None, start, end)
        if text not in SILENCE:
            found.append(Piece(start, end, text))
    return tuple(found)


def write_times(folder: Path, times: dict[str, Times]):
    """phones.ctm and words.ctm, the times in milliseconds."""
    for name in TABLES:
        lines = [f"{id} 1 {piece.start:.3f} {piece.end - piece.start:.3f} {piece.text}\n"
                 for id in sorted(times) for piece in getattr(times[id], name)]
        write_text(folder / f"{name}.ctm", "".join(lines))


def write_textgrid(path: Path, times: Times, seconds: float):
    """For a look at an alignment in Praat: `seconds` the duration of the audio."""
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds:.4f}",
            "tiers? <exists>", f"size = {len(TABLES)}", "item []:"]
    for number, name in enumerate(TABLES, 1):
        filled = with_silence(getattr(times, name), seconds)
        head += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"',
                 "        xmin = 0", f"        xmax = {seconds:.4f}", f"        intervals: size = {len(filled)}"]
        for place, piece in enumerate(filled, 1):
            text = piece.text.replace('"', '""')
            head += [f"        intervals [{place}]:", f"            xmin = {piece.start:.4f}",
                     f"            xmax = {piece.end:.4f}", f'            text = "{text}"']
    write_text(path, "".join(f"{line}\n" for line in head))


def with_silence(pieces, seconds: float) -> list[Piece]:
    """Praat's tiers have no gaps."""
    found, at = [], 0.0
    for piece in pieces:
        if piece.start > at + 1e-4:
            found.append(Piece(at, piece.start, ""))
        found.append(Piece(max(at, piece.start), piece.end, piece.text))
        at = piece.end
    return found + ([Piece(at, seconds, "")] if seconds > at + 1e-4 else [])
