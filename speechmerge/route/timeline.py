"""Which label when: stretches of one label, from frames and back."""
from dataclasses import dataclass

import torch

from speechmerge.errors import SpeechMergeError


@dataclass(frozen=True)
class Segment:
    start: float  # seconds
    end: float
    label: str

    def __str__(self):
        return f"{self.start:.3f}-{self.end:.3f}={self.label}"


def segments_of(indices, labels: list[str], seconds: float) -> list[Segment]:
    """The runs of equal indices of equally long frames that together last `seconds`."""
    indices, found = list(map(int, indices)), []
    step = seconds / len(indices)
    begun = 0
    for place in range(1, len(indices) + 1):
        if place == len(indices) or indices[place] != indices[begun]:
            found.append(Segment(begun * step, place * step, labels[indices[begun]]))
            begun = place
    return found


def parse_segments(text: str, where: str) -> list[Segment]:
    """`0.00-1.52=hi 1.52-2.90=it`. Raises SpeechMergeError for anything else."""
    found = []
    for word in text.split():
        times, equals, label = word.partition("=")
        start, dash, end = times.partition("-")
        try:
            found.append(Segment(float(start), float(end), label))
        except ValueError as error:
            raise SpeechMergeError(f"{where}: found {word!r}, expected START-END=LABEL in seconds") from error
        if not equals or not label or found[-1].end <= found[-1].start or len(found) > 1 and found[-1].start < found[-2].end - 1e-6:
            raise SpeechMergeError(f"{where}: found {word!r}, expected rising times and a label")
    return found


def label_at(segments: list[Segment], time: float) -> str | None:
    return next((segment.label for segment in segments if segment.start <= time < segment.end), None)


def switches(segments: list[Segment]) -> list[tuple[float, str]]:
    """(time, new label) wherever the label changes."""
    return [(after.start, after.label) for before, after in zip(segments, segments[1:]) if before.label != after.label]


def stretched(rows: torch.Tensor, stride: int, positions: int) -> torch.Tensor:
    """[states, T] -> [positions, T]: each row `stride` times; beyond the audio their mean, so that the mean stays.

    The decoder, which hears the whole utterance, takes the mean over positions.
    """
    found = rows.repeat_interleave(stride, dim=0)[:positions]
    rest = found.mean(0, keepdim=True).expand(positions - len(found), -1)
    return torch.cat([found, rest])
