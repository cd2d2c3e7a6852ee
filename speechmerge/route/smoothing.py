"""Probabilities over time made steady, and the stretches that are read off them."""
import math

from speechmerge.errors import UsageError
from speechmerge.registry import nearest

SMOOTHINGS = ("none", "median", "exponential", "viterbi")


def check_smoothing(name: str, seconds: float):
    if name not in SMOOTHINGS:
        raise UsageError(f"smoothing {name!r}; {nearest(name, SMOOTHINGS)}")
    if seconds <= 0:
        raise UsageError(f"smoothing of {seconds} s: expected seconds above 0")


def smoothed(probabilities, name: str, steps: float):
    """[t, labels] -> [t, labels], rows with a sum of 1. `steps`: frames that the smoothing spans.

    median: of each label over a window of `steps` (made odd), renormalised. exponential: p_t = a x_t + (1 - a) p_(t-1) with
    a = 1 / steps, which looks at nothing ahead. viterbi: the best path where a switch is as improbable as one in `steps`
    frames; rows are 0 or 1.
    """
    check_smoothing(name, steps)
    return {"none": unchanged, "median": median, "exponential": exponential, "viterbi": viterbi}[name](probabilities, steps)


def unchanged(probabilities, steps):
    return probabilities


def median(probabilities, steps):
    import torch

    half = int(steps) // 2
    if half == 0:
        return probabilities
    edges = torch.cat([probabilities[:1].expand(half, -1), probabilities, probabilities[-1:].expand(half, -1)])
    found = edges.unfold(0, 2 * half + 1, 1).median(-1).values
    return (found + 1e-9) / (found + 1e-9).sum(-1, keepdim=True)


def exponential(probabilities, steps):
    share, found = 1 / max(1.0, steps), probabilities.clone()
    for place in range(1, len(found)):
        found[place] = share * probabilities[place] + (1 - share) * found[place - 1]
    return found


def viterbi(probabilities, steps):
    import torch

    count, labels = probabilities.shape
    stay, leave = math.log(1 - 1 / max(2.0, steps)), math.log(1 / max(2.0, steps) / max(1, labels - 1))
    moves = torch.full((labels, labels), leave).fill_diagonal_(stay).double()
    scores, back = probabilities[0].double().clamp(min=1e-9).log(), []
    for row in probabilities[1:].double().clamp(min=1e-9).log():
        best, origin = (scores[:, None] + moves).max(0)
        scores = best + row
        back.append(origin)
    path = [int(scores.argmax())]
    for origin in reversed(back):
        path.append(int(origin[path[-1]]))
    return torch.nn.functional.one_hot(torch.tensor(path[::-1]), labels).to(probabilities.dtype)
