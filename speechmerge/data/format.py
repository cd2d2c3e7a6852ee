"""Bring a data directory into the form that training and decoding read: 16 kHz mono, durations known and bounded.

    statistics = format_dir("data/asr/train", max_duration=30)                # in place
    statistics = format_dir("data/raw/train", "data/asr/train", jobs=4)
    statistics = format_dir("data/asr/train", filters=Filters(hours=10.0))    # see data/filters.py

Audio that already is 16 kHz mono wav or flac is left where it is; other audio is converted to `audio/<id>.flac` of the
target, several channels averaged, segments cut (data/convert.py). Converted files are kept, so that an interrupted run
goes on. In place, every run starts from the tables of stage 1 (data/unfiltered.py).
"""
import statistics
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from speechmerge.data.audio import RATE, AudioError, Sound, audio_info, read_audio
from speechmerge.data.convert import Converted, Converter, Settings
from speechmerge.data.directory import NO_AUDIO, DataDir, Utterance
from speechmerge.data.filters import Filters, apply
from speechmerge.data.segments import is_pipe
from speechmerge.data.unfiltered import starting_tables, write_formatted
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_json

MOST_COUNTED = 300  # distinct values of a label table that are counted one by one in stats.json


def format_dir(source, target=None, *, min_duration: float = 0.1, max_duration: float = 30.0, drop_bad: bool = False,
               jobs: int = 1, audio_format: str = "flac", progress: bool = False, filters: Filters = Filters(),
               settings: Settings | None = None) -> dict:
    """Format `source` into `target` (default: in place); returns the statistics that it also writes to `stats.json`.

    Durations in seconds, bounds included. Raises SpeechMergeError naming the utterance for audio that cannot be used,
    unless `drop_bad`, and where no utterance is left.
    """
    settings = settings or Settings(audio_format)
    source, target = Path(source), Path(target or source)
    data, bounds = starting_tables(source, settings.allow_pipes), (min_duration, max_duration)
    if all(utterance.audio == NO_AUDIO for utterance in data.utterances.values()):
        return format_text(data, source, target, filters)
    dropped = Counter({"too short": 0, "too long": 0, "unusable audio": 0})
    if filters.draws():
        measured = parallel(lambda one: [measure(*one, settings)], [[u] for u in data.utterances.values()], jobs)
        data = replace(data, utterances=usable(data.path, measured, bounds, drop_bad, dropped))
    data, steps = apply(data, filters, training_split(source, filters, settings) if filters.speakers else None)
    converter = Converter(target / "audio", settings)
    groups = share_audio(data.utterances.values())
    done = parallel(converter.convert, groups, jobs, f"format {source}" if progress else None)
    kept = usable(data.path, done, bounds, drop_bad, dropped)
    trials = data.trials and [trial for trial in data.trials if trial.enrol in kept and trial.test in kept]
    found = {**describe(kept, data.labels), "filter": {"min_duration": min_duration, "max_duration": max_duration},
             "dropped": dict(dropped), "converted": count_changes(done), "filters": [asdict(step) for step in steps]}
    found["trials"] = data.trials and {"kept": len(trials), "dropped": len(data.trials) - len(trials)}
    write_formatted(DataDir(target, kept, data.labels, trials), in_place=target.resolve() == source.resolve())
    write_json(target / "stats.json", found)
    return found


def format_text(data: DataDir, source: Path, target: Path, filters: Filters) -> dict:
    """A data directory of transcripts alone: nothing to convert, filters by what is written do count."""
    if filters.draws():
        raise SpeechMergeError(f"{source}: has no audio, so that nothing can be drawn by its duration; leave --hours out")
    data, steps = apply(data, filters, None)
    found = {"utterances": len(data.utterances), "audio": None, "filters": [asdict(step) for step in steps]}
    write_formatted(DataDir(target, data.utterances, data.labels), in_place=target.resolve() == source.resolve())
    write_json(target / "stats.json", found)
    return found


def training_split(source: Path, filters: Filters, settings: Settings) -> DataDir | None:
    """`train` beside a split: where speakers are the labels, those of all splits follow from it. As it is when its
    own speakers are counted."""
    train = source.resolve().parent / "train"
    if train == source.resolve() or not (train / "wav.scp").is_file():
        return None
    earlier = Filters(filters.remove_empty_text, filters.languages, filters.labels, filters.label_table)
    return apply(starting_tables(train, settings.allow_pipes), earlier)[0]


