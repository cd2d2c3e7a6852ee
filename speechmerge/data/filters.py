"""Parts of a data directory: by language, label, speaker, corpus, hours and number. Every choice follows from the seed.

    kept, steps = apply(data, Filters(languages=("hi", "pa"), hours=10.0, seed=1))
    for step in steps:
        print(step)          # hours 10: kept 5310 of 90213 utterances, 9.999 of 150.203 h

Filters work in the order of the fields. Random subsets are taken from one order in which speakers take turns, so that
speakers are balanced and a subset of 5 hours is part of that of 10, and 10 % are part of 25 %. For mix and hours,
durations must be known.
"""
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from speechmerge.data.directory import FREE_TABLES, DataDir, Utterance
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

SPEAKER_CHOICES = ("frequent", "random")


@dataclass(frozen=True)
class Filters:
    remove_empty_text: bool = False
    languages: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    label_table: str | None = None  # `intent` for utt2intent; default: the only label table
    speakers: int = 0  # 0: all
    speaker_choice: str = "frequent"
    max_per_label: int = 0  # utterances; 0: all
    max_per_speaker: int = 0
    mix: dict[str, float] = field(default_factory=dict)  # corpus -> share of the hours
    hours: float | None = None
    fraction: float | None = field(default=None, repr=False)  # of the utterances that the filters above leave
    max_utterances: int = 0
    positive_pairs: int | None = None  # trials; None: all
    negative_pairs: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.speaker_choice not in SPEAKER_CHOICES:
            raise UsageError(f"--speaker-choice {self.speaker_choice!r}; "
                             f"{nearest(self.speaker_choice, SPEAKER_CHOICES)}")
        for name in ("speakers", "max_per_label", "max_per_speaker", "max_utterances", "positive_pairs",
                     "negative_pairs"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected at least 0")
        if self.hours is not None and not self.hours > 0:
            raise UsageError(f"--hours: found {self.hours}, expected a number above 0")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(f"--fraction: found {self.fraction:g}, expected a share above 0, at most 1")
        if any(not share > 0 for share in self.mix.values()):
            raise UsageError(f"--mix: found {self.mix}, expected shares above 0")

    def draws(self) -> bool:
        """Whether a subset is drawn, for which durations and the duration filter come first."""
        return bool(self.max_per_label or self.max_per_speaker or self.mix or self.hours or self.fraction
                    or self.max_utterances)


@dataclass(frozen=True)
class Step:
    """What one filter did; `Step(**entry)` of an entry of "filters" in stats.json."""

    name: str
    kept: int
    of: int
    unit: str = "utterances"
    hours: list[float] | None = None  # kept, before
    note: str = ""

    def __str__(self):
        hours = f", {self.hours[0]:.3f} of {self.hours[1]:.3f} h" if self.hours else ""
        return f"{self.name}: kept {self.kept} of {self.of} {self.unit}{hours}{f' ({self.note})' if self.note else ''}"


def apply(data: DataDir, filters: Filters, train: DataDir | None = None) -> tuple[DataDir, list[Step]]:
    """(the part that passes, one Step per filter in use). `train`: the split beside it, whose speakers count.

    Raises SpeechMergeError where nothing is left or a language, label or corpus does not occur, UsageError where a
    filter does not fit the directory.
    """
    steps = []
    for name, function in FILTERS.items():
        if not getattr(filters, name):
            continue
        kept, labels, note = function(data, filters, train)
        if not kept:
            raise SpeechMergeError(f"{data.path}: {title(name, filters)} leaves none of {len(data.utterances)} "
                                   f"utterances{f' ({note})' if note else ''}; choose another value")
        hours = [total_hours(kept), total_hours(data.utterances)]
        steps.append(Step(title(name, filters), len(kept), len(data.utterances),
                          hours=None if None in hours else hours, note=note))
        data = replace(data, utterances={id: data.utterances[id] for id in sorted(kept)}, labels=labels)
    trials, step = choose_trials(data, filters)
    return replace(data, trials=trials), steps + step


def title(name: str, filters: Filters) -> str:
    value = getattr(filters, name)
    name = name.replace("_", "-")
    if isinstance(value, dict):
        return f"{name} " + ",".join(f"{key}={share:g}" for key, share in value.items())
    return name if value is True else f"{name} {','.join(value)}" if isinstance(value, tuple) else f"{name} {value:g}"


def total_hours(utterances: dict[str, Utterance]) -> float | None:
    """None where a duration is unknown."""
    durations = [utterance.duration for utterance in utterances.values()]
    return None if None in durations else round(sum(durations) / 3600, 6)


def turns(utterances, seed: int, name: str) -> list[Utterance]:
    """All utterances in a random order in which speakers take turns; the same for equal ids, speakers and seed."""
    draw = random.Random(f"{seed}/{name}")
    by_speaker = defaultdict(list)
    for utterance in sorted(utterances, key=lambda utterance: utterance.id):
        by_speaker[utterance.speaker or ""].append(utterance)
    rounds = defaultdict(list)
    for speaker in sorted(by_speaker):
        draw.shuffle(by_speaker[speaker])
        for turn, utterance in enumerate(by_speaker[speaker]):
            rounds[turn].append(utterance)
    for turn in sorted(rounds):
        draw.shuffle(rounds[turn])
    return [utterance for turn in sorted(rounds) for utterance in rounds[turn]]


def fill(order: list[Utterance], seconds: float) -> dict[str, Utterance]:
    """The beginning of an order, up to the first utterance with which it would be longer than `seconds`."""
    kept, total = {}, 0.0
    for utterance in order:
        if utterance.duration > seconds:
            continue
        total += utterance.duration
        if total > seconds + 1e-6:
            break
        kept[utterance.id] = utterance
    return kept


# One function per filter: (data, filters, train) -> (utterances kept, closed label set, remark)


def with_text(data: DataDir, filters: Filters, train):
    kept = {id: utterance for id, utterance in data.utterances.items() if (utterance.text or "").strip()}
    return kept, data.labels, ""


def of_languages(data: DataDir, filters: Filters, train):
    return by_value(data, "language", lambda utterance: utterance.language, filters.languages)


def of_labels(data: DataDir, filters: Filters, train):
    table = label_table(data, filters.label_table)
    return by_value(data, f"label of utt2{table}", lambda utterance: utterance.labels.get(table), filters.labels)


def by_value(data: DataDir, what: str, value_of, wanted: tuple[str, ...]):
    """Where the closed label set lists these values, it shrinks with them; it may name more than this split has."""
    values = {value_of(utterance) for utterance in data.utterances.values()} - {None}
    closed = data.labels is not None and values <= set(data.labels)
    known = values | set(data.labels or ()) if closed else values
    for value in wanted:
        if value not in known:
            quote = " (YAML reads yes and no as true and false: quote them)" if value in ("true", "false") else ""
            raise SpeechMergeError(f"{data.path}: {what} {value!r} does not occur{quote}; {nearest(value, known)}")
    kept = {id: utterance for id, utterance in data.utterances.items() if value_of(utterance) in wanted}
    labels = [label for label in data.labels if label in wanted] if closed else data.labels
    return kept, labels, ""


def label_table(data: DataDir, chosen: str | None) -> str:
    """The name of the label table that is meant."""
    tables = sorted({name for utterance in data.utterances.values() for name in utterance.labels})
    if chosen and chosen not in tables:
        raise UsageError(f"--label-table {chosen!r}: {data.path} has no utt2{chosen}; {nearest(chosen, tables)}")
    names = [name for name in tables if f"utt2{name}" not in FREE_TABLES]
    if not chosen and len(names) != 1:
        raise UsageError(f"{data.path} has {len(names)} label tables ({', '.join(names) or 'none'}); name one with "
                         "--label-table, as `intent` for utt2intent")
    return chosen or names[0]


def of_speakers(data: DataDir, filters: Filters, train):
    """N speakers. Where they are the labels, all splits must agree: the training split's counts decide in all."""
    found = Counter(utterance.speaker for utterance in data.utterances.values() if utterance.speaker)
    closed = data.labels is not None and found.keys() <= set(data.labels)
    counts = Counter(u.speaker for u in train.utterances.values() if u.speaker) if closed and train else found
    names = sorted(set(data.labels) if closed and (train is None or filters.speaker_choice == "random") else counts)
    if filters.speaker_choice == "random":
        random.Random(f"{filters.seed}/speakers").shuffle(names)
    else:
        names.sort(key=lambda name: -counts[name])
    wanted = set(names[: filters.speakers])
    kept = {id: utterance for id, utterance in data.utterances.items() if utterance.speaker in wanted}
    note = f"there are only {len(names)} speakers" if len(names) < filters.speakers else ""
    return kept, [label for label in data.labels if label in wanted] if closed else data.labels, note


def few_per_label(data: DataDir, filters: Filters, train):
    table = label_table(data, filters.label_table)
    return few(data, filters, "label", lambda u: u.labels.get(table), filters.max_per_label)


def few_per_speaker(data: DataDir, filters: Filters, train):
    return few(data, filters, "speaker", lambda utterance: utterance.speaker, filters.max_per_speaker)


def few(data: DataDir, filters: Filters, name: str, group_of, limit: int):
    taken, kept = Counter(), {}
    for utterance in turns(data.utterances.values(), filters.seed, name):
        group = group_of(utterance)
        if taken[group] < limit:
            taken[group] += 1
            kept[utterance.id] = utterance
    return kept, data.labels, ""


def mixed(data: DataDir, filters: Filters, train):
    """As much as possible of each corpus (utt2corpus) while the ratio of hours holds, and not more than --hours."""
    found = defaultdict(list)
    for utterance in data.utterances.values():
        found[utterance.labels.get("corpus")].append(utterance)
    for corpus in filters.mix:
        if corpus not in found:
            known = [name for name in found if name]
            raise SpeechMergeError(f"{data.path}: corpus {corpus!r} of --mix is not in utt2corpus; "
                                   f"{nearest(corpus, known)}")
    whole = sum(filters.mix.values())
    shares = {corpus: share / whole for corpus, share in filters.mix.items()}
    seconds = {corpus: sum(utterance.duration for utterance in found[corpus]) for corpus in shares}
    limit = 3600 * filters.hours if filters.hours else float("inf")
    total = min([limit, *(seconds[corpus] / share for corpus, share in shares.items())])
    kept = {}
    for corpus, share in shares.items():
        kept.update(fill(turns(found[corpus], filters.seed, "hours"), total * share))
    scarce = min(shares, key=lambda corpus: seconds[corpus] / shares[corpus])
    return kept, data.labels, "" if total == limit else f"all of {scarce}, which decides"


def up_to_hours(data: DataDir, filters: Filters, train):
    kept = fill(turns(data.utterances.values(), filters.seed, "hours"), 3600 * filters.hours)
    short = len(kept) == len(data.utterances) and total_hours(kept) < filters.hours * 0.999
    return kept, data.labels, "there is no more" if short else ""


def part(data: DataDir, filters: Filters, train):
    """Half up, at least one: 10 % of 75 are 8."""
    order = turns(data.utterances.values(), filters.seed, "hours")
    count = max(1, int(filters.fraction * len(order) + 0.5))
    return {utterance.id: utterance for utterance in order[:count]}, data.labels, ""


def at_most(data: DataDir, filters: Filters, train):
    order = turns(data.utterances.values(), filters.seed, "hours")
    return {utterance.id: utterance for utterance in order[: filters.max_utterances]}, data.labels, ""


FILTERS = {"remove_empty_text": with_text, "languages": of_languages, "labels": of_labels, "speakers": of_speakers,
           "max_per_label": few_per_label, "max_per_speaker": few_per_speaker, "mix": mixed, "hours": up_to_hours,
           "fraction": part, "max_utterances": at_most}


def choose_trials(data: DataDir, filters: Filters):
    """Trials of utterances that are left, as many of each kind as wanted."""
    wanted = {True: filters.positive_pairs, False: filters.negative_pairs}
    if data.trials is None:
        if wanted != {True: None, False: None}:
            raise UsageError(f"{data.path}: has no trials; --positive-pairs and --negative-pairs are for verification")
        return None, []
    left = [trial for trial in data.trials if trial.enrol in data.utterances and trial.test in data.utterances]
    kept, steps = [], []
    for target, word in ((True, "positive"), (False, "negative")):
        pairs = sorted((trial for trial in left if trial.target is target), key=lambda trial: trial.id)
        if wanted[target] is None:
            kept += pairs
            continue
        random.Random(f"{filters.seed}/{word}").shuffle(pairs)
        note = f"there are only {len(pairs)}" if len(pairs) < wanted[target] else ""
        chosen = pairs[: wanted[target]]
        steps.append(Step(f"{word}-pairs {wanted[target]}", len(chosen), len(pairs), "trials", note=note))
        kept += chosen
    return sorted(kept, key=lambda trial: trial.id), steps
