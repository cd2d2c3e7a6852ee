"""speechmerge format --data data/asr/train [DIR ...] [--output-dir DIR] [--max-duration 30] [--hours train=10,dev=1]"""
from pathlib import Path

from speechmerge.options import CommaList, boolean, resolved

HELP = "make audio 16 kHz mono, filter by duration, language, label, speaker or hours, write durations and statistics"


def add_arguments(parser):
    parser.add_argument("--data", nargs="+", action=CommaList, required=True, help="data directories")
    parser.add_argument("--output-dir", help="write here instead of in place; with several --data, DIR/<task>/<split>")
    parser.add_argument("--min-duration", type=float, default=0.1, help="shortest utterance kept, in seconds")
    parser.add_argument("--max-duration", type=float, default=30.0, help="longest utterance kept, in seconds")
    parser.add_argument("--drop-bad", type=boolean, default=False, help="drop utterances whose audio cannot be used")
    parser.add_argument("--nj", type=int, default=2, help="audio files converted at a time")
    parser.add_argument("--force", type=boolean, default=False, help="do it again although it is done")
    add_audio_arguments(parser.add_argument_group("audio"))
    add_filter_arguments(parser.add_argument_group(
        "filters", "start from the tables of stage 1 (kept in DIR/.unfiltered), so that each can be changed or taken "
        "back. NUMBER: for all splits, or train=10,dev=1 for some; a split is the name of a directory"))


def add_audio_arguments(group):
    group.add_argument("--audio-format", choices=["flac", "wav"], default="flac", help="of converted audio")
    group.add_argument("--loudness", type=float, metavar="LUFS", help="make all equally loud (BS.1770), such as -23")
    group.add_argument("--trim-silence", type=float, metavar="DB",
                       help="cut off both ends what is so much below the loudest 25 ms, such as 40")
    group.add_argument("--trim-margin", type=float, default=0.1, help="seconds of silence that stay at both ends")
    group.add_argument("--allow-pipes", type=boolean, default=False,
                       help="run commands that stand in wav.scp (`sox a.wav -t wav - |`): they can do anything")


def add_filter_arguments(group):
    group.add_argument("--hours", nargs="+", action=CommaList, default=[], metavar="NUMBER",
                       help="a random subset of whole utterances of at most so many hours; speakers take turns")
    group.add_argument("--fraction", nargs="+", action=CommaList, default=[], metavar="NUMBER",
                       help="a random subset of such a share of the utterances, as 0.1, which is part of that of 0.25; "
                       "speakers take turns")
    group.add_argument("--max-utterances", nargs="+", action=CommaList, default=[], metavar="NUMBER",
                       help="a random subset of so many utterances; speakers take turns")
    group.add_argument("--languages", nargs="+", action=CommaList, default=[], help="keep these (utt2lang)")
    group.add_argument("--labels", nargs="+", action=CommaList, default=[], help="keep these")
    group.add_argument("--label-table", help="of --labels and --max-per-label: `intent` for utt2intent")
    group.add_argument("--speakers", nargs="+", action=CommaList, default=[], metavar="NUMBER", help="so many speakers")
    group.add_argument("--speaker-choice", choices=["frequent", "random"], default="frequent",
                       help="which; where speakers are the labels, the same in all splits, by their number in train")
    group.add_argument("--max-per-label", nargs="+", action=CommaList, default=[], metavar="NUMBER",
                       help="at most so many utterances of each label")
    group.add_argument("--max-per-speaker", nargs="+", action=CommaList, default=[], metavar="NUMBER",
                       help="at most so many utterances of each speaker")
    group.add_argument("--mix", nargs="+", action=CommaList, default=[], metavar="CORPUS=SHARE",
                       help="shares of hours by utt2corpus: as much as possible of each while they hold")
    group.add_argument("--positive-pairs", nargs="+", action=CommaList, default=[], metavar="NUMBER",
                       help="trials of the same speaker")
    group.add_argument("--negative-pairs", nargs="+", action=CommaList, default=[], metavar="NUMBER",
                       help="trials of different speakers")
    group.add_argument("--remove-empty-text", type=boolean, default=False, help="drop utterances without transcript")
    group.add_argument("--seed", type=int, default=0, help="of all that is drawn")


PER_SPLIT = {"hours": float, "fraction": float, "max_utterances": int, "speakers": int, "max_per_label": int,
             "max_per_speaker": int, "positive_pairs": int, "negative_pairs": int}


