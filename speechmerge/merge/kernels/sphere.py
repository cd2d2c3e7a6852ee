"""Means on a sphere as linear combinations of what is merged.

SLERP, the Karcher mean and Model Stock all lie in the span of their inputs, with coefficients that depend on nothing
but the inputs' inner products. So they are found in a space of as many dimensions as there are inputs, in float64, and
the sum itself stays in factor space for LoRA. Each function takes the inner products of one parameter, an array [n, n].
"""
import math

from speechmerge.merge.method import Method

PARALLEL = 0.9995  # |cosine| from which on SLERP is a straight line, as in all implementations
OPPOSITE = 1e-6  # radians short of pi: from there on a direction no longer says which way to go


class OnSphere(Method):
    """A linear combination whose coefficients follow from inner products: they are known only after the survey."""

    def survey(self, tensors):
        from speechmerge.merge.kernels.inner_products import inner_products

        self.products = inner_products(tensors)

    def combination(self, products, name: str) -> list[float]:
        """One coefficient per input, from the inner products of the parameter `name`."""
        raise NotImplementedError

    def merge(self, name, deltas):
        from speechmerge.merge.delta import concatenate

        return concatenate(deltas, self.combination(self.products[name], name))

    def rank(self, name, deltas):
        ranks = [getattr(delta, "rank", None) for delta in deltas]
        return None if None in ranks else sum(ranks)


def slerp(products, t: float) -> list[float]:
    """sin((1 - t) w) / sin w and sin(t w) / sin w, w the angle between the two; 1 - t and t where they are parallel."""
    length = math.sqrt(products[0][0] * products[1][1])
    cosine = products[0][1] / length if length else 1.0
    if abs(cosine) > PARALLEL:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def karcher(products, weights, iterations: int, tolerance: float) -> list[float]:
    """The point of the unit sphere with the smallest weighted sum of squared angles to the inputs' directions, times
    the weighted mean of their norms.

    weights: sum 1. Inputs that are zero have no direction, but a norm. Where the directions cancel, so that no mean is
    singled out, the result is the weighted mean itself. Each step goes along the mean of the directions towards the
    inputs (their logarithmic maps), at most `iterations` times, until it is shorter than `tolerance` radians.
    """
    import numpy as np

    norms = np.sqrt(np.maximum(np.diagonal(products), 0))
    some = np.flatnonzero(norms * weights)
    units = np.asarray(products)[np.ix_(some, some)] / np.outer(norms[some], norms[some])
    pull = np.asarray(weights)[some] / (np.asarray(weights)[some].sum() or 1)
    place = pull.copy()  # coefficients of the inputs' directions
    if _length(place, units) < 1e-6:
        return list(map(float, weights))
    for _ in range(iterations):
        place /= _length(place, units)
        cosines = np.clip(units @ place, -1, 1)
        angles = np.arccos(cosines)
        stretch = np.maximum(np.sinc(angles / math.pi), OPPOSITE / 4)  # sin(angle) / angle
        force = np.where(angles > math.pi - OPPOSITE, 0, pull / stretch)
        step = force - (force @ cosines) * place
        size = _length(step, units)
        if size < tolerance:
            break
        place = math.cos(size) * place + math.sin(size) / size * step
    place /= _length(place, units)
    result = np.zeros(len(norms))
    result[some] = (norms @ weights) * place / norms[some]
    return result.tolist()


def _length(coefficients, units) -> float:
    return math.sqrt(max(float(coefficients @ units @ coefficients), 0.0))


def stock_ratio(products, average: str = "cosine") -> float:
    """n c / (1 + (n - 1) c), c the mean cosine of all pairs, at least 0: how far to go from the base to the mean.

    average: of the cosines, or of the angles. A zero input is at a right angle to all others.
    """
    n = len(products)
    if n == 1:
        return 1.0
    cosines = []
    for i in range(n):
        for j in range(i):
            length = math.sqrt(products[i][i] * products[j][j])
            cosines.append(min(max(products[i][j] / length, -1.0), 1.0) if length else 0.0)
    angles = [math.acos(cosine) for cosine in cosines]
    mean = sum(cosines) / len(cosines) if average == "cosine" else math.cos(sum(angles) / len(angles))
    mean = max(mean, 0.0)
    return n * mean / (1 + (n - 1) * mean)
