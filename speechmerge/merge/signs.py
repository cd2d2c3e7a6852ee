"""Sign election and disjoint mean, the second half of TIES (arXiv 2306.01708, section 3)."""
import torch


def sum_of_signs(tensors) -> int:
    """Sum over all elements of the sign of the element's sum over `tensors`."""
    return int(torch.sign(_total(tensors)).sum(dtype=torch.float64).item())


def disjoint_mean(tensors, majority) -> torch.Tensor:
    """Per element: the sign of the sum, then the mean of the non-zero values of that sign.

    `tensors`: float32, one per task vector, all of one shape. `majority()` gives the sign (+1, 0, -1) for elements
    whose non-zero values sum to exactly zero; it is called only where there are such.
    """
    sign = torch.sign(_total(tensors))
    undecided = (sign == 0) & torch.stack([tensor != 0 for tensor in tensors]).any(dim=0)
    if undecided.any():
        sign = torch.where(undecided, torch.full_like(sign, float(majority())), sign)
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for tensor in tensors:
        agrees = (torch.sign(tensor) == sign) & (sign != 0)
        total += tensor * agrees
        count += agrees
    return total / count.clamp_min(1)


def _total(tensors) -> torch.Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total