def run(args):
    sources = [Path(source) for source in args.data]
    splits = {source.resolve().name for source in sources}
    limits = {name: per_split(name, getattr(args, name), kind, splits) for name, kind in PER_SPLIT.items()}
    mix = shares(args.mix)
    for source in sorted(sources, key=lambda source: source.resolve().name != "train"):
        own = {name: values.get(source.resolve().name, values.get("")) for name, values in limits.items()}
        format_one(source, target_of(source, args), args, {**own, "mix": mix})


def per_split(name: str, words: list, kind, splits: set[str]) -> dict:
    """["train=10", "dev=1"] -> {"train": 10.0, "dev": 1.0}; ["10"] -> {"": 10.0}, for all splits."""
    from speechmerge.errors import UsageError
    from speechmerge.options import split_name
    from speechmerge.registry import nearest

    found, option = {}, f"--{name.replace('_', '-')}"
    for word in map(str, words):
        split, equals, number = word.rpartition("=")
        split = split if split in splits else split_name(split)
        if equals and split not in splits:
            raise UsageError(f"{option} {word}: no --data is called {split!r}; {nearest(split, splits)}")
        if split in found:
            raise UsageError(f"{option}: two values for {split or 'all splits'}; expected one")
        try:
            found[split] = kind(number)
        except ValueError as error:
            raise UsageError(f"{option} {word}: found {number!r}, expected a number ({kind.__name__})") from error
    return found


def shares(words: list) -> dict[str, float]:
    """["kathbath=0.5", "common_voice=0.5"] -> {"kathbath": 0.5, "common_voice": 0.5}."""
    from speechmerge.errors import UsageError

    found = {}
    for word in words:
        corpus, equals, number = word.rpartition("=")
        try:
            found[corpus] = float(number)
        except ValueError:
            equals = ""
        if not equals or not corpus:
            raise UsageError(f"--mix {word}: expected CORPUS=SHARE, as kathbath=0.5")
    return found


def target_of(source: Path, args) -> Path:
    if not args.output_dir:
        return source
    return Path(args.output_dir) if len(args.data) == 1 else Path(args.output_dir).joinpath(*source.parts[-2:])


def chosen_filters(args, own: dict):
    """The filters of one directory."""
    from speechmerge.data.filters import Filters

    plain = {"remove_empty_text": args.remove_empty_text, "label_table": args.label_table,
             "languages": tuple(args.languages), "labels": tuple(args.labels),
             "speaker_choice": args.speaker_choice, "seed": args.seed}
    return Filters(**plain, **{name: value for name, value in own.items() if value is not None})


def format_one(source: Path, target: Path, args, own: dict):
    """Skipped where options and content are those of the last run; in place, the content is the one it left behind."""
    from speechmerge.data.convert import Settings
    from speechmerge.data.directory import DataDir
    from speechmerge.data.filters import Step
    from speechmerge.data.format import format_dir
    from speechmerge.data.unfiltered import is_half_written
    from speechmerge.done import is_done, mark_done, step_key
    from speechmerge.files import read_json

    filters = chosen_filters(args, own)
    settings = Settings(args.audio_format, args.loudness, args.trim_silence, args.trim_margin, args.allow_pipes)

    def key():
        options = {k: v for k, v in resolved(args).items() if k not in ("data", "output_dir", "nj", *PER_SPLIT, "mix")}
        data = DataDir.read(source, allow_pipes=args.allow_pipes)
        fraction = {"fraction": filters.fraction} if filters.fraction else {}  # younger than the other filters' text
        return step_key({**options, "filters": str(filters), **fraction, "data": data.fingerprint()})

    there = (source / "wav.scp").is_file() and not is_half_written(source)
    if there and not args.force and is_done(target, key()):
        print(f"{target}: already done " + line(read_json(target / "stats.json")))
        return
    statistics = format_dir(source, target, min_duration=args.min_duration, max_duration=args.max_duration,
                            drop_bad=args.drop_bad, jobs=args.nj, progress=True, filters=filters, settings=settings)
    mark_done(target, key(), ["wav.scp", "utt2dur", "stats.json"])
    for step in statistics["filters"]:
        print(f"{target}: {Step(**step)}")
    print(f"{target}: " + line(statistics))


def line(statistics: dict) -> str:
    """One line of statistics."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in statistics["dropped"].items() if count)
    converted = ", ".join(f"{count} {what}" for what, count in statistics["converted"].items() if count)
    counts = f"{statistics['utterances']} utterances, {60 * statistics['hours']:.1f} min"
    notes = [f"{statistics['speakers']} speakers", f"dropped {dropped}" if dropped else "", converted]
    return "; ".join(note for note in (counts, *notes) if note)
