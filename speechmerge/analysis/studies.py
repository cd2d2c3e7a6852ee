"""Studies of trainings: adapters that differ in how they were trained, on the same test set.

What a training was is read from the adapter's speechmerge.json; what it came to is decoded where that was not done yet
(with the options of `decode`) and scored. A point of a curve is the mean over trainings that differ in the seed alone.

    95 % intervals   percentiles over resampled test sets, the same ones for all points of a set, so that differences
                     are paired; where a point has several seeds, they are drawn anew with each of the sets, too. With
                     one seed an interval says nothing about another training of the same kind.
"""
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from speechmerge.analysis.base import Analysis, number
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import fingerprint
from speechmerge.merge.parameters import Parameter

SHARED = (
    Parameter("reading", ("generation", "labels"), "generation", "what is judged of tasks with labels"),
    Parameter("normaliser", str, "basic", "of transcripts: basic, english, indic, none"),
)
LEVEL = 0.95
LINES = ("--", ":", "-.", "-")


@dataclass(frozen=True)
class Training:
    """An adapter and what it was trained with."""

    name: str
    system: object
    record: dict  # speechmerge.json
    set: str  # that it is judged on

    @property
    def options(self) -> dict:
        return self.record["options"]

    @property
    def seed(self) -> int:
        return self.options["seed"]


@dataclass
class Point:
    """The mean over seeds. value: of the metric; u: replicates, higher is better [repetitions]."""

    trainings: list[Training]
    value: float
    u: object
    higher_is_better: bool
    more: dict = field(default_factory=dict)

    @property
    def mean_u(self) -> float:
        return self.value if self.higher_is_better else -self.value

    def record(self) -> dict:
        ends = quantiles(self.u if self.higher_is_better else -self.u)
        return {"value": number(self.value), "ci": ends, "trainings": [training.name for training in self.trainings],
                **self.more}


def quantiles(replicates) -> list[float]:
    from speechmerge.metrics.bootstrap import interval

    return [number(end) for end in interval(replicates, LEVEL)]


def difference(first: Point, second: Point) -> dict:
    """u(first) - u(second) with its paired interval: above 0 the first is better."""
    return {"value": number(first.mean_u - second.mean_u), "ci": quantiles(first.u - second.u)}


class TrainingStudy(Analysis):
    """Analyses of what trainings came to."""

    uses_model = True

    def key(self) -> str:
        from speechmerge.analysis.base import DECIDING
        from speechmerge.data.directory import DataDir

        study, trainings = self.study, self.judged()
        sets = sorted({training.set for training in trainings})
        prints = [DataDir.read(Path(study.args.data) / name / split).fingerprint()
                  for name in sets for split in self.splits()]
        records = [fingerprint(training.record) for training in trainings]
        return fingerprint([study.base_fingerprint(), self.splits(), sets, prints, records,
                            {name: getattr(study.args, name) for name in DECIDING}])

    def splits(self) -> list[str]:
        return [self.study.split]

    def judged(self) -> list[Training]:
        """Those of the adapters that are points of the study."""
        return self.trainings()

    def trainings(self) -> list[Training]:
        """Raises SpeechMergeError for an adapter without record, or of another base than the first."""
        study, found = self.study, []
        for name, system in zip(study.names, study.systems):
            record = record_of(system)
            found.append(Training(name, system, record, self.set_of(name, record)))
            if record["base"]["fingerprint"] != found[0].record["base"]["fingerprint"]:
                raise SpeechMergeError(f"{system.path}: trained from {record['base']['source']}, {found[0].name} from "
                                       f"{found[0].record['base']['source']}; a study is of one base")
        return found

    def set_of(self, name: str, record: dict) -> str:
        """The set of the language that it was trained on where there is one, else as of any adapter."""
        language = record.get("language")
        if language and any((Path(self.study.args.data) / language / split).is_dir() for split in self.splits()):
            return language
        return self.study.own_set(name)

    def scored(self, trainings, split: str, others=()) -> dict:
        """Name -> Decoded of the trainings of one set on its split, of the base, and of `others` (Systems)."""
        from speechmerge.decode import Options
        from speechmerge.evaluation import Evaluation
        from speechmerge.models.options import configured
        from speechmerge.scoring import Options as ScoreOptions
        from speechmerge.scoring import ReferenceCache, score_decoded
        from speechmerge.systems import BASE, System
        from speechmerge.tasks import get_task

        study, name = self.study, trainings[0].set
        [task] = configured([get_task(study.args.task or trainings[0].record["task"])], study.records, study.args)
        options = Options.of(study.args)
        evaluation = Evaluation(study.model, {name: task}, study.args.data, split, study.exp_dir, options)
        systems = {BASE: System(BASE, "base"), **{other.name: other for other in others},
                   **{training.name: training.system for training in trainings}}
        evaluation.decode(systems.values())
        cache = ReferenceCache(self.values["normaliser"])
        options = ScoreOptions(normaliser=self.values["normaliser"], data=str(study.args.data))
        return {key: score_decoded(study.exp_dir / "decode" / split / system.name / name, options, cache)
                for key, system in systems.items()}

    def point(self, trainings, scores: dict, **more) -> Point:
        """Of trainings that differ in the seed."""
        return mean_point(trainings, [scores[training.name] for training in trainings], self.values["reading"], more)


