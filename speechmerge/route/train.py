"""Making a router: states of every stretch, a classifier, its temperature, its report.

Writes exp/router/<name>/{router.json,router.safetensors,report.json}; states are kept in exp/router/.states, so that
another classifier on the same layer costs seconds. Done and unchanged is kept.
"""
import logging
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from speechmerge.data.augment import Augmentation
from speechmerge.data.batching import FeatureCache
from speechmerge.data.directory import DataDir
from speechmerge.done import is_done, mark_done, step_key
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json, write_json
from speechmerge.options import check_speeds
from speechmerge.provenance import provenance
from speechmerge.route.calibration import calibration_error, temperature
from speechmerge.route.classifiers import CLASSIFIERS
from speechmerge.route.evaluation import report
from speechmerge.route.fitting import FitOptions, fit, logits_of
from speechmerge.route.hearing import Hearing, Stretch, beginning, hear, remembered
from speechmerge.route.index import RECORD, WEIGHTS
from speechmerge.route.router import Router, listening_task
from speechmerge.tasks.base import Example

log = logging.getLogger(__name__)
REPORT = "report.json"


@dataclass(frozen=True)
class Recipe:
    """utterances: of each label, the most that are trained on, drawn; 0: all.

    crops: random stretches of each training utterance beside its beginning, of `crop_seconds` (shortest, longest), each at
    one of `speeds` (Ko et al. 2015): other voices than there are speakers.
    """

    classifier: str = "linear"
    classifier_options: dict = field(default_factory=dict)
    labels_from: str = "set"
    utterances: int = 1000
    hearing: Hearing = Hearing()
    crops: int = 2
    crop_seconds: tuple[float, float] = (1.0, 5.0)
    speeds: tuple[float, ...] = ()
    fit: FitOptions = FitOptions()

    def __post_init__(self):
        shortest, longest = self.crop_seconds
        if not 0 < shortest <= longest or self.crops < 0:
            raise UsageError(f"router: {self.crops} crops of {shortest} to {longest} s; expected a number from 0 and rising seconds")
        if self.utterances < 0:
            raise UsageError(f"router: {self.utterances} utterances of each label, expected at least 1, or 0 for all")
        check_speeds(self.speeds)


@dataclass(frozen=True)
class Heard:
    """Utterances of one split: their data directories, labels and durations, by set."""

    examples: list
    labels: list[str]
    prints: list[str]

    @property
    def ids(self):
        return [example.id for example in self.examples]


def read_split(folders: dict[str, Path], labels_from: str) -> Heard:
    """`folders`: set -> data directory. Raises SpeechMergeError where an utterance has no label."""
    examples, labels, prints = [], [], []
    for name, folder in folders.items():
        data = DataDir.read(folder, formatted=True)
        prints.append(data.fingerprint())
        for id, utterance in sorted(data.utterances.items()):
            examples.append(Example(id, (utterance.audio,), utterance.text or "", utterance.language, utterance.speaker,
                                    utterance.duration))
            labels.append(label_of(utterance, name, labels_from, folder))
    return Heard(examples, labels, prints)


def label_of(utterance, set_name: str, labels_from: str, folder="its data directory") -> str:
    """"set": the set it comes from; "language": utt2lang; else the column utt2<labels_from>."""
    if labels_from == "set":
        return set_name
    found = utterance.language if labels_from == "language" else utterance.labels.get(labels_from)
    if found is None:
        table = "utt2lang" if labels_from == "language" else f"utt2{labels_from}"
        raise SpeechMergeError(f"{folder}/{table}: utterance {utterance.id} has no label for the router; expected a column "
                               f"{table}, or --labels-from set")
    return found


def train_router(model, sets: list[str], data: Path, splits: tuple[str, str, list[str]], output_dir, recipe: Recipe,
                 force: bool = False) -> dict:
    """Returns the report. splits: to train on, to stop and calibrate on, to report on (those that are there)."""
    output_dir, read = Path(output_dir), {}
    train, dev, others = splits
    for split in dict.fromkeys([train, dev, *others]):
        folders = {name: Path(data) / name / split for name in sets}
        if split in (train, dev) or all(folder.is_dir() for folder in folders.values()):
            read[split] = read_split(folders, recipe.labels_from)
    key = step_key({"recipe": asdict(recipe), "base": model.fingerprint(), "dtype": str(model.dtype), "sets": sets,
                    "data": {split: heard.prints for split, heard in read.items()}})
    if not force and is_done(output_dir, key):
        return {**read_json(output_dir / REPORT), "kept": True}
    router, found = fitted(model, read, train, dev, output_dir, recipe)
    router.save(output_dir)
    write_json(output_dir / REPORT, {**found, "labels_from": recipe.labels_from, "sets": sets, **provenance(seed=recipe.fit.seed)})
    mark_done(output_dir, key, [RECORD, WEIGHTS, REPORT])
    return found


