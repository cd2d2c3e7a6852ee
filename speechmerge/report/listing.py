"""A table of the page beside the scores: sortable, with its numbers as CSV; and text tables read back into one."""
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Shown:
    """A number as it is written on the page."""
    value: float | None
    text: str

    def __str__(self):
        return self.text


@dataclass(frozen=True)
class Listing:
    """`rows`: cells are texts, numbers, Shown or None (empty); `note`: what to know of it; `left_out`: rows of the file
    that are not here."""
    name: str
    title: str
    columns: list[str]
    rows: list[list]
    note: str = ""
    left_out: int = 0

    def numeric(self, column: int) -> bool:
        """Whether all that is there is a number, so that it stands to the right."""
        cells = [row[column] for row in self.rows if row[column] not in (None, "")]
        return bool(cells) and all(isinstance(cell, (int, float, Shown)) for cell in cells)

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([cell.value if isinstance(cell, Shown) else cell for cell in row] for row in self.rows)
        return text.getvalue()


def sort_key(cell) -> str:
    """What the page's script sorts by: a number, or the text itself; empty last."""
    if isinstance(cell, Shown):
        cell = cell.value
    return "" if cell is None or cell != cell else repr(float(cell)) if isinstance(cell, (int, float)) else str(cell)


def cell_text(cell) -> str:
    """A number with four digits that count, thousands apart; a text as it is."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        text = f"{cell:.4g}" if abs(cell) < 1e4 else f"{cell:,.0f}"
        return text.replace("-", "\N{MINUS SIGN}")
    return f"{cell:,}".replace("-", "\N{MINUS SIGN}") if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def number_or_text(text: str):
    """'0.5' -> 0.5, '3' -> 3, '' -> None, others as they are. As identifiers, numbers with leading zeros stay texts."""
    if text == "":
        return None
    if not NUMBER.fullmatch(text) or re.match(r"[-+]?0\d", text):
        return text
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def read_csv(path, most: int | None = None) -> Listing:
    """Of a file with a header; rows beyond `most` are counted only. SpeechMergeError for rows of another length."""
    path = Path(path)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows:
        raise SpeechMergeError(f"{path}: empty, expected a header; run the command that made it again")
    head, *body = rows
    for number, row in enumerate(body, 2):
        if len(row) != len(head):
            raise SpeechMergeError(f"{path}:{number}: found {len(row)} cells, expected {len(head)} as in the header")
    kept = body if most is None else body[:most]
    return Listing(path.stem, path.stem.replace("_", " "), head, [[number_or_text(cell) for cell in row] for row in kept],
                   left_out=len(body) - len(kept))


def blocks(lines: list[str]) -> list:
    """Printed lines -> Listings where they are a table of aligned columns, else texts; in the same order.

    A table is lines of equal length whose columns but the first end at the same places (analysis.base.table).
    """
    found, run = [], []
    for line in [*lines, None]:
        if run and (line is None or len(line) != len(run[0])):
            found += as_table(run)
            run = []
        if line is not None:
            run.append(line)
    return found


def as_table(lines: list[str]) -> list:
    """Listings, and the lines before them that have no common columns with the rest."""
    for place in range(len(lines) - 1):
        if rows := cells_of(lines[place:]):
            return [*lines[:place], *split_tables(rows, lines[place:])]
    return lines


def cells_of(lines: list[str]) -> list[list] | None:
    """Rows of cells where the columns but the first end at the same places in all lines; None where there are none."""
    ends = [place for place in range(len(lines[0]))
            if all(line[place] != " " and line[place + 1:place + 2] in ("", " ") for line in lines)]
    gaps = [place for place in range(len(lines[0])) if all(line[place] == " " for line in lines)]
    if ends and not any(gap < ends[0] for gap in gaps):  # the first column, where all its texts are equally long
        ends = ends[1:]
    first = max((gap for gap in gaps if ends and gap < ends[0]), default=0)
    if not all(line[:first].strip() for line in lines):
        return None
    starts = [first, *(end + 1 for end in ends)]
    cells = [[line[:first].strip(), *(line[start:end + 1].strip() for start, end in zip(starts, ends))] for line in lines]
    return [[row[0], *(None if cell == "-" else as_written(cell) for cell in row[1:])] for row in cells]


def as_written(text: str):
    """A number keeps the digits that it was printed with."""
    found = number_or_text(text)
    return Shown(found, text.replace("-", "\N{MINUS SIGN}")) if isinstance(found, (int, float)) else found


def split_tables(rows: list[list], lines: list[str]) -> list:
    """One table for each head: the first row, and others of words alone where the other rows have numbers. A head
    without rows is a line of text."""
    def is_head(row):
        return all(isinstance(cell, str) for cell in row[1:])

    several, found = not all(map(is_head, rows)), []
    for place, row in enumerate(rows):
        if not place or several and is_head(row):
            found.append((lines[place], Listing("table", "", [str(cell) for cell in row], [])))
        else:
            found[-1][1].rows.append(row)
    return [listing if listing.rows else line for line, listing in found]
