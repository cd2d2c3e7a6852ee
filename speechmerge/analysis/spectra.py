"""How many directions an adapter uses: singular values of its true deltas and what follows from them.

    effective rank   exp(-sum p ln p), p = sigma / sum sigma    (Roy and Vetterli 2007)
    stable rank      sum sigma^2 / max sigma^2
    participation    (sum sigma^2)^2 / sum sigma^4

None can exceed the adapter's rank, so that only adapters of equal rank compare.
"""
from speechmerge.analysis.base import ANALYSES, TOTAL, Analysis, Findings, number, table
from speechmerge.analysis.weights import place_of
from speechmerge.blocks import group_of
from speechmerge.merge.parameters import Parameter

MEASURES = ("effective_rank", "stable_rank", "participation")


@ANALYSES.register("spectra")
class Spectra(Analysis):
    """Singular values, effective rank, stable rank and participation of the adapters' true deltas."""

    parameters = (Parameter("shown", int, 32, "singular values of each parameter that the curves show", low=1),)

    def run(self) -> Findings:
        from speechmerge.merge.compute import computing

        with computing():
            found = {name: spectra_of(vector) for name, vector in zip(self.study.names, self.study.vectors)}
        data = {"adapters": {name: {**summary(spectra), **self.training(vector)}
                             for (name, spectra), vector in zip(found.items(), self.study.vectors)},
                "parameters": {name: {key: [number(v, 9) for v in values] for key, values in spectra.items()}
                               for name, spectra in found.items()}}
        return Findings(data, pictures(found, data, self.values["shown"]), lines(data))

    @staticmethod
    def training(vector) -> dict:
        """What the adapter was trained on: few data often leave few directions."""
        from pathlib import Path

        from speechmerge.files import read_json

        record = Path(vector.origin or "") / "speechmerge.json"
        return {"training_utterances": read_json(record).get("utterances") if record.is_file() else None}


def spectra_of(vector) -> dict:
    """Parameter -> singular values, descending, float64, in the order of the network; vectors have none."""
    from speechmerge.merge.compute import ordered
    from speechmerge.merge.kernels.svd import decompose

    names = sorted((name for name, delta in vector.deltas.items() if len(delta.shape) > 1), key=place_of)
    return dict(zip(names, ordered(lambda name: decompose(vector.deltas[name]).values.cpu().numpy(), names)))


def effective_rank(values) -> float:
    """exp of the entropy of the values' shares; 0 where all are zero."""
    import numpy as np

    values = np.asarray(values, dtype=float)
    if not values.sum():
        return 0.0
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(values) -> float:
    import numpy as np

    squares = np.asarray(values, dtype=float) ** 2
    return float(squares.sum() / squares.max()) if squares.max() else 0.0


def participation(values) -> float:
    import numpy as np

    squares = np.asarray(values, dtype=float) ** 2
    return float(squares.sum() ** 2 / (squares ** 2).sum()) if squares.max() else 0.0


def measures(values) -> dict[str, float]:
    return dict(zip(MEASURES, (effective_rank(values), stable_rank(values), participation(values))))


def summary(spectra: dict) -> dict:
    """Means over the parameters that are changed, in all and per layer."""
    groups = {}
    for name, values in spectra.items():
        if values.max(initial=0) > 0:
            for key in (group_of(name, "block"), TOTAL):
                groups.setdefault(key, []).append(measures(values))
    means = {key: {m: number(sum(row[m] for row in rows) / len(rows)) for m in MEASURES}
             for key, rows in groups.items()}
    total = means.pop(TOTAL, dict.fromkeys(MEASURES, 0.0))
    return {"rank": max(map(len, spectra.values()), default=0), **total, "layers": means}


def pictures(found: dict, data: dict, shown: int) -> list:
    from speechmerge.analysis.charts import curves, heat_map

    layers = list(dict.fromkeys(layer for about in data["adapters"].values() for layer in about["layers"]))
    plots = [curves("spectra", "Singular values, as shares of the largest",
                    {name: mean_curve(s, shown) for name, s in found.items()},
                    "singular value", "share of the largest")]
    for measure in MEASURES[:2]:
        rows = [[about["layers"].get(layer, {}).get(measure) for layer in layers]
                for about in data["adapters"].values()]
        plots.append(heat_map(measure, f"{measure.replace('_', ' ').capitalize()}, mean of each layer's parameters",
                              list(data["adapters"]), layers, rows))
    return plots


def mean_curve(spectra: dict, shown: int) -> list[float]:
    """Mean over the parameters of sigma_i / sigma_1."""
    import numpy as np

    scaled = [values[:shown] / values[0] for values in spectra.values() if len(values) and values[0] > 0]
    width = max(map(len, scaled), default=0)
    return [number(np.mean([row[i] if i < len(row) else 0.0 for row in scaled])) for i in range(width)]


def lines(data: dict) -> list[str]:
    adapters = data["adapters"]
    head = ["adapter", "rank", *(measure.replace("_", " ") for measure in MEASURES), "utterances"]
    rows = [[name, about["rank"], *(about[m] for m in MEASURES), about["training_utterances"]]
            for name, about in adapters.items()]
    differ = len({about["rank"] for about in adapters.values()}) > 1
    note = ["ranks differ: the measures are bounded by them, and do not compare"] if differ else []
    return ["means over all changed parameters", *table(head, rows, 15), *note]