def fitted(model, read: dict[str, Heard], train: str, dev: str, output_dir: Path, recipe: Recipe) -> tuple[Router, dict]:
    labels = sorted(set(read[train].labels))
    check_labels(labels, read, train)
    read = {**read, train: some(read[train], recipe)}
    cache, folder = FeatureCache(), output_dir.parent / ".states"

    def states(split, stretches, name):
        key = {"base": model.fingerprint(), "dtype": str(model.dtype), "data": read[split].prints, "hearing": asdict(recipe.hearing),
               "stretches": [(s.example.id, s.start, s.seconds, getattr(s.example.audio[0], "speed", 1.0)) for s in stretches]}
        log.info("router: %d stretches of %s, %s", len(stretches), split, name)
        return remembered(folder, key, lambda: hear(model, listening_task(), stretches, recipe.hearing, cache, dtype=torch.float16))

    whole = {split: [beginning(model, example, recipe.hearing) for example in heard.examples] for split, heard in read.items()}
    stretches = whole[train] + crops(model, read[train].examples, recipe)
    targets = [labels.index(label) for label in read[train].labels] * (1 + recipe.crops)
    known = states(train, stretches, "to train on")
    heard = {split: states(split, whole[split], "their beginnings") for split in read if split != train}
    goals = {split: torch.tensor([labels.index(label) for label in read[split].labels]) for split in heard}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.fit.seed)
        classifier = CLASSIFIERS.get(recipe.classifier)(known[0].shape[-1], len(labels), **recipe.classifier_options)
    history = fit(classifier, known, targets, heard[dev], goals[dev].tolist(), recipe.fit)
    logits = logits_of(classifier, heard[dev])
    router = Router(output_dir.name, recipe.classifier, classifier, labels, spoken(read[train]), recipe.hearing,
                    {"source": model.source, "fingerprint": model.fingerprint()}, recipe.labels_from, temperature(logits, goals[dev]))
    found = {split: report(router.calibrated(logits_of(classifier, heard[split])), goals[split],
                           [model.seconds(example) for example in read[split].examples], labels) for split in heard}
    before = {"ece": calibration_error(logits.softmax(-1), goals[dev]), "loss": float(cross_entropy(logits, goals[dev]))}
    return router, {"splits": found, "dev_before_calibration": before, "temperature": router.temperature, "history": history}


def check_labels(labels: list[str], read: dict[str, Heard], train: str):
    if len(labels) < 2:
        raise SpeechMergeError(f"router: the split {train} has the label {', '.join(labels)} only; there is nothing to tell apart")
    for split, heard in read.items():
        for id, label in zip(heard.ids, heard.labels):
            if label not in labels:
                raise SpeechMergeError(f"router: utterance {id} of the split {split} has the label {label!r}, which the split "
                                       f"{train} does not have ({', '.join(labels)})")


def some(heard: Heard, recipe: Recipe) -> Heard:
    """Of each label the `recipe.utterances` that its seed draws."""
    if not recipe.utterances:
        return heard
    places, kept = {}, []
    for place, label in enumerate(heard.labels):
        places.setdefault(label, []).append(place)
    for label, own in sorted(places.items()):
        if len(own) > recipe.utterances:
            log.info("router: %d of %d utterances of %s to train on (--utterances)", recipe.utterances, len(own), label)
            own.sort(key=lambda place: random.Random(f"{recipe.fit.seed}/{heard.ids[place]}").random())
        kept += own[: recipe.utterances]
    kept.sort()
    return Heard([heard.examples[place] for place in kept], [heard.labels[place] for place in kept], heard.prints)


def crops(model, examples, recipe: Recipe) -> list[Stretch]:
    """`recipe.crops` rounds of one random stretch of every utterance, the same for the same seed and id."""
    shortest, longest = recipe.crop_seconds
    augmentation, found = Augmentation(recipe.speeds, seed=recipe.fit.seed), []
    for round_ in range(recipe.crops):
        for example in examples:
            draw = random.Random(f"{recipe.fit.seed}/{round_}/{example.id}")
            example = augmentation.at_speed(example, round_, model.seconds(example), model.full_seconds)
            whole = min(model.seconds(example), model.full_seconds)
            length = min(draw.uniform(shortest, longest), whole)
            found.append(Stretch(example, draw.uniform(0, whole - length), length))
    return found


def spoken(heard: Heard) -> dict[str, str | None]:
    """Label -> the language of its utterances, None where there are several."""
    found: dict[str, Counter] = {}
    for example, label in zip(heard.examples, heard.labels):
        found.setdefault(label, Counter())[example.language] += 1
    return {label: next(iter(counts)) if len(counts) == 1 else None for label, counts in found.items()}
