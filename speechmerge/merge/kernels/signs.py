"""Trimming, sign election and disjoint merge: the parts of TIES (arXiv 2306.01708, algorithm 1) on blocks of tensors.

Few operations per element, in place where possible. The sign bit of a float32 is taken and set as bit 31 of an int32,
so that "the magnitude where the sign agrees, else 0" is one exclusive or and one clamp. The elected signs are those of
the exact sums: where rounding could have decided, which is seen by comparing the sum with what agrees with it, the
element is done again in float64. So signs do not depend on the order of the inputs, and zero sums are found by the same
look. """
import numpy as np
import torch

SIGN_BIT = -(1 << 31)  # of a float32 seen as int32
ROUNDING = 2.0 ** -22  # four times the largest relative error of one float32 addition
TINY = float(np.finfo(np.float32).tiny)


def trim_(tensor, threshold: float):
    """Values below `threshold` in magnitude become 0, in place; the threshold itself is kept."""
    if threshold > 0:
        below = float(np.nextafter(np.float32(threshold), np.float32(0)))  # hardshrink keeps what is larger than this
        torch.ops.aten.hardshrink.out(tensor, below, out=tensor)
    return tensor


def sum_of_signs(tensors, elect: str = "sum", weights=None) -> int:
    """Sum over all elements of the sign that is elected for each, 0 where the votes cancel. As in `disjoint_merge`."""
    for tensor, weight in zip(tensors, weights or ()):
        tensor.mul_(weight)
    return int(_votes(tensors, elect).sign_().sum(dtype=torch.float64).item())


def disjoint_merge(tensors, zero_sign, rule: str = "mean", elect: str = "sum", weights=None) -> torch.Tensor:
    """Per element: elect a sign, then take the mean, sum or largest of the values of that sign; 0 where there is none.

    tensors: float32, one per task vector, trimmed, all of one shape; they may be changed. zero_sign: a function that
    gives the sign (+1, 0, -1) of elements whose votes cancel, called only if there are such. rule: "mean", "sum" or "max". elect: "sum" (sign of the sum of values, the
    paper) or "count" (are more values positive or negative). weights: each tensor is multiplied by its own before the
    election, and the mean divides by the weights of those that agree. """
    for tensor, weight in zip(tensors, weights or ()):
        tensor.mul_(weight)
    votes = _votes(tensors, elect)
    if elect == "count" and zero_sign() < 0:
        votes.sub_(0.5)
    signs = torch.bitwise_and(votes.view(torch.int32), SIGN_BIT)
    merged, share = _agreeing(tensors, signs, rule, weights)
    if elect == "count":
        doubt = None  # counts are exact
        if zero_sign() == 0:
            merged.mul_(votes.abs_().clamp_max_(1))
    else:
        doubt = _doubt(merged, votes, len(tensors), rule)
    if share is not None:
        merged.div_(share.clamp_min_(TINY))
    merged.view(torch.int32).bitwise_xor_(signs)
    if doubt is not None and doubt.numel() and doubt.amax() > 0:
        _settle(merged, doubt, tensors, zero_sign, rule, weights)
    return merged


def _votes(tensors, elect: str) -> torch.Tensor:
    """Fresh tensor: the sum of the values, or of their signs."""
    if elect == "count":
        votes = tensors[0].sign()
        for tensor in tensors[1:]:
            votes.add_(tensor.sign())
        return votes
    votes = tensors[0].clone() if len(tensors) == 1 else tensors[0] + tensors[1]
    for tensor in tensors[2:]:
        votes.add_(tensor)
    return votes


def _agreeing(tensors, signs, rule: str, weights):
    """(sum or maximum of the magnitudes that have the elected sign; for the mean, the sum of the weights of those)."""
    merged, share = _part(tensors[0], signs, torch.empty_like(tensors[0])), None
    if rule == "mean":
        share = merged.sign() if weights is None else merged.sign().mul_(weights[0])
    part = torch.empty_like(merged)
    for index, tensor in enumerate(tensors[1:], 1):
        _part(tensor, signs, part)
        if rule == "max":
            torch.maximum(merged, part, out=merged)
        else:
            merged.add_(part)
        if rule == "mean":
            share.add_(part.sign_(), alpha=1 if weights is None else weights[index])
    return merged, share


def _part(tensor, signs, out) -> torch.Tensor:
    """Magnitudes of the values that have the elected sign, 0 for the others."""
    torch.bitwise_xor(tensor.view(torch.int32), signs, out=out.view(torch.int32))
    return out.clamp_min_(0)


def _doubt(merged, votes, count: int, rule: str) -> torch.Tensor:
    """Above 0 where the sum `votes` is so small against the agreeing values that rounding, or nothing, gave its sign.

    A sum of n values has an error below (n - 1) eps times the sum of their magnitudes; if its sign is wrong or it is
    zero, that sum is about twice the agreeing part, which is `merged`, or at most n times `merged` where that is the
    maximum. Divided instead of multiplied, so that denormal numbers are not lost.
    """
    bound = ROUNDING * count * (count if rule == "max" else 1)
    return torch.sub(merged, votes.abs_(), alpha=1 / bound, out=votes)


def _settle(merged, doubt, tensors, zero_sign, rule: str, weights):
    """The doubtful elements once more, in float64."""
    places = (doubt.reshape(-1) > 0).nonzero().squeeze(1)
    values = torch.stack([tensor.reshape(-1)[places] for tensor in tensors]).double()  # [inputs, doubtful]
    sign = values.sum(0).sign()
    cancelled = sign == 0
    if cancelled.any():
        sign[cancelled] = zero_sign()
    values.mul_(sign).clamp_min_(0)
    result = values.amax(0) if rule == "max" else values.sum(0)
    if rule == "mean":
        share = torch.tensor(weights or [1.0] * len(tensors), dtype=torch.float64, device=values.device)
        result.div_((share @ values.sign()).clamp_min_(TINY))
    merged.reshape(-1)[places] = result.mul_(sign).float()
