"""How alike the changes are that adapters make: cosines of true deltas, norms, sign conflicts, what TIES would keep.

A delta is s B A, never B or A alone: (B R)(R^-1 A) is the same adapter with other factors. Inner products of low-rank
deltas are s_1 s_2 tr((B_1'B_2)(A_2 A_1')); signs are looked at block by block, so that no dense matrix is held.
"""
from dataclasses import dataclass, fields

from speechmerge.analysis.base import ANALYSES, TOTAL, Analysis, Findings, number, table
from speechmerge.blocks import block_of, group_of
from speechmerge.merge.parameters import Parameter


@ANALYSES.register("weights")
class Weights(Analysis):
    """Cosines, norms, sign conflicts and TIES survival of the adapters' true deltas, per layer and in total."""

    parameters = (
        Parameter("signs", bool, True, "count sign conflicts and what TIES keeps; reads every element twice"),
        Parameter("k", float, 20.0, "percent of largest magnitudes of each adapter that signs are compared of", low=0,
                  high=100),
    )

    def run(self) -> Findings:
        from speechmerge.merge.compute import computing

        names = self.study.names
        with computing():
            tensors = together(self.study.vectors)
            products = by_layer(grams(tensors))
            signs = by_layer(sign_counts(tensors, self.values["k"])) if self.values["signs"] else {}
        data = {"adapters": names, "layers": {layer: about(gram) for layer, gram in products.items()},
                "percent_kept": self.values["k"], "signs": {layer: shares(counts) for layer, counts in signs.items()}}
        return Findings(data, pictures(names, data), lines(names, data))


def together(vectors):
    """Tensors over all parameters that any adapter changes; where one changes nothing its delta is zero."""
    from speechmerge.merge.compute import Tensors
    from speechmerge.merge.delta import zero

    shapes = {name: delta.shape for vector in vectors for name, delta in vector.deltas.items()}
    return Tensors({name: [vector.deltas.get(name) or zero(shape) for vector in vectors]
                    for name, shape in shapes.items()})


def grams(tensors) -> dict:
    """Parameter -> inner products [adapters, adapters], float64."""
    from speechmerge.merge.kernels.inner_products import inner_products

    return inner_products(tensors)


def by_layer(found: dict) -> dict:
    """Sums over the parameters of each block (`encoder.3`, `outside`), in the order of the network, then over all."""
    sums = {}
    for name in sorted(found, key=place_of):
        layer = group_of(name, "block")
        for key in (layer, TOTAL):
            sums[key] = sums[key] + found[name] if key in sums else found[name]
    sums[TOTAL] = sums.pop(TOTAL)
    return sums


def place_of(name: str) -> tuple:
    """Sort key: encoder before decoder before other parts, blocks by number, what is outside last."""
    block = block_of(name)
    if block is None:
        return 3, "", 0, name
    order = {"encoder": 0, "audio_tower": 0, "decoder": 1}.get(block[0], 2)
    return order, block[0], block[1], name


def cosines(gram):
    """[n, n] from inner products; NaN where one of both is zero."""
    import numpy as np

    lengths = np.sqrt(np.clip(np.diag(gram), 0, None))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(gram / np.outer(lengths, lengths), -1, 1)


def about(gram) -> dict:
    import numpy as np

    return {"cosine": matrix(cosines(gram)),
            "norm": [number(value) for value in np.sqrt(np.clip(np.diag(gram), 0, None))]}


def matrix(values) -> list[list]:
    return [[number(value) for value in row] for row in values]


