"""Pairs of ours and plain that models.py measures; one module per family offers them: `pairs(args) -> list[Pair]`."""
import time
from dataclasses import dataclass, field
from typing import Callable


@dataclass
class Finding:
    """One run: processor seconds and seconds by the clock, per step or per utterance; what came of it."""

    cpu: float
    wall: float
    result: object = None  # texts by utterance, or the loss of the first step


@dataclass
class Pair:
    """Two ways to do the same work. `same`: compares two results and says how they differ, "" where they agree; None:
    they hear differently, so their results are not compared."""

    name: str
    unit: str  # of the seconds: "step" or "utterance"
    ours: Callable[[], Finding]
    plain: Callable[[], Finding]
    same: Callable[[object, object], str] | None = None


@dataclass
class Clock:
    """Times of both kinds between two calls."""

    start: tuple[float, float] = field(default_factory=lambda: (time.process_time(), time.perf_counter()))

    def stop(self, count: int, result=None) -> Finding:
        cpu, wall = time.process_time() - self.start[0], time.perf_counter() - self.start[1]
        return Finding(cpu / count, wall / count, result)
