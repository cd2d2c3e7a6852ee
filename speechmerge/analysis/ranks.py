"""How large an adapter has to be: the metric over its rank and over the number of trained parameters.

The scaling of a LoRA is alpha / rank. With alpha tied to the rank (the default of `speechmerge train`) it is 1 for all
ranks; with a fixed alpha a larger rank is also a smaller step, and the curve mixes the two. Adapters of another alpha
are a curve of their own; one with alpha equal to its rank belongs to both.

    enough           the smallest rank that is not worse than the best one beyond the paired 95 % interval
    effective rank   of the trained deltas, mean over the parameters (analysis `spectra`): what of the rank is in use
"""
from collections import defaultdict

from speechmerge.analysis.base import ANALYSES, Findings, number, table
from speechmerge.analysis.studies import (
    SHARED,
    TrainingStudy,
    by_set,
    curve_plot,
    difference,
    grouped,
    metric_of,
    need,
    with_interval,
)
from speechmerge.errors import SpeechMergeError

TIED = "alpha = rank"


@ANALYSES.register("ranks")
class Ranks(TrainingStudy):
    """The metric against rank and trainable parameters, alpha tied to the rank or fixed, effective ranks beside it."""

    parameters = SHARED

    def run(self) -> Findings:
        from speechmerge.merge.compute import computing

        trainings = self.trainings()
        for training in trainings:
            if training.options["tuning"] != "lora":
                raise SpeechMergeError(f"{training.name}: has no rank (--tuning {training.options['tuning']}); name "
                                       "LoRA adapters with --adapters")
        with computing():
            sizes = {name: self.size(vector) for name, vector in zip(self.study.names, self.study.vectors)}
        data = {name: self.of_set(own, sizes) for name, own in by_set(trainings).items()}
        return Findings({"split": self.study.split, "sets": data}, pictures(data), lines(data))

    @staticmethod
    def size(vector) -> dict:
        """What of an adapter needs its weights: effective rank and number of parameters in its file."""
        from speechmerge.analysis.spectra import spectra_of, summary

        effective = summary(spectra_of(vector))["effective_rank"]
        return {"effective_rank": effective, "parameters": parameters(vector.origin)}

    def of_set(self, trainings, sizes: dict) -> dict:
        scores = self.scored(trainings, self.study.split)
        points = {}
        for (rank, alpha), own in sorted(grouped(trainings, factors).items()):
            effective = sum(sizes[training.name]["effective_rank"] for training in own) / len(own)
            points[rank, alpha] = self.point(own, scores, rank=rank, alpha=alpha, effective_rank=number(effective),
                                             parameters=sizes[own[0].name]["parameters"])
        need({rank for rank, _ in points}, 2, "ranks")
        curves = in_curves(points)
        return {"metric": metric_of(scores), "curves": {name: [point.record() for point in own]
                                                        for name, own in curves.items()},
                "enough": {name: enough(own) for name, own in curves.items()}}


def factors(training) -> tuple[int, float]:
    """(rank, alpha)"""
    rank, alpha = training.options["rank"], training.options["alpha"]
    return rank, float(rank if alpha is None else alpha)


def parameters(folder) -> int:
    """Of an adapter's file; only its header is read."""
    from math import prod
    from pathlib import Path

    from safetensors import safe_open

    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())


def in_curves(points: dict) -> dict[str, list]:
    """Curve -> points by ascending rank. A fixed alpha is a curve where it has another rank than itself."""
    found = defaultdict(list)
    for (rank, alpha), point in points.items():
        if rank == alpha:
            found[TIED].append(point)
        else:
            found[f"alpha = {alpha:g}"].append(point)
    for (rank, alpha), point in points.items():
        if rank == alpha and (name := f"alpha = {alpha:g}") in found:
            found[name] = sorted([*found[name], point], key=lambda point: point.more["rank"])
    return dict(found)


def enough(points) -> dict:
    """{"best": rank, "rank": the smallest that is not clearly worse, "difference": u(best) - u(that)}"""
    best = max(points, key=lambda point: point.mean_u)
    for point in points:
        gap = difference(best, point)
        if point is best or gap["ci"][0] <= 0:
            return {"best": best.more["rank"], "rank": point.more["rank"], "difference": gap}
    raise AssertionError("the best is among the points")


def pictures(data: dict) -> list:
    plots = []
    for name, title, key, y, log in (
            ("rank_curve", "the metric over the rank", "rank", None, True),
            ("rank_parameters", "the metric over the number of trained parameters", "parameters", None, True),
            ("rank_effective", "directions in use", "rank", "effective_rank", True)):
        for own, about in data.items():
            series = {curve: [point_at(p, key, y) for p in points] for curve, points in about["curves"].items()}
            plots.append(curve_plot(f"{name}_{own}", f"{own}: {title}", series, key,
                                    y.replace("_", " ") if y else about["metric"], log=log))
    return plots


def point_at(point: dict, key: str, y: str | None) -> dict:
    return {**point, "x": point[key], **({"value": point[y], "ci": None} if y else {})}


def lines(data: dict) -> list[str]:
    found = []
    for name, about in data.items():
        rows = [[p["rank"], curve, p["value"], *p["ci"], len(p["trainings"]), p["parameters"], p["effective_rank"]]
                for curve, points in about["curves"].items() for p in points]
        head = [f"rank, {name}", "curve", about["metric"], "from", "to", "seeds", "parameters", "eff. rank"]
        found += table(head, rows, 12)
        found += [f"{name}, {curve}: best at rank {e['best']}; rank {e['rank']} is enough (the best is better by "
                  f"{with_interval(e['difference'])})" for curve, e in about["enough"].items()]
    return found
