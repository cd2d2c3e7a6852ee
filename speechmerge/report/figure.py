"""What all plots of the report share: the Plot record, axes in one style, PNG bytes. Matplotlib, without a display."""
import csv
import io
import re
import textwrap
from dataclasses import dataclass

from matplotlib.figure import Figure

from speechmerge.report import colours

DPI = 150
LETTER = 0.083  # inches that a letter of a title takes, about
MARKERS = "osD^vPX*<>hp"
PALETTE = ("#0072b2", "#d55e00", "#007a5a", "#b0468c", "#8a6d00", "#3a3a3a", "#2f9fd0", "#7a4a00")  # darker Okabe-Ito


@dataclass(frozen=True)
class Plot:
    """`rows`: the numbers, header first; `alt`: what a reader who cannot see the picture should know."""
    name: str
    title: str
    alt: str
    png: bytes
    rows: list[list]

    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels (96 per inch), read from the PNG header."""
        return tuple(round(int.from_bytes(self.png[i:i + 4], "big") * 96 / DPI) for i in (16, 20))

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.rows)
        return text.getvalue()


def slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def new_axes(width: float, height: float, title: str, grid: str = "both"):
    """A figure of this size in inches, its axes, titled (in several lines where it is long); grid lines: x, y, both or
    none."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    title = title if "\n" in title else wrapped(title, width - 1.2)
    axes.set_title(title, fontsize=11, color=colours.INK, loc="left", pad=10)
    axes.tick_params(colors=colours.INK, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#aab2bb")
    if grid != "none":
        axes.grid(axis=grid, color="#d5d9de", linewidth=0.6, zorder=0)
    return figure, axes


def wrapped(title: str, inches: float) -> str:
    """In lines that are no longer than so many inches."""
    return textwrap.fill(title, max(20, int(inches / LETTER)))


def label_room(names: list[str], usual: int = 24) -> float:
    """Inches that names of rows need beyond the room for `usual` letters."""
    return 0.075 * max([0, *(len(name) - usual for name in names)])


def name_rows(axes, names: list[str]):
    """Names of horizontal bars, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def curve_style(place: int) -> dict:
    """Marker and colour of the n-th curve or group of points: told apart by both."""
    return {"marker": MARKERS[place % len(MARKERS)], "color": PALETTE[place % len(PALETTE)]}


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
