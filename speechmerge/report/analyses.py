"""What `speechmerge analyze` left in exp/analysis: every folder with its table, pictures, CSV files and examples.

Nothing here knows a kind of analysis: a new one shows as it is. Folders without analysis.json, and those that were
written before the table was kept, show their pictures and CSV files.
"""
import csv
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechmerge.files import read_json
from speechmerge.report.examples import Audio
from speechmerge.report.figure import Plot
from speechmerge.report.listing import Listing, blocks, read_csv
from speechmerge.report.pictures import size_in_page
from speechmerge.report.wording import natural, spaced
from speechmerge.systems import located

MOST_ROWS = 60  # of a CSV file that stands in the page as a table
MOST_EXAMPLES = 24  # of one analysis
CSV_BYTES = 200_000  # larger files are not held by the page
COLUMNS = ("set", "utt", "system", "kind", "reference", "hypothesis")  # of an example; others follow


@dataclass(frozen=True)
class Study:
    """One folder. `blocks`: texts and Listings, as they were printed; `listings`: of CSV files without a picture;
    `examples`: a table of texts, whose last
    cell is the sound as a data URI or None; `more_examples`: that are only in analysis.json; `origin`: command, date,
    commit."""
    name: str
    kind: str
    about: str
    folder: str
    blocks: list = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    examples: Listing | None = None
    more_examples: int = 0
    origin: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return spaced(self.name)


def read_studies(exp_dir, room: int) -> tuple[list[Study], int]:
    """(studies in natural order, bytes of the page that their pictures take). Pictures that do not fit into `room`
    bytes are named instead."""
    root, found, left = Path(exp_dir) / "analysis", [], room
    for folder in sorted(folders(root), key=lambda folder: natural(str(folder.relative_to(root)))):
        study = read_study(folder, str(folder.relative_to(root)))
        kept = []
        for plot in study.plots:
            if (size := size_in_page(plot.png)) <= left:
                kept.append(plot)
                left -= size
        if dropped := [plot.name for plot in study.plots if plot not in kept]:
            study.notes.append(f"Left out to keep the page small: {', '.join(dropped)} (PNG and CSV in {folder}).")
        study.plots[:] = kept
        found.append(study)
    return found, room - left


def folders(root: Path) -> list[Path]:
    """Those that hold anything to show; hidden ones are work in progress."""
    if not root.is_dir():
        return []
    all_ = [root, *(path for path in root.rglob("*") if path.is_dir())]
    seen = [path for path in all_ if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return [path for path in seen
            if (path / "analysis.json").is_file() or any(path.glob("*.png")) or any(path.glob("*.csv"))]


def read_study(folder: Path, name: str) -> Study:
    record = read_json(folder / "analysis.json") if (folder / "analysis.json").is_file() else {}
    kind = str(record.get("kind") or name)
    study = Study(name, kind, about(kind), str(folder), blocks(record.get("table") or []), read_plots(folder, name, record),
                  examples=example_table(record.get("examples") or []),
                  more_examples=max(0, len(record.get("examples") or []) - MOST_EXAMPLES),
                  origin={key: record[key] for key in ("command", "date", "commit") if key in record})
    drawn = {path.stem for path in folder.glob("*.png")}
    for path in sorted(folder.glob("*.csv"), key=lambda path: natural(path.name)):
        if path.stem in drawn or not path.stat().st_size:
            continue
        if path.stat().st_size > CSV_BYTES:
            study.notes.append(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB) is in {folder}.")
        else:
            study.listings.append(read_csv(path, MOST_ROWS))
    return study


def example_table(examples: list[dict]) -> Listing | None:
    """The first MOST_EXAMPLES; columns that say nothing are left out, the last one is the path of the sound."""
    shown = examples[:MOST_EXAMPLES]
    names = dict.fromkeys([*COLUMNS, *(name for example in shown for name in example)])
    filled = [name for name in names if name != "audio" and any(example.get(name) not in (None, "") for example in shown)]
    rows = [[*(as_text(example.get(name)) for name in filled), example.get("audio")] for example in shown]
    return Listing("examples", "Examples", [*filled, "audio"], rows) if rows else None


def as_text(value):
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def examples_with_audio(study: Study, exp_dir, audio: Audio) -> Study:
    """The same with sound instead of paths; None where there is none, the file is gone, or `audio` has no room left."""
    if study.examples is None:
        return study
    rows = [[*row, sound(path, exp_dir, audio)] for *row, path in study.examples.rows]
    return replace(study, examples=replace(study.examples, rows=rows))


def sound(path, exp_dir, audio: Audio) -> str | None:
    place = Path(located(path, exp_dir)) if path else None
    return audio.uri(str(place)) if place and place.is_file() else None


def about(kind: str) -> str:
    """The first line of the analysis' documentation; empty for kinds that this version does not know."""
    from speechmerge.analysis.base import ANALYSES

    if kind not in ANALYSES.names():
        return ""
    text = (ANALYSES.get(kind).__doc__ or "").strip()
    return " ".join(text.split("\n\n")[0].split())


def read_plots(folder: Path, name: str, record: dict) -> list[Plot]:
    """Every picture with its numbers; in the order in which the analysis made them, others by name."""
    known = record.get("pictures") or {}
    order = {key: place for place, key in enumerate(known)}
    paths = sorted(folder.glob("*.png"), key=lambda path: (order.get(path.stem, len(order)), natural(path.name)))
    plots = []
    for path in paths:
        numbers, said = path.with_suffix(".csv"), known.get(path.stem, {})
        rows = []
        if numbers.is_file() and numbers.stat().st_size <= CSV_BYTES:
            with open(numbers, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        title = said.get("title") or spaced(path.stem)
        alt = said.get("alt") or f"{title}, a picture of the analysis {name}. {numbers_alt(rows)}"
        plots.append(Plot(f"{name}-{path.stem}".replace("/", "-"), title, alt, path.read_bytes(), rows))
    return plots


def numbers_alt(rows: list[list[str]], most: int = 8) -> str:
    """The first numbers of a picture in words, for readers who do not see it."""
    if len(rows) < 2:
        return "Its numbers are not here."
    head = ", ".join(cell or "row" for cell in rows[0][:most])
    return f"Its numbers begin: {head}; " + "; ".join(", ".join(row[:most]) for row in rows[1:4]) + "."
