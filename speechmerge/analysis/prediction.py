"""What does it cost adapter i to be merged with adapter j? Measured for all pairs, and predicted from their weights.

    cost of i with j   share of adapter i's gain on its own set that base + c (D_i + D_j) loses: 0 nothing, 1 all of it;
                       in teacher-forced loss, or in the metric (minus interference_delta)
    prediction         ridge regression on standardised measures of the pair, which are known before anything is decoded

Its error is that on pairs that the fit has not seen (both directions of a pair are left out together), and on adapters
that it has not seen; beside it that of always predicting the mean of the others. A prediction is worth something only
where it is better than that. Few pairs of few adapters: look at R2 before you believe a weight.
"""
from speechmerge.analysis.base import ANALYSES, TOTAL, Analysis, Findings, number, table
from speechmerge.analysis.weights import by_layer, cosines, grams, matrix, shares, sign_counts, together
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge.parameters import Parameter

FEATURES = ("cosine", "sign_conflict", "phi", "alignment", "log_norm_ratio")  # the last two differ by direction
FEWEST = 3  # adapters


@ANALYSES.register("prediction")
class Prediction(Analysis):
    """What merging costs each adapter of each pair, and how well their weights predict it."""

    parameters = (
        Parameter("coefficient", float, 0.5, "of both adapters in the merge: 0.5 the mean, 1 the sum"),
        Parameter("cost", ("loss", "metric"), "loss", "what is lost: teacher-forced loss, or the deciding metric"),
        Parameter("ridge", float, 1.0, "penalty on the squared weights of the standardised measures", low=0),
        Parameter("k", float, 20.0, "percent of each adapter whose signs are compared", low=0, high=100),
        Parameter("rank", int, 16, "leading directions that phi compares, at most", low=1),
        Parameter("max_samples", int, 100, "examples of each set, drawn once; 0: all", low=0),
        Parameter("seed", int, 0, "of that draw"),
        Parameter("reading", ("generation", "labels"), "generation", "what is judged of tasks with labels"),
    )
    uses_model = True

    def run(self) -> Findings:
        from speechmerge.merge.compute import computing

        names = self.study.names
        if len(names) < FEWEST:
            raise UsageError(f"--adapters: {len(names)} adapters have too few pairs; name at least {FEWEST}")
        with computing():
            measured = pair_measures(self.study.vectors, self.values["k"], self.values["rank"])
        costs, sets = self.costs()
        rows = [(i, j) for i in range(len(names)) for j in range(len(names)) if i != j and costs[i][j] is not None]
        if len({frozenset(row) for row in rows}) < FEWEST:
            raise SpeechMergeError(f"{', '.join(names)}: they gain too little on their sets for costs of three pairs; "
                                   "give more examples (max_samples), or cost: loss")
        fit = fitted(measured, costs, rows, self.values["ridge"])
        data = {"adapters": names, "sets": sets, "coefficient": self.values["coefficient"], "unit": self.values["cost"],
                "costs": costs, "measures": {name: matrix(values) for name, values in measured.items()}, **fit}
        data["rows"] = [{"adapter": names[i], "with": names[j], **row} for (i, j), row in zip(rows, fit["rows"])]
        return Findings(data, pictures(data), lines(data))

    def costs(self) -> tuple[list[list], list[str]]:
        """[adapters, adapters], None on the diagonal and where the adapter gains nothing; the set of each adapter."""
        from speechmerge.bank import AdapterBank
        from speechmerge.hashes import file_hash
        from speechmerge.systems import content_files

        study, model = self.study, self.study.model
        prints = [[file_hash(path) for path in content_files(system)] for system in study.systems]
        weights = [model.fingerprint(), str(model.dtype), repr(model.context)]
        tasks, own = study.sets(), list(map(study.own_set, study.names))
        bank = AdapterBank(model.core, study.vectors, base=model.path)
        try:
            found = []
            for place, name in enumerate(own):
                judge = self.judge_of(name, tasks[name], study.systems[place])
                found.append(self.row(place, lambda mix: judged(judge, bank, mix, prints, weights)))
            return found, own
        finally:
            bank.remove()

    def judge_of(self, set_name: str, task, system):
        from speechmerge.analysis.judge import Judge
        from speechmerge.decode import Options

        study, values = self.study, self.values
        root, split = study.data(set_name, task, values["max_samples"], values["seed"])
        study.model.equip(task, system.path)
        return Judge(study.model, set_name, task, root, split, Options.of(study.args), values["reading"],
                     study.output_dir / ".cells", decoding=values["cost"] == "metric")

    def row(self, place: int, judge) -> list[float | None]:
        """judge({adapter: coefficient}) -> Judgement, on the set of the adapter `place`."""
        single, base, c = judge({place: 1.0}), judge({}), self.values["coefficient"]
        return [None if other == place else cost(judge({place: c, other: c}), single, base, self.values["cost"])
                for other in range(len(self.study.names))]


def judged(judge, bank, mix: dict, prints: list, weights: list):
    from speechmerge.bank import Coefficients

    key = [*weights, sorted([prints[place], share] for place, share in mix.items())]
    with bank.using(Coefficients.per_task([mix.get(place, 0.0) for place in range(len(bank.names))])):
        return judge.judge(key)


def cost(merged, single, base, unit: str) -> float | None:
    """Share of the gain that is lost; None where there is none."""
    from speechmerge.metrics.bootstrap import standard_error
    from speechmerge.metrics.interference import interference_delta

    if unit == "metric":
        error = standard_error(single.replicates - base.replicates)
        value, _ = interference_delta(merged.u, single.u, base.u, error)
    elif single.loss is None:
        return None
    else:
        value, _ = interference_delta(-merged.loss, -single.loss, -base.loss)
    return None if value is None else number(-value)


