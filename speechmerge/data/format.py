"""Bring a data directory into the form that training and decoding read: 16 kHz mono, durations known and bounded.

    statistics = format_dir("data/asr/train", max_duration=30)                # in place
    statistics = format_dir("data/raw/train", "data/asr/train", jobs=4)

Audio that already is 16 kHz mono wav or flac is left where it is; other audio is converted to `audio/<id>.flac` of the
target, several channels averaged. Converted files are written atomically and kept, so that an interrupted run goes on.
"""
import statistics
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from speechmerge.data.audio import RATE, AudioError, audio_info, read_audio, write_audio
from speechmerge.data.directory import DataDir, Utterance
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_json

KEPT_SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class Converted:
    utterance: Utterance
    resampled: bool = False
    downmixed: bool = False
    problem: str | None = None


def format_dir(source, target=None, *, min_duration: float = 0.1, max_duration: float = 30.0, drop_bad: bool = False,
               jobs: int = 1, audio_format: str = "flac", progress: bool = False) -> dict:
    """Format `source` into `target` (default: in place); returns the statistics that it also writes to `stats.json`.

    Durations in seconds, bounds included. Raises SpeechMergeError naming the utterance for audio that cannot be used,
    unless `drop_bad`, and where no utterance is left.
    """
    data = DataDir.read(source)
    target = Path(target or source)

    def convert(utterance):
        return convert_audio(utterance, target / "audio", audio_format)

    with ThreadPoolExecutor(jobs) as pool:
        waiting = pool.map(convert, data.utterances.values())
        done = list(tqdm(waiting, f"format {source}", len(data.utterances), unit="utt", disable=None if progress else True))
    bad = [item for item in done if item.problem]
    if bad and not drop_bad:
        first = bad[0].utterance
        raise SpeechMergeError(f"{data.path / 'wav.scp'}:{first.id}: {first.audio}: {bad[0].problem} ({len(bad)} such "
                               "utterances); copy it again, or drop them with --drop-bad true")
    kept = {item.utterance.id: item.utterance for item in done
            if not item.problem and min_duration <= item.utterance.duration <= max_duration}
    if not kept:
        raise SpeechMergeError(f"{data.path}: none of {len(done)} utterances is usable and between {min_duration} and "
                               f"{max_duration} s long; check --min-duration and --max-duration")
    trials = data.trials and [trial for trial in data.trials if trial.enrol in kept and trial.test in kept]
    found = {**describe(kept, data.labels), **count_changes(done, min_duration, max_duration)}
    found["trials"] = data.trials and {"kept": len(trials), "dropped": len(data.trials) - len(trials)}
    DataDir(target, kept, data.labels, trials).write()
    write_json(target / "stats.json", found)
    return found


def count_changes(done: list[Converted], min_duration: float, max_duration: float) -> dict:
    """What was dropped and why, and what was converted."""
    durations = [item.utterance.duration for item in done if not item.problem]
    return {
        "filter": {"min_duration": min_duration, "max_duration": max_duration},
        "dropped": {"too short": sum(seconds < min_duration for seconds in durations),
                    "too long": sum(seconds > max_duration for seconds in durations),
                    "unusable audio": len(done) - len(durations)},
        "converted": {"resampled": sum(item.resampled for item in done),
                      "downmixed": sum(item.downmixed for item in done)},
    }


def convert_audio(utterance: Utterance, folder: Path, audio_format: str) -> Converted:
    """The utterance with its duration and, where it had to be converted, its new path."""
    try:
        seconds, rate, channels = audio_info(utterance.audio)
        if rate == RATE and channels == 1 and Path(utterance.audio).suffix.lower() in KEPT_SUFFIXES:
            seconds = len(read_audio(utterance.audio)) / RATE
            return Converted(replace(utterance, duration=seconds))
        made = folder / f"{utterance.id}.{audio_format}"
        if not up_to_date(made, utterance.audio):
            write_audio(made, read_audio(utterance.audio, resample=True, downmix=True))
        changed = replace(utterance, audio=str(made), duration=audio_info(made)[0])
        return Converted(changed, resampled=rate != RATE, downmixed=channels > 1)
    except AudioError as error:
        return Converted(utterance, problem=error.problem)


def up_to_date(made: Path, source: str) -> bool:
    """A converted file is whole (it was renamed when complete); it is old where its source was changed after it."""
    return made.is_file() and made.stat().st_mtime >= Path(source).stat().st_mtime


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
        "label_counts": {name: dict(sorted(counter.items())) for name, counter in sorted(counts.items())},
    }
