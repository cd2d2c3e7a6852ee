"""Few-shot transfer: another language's adapter, trained on with a share of the target's data, or one from scratch.

    share             utterances / those of the largest training from scratch on the same target
    transfer gain     u(from a source) - u(from scratch) at the same share; above 0 the source helps
    data efficiency   the share with which a source reaches what training from scratch reaches with all data
    data ratio        at each share of a source: the share that training from scratch needs for the same u, over it

Between the shares that were trained, u is taken as linear in the logarithm of the share; outside of them a bound is all
that is known: `at most` the smallest share, or `more than` the largest. Curves may go up and down; what counts is the
smallest share at which they reach the goal. Adapters that were trained with --unfreeze-every are curves of their own.
"""
import math
from pathlib import Path

from speechmerge.analysis.base import ANALYSES, Findings, number, table
from speechmerge.analysis.studies import (
    SHARED,
    TrainingStudy,
    by_set,
    curve_plot,
    difference,
    grouped,
    metric_of,
    value_of,
    with_interval,
)
from speechmerge.errors import SpeechMergeError

SCRATCH = "from scratch"
AT_MOST, MORE_THAN = "at most", "more than"
SAME = 1e-9  # what two means of the same rates may differ by


@ANALYSES.register("few_shot")
class FewShot(TrainingStudy):
    """Learning curves from scratch and from other languages' adapters, transfer gain, data efficiency."""

    parameters = SHARED

    def run(self) -> Findings:
        data, plots = {}, []
        for name, own in by_set(self.judged()).items():
            data[name] = self.target(name, own)
            plots += pictures(name, data[name])
        return Findings({"split": self.study.split, "targets": data}, plots, lines(data))

    def judged(self):
        """Those of sets to which something was transferred; what others only started from is no point."""
        trainings = self.trainings()
        targets = {training.set for training in trainings if source_of(training)}
        if not targets:
            raise SpeechMergeError("none of the adapters was trained from another one (--init-adapter), so there is no "
                                   "transfer to look at; name them with --adapters")
        return [training for training in trainings if training.set in targets]

    def target(self, name: str, trainings) -> dict:
        largest = max((t.record["utterances"] for t in trainings if not source_of(t)), default=0)
        if not largest:
            raise SpeechMergeError(f"{name}: no adapter was trained from scratch, so there is nothing to compare with; "
                                   "train one without --init-adapter on all data")
        scores = self.scored(trainings, self.study.split, others=self.sources(trainings))
        curves = {}
        groups = grouped(trainings, factors)
        for kind, count in sorted(groups, key=lambda group: (group[0] != SCRATCH, group)):
            own = groups[kind, count]
            point = self.point(own, scores, utterances=count, share=number(count / largest))
            curves.setdefault(kind, []).append(point)
        if SCRATCH not in curves or curves[SCRATCH][-1].more["utterances"] < largest:
            raise SpeechMergeError(f"{name}: all data from scratch is there only with gradual unfreezing; train it "
                                   "without --unfreeze-every, too")
        reading = self.values["reading"]
        return {"metric": metric_of(scores), "base": value_of(scores["base"], reading), "utterances": largest,
                "zero_shot": {system.name: value_of(scores[system.name], reading)
                              for system in self.sources(trainings)},
                "curves": {kind: [point.record() for point in points] for kind, points in curves.items()},
                **compared(curves)}

    def sources(self, trainings) -> list:
        """The systems of this study that others started from: what they do on the target before they learn of it."""
        starts = {Path(t.record["init_adapter"]).resolve() for t in trainings if source_of(t)}
        return [system for system in self.study.systems if Path(system.path).resolve() in starts]


def source_of(training) -> str | None:
    """The language that a training started from, else the name of the folder."""
    from speechmerge.files import read_json

    start = training.record.get("init_adapter")
    if not start:
        return None
    record = Path(start) / "speechmerge.json"
    return (read_json(record).get("language") if record.is_file() else None) or Path(start).name


def factors(training) -> tuple[str, int]:
    """(curve, utterances)"""
    source = source_of(training)
    kind = f"from {source}" if source else SCRATCH
    return kind + (", unfreezing" if training.options.get("unfreeze_every") else ""), training.record["utterances"]


def crossing(shares, values, goal: float) -> tuple[float, str | None]:
    """(smallest share at which u reaches the goal, None or which bound it is). shares: ascending."""
    if values[0] >= goal - SAME:
        return shares[0], AT_MOST if values[0] > goal + SAME else None
    for place in range(1, len(shares)):
        low, high = values[place - 1], values[place]
        if high >= goal - SAME:
            part = (goal - low) / (high - low)
            return math.exp(math.log(shares[place - 1]) * (1 - part) + math.log(shares[place]) * part), None
    return shares[-1], MORE_THAN


