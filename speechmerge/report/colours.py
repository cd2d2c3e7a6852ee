"""Colours of the report: blue against orange, apart for every kind of colour vision; text has a contrast of 4.5."""

BASE, ADAPTER, OTHER_ADAPTER, MERGED, ROUTED = "#6b7280", "#1d63b0", "#a9c6e8", "#d9730d", "#6d3f98"
UNDEFINED = "#e8eaed"
INK = "#16202c"
# kept share -> colour; between the stops the colour is mixed, outside the last one holds
STOPS = (
    (-2.0, (122, 46, 4)),
    (-1.0, (214, 106, 28)),
    (0.0, (255, 255, 255)),
    (1.0, (62, 134, 201)),
    (2.0, (8, 48, 107)),
)


def kept_colour(kept: float | None) -> str:
    """Background of a cell: white where a system is as the base, bluer the more it keeps, orange where it loses."""
    if kept is None:
        return UNDEFINED
    kept = min(max(kept, STOPS[0][0]), STOPS[-1][0])
    (low, start), (high, end) = next(pair for pair in zip(STOPS, STOPS[1:]) if kept <= pair[1][0])
    share = (kept - low) / (high - low)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(start, end))


def luminance(colour: str) -> float:
    """Relative luminance of '#rrggbb' as in WCAG 2."""
    channels = (int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2, from 1 to 21."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def text_colour(background: str) -> str:
    """Black or white, whichever reads better on `background`."""
    return max(("#000000", "#ffffff"), key=lambda colour: contrast(colour, background))
