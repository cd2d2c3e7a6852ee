"""From free parameters to coefficients.

    free      c = w                     clamp   c = w cut to 0..1
    softmax   c = scale * softmax(w)    tanh    c = tanh(w), in a tree the product along the path

w is [edges] or [layers, edges]; without a tree an edge is an adapter. The result is [T] or [L, T].
"""
import math
from dataclasses import dataclass

import torch

from speechmerge.errors import UsageError


class Parametrisation:
    """`tree`: nested lists of adapter names; `active`: the names that are mixed now, others have coefficient 0."""

    def __init__(self, kind: str, names, tree=None, layers: int | None = None, scale: float = 1.0, normalise: bool = False):
        self.kind, self.names, self.layers, self.scale, self.normalise = kind, list(names), layers, scale, normalise
        self.paths = paths_of(tree if tree is not None else self.names)  # name -> indices of its edges, from the root
        self.edges = 1 + max(edge for path in self.paths.values() for edge in path)
        self.used = set(range(self.edges))  # those that count, the others are 1
        self.active = set(self.names)

    def start(self, value: float) -> torch.Tensor:
        """Parameters that make every edge's coefficient `value`."""
        shape = (self.edges,) if self.layers is None else (self.layers, self.edges)
        if self.kind == "softmax":
            return torch.zeros(shape)
        if self.kind == "tanh_alpha":
            if not -1 < value < 1:
                raise UsageError(f"optimizer.params.init: found {value}, tanh_alpha needs a number between -1 and 1")
            value = math.atanh(value)
        return torch.full(shape, float(value))

    def __call__(self, parameters: torch.Tensor) -> torch.Tensor:
        if self.kind == "softmax":
            values = self.scale * parameters.softmax(-1)
        else:
            edges = self.of_edges(parameters)
            values = torch.stack([self.product(edges, name) for name in self.names], dim=-1)
        if self.normalise:
            values = values / values.abs().sum(-1, keepdim=True).clamp_min(1e-12)
        return values

    def of_edges(self, parameters):
        if self.kind == "clamp":
            return parameters.clamp(0, 1)
        return parameters.tanh() if self.kind == "tanh_alpha" else parameters

    def product(self, edges, name: str):
        path = [edge for edge in self.paths[name] if edge in self.used]
        if name not in self.active:
            return torch.zeros_like(edges[..., 0])
        value = torch.ones_like(edges[..., 0])
        for edge in path:
            value = value * edges[..., edge]
        return value


@dataclass(frozen=True)
class Stage:
    """One node of a tree: `trained` are the edges to its branches, `used` all edges below it, `names` its leaves."""

    names: list[str]
    trained: list[int]
    used: list[int]


def stages(tree) -> list[Stage]:
    """The nodes, inner ones first; every branch of every node has an edge, numbered depth first."""
    found, count = [], 0

    def walk(node) -> Stage:
        nonlocal count
        names, trained, used = [], [], []
        for branch in node:
            trained.append(count)
            count += 1
            below = walk(branch) if isinstance(branch, list) else Stage([branch], [], [])
            names, used = names + below.names, used + below.used
        found.append(Stage(names, trained, used + trained))
        return found[-1]

    walk(tree)
    return found


def paths_of(tree) -> dict[str, list[int]]:
    """Adapter -> the edges from the leaf up to the root."""
    paths: dict[str, list[int]] = {}
    count = 0

    def walk(node):
        nonlocal count
        for branch in node:
            edge, count = count, count + 1
            below = [branch]
            if isinstance(branch, list):
                before = set(paths)
                walk(branch)
                below = [name for name in paths if name not in before]
            for name in below:
                paths.setdefault(name, []).append(edge)

    walk(tree)
    return paths
