"""What to train on: adapters of two corpora (or domains) in several ratios, judged within and across the domains.

    share   of the hours that a training had, those of one corpus, by utt2corpus and utt2dur of its data directory
    mean    over the domains, each counting the same: what to choose the ratio by where both will be heard
    best    the share with the best value; how often it is the best of all over resampled test sets, and between which
            shares the best one lies in 95 % of them

A domain is a split of its own: test_kathbath, test_common_voice (`prepare --param test_by_source=true`). Compare
trainings of equally many hours (`format --mix a=0.75,b=0.25 --hours 10`): else a ratio is also an amount.
"""
from speechmerge.analysis.base import ANALYSES, Findings, number, table, words_of
from speechmerge.analysis.studies import (
    SHARED,
    Point,
    TrainingStudy,
    by_set,
    curve_plot,
    grouped,
    metric_of,
    need,
    record_of,
    value_of,
    written,
)
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.merge.parameters import Parameter

MEAN = "mean"
UNEVEN = 1.1  # times the hours of another ratio: worth a remark


@ANALYSES.register("mixing")
class Mixing(TrainingStudy):
    """Curves over the ratio of two corpora for each test domain and their mean, and the best ratio."""

    parameters = (
        *SHARED,
        Parameter("domains", str, None, "words: splits, one for each; default: <split>_<corpus> of the corpora"),
        Parameter("corpus", str, None, "whose share of the hours is varied; default: the first by name"),
    )

    def splits(self) -> list[str]:
        if self.values["domains"]:
            return words_of(self.values["domains"])
        corpora = sorted({corpus for system in self.study.systems for corpus in hours_of(record_of(system)["data"])})
        return [f"{self.study.split}_{corpus}" for corpus in corpora]

    def run(self) -> Findings:
        data = {name: self.of_set(name, own) for name, own in by_set(self.trainings()).items()}
        return Findings({"domains": self.splits(), "sets": data}, pictures(data), lines(data))

    def of_set(self, name: str, trainings) -> dict:
        hours = {training.name: hours_of(training.record["data"]) for training in trainings}
        corpora = sorted({corpus for own in hours.values() for corpus in own})
        corpus = self.values["corpus"] or corpora[0]
        if corpus not in corpora:
            raise UsageError(f"options.corpus: {corpus!r} is in no training data of {name}; "
                             f"known: {', '.join(corpora)}")
        shares = {key: number(own.get(corpus, 0.0) / sum(own.values()), 3) for key, own in hours.items()}
        groups = sorted(grouped(trainings, lambda training: (shares[training.name],)).items())
        need(groups, 2, f"ratios of {name}")
        curves, base, metric = {}, {}, None
        for place, split in enumerate(self.splits()):
            scores = self.scored(trainings, split)
            metric = metric_of(scores)
            base[split] = value_of(scores["base"], self.values["reading"])
            curves[split] = [self.shuffled(self.point(own, scores, share=share, hours=mean_hours(own, hours)), place)
                             for (share,), own in groups]
        curves[MEAN], base[MEAN] = mean_curve(list(curves.values())), number(sum(base.values()) / len(base))
        return {"metric": metric, "corpus": corpus, "corpora": corpora, "base": base,
                "curves": {domain: [point.record() for point in points] for domain, points in curves.items()},
                "best": {domain: best(points) for domain, points in curves.items()}}

    @staticmethod
    def shuffled(point: Point, place: int) -> Point:
        """Test sets of two domains have nothing to do with each other: replicates of each in an order of their own."""
        import numpy as np

        order = np.random.default_rng(place).permutation(len(point.u))
        return Point(point.trainings, point.value, point.u[order], point.higher_is_better, point.more)


def hours_of(folder) -> dict[str, float]:
    """Corpus -> hours of a data directory."""
    from speechmerge.data.directory import DataDir

    found = {}
    for utterance in DataDir.read(folder).utterances.values():
        corpus = utterance.labels.get("corpus")
        if corpus is None or utterance.duration is None:
            lacks = "corpus" if corpus is None else "duration"
            raise SpeechMergeError(f"{folder}: {utterance.id} has no {lacks}; a study of mixing needs utt2corpus and "
                                   "utt2dur of what was trained on (speechmerge format)")
        found[corpus] = found.get(corpus, 0.0) + utterance.duration / 3600
    return found


def mean_hours(trainings, hours: dict) -> float:
    return number(sum(sum(hours[training.name].values()) for training in trainings) / len(trainings), 4)


def mean_curve(curves: list[list[Point]]) -> list[Point]:
    """The mean over domains at every share."""
    number_of = len(curves)
    return [Point(points[0].trainings, sum(p.value for p in points) / number_of, sum(p.u for p in points) / number_of,
                  points[0].higher_is_better, points[0].more) for points in zip(*curves)]


def best(points: list[Point]) -> dict:
    import numpy as np

    shares = np.array([point.more["share"] for point in points])
    winners = np.stack([point.u for point in points]).argmax(0)
    ends = np.quantile(shares[winners], [0.025, 0.975], method="inverted_cdf")
    place = int(np.argmax([point.mean_u for point in points]))
    return {"share": float(shares[place]), "value": number(points[place].value), "ci": [float(end) for end in ends],
            "best_in": {f"{share:g}": number(np.mean(winners == i)) for i, share in enumerate(shares)}}


def pictures(data: dict) -> list:
    plots = []
    for name, about in data.items():
        series = {domain: [{"x": p["share"], **p} for p in points] for domain, points in about["curves"].items()}
        plots.append(curve_plot(f"mixing_{name}", f"{name}: ratios of {' and '.join(about['corpora'])}", series,
                                f"share of {about['corpus']} in the hours of training", about["metric"], log=False))
    return plots


def lines(data: dict) -> list[str]:
    found = []
    for name, about in data.items():
        curves, points = about["curves"], about["curves"][MEAN]
        rows = [[f"{100 * p['share']:.0f} %", p["hours"], *(own[i]["value"] for own in curves.values())]
                for i, p in enumerate(points)]
        found += table([f"{about['corpus']}, {name}", "hours", *curves],
                       [["base", None, *about["base"].values()], *rows])
        for domain, entry in about["best"].items():
            often = entry["best_in"][f"{entry['share']:g}"]
            low, high = (100 * end for end in entry["ci"])
            found.append(f"{name}, {domain}: best {about['metric']} {written(entry['value'])} with "
                         f"{100 * entry['share']:.0f} % {about['corpus']}, in {100 * often:.0f} % of the resampled "
                         f"test sets; 95 %: {low:.0f} to {high:.0f} %")
        hours = [p["hours"] for p in points]
        if max(hours) > UNEVEN * min(hours):
            found.append(f"{name}: the trainings have {min(hours):g} to {max(hours):g} hours: not their ratio alone "
                         "differs")
    return found
