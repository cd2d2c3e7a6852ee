"""Do adapters work in the same directions, and does a merge keep them?

    phi          ||V_1' V_2||_F^2 / min(k_1, k_2), V: leading right singular vectors of the true delta (LoRA, arXiv
                 2106.09685, there of A; of the delta it does not depend on how it is factored). Of random directions it
                 is max(k_1, k_2) / n
    Grassmann    sqrt(sum theta_i^2), cos theta_i the singular values of V_1' V_2 (radians)
    alignment    SAR = ||U_k U_k' D_t||_F / ||D_t||_F, U_k the left singular vectors of the merged delta D_M, k the
                 fewest with ||D_M - U_k U_k' D_M||_F <= 0.05 ||D_M||_F (Iso-Merging, arXiv 2502.04959);
                 it predicts what a merge keeps, which the cosine does not
"""
from speechmerge.analysis.base import ANALYSES, TOTAL, Analysis, Findings, number, table
from speechmerge.analysis.weights import matrix, place_of, together
from speechmerge.blocks import group_of
from speechmerge.errors import UsageError
from speechmerge.merge.parameters import Parameter

RESIDUAL = 0.05


@ANALYSES.register("subspaces")
class Subspaces(Analysis):
    """Similarity phi and Grassmann distance of the adapters' directions, and their alignment with a merge."""

    parameters = (
        Parameter("rank", int, 16, "leading directions of each delta that are compared, at most", low=1),
        Parameter("merged", str, None, "tag or folder of a merge; default: the mean of the adapters"),
    )

    def run(self) -> Findings:
        from speechmerge.merge.compute import computing, ordered

        if len(self.study.names) < 2:
            raise UsageError("--adapters: subspaces are compared between adapters; name at least two")
        merged = self.merged()
        with computing():
            tensors = together(self.study.vectors)
            names = sorted((name for name in tensors.names if len(tensors.shape(name)) > 1), key=place_of)
            found = dict(zip(names, ordered(lambda name: self.of(name, tensors.deltas(name), merged), names)))
        layers = mean_by_layer(found)
        data = {"adapters": self.study.names, "rank": self.values["rank"],
                "merged": self.values["merged"] or "mean of the adapters",
                "layers": {layer: jsonable(part) for layer, part in layers.items()}}
        return Findings(data, pictures(data), lines(data))

    def merged(self) -> dict | None:
        """Parameter -> delta of the merge that was named; None: the mean."""
        from speechmerge.merge.read import read
        from speechmerge.systems import find_systems

        if not self.values["merged"]:
            return None
        return read(find_systems([self.values["merged"]], self.study.exp_dir)[0].path,
                    base=self.study.args.model).deltas

    def of(self, name: str, deltas, merged: dict | None) -> dict:
        """Arrays phi, random, grassmann [n, n] and alignment [n] of one parameter; NaN where it is not changed."""
        import numpy as np

        from speechmerge.merge.delta import concatenate, zero

        mean = concatenate(deltas, [1 / len(deltas)] * len(deltas))
        basis = kept_basis(mean if merged is None else merged.get(name, zero(mean.shape)))
        return {**compare([directions(delta, self.values["rank"]) for delta in deltas]),
                "alignment": np.array([alignment(basis, delta) for delta in deltas])}


def directions(delta, rank: int):
    """[n, k] right singular vectors, k at most `rank`; k = 0 where nothing is changed."""
    from speechmerge.merge.kernels.svd import decompose

    found = decompose(delta, rank)
    return found.right.T[:, found.values > 0]


def compare(bases) -> dict:
    """phi, its value for random directions, and Grassmann distance of all pairs: {name: [n, n]}."""
    import numpy as np

    shape = len(bases), len(bases)
    found = {name: np.full(shape, np.nan) for name in ("phi", "random", "grassmann")}
    for i, first in enumerate(bases):
        for j, second in enumerate(bases[:i + 1]):
            if first.shape[1] and second.shape[1]:
                values = phi(first, second), max(first.shape[1], second.shape[1]) / len(first), grassmann(first, second)
                for name, value in zip(found, values):
                    found[name][i, j] = found[name][j, i] = value
    return found


def phi(first, second) -> float:
    """Of two orthonormal bases [n, i], [n, j]: 1 where one contains the other, 0 where they are orthogonal."""
    return float((first.T @ second).square().sum() / min(first.shape[1], second.shape[1]))


def grassmann(first, second) -> float:
    """Length of the principal angles, radians: 0 to sqrt(min(i, j)) pi / 2."""
    import torch

    cosines = torch.linalg.svdvals(first.T @ second).clamp(0, 1)
    return float(torch.linalg.vector_norm(torch.arccos(cosines)))


def kept_basis(merged, residual: float = RESIDUAL):
    """[m, k] left singular vectors of a delta, the fewest that leave out at most `residual` of its norm; 0 of zero."""
    from speechmerge.merge.kernels.svd import decompose

    found = decompose(merged)
    squares = found.values.square()
    left_out = squares.sum() - squares.cumsum(0)
    count = int((left_out > (residual * found.norm) ** 2).sum()) + 1 if found.norm else 0
    return found.left[:, :count]


def alignment(basis, delta) -> float:
    """||U U' D||_F / ||D||_F; NaN where D is zero. Of a low-rank D in its factors: the norm of (U'B) A."""
    from speechmerge.merge.delta import Dense, LowRank

    ready, norm = delta.loaded(), delta.norm()
    if not norm:
        return float("nan")
    if isinstance(ready, LowRank):
        B, A = (part.double() for part in ready.factors())
        return LowRank(basis.T @ B, A).norm() / norm
    return Dense(basis.T @ ready.matrix().double()).norm() / norm


def mean_by_layer(found: dict) -> dict:
    """Layer -> the same arrays, means over its parameters where they are defined; last of all parameters."""
    import warnings

    import numpy as np

    groups = {}
    for name, part in found.items():
        groups.setdefault(group_of(name, "block"), []).append(part)
    groups[TOTAL] = list(found.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nowhere defined: NaN is meant
        return {layer: {key: np.nanmean([part[key] for part in parts], axis=0) for key in parts[0]}
                for layer, parts in groups.items()}


def jsonable(part: dict) -> dict:
    return {key: [number(v) for v in value] if value.ndim == 1 else matrix(value) for key, value in part.items()}


def pictures(data: dict) -> list:
    from speechmerge.analysis.charts import heat_map

    names, total, layers = data["adapters"], data["layers"][TOTAL], data["layers"]
    note = f"random directions: {max(v for row in total['random'] for v in row if v is not None):.3f}"
    rows = [[part["alignment"][place] for part in layers.values()] for place in range(len(names))]
    return [heat_map("phi", f"Shared directions phi, up to {data['rank']} of each", names, names, total["phi"],
                     note, 1.0),
            heat_map("grassmann", "Grassmann distance (radians)", names, names, total["grassmann"]),
            heat_map("alignment", f"Share of each adapter in the directions of the merge ({data['merged']})", names,
                     list(layers), rows, limit=1.0)]


def lines(data: dict) -> list[str]:
    names, total = data["adapters"], data["layers"][TOTAL]
    rows = [[name, *total["phi"][i], total["alignment"][i]] for i, name in enumerate(names)]
    return [f"phi, means over parameters; alignment with {data['merged']}",
            *table(["adapter", *names, "alignment"], rows)]
