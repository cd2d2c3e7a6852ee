"""A sweep on disk: its summary, which any number of workers share.

A point is claimed before it is tried: the worker holds the lock of the point's own file until the point is finished. A
worker that dies lets go of it, and whoever comes next tries that point again; so a sweep that was killed has the points
of one that was not.
"""
from dataclasses import dataclass
from pathlib import Path

from speechmerge.files import lock, read_json, try_lock, write_json
from speechmerge.metrics.interference import rank
from speechmerge.search.samplers import PENDING
from speechmerge.search.warm import worst

RUNNING, STOPPED, DONE = "running", "stopped", "done"


@dataclass
class Claim:
    """A point that this process tries; `held` is the open file whose lock says so."""

    number: int
    values: dict
    held: object

    def release(self):
        self.held.close()


class Journal:
    def __init__(self, path: Path, summary: dict):
        """summary: what a new sweep begins with; one that is there at `path` stays as it is."""
        self.path = Path(path)
        with lock(self.path):
            if not self.path.is_file():
                write_json(self.path, summary)

    def read(self) -> dict:
        return read_json(self.path)

    def claim(self, searcher) -> Claim | None:
        """The next point: one whose worker is gone, or a new one. None: none is left, but others may be running."""
        with lock(self.path):
            summary = self.read()
            for number, point in enumerate(summary["points"]):
                if point.get("state") == RUNNING and (held := try_lock(self.place(number))):
                    return Claim(number, point["values"], held)
            values = self.next(searcher, summary)
            if values is None:
                return None
            number = len(summary["points"])
            claim = Claim(number, values, try_lock(self.place(number)))
            summary["points"].append({"values": values, "state": RUNNING})
            write_json(self.path, summary)
            return claim

    @staticmethod
    def next(searcher, summary: dict) -> dict | None:
        scores = [PENDING if point.get("state") == RUNNING else worst(point) for point in summary["points"]]
        points = [(point["values"], score) for point, score in zip(summary["points"], scores)]
        return searcher.ask(points, [tuple(point) for point in summary["warm_points"]])

    def finish(self, claim: Claim, point: dict):
        """Write what was found at a point; those that were stopped early are not ranked."""
        with lock(self.path):
            summary = self.read()
            summary["points"][claim.number] = point
            whole = [point for point in summary["points"] if point.get("state", DONE) == DONE]
            summary["ranking"] = rank({point["tag"]: point["interference_delta"] for point in whole})
            write_json(self.path, summary)
            claim.release()

    def running(self) -> int:
        """Points that other workers are trying."""
        return sum(point.get("state") == RUNNING for point in self.read()["points"])

    def place(self, number: int) -> Path:
        return self.path.parent / "points" / f"{self.path.stem}-{number}"