def crossings(points, goals) -> dict:
    """The 95 % interval of `crossing` over paired replicates; an end is None where it is no more than a bound."""
    import numpy as np

    shares, rows, found = [p.more["share"] for p in points], np.stack([p.u for p in points]), []
    for values, goal in zip(rows.T, goals):
        share, bound = crossing(shares, values, goal)
        found.append(-math.inf if bound == AT_MOST else math.inf if bound == MORE_THAN else share)
    ends = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    return {"ci": [number(end) for end in ends], "ci_bounds": [bound_of(end) for end in ends],
            "reached": number(np.mean(np.array(found) < math.inf))}


def bound_of(end: float) -> str | None:
    return None if math.isfinite(end) else AT_MOST if end < 0 else MORE_THAN


def compared(curves: dict) -> dict:
    """Gains and data efficiency of every curve but that from scratch, and what unfreezing adds."""
    scratch, found = curves[SCRATCH], {"gains": {}, "efficiency": {}, "unfreezing": {}}
    for kind, points in curves.items():
        if kind != SCRATCH:
            found["gains"][kind] = differences(points, scratch)
            found["efficiency"][kind] = efficiency(points, scratch)
        if (plain := kind.removesuffix(", unfreezing")) != kind and plain in curves:
            found["unfreezing"][plain] = differences(points, curves[plain])
    return found


def differences(points, others) -> list[dict]:
    """u(points) - u(others) at the shares that both have."""
    there = {other.more["utterances"]: other for other in others}
    return [{"share": point.more["share"], **difference(point, there[point.more["utterances"]])}
            for point in points if point.more["utterances"] in there]


def efficiency(points, scratch) -> dict:
    """Where this curve reaches the end of the one from scratch, and the data ratio of each of its points."""
    share, bound = crossing([p.more["share"] for p in points], [p.mean_u for p in points], scratch[-1].mean_u)
    ratios = []
    for point in points:
        needed, own_bound = crossing([p.more["share"] for p in scratch], [p.mean_u for p in scratch], point.mean_u)
        ratios.append({"share": point.more["share"], "ratio": number(needed / point.more["share"]), "bound": own_bound})
    return {"share": number(share), "bound": bound, **crossings(points, scratch[-1].u), "ratios": ratios}


def pictures(name: str, about: dict) -> list:
    levels = {"base": about["base"], **{f"{source} untouched": value for source, value in about["zero_shot"].items()}}
    shares, gains = ({kind: [{"x": p["share"], **p} for p in points] for kind, points in about[key].items() if points}
                     for key in ("curves", "gains"))
    axis = f"share of the {about['utterances']} utterances of {name}"
    plots = [curve_plot(f"few_shot_{name}", f"{name}: what a share of the data comes to", shares, axis, about["metric"],
                        levels=levels)]
    if gains:
        plots.append(curve_plot(f"transfer_gain_{name}", f"{name}: gain over training from scratch, the same data",
                                gains, axis, "gain (above 0: better)", levels={"from scratch": 0.0}))
    return plots


def lines(data: dict) -> list[str]:
    found = []
    for name, about in data.items():
        shares = sorted({p["share"] for points in about["curves"].values() for p in points})
        rows = [[kind, *({p["share"]: p["value"] for p in points}.get(share) for share in shares)]
                for kind, points in about["curves"].items()]
        head = [f"{about['metric']}, {name}", *(f"{100 * share:.0f} %" for share in shares)]
        found += table(head, [["base", *[about["base"]] * len(shares)], *rows])
        for kind, gains in about["gains"].items():
            found += [f"{name} {kind}: gain {at_shares(gains)}",
                      f"{name} {kind}: {efficiency_line(about['efficiency'][kind])}"]
        found += [f"{name} {kind}: unfreezing adds {at_shares(gains)}" for kind, gains in about["unfreezing"].items()]
    return found


def at_shares(entries: list[dict]) -> str:
    return ", ".join(f"{100 * entry['share']:.0f} %: {with_interval(entry)}" for entry in entries)


def efficiency_line(about: dict) -> str:
    edges = {AT_MOST: about["ratios"][0]["share"], MORE_THAN: about["ratios"][-1]["share"]}
    ends = [f"{bound} {100 * edges[bound]:.0f} %" if bound else f"{100 * end:.0f} %"
            for end, bound in zip(about["ci"], about["ci_bounds"])]
    ratios = ", ".join(f"{100 * r['share']:.0f} %: {r['bound'] + ' ' if r['bound'] else ''}{r['ratio']:.1f} x"
                       for r in about["ratios"])
    return (f"as good as all data from scratch with {about['bound'] + ' ' if about['bound'] else ''}"
            f"{100 * about['share']:.0f} % [{', '.join(ends)}], in {100 * about['reached']:.0f} % of the resampled "
            f"test sets; one utterance stands for {ratios}")