def share_audio(utterances) -> list[list[Utterance]]:
    """Utterances that are the same stretch of the same file (several questions about one paragraph) together."""
    groups = defaultdict(list)
    for utterance in utterances:
        groups[utterance.audio, utterance.segment].append(utterance)
    return list(groups.values())


def parallel(work, groups: list[list[Utterance]], jobs: int, title: str | None = None) -> list[Converted]:
    """`work` on each group, in threads: libsndfile decodes outside the interpreter's lock."""
    with ThreadPoolExecutor(jobs) as pool:
        results = tqdm(pool.map(work, groups), title, len(groups), unit="file", disable=None if title else True)
        return [item for items in results for item in items]


def measure(utterance: Utterance, settings: Settings) -> Converted:
    """The utterance with its duration by utt2dur, the segment or the header; only commands must run for it."""
    if utterance.duration is not None:
        return Converted(utterance)
    sound = Sound(utterance.audio, *(utterance.segment or (None, None)))
    try:
        if is_pipe(utterance.audio):
            samples = read_audio(sound, resample=True, downmix=True, allow_pipes=settings.allow_pipes)
            return Converted(replace(utterance, duration=len(samples) / RATE))
        return Converted(replace(utterance, duration=audio_info(sound)[0]))
    except AudioError as error:
        return Converted(utterance, problem=error.problem)


def usable(path: Path, done: list[Converted], bounds: tuple[float, float], drop_bad: bool, dropped: Counter):
    """{id: utterance} with audio of a duration within bounds; what is dropped is counted in `dropped`."""
    bad = [item for item in done if item.problem]
    if bad and not drop_bad:
        first = bad[0].utterance
        raise SpeechMergeError(f"{path / 'wav.scp'}:{first.id}: {first.audio}: {bad[0].problem} ({len(bad)} such "
                               "utterances); copy it again, or drop them with --drop-bad true")
    kept = {}
    for item in done:
        reason = ("unusable audio" if item.problem else "too short" if item.utterance.duration < bounds[0]
                  else "too long" if item.utterance.duration > bounds[1] else None)
        if reason:
            dropped[reason] += 1
        else:
            kept[item.utterance.id] = item.utterance
    if not kept:
        raise SpeechMergeError(f"{path}: none of {len(done)} utterances is usable and between {bounds[0]} and "
                               f"{bounds[1]} s long; check --min-duration and --max-duration")
    return dict(sorted(kept.items()))


def count_changes(done: list[Converted]) -> dict[str, int]:
    """What was done to the audio, in utterances."""
    counts = Counter({"resampled": 0, "downmixed": 0})
    counts.update(change for item in done for change in item.changes)
    return dict(counts)


def describe(utterances: dict[str, Utterance], labels: list[str] | None) -> dict:
    """Statistics of a data directory whose durations are known. Hours, seconds, counts."""
    durations = sorted(u.duration for u in utterances.values())
    hours = defaultdict(float)
    for utterance in utterances.values():
        hours[utterance.language or "unknown"] += utterance.duration / 3600
    texts = [u.text for u in utterances.values() if u.text is not None]
    counts = defaultdict(Counter)
    for utterance in utterances.values():
        for name, label in utterance.labels.items():
            counts[name][label] += 1
    return {
        "utterances": len(utterances),
        "hours": round(sum(durations) / 3600, 5),
        "seconds": {"min": durations[0], "median": statistics.median(durations), "mean": statistics.fmean(durations),
                    "p95": durations[int(0.95 * (len(durations) - 1))], "max": durations[-1]},
        "speakers": len({u.speaker for u in utterances.values()} - {None}),
        "hours_per_language": {language: round(total, 5) for language, total in sorted(hours.items())},
        "words": sum(len(text.split()) for text in texts),
        "distinct_texts": len(set(texts)),
        "distinct_words": len({word for text in texts for word in text.split()}),
        "label_set": labels,
        "label_counts": {name: dict(sorted(counter.items())) for name, counter in sorted(counts.items())
                         if len(counter) <= MOST_COUNTED},
        "distinct_labels": {name: len(counter) for name, counter in sorted(counts.items())},
    }