def record_of(system) -> dict:
    """Its speechmerge.json. SpeechMergeError where it has none."""
    from speechmerge.files import read_json

    file = Path(system.path) / "speechmerge.json"
    if not file.is_file():
        raise SpeechMergeError(f"{system.path}: has no speechmerge.json, so nothing tells how it was trained; "
                               "name adapters that `speechmerge train` made with --adapters")
    return read_json(file)


def reading_of(decoded, wanted: str) -> str:
    """The reading that was asked for, else the one that a set has: transcripts have no labels."""
    from speechmerge.scoring import READINGS

    return next(reading for reading in (wanted, *READINGS) if decoded.score[reading])


def value_of(decoded, wanted: str) -> float:
    return number(decoded.score[reading_of(decoded, wanted)]["value"])


def mean_point(trainings, decoded, wanted: str, more: dict) -> Point:
    import numpy as np

    reading = reading_of(decoded[0], wanted)
    values = [entry.score[reading]["value"] for entry in decoded]
    rows = np.stack([entry.u_replicates(reading) for entry in decoded])
    return Point(list(trainings), float(np.mean(values)), over_seeds(rows), decoded[0].score["higher_is_better"], more)


def over_seeds(rows):
    """Replicates [seeds, repetitions] -> [repetitions]: of each repetition the mean over as many seeds, drawn with
    replacement. The draws depend on the shape alone, so that points of equally many seeds are paired."""
    import numpy as np

    seeds, repetitions = rows.shape
    if seeds == 1:
        return rows[0]
    drawn = np.random.default_rng(0).integers(0, seeds, (repetitions, seeds))
    return rows[drawn, np.arange(repetitions)[:, None]].mean(1)


def grouped(trainings, factors_of) -> dict[tuple, list[Training]]:
    """Factors -> trainings that differ in the seed alone. SpeechMergeError where two have the same seed."""
    found = defaultdict(list)
    for training in trainings:
        key = factors_of(training)
        for other in found[key]:
            if other.seed == training.seed:
                raise SpeechMergeError(f"{other.name} and {training.name}: the same in all that this study varies "
                                       f"({', '.join(map(str, key))}), with the same seed; name one of them")
        found[key].append(training)
    return dict(found)


def by_set(trainings) -> dict[str, list[Training]]:
    found = defaultdict(list)
    for training in trainings:
        found[training.set].append(training)
    return dict(found)


def metric_of(scores: dict) -> str:
    return next(iter(scores.values())).score["metric"]


def need(trainings, at_least: int, what: str):
    if len(trainings) < at_least:
        raise UsageError(f"--adapters: found {len(trainings)} {what}, expected at least {at_least}")


def curve_plot(name: str, title: str, series: dict[str, list[dict]], x: str, y: str, *, levels=None, log=True):
    """Curves with intervals. series: label -> [{"x", "value", "ci" or None}]; levels: label -> height of a line."""
    from speechmerge.report import colours
    from speechmerge.report.figure import Plot, curve_style, new_axes, png, slug

    figure, axes = new_axes(6.4, 3.8, title)
    for place, (label, points) in enumerate(series.items()):
        points, style = sorted(points, key=lambda point: point["x"]), curve_style(place)
        places, values = [point["x"] for point in points], [point["value"] for point in points]
        axes.plot(places, values, label=label, linewidth=1.3, markersize=4, **style)
        if all(point.get("ci") for point in points):
            axes.fill_between(places, *zip(*(point["ci"] for point in points)), color=style["color"], alpha=0.12)
    for place, (label, level) in enumerate((levels or {}).items()):
        axes.axhline(level, label=label, color=colours.BASE, linewidth=0.9, linestyle=LINES[place % len(LINES)])
    ticks = sorted({point["x"] for points in series.values() for point in points})
    if log:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    rows = [["curve", x, y, "ci_low", "ci_high", "trainings"]]
    rows += [[label, p["x"], p["value"], *(p.get("ci") or (None, None)), " ".join(p.get("trainings", []))]
             for label, points in series.items() for p in points]
    rows += [[label, None, level, None, None, ""] for label, level in (levels or {}).items()]
    said = "; ".join(f"{label}: " + ", ".join(f"{p['x']:.3g} {p['value']:.3g}" for p in points)
                     for label, points in series.items())
    return Plot(slug(name), title, f"Curves of {y} over {x}. {said}.", png(figure), rows)


def written(value, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def with_interval(entry: dict, digits: int = 3) -> str:
    """`0.431 [0.380, 0.480]`"""
    return f"{written(entry['value'], digits)} [{', '.join(written(end, digits) for end in entry['ci'])}]"
