"""Inner products of the deltas of each parameter: all that methods need which find their coefficients on a sphere.

Of low-rank deltas <D_1, D_2> = s_1 s_2 tr((B_1'B_2)(A_2 A_1')), never dense; others are read block by block. float64.
"""
import torch

from speechmerge.merge.delta import LowRank


def inner_products(tensors) -> dict:
    """Parameter -> float64 array [inputs, inputs], from the Tensors of a merge."""
    low = [name for name in tensors.names if all(getattr(delta, "rank", None) for delta in tensors.deltas(name))]
    found = dict(tensors.map(lambda name, deltas: (name, of_deltas(deltas).numpy()), low))
    rest = [name for name in tensors.names if name not in found]
    for name, part in tensors.map_blocks(lambda block, rows: (block.name, of_blocks(rows)), rest):
        found[name] = found.get(name, 0) + part.numpy()
    return found


def of_deltas(deltas):
    """[inputs, inputs] of deltas that have a rank; where one turns out to be dense, of all as they are."""
    deltas = [delta.loaded() for delta in deltas]
    if all(isinstance(delta, LowRank) for delta in deltas):
        return of_factors(deltas)
    return of_blocks([delta.dense() for delta in deltas])


def of_factors(deltas):
    """[inputs, inputs] of low-rank deltas: the blocks (i, j) of B'B and AA', multiplied and summed."""
    factors = [delta.factors() for delta in deltas]
    B = torch.cat([B for B, _ in factors], dim=1).double()
    A = torch.cat([A for _, A in factors], dim=0).double()
    products = (B.T @ B) * (A @ A.T)
    owner = torch.repeat_interleave(torch.arange(len(deltas)), torch.tensor([delta.rank for delta in deltas]))
    sums = torch.zeros(len(deltas), len(products), dtype=torch.float64, device=products.device)
    sums.index_add_(0, owner.to(products.device), products)
    return torch.zeros(len(deltas), len(deltas), dtype=torch.float64, device=products.device).index_add_(
        1, owner.to(products.device), sums).cpu()


def of_blocks(rows):
    """[inputs, inputs] of the same block of each input."""
    flat = torch.empty(len(rows), rows[0].numel(), dtype=torch.float64, device=rows[0].device)
    for line, block in zip(flat, rows):
        line.copy_(block.reshape(-1))
    return (flat @ flat.T).cpu()
