"""Files that are longer than a model hears: their beginning is used, so that none drops out of a test set."""
from pathlib import Path

HEADER, RATE, WIDTH = 44, 16000, 2  # bytes before the samples of a wav file; Hz; bytes of a sample, mono


def beginning(path, longest: float) -> tuple[float, float] | None:
    """(0, longest) in seconds where a 16 kHz mono wav file of 16 bits is longer, else None; longest 0: always None."""
    path = Path(path)
    if not longest or not path.is_file() or path.stat().st_size <= HEADER + WIDTH * RATE * longest:
        return None
    return 0.0, float(longest)
