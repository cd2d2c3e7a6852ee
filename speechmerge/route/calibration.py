"""Probabilities that mean what they say: temperature scaling (Guo et al. 2017) and the expected calibration error."""
import math

import torch
from torch.nn.functional import cross_entropy

COLDEST, HOTTEST = 0.05, 20.0
BINS = 15


def temperature(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """The T in [COLDEST, HOTTEST] with the least cross-entropy of softmax(logits / T); logits: [n, labels], targets: [n].

    Where every answer is right, the loss falls without end as T goes to 0; T is then kept at 1 or above.
    """
    logits = logits.double()
    perfect = bool((logits.argmax(-1) == targets).all())
    low, high = math.log(1.0 if perfect else COLDEST), math.log(HOTTEST)

    def loss(place: float) -> float:
        return float(cross_entropy(logits / math.exp(place), targets))

    golden = (math.sqrt(5) - 1) / 2  # the loss has one minimum in 1 / T, so in log T
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp((low + high) / 2)


def calibration_error(probabilities: torch.Tensor, targets: torch.Tensor, bins: int = BINS) -> float:
    """Mean of |accuracy - confidence| over `bins` equal ranges of the confidence, weighted by their members."""
    confidence, chosen = probabilities.double().max(-1)
    right = (chosen == targets).double()
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1  # the range (0, 1 / bins] is the first
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, right - confidence)
    return float(gaps.abs().sum() / len(targets))
