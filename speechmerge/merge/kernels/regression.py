"""The mean of linear layers that changes least what they give on their tasks' inputs (RegMean, arXiv 2212.09849).

    D = argmin sum_t tr((D - D_t) G_t (D - D_t)') = (sum_t D_t G_t) (sum_t G_t)^-1,    G_t = X_t'X_t

for weights [out, in] and inputs X_t [rows, in]. The base's weight cancels, so the same holds for deltas. Of low-rank
deltas D_t G_t = B_t (A_t G_t): the result is [B_1 ... B_T] times an [R, in] matrix, exact and never dense. In float64.
"""
import functools

import torch

from speechmerge.merge.compute import device
from speechmerge.merge.delta import Delta, Dense, LowRank

SINGULAR = 1e-10  # part of an input's variance that the inputs before it do not explain; below it is rounding
RIDGE = 1e-6  # of the mean diagonal, where the sum of Gram matrices is singular


def regression_mean(deltas, grams, off_diagonal: float) -> Delta:
    """The merged delta. grams: [in, in] of each delta, one in memory at a time where they come from an iterator;
    off_diagonal: what their off-diagonal elements are scaled by.

    Directions that no task's inputs have get the mean of the deltas: where the sum of the Gram matrices is singular,
    each of them gets a ridge of RIDGE times their mean diagonal.
    """
    deltas = [delta.loaded() for delta in deltas]
    low = all(isinstance(delta, LowRank) for delta in deltas)
    join = _below if low else torch.add
    total = right = None
    for delta, gram in zip(deltas, grams):
        gram = shrunk(gram, off_diagonal)
        part = rows(delta, low) @ gram
        right = part if right is None else join(right, part)
        total = gram if total is None else total.add_(gram)
    factor, info = torch.linalg.cholesky_ex(total)
    if info or (factor.diagonal().square() <= SINGULAR * total.diagonal()).any():
        height = RIDGE * float(total.diagonal().mean()) / len(deltas) or 1.0  # of all zeros: the plain mean
        right += height * functools.reduce(join, (rows(delta, low) for delta in deltas))
        total.diagonal().add_(height * len(deltas))
        factor = torch.linalg.cholesky(total)
    solution = torch.cholesky_solve(right.T, factor).T.float().contiguous()
    if not low:
        return Dense(solution.reshape(deltas[0].shape))
    return LowRank(torch.cat([delta.factors()[0] for delta in deltas], dim=1), solution, 1.0, deltas[0].shape)


def _below(upper, lower):
    return torch.cat([upper, lower])


def rows(delta, low: bool):
    """What a Gram matrix is multiplied to: A [r, in], or the whole delta [out, in]; float64."""
    return (delta.factors()[1] if low else delta.matrix()).double()


def shrunk(gram, off_diagonal: float):
    """a G + (1 - a) diag(G), float64, in memory of its own, on the device of the merge."""
    gram = gram.to(device(), torch.float64, copy=True)
    diagonal = gram.diagonal().clone()
    gram.mul_(off_diagonal).diagonal().copy_(diagonal)
    return gram