@dataclass
class SignCounts:
    """Elements, of the k % largest of each adapter: `both` [n, n] that two have, `opposite` [n, n] with opposite signs,
    `kept` [n], `elected` [n] with the sign of the sum over all adapters; `mass`, `elected_mass` [n] the same in sums of
    magnitudes."""

    both: object
    opposite: object
    kept: object
    elected: object
    mass: object
    elected_mass: object

    def __add__(self, other):
        return SignCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def sign_counts(tensors, percent: float) -> dict[str, SignCounts]:
    """Parameter -> counts, after each adapter was trimmed to its `percent` % largest magnitudes (TIES' first step)."""
    from speechmerge.merge.kernels.threshold import magnitude_thresholds

    thresholds = magnitude_thresholds(tensors, percent)
    found = {}
    for name, counts in tensors.map_blocks(lambda block, inputs: (block.name, count_signs(inputs, thresholds))):
        found[name] = found[name] + counts if name in found else counts
    return found


def count_signs(inputs, thresholds) -> SignCounts:
    """One block of each adapter, float32; they are used up. Where trimmed values cancel no sign is elected.

    With signs S in {-1, 0, 1}: S S' counts equal less opposite, |S||S|' both; likewise against the elected signs.
    """
    import torch

    from speechmerge.merge.kernels.signs import trim_

    kept = torch.stack([trim_(part.reshape(-1), least) for part, least in zip(inputs, thresholds)])  # [n, elements]
    elected = kept.sum(0).sign_()
    anyone = elected.abs()
    sizes = kept.abs()
    mass, agreeing = sizes.sum(1), (kept @ elected + sizes @ anyone) / 2
    signs, there = kept.sign_(), sizes.sign_()
    both, equal = there @ there.T, signs @ signs.T  # exact: blocks have fewer than 2^24 elements
    counts = (both, (both - equal) / 2, there.sum(1), (signs @ elected + there @ anyone) / 2, mass, agreeing)
    return SignCounts(*(part.double().numpy(force=True) for part in counts))


def shares(counts: SignCounts) -> dict:
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return {"conflict": matrix(counts.opposite / counts.both),
                "survival": [number(value) for value in counts.elected / counts.kept],
                "survival_of_magnitude": [number(value) for value in counts.elected_mass / counts.mass],
                "share_kept": [number(value) for value in counts.kept / counts.kept.sum()]}


def pictures(names: list[str], data: dict) -> list:
    from speechmerge.analysis.charts import dendrogram, heat_map

    total, layers = data["layers"][TOTAL], data["layers"]
    plots = [heat_map("cosine", "Cosine of the adapters' changes", names, names, total["cosine"], limit=1.0)]
    if len(names) > 1:
        distances = [[0.0 if i == j else 1 - (value or 0.0) for j, value in enumerate(row)]
                     for i, row in enumerate(total["cosine"])]
        plots.append(dendrogram("cosine_tree", "Adapters by 1 - cosine, average linkage", names, distances))
        pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
        values = [[layer["cosine"][i][j] for layer in layers.values()] for i, j in pairs]
        plots.append(heat_map("cosine_layers", "Cosine of each pair, layer by layer",
                              [f"{names[i]} {names[j]}" for i, j in pairs], list(layers), values))
    norms = [[layer["norm"][place] for layer in layers.values()] for place in range(len(names))]
    plots.append(heat_map("norms", "Frobenius norm of the change", names, list(layers), norms))
    if signs := data["signs"]:
        note = f"of the {data['percent_kept']:g} % largest"
        plots.append(heat_map("sign_conflict", "Share of opposite signs", names, names, signs[TOTAL]["conflict"], note,
                              1.0))
        rows = [[layer["survival"][place] for layer in signs.values()] for place in range(len(names))]
        plots.append(heat_map("ties_survival", "Share whose sign TIES elects", names, list(signs), rows, note, 1.0))
    return plots


def lines(names: list[str], data: dict) -> list[str]:
    total, signs = data["layers"][TOTAL], data["signs"].get(TOTAL)
    head = ["adapter", "norm", *names, *(["survival"] if signs else [])]
    rows = [[name, total["norm"][i], *total["cosine"][i], *([signs["survival"][i]] if signs else [])]
            for i, name in enumerate(names)]
    return ["cosine of the true deltas, all layers together", *table(head, rows)]
