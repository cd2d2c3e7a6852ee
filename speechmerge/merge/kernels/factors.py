"""A and B summed apart: not the sum of the adapters, but what PEFT's `linear` calls one.

A = sum_i sign(w_i) sqrt(|w_i| s_i) A_i and B = sum_i sqrt(|w_i| s_i) B_i, so that B A holds the wanted w_i s_i B_i A_i
and the cross terms B_i A_j of all pairs. It depends on how each product happens to be factored. It is here so that
numbers published with it can be compared.
"""
import math

from speechmerge.errors import SpeechMergeError
from speechmerge.merge.delta import Delta, LowRank, Sum


def sum_factors(deltas, weights) -> Delta:
    """The product of summed factors. Parameters that are saved whole are summed. SpeechMergeError for other ranks."""
    low = [isinstance(delta, LowRank) for delta in deltas]
    if not any(low):
        return Sum(deltas, weights)
    if not all(low):
        raise SpeechMergeError("mode factors: found dense deltas among LoRA; only the mode product can add them")
    ranks = sorted({delta.rank for delta in deltas})
    if len(ranks) > 1:
        raise SpeechMergeError(f"mode factors: found ranks {ranks}, expected one; the mode product adds any ranks")
    return Factors(deltas, weights)


class Factors(LowRank):
    """Read when asked for, as every low-rank delta."""

    scale = 1.0

    def __init__(self, deltas, weights):
        self.deltas, self.weights, self.shape = list(deltas), list(weights), deltas[0].shape

    @property
    def rank(self):
        return self.deltas[0].rank

    @property
    def B(self):
        return sum(d.B.float() * math.sqrt(abs(w) * d.scale) for d, w in zip(self.deltas, self.weights))

    @property
    def A(self):
        signed = [math.copysign(math.sqrt(abs(w) * d.scale), w) for d, w in zip(self.deltas, self.weights)]
        return sum(d.A.float() * s for d, s in zip(self.deltas, signed))

    def scaled(self, factor):
        return Factors(self.deltas, [weight * factor for weight in self.weights])
