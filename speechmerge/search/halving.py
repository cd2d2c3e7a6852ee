"""Successive halving: points are tried on a part of the evaluation set first, and only good ones on more of it.

    halving: {rungs: [0.1, 0.4], keep: 0.5}     # 10 %, 40 %, then all of it; the better half goes on each time

A point goes on if it is among the best `keep` of those that have come to this rung so far, itself included (ASHA, arXiv
1810.05934), so that no worker waits for another.
"""


def goes_on(score: float | None, others: list[float | None], keep: float) -> bool:
    """others: scores of the other points at this rung. A score of None, undefined, is no reason to stop."""
    if score is None:
        return True
    known = [other for other in others if other is not None]
    return sum(other > score for other in known) < max(1, int(keep * (len(known) + 1)))


def at_rung(points: list[dict], rung: float) -> list[float | None]:
    """The scores that points have got at a rung."""
    return [point["rungs"][str(rung)] for point in points if str(rung) in point.get("rungs", ())]