def pair_measures(vectors, percent: float, rank: int) -> dict:
    """FEATURES -> [n, n]; row i: what adapter i is with j."""
    import numpy as np

    from speechmerge.merge.compute import ordered

    tensors = together(vectors)
    gram = by_layer(grams(tensors))[TOTAL]
    conflict = np.array(shares(by_layer(sign_counts(tensors, percent))[TOTAL])["conflict"], dtype=float)
    names = [name for name in tensors.names if len(tensors.shape(name)) > 1]
    found = list(ordered(lambda name: shared(tensors.deltas(name), rank), names))
    phi, alignment = (np.nanmean([part[place] for part in found], axis=0) for place in (0, 1))
    norms = np.sqrt(np.diag(gram))
    if not norms.all():
        raise SpeechMergeError("an adapter changes nothing, so that there is nothing to compare; leave it out")
    return dict(zip(FEATURES, (cosines(gram), conflict, phi, alignment, np.log(norms[None, :] / norms[:, None]))))


def shared(deltas, rank: int):
    """(phi, alignment) [n, n] of one parameter; alignment of i with the mean of i and j."""
    import numpy as np

    from speechmerge.analysis.subspaces import alignment, compare, directions, kept_basis
    from speechmerge.merge.delta import concatenate

    found = np.ones((len(deltas), len(deltas)))
    for i in range(len(deltas)):
        for j in range(i):
            basis = kept_basis(concatenate([deltas[i], deltas[j]], [0.5, 0.5]))
            found[i, j], found[j, i] = alignment(basis, deltas[i]), alignment(basis, deltas[j])
    return compare([directions(delta, rank) for delta in deltas])["phi"], found


def fitted(measured: dict, costs, rows, ridge: float) -> dict:
    """The fit to all rows, and what fits that have not seen its pair, or its adapters, predict for each row."""
    import numpy as np

    X = np.array([[measured[name][i, j] for name in FEATURES] for i, j in rows])
    y = np.array([costs[i][j] for i, j in rows])
    pairs = [[{i, j} == set(other) for other in rows] for i, j in rows]
    mean = np.array([y[~np.array(out)].mean() for out in pairs])
    new_pair = held_out(X, y, ridge, pairs)
    new_adapter = held_out(X, y, ridge, [[i in other or j in other for other in rows] for i, j in rows])
    weights, constant = regress(X, y, ridge)[:2]
    errors = {"new_pair": error_of(new_pair, y, mean), "new_adapters": error_of(new_adapter, y, mean),
              "mean": error_of(mean, y, mean)}
    return {"weights": {name: number(value) for name, value in zip(FEATURES, weights)}, "constant": number(constant),
            "correlation": {name: number(correlation(X[:, place], y)) for place, name in enumerate(FEATURES)},
            "errors": errors, "rows": [{"cost": number(a), "predicted": number(b), "predicted_new_adapters": number(c)}
                                       for a, b, c in zip(y, new_pair, new_adapter)]}


def regress(X, y, ridge: float):
    """(weights of the standardised columns, constant, function that predicts rows)."""
    import numpy as np

    centre, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    Z = (X - centre) / scale
    weights = np.linalg.solve(Z.T @ Z + (ridge + 1e-9) * np.eye(X.shape[1]), Z.T @ (y - y.mean()))
    constant = y.mean()
    return weights, constant, lambda rows: (rows - centre) / scale @ weights + constant


def held_out(X, y, ridge: float, out):
    """For each row what is predicted by the fit without the rows that `out` marks; NaN where none are left."""
    import numpy as np

    found = np.full(len(y), np.nan)
    for place, left_out in enumerate(map(np.array, out)):
        if not left_out.all():
            found[place] = regress(X[~left_out], y[~left_out], ridge)[2](X[place:place + 1])[0]
    return found


def error_of(predicted, y, mean) -> dict:
    """Mean absolute error, and R2 against predicting the mean of the other pairs: 0 is no better than that."""
    import numpy as np

    there = ~np.isnan(predicted)
    if not there.any():
        return {"mean_absolute": None, "r2": None}
    squares = ((y - mean)[there] ** 2).sum()
    return {"mean_absolute": number(np.abs(predicted - y)[there].mean()),
            "r2": number(1 - ((predicted - y)[there] ** 2).sum() / squares) if squares else None}


def correlation(x, y) -> float:
    """Pearson's; NaN where one does not vary."""
    import numpy as np

    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 1e-12 and y.std() > 1e-12 else float("nan")


def pictures(data: dict) -> list:
    from speechmerge.analysis.charts import heat_map, scatter

    names = data["adapters"]
    title = f"Share of the row's gain lost by merging with the column ({data['unit']})"
    points = {f"{row['adapter']} with {row['with']}": (row["cost"], row["predicted"]) for row in data["rows"]}
    return [heat_map("costs", title, names, names, data["costs"]),
            scatter("predicted", "Cost of merging, predicted for unseen pairs", points, "measured", "predicted")]


def lines(data: dict) -> list[str]:
    rows = [[name, *row] for name, row in zip(data["adapters"], data["costs"])]
    fit = [[name, data["weights"][name], data["correlation"][name]] for name in FEATURES]
    errors = [[name.replace("_", " "), error["mean_absolute"], error["r2"]] for name, error in data["errors"].items()]
    return ["share of the row's gain lost by merging with the column", *table(["adapter", *data["adapters"]], rows),
            *table(["measure", "weight", "correlation"], fit), *table(["predicted for", "error", "R2"], errors)]
