"""Merge rules that work on singular values and vectors, on plain matrices; float64 in, float64 out.

Each takes one matrix [p, q] per task vector and gives one. They do not change under rotations: U' rule(M_1, M_2, ...)
V = rule(U' M_1 V, U' M_2 V, ...) for orthonormal U and V that span what the matrices span, which is why for LoRA they
are computed in the core space of the stacked factors. For this to hold, every rule looks at numerical ranks, never at
the size of a matrix: a singular vector of a zero singular value is arbitrary and must not come into the result.
"""
import torch

from speechmerge.merge.kernels.svd import NUMERICAL_RANK, svd

DUPLICATE = 1e-5  # relative singular value of stacked vectors below which they say the same, up to float32 rounding


def polar(stacked: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal columns, P Q' for the SVD P S Q'. Where columns are equal they are a partial
    isometry: sqrt(1/n) of each of n equal ones."""
    found = svd(stacked)
    some = found.values > DUPLICATE * found.values[0]
    return found.left[:, some] @ found.right[some]


def tsv(matrices, count: int | None = None, boost: float | None = None) -> torch.Tensor:
    """Sum of the tasks' singular triplets after their left and right vectors were made orthonormal across tasks.

    count: at most so many of each task, and never more than its numerical rank. boost: singular values are raised to
    the first one with which the sum of the largest reaches this part of the sum of all.
    """
    parts = [found for found in (svd(matrix, count) for matrix in matrices) if found.norm]
    if not parts:
        return torch.zeros_like(matrices[0])
    values = torch.cat([part.values if boost is None else boosted(part.values, boost) for part in parts])
    left = polar(torch.cat([part.left for part in parts], dim=1))
    right = polar(torch.cat([part.right.T for part in parts], dim=1))
    return left * values @ right.T


def boosted(values: torch.Tensor, part: float) -> torch.Tensor:
    """Descending singular values, the small ones raised (arXiv 2506.16506)."""
    share = values.cumsum(0) / values.sum()
    first = min(int((share < part).sum()), len(values) - 1)
    return values.clamp_min(values[first])


def isotropic(matrices) -> torch.Tensor:
    """U V' times the mean singular value, for the SVD of the sum. The rank stays; the mean is over that rank."""
    found = svd(sum(matrices))
    return found.values.mean() * (found.left @ found.right)


def isotropic_common_specific(matrices, fraction: float) -> torch.Tensor:
    """Iso-CTS: `fraction` of the rank of the sum for its leading directions, the rest in equal parts for what each task
    has beyond these; all made orthonormal, with the mean of their singular values."""
    total = svd(sum(matrices))
    if not total.norm:
        return torch.zeros_like(matrices[0])
    rank = len(total.values)
    each = min(round((rank - int(rank * fraction)) / len(matrices)), rank // len(matrices))
    common = rank - each * len(matrices)
    shared = total.left[:, :common]
    parts = [(shared, total.values[:common], total.right[:common])]
    for matrix in matrices if each else ():
        rest = svd(matrix - shared @ (shared.T @ matrix), each)
        some = rest.values > NUMERICAL_RANK * torch.linalg.matrix_norm(matrix)
        parts.append((rest.left[:, some], rest.values[some], rest.right[some]))
    left, values, right = zip(*parts)
    vectors = polar(torch.cat(left, dim=1)) @ polar(torch.cat(right).T).T
    return torch.cat(values).mean() * vectors


def least_interference(matrices, ridge: float = 0.0) -> torch.Tensor:
    """The matrix X of smallest norm with the least sum_t ||(X - M_t) M_t'||^2 / ||M_t||^2.

    With M_t = U S V' a term is ||X K - N||^2, K = V S / ||M_t|| [q, r_t] and N = U S^2 / ||M_t|| [p, r_t], so that X is
    N K^+ of the stacked K and N: least squares in as many unknowns as there are singular values. ridge: of the squared
    singular values of K, relative to the largest, against inputs that nearly coincide.
    """
    parts = [found for found in map(svd, matrices) if found.norm]
    if not parts:
        return torch.zeros_like(matrices[0])
    inputs = svd(torch.cat([part.right.T * (part.values / part.norm) for part in parts], dim=1))
    outputs = torch.cat([part.left * (part.values ** 2 / part.norm) for part in parts], dim=1)
    inverse = inputs.values / (inputs.values ** 2 + ridge * inputs.values[0] ** 2)
    return (outputs @ inputs.right.T) * inverse @ inputs.left.T
