"""speechmerge format --data data/asr/train [DIR ...] [--output-dir DIR] [--max-duration 30] [--nj 4]"""
from pathlib import Path

from speechmerge.options import CommaList, boolean, resolved

HELP = "make audio 16 kHz mono, filter by duration, write durations and statistics"


def add_arguments(parser):
    parser.add_argument("--data", nargs="+", action=CommaList, required=True, help="data directories")
    parser.add_argument("--output-dir", help="write here instead of in place; with several --data, DIR/<task>/<split>")
    parser.add_argument("--min-duration", type=float, default=0.1, help="shortest utterance kept, in seconds")
    parser.add_argument("--max-duration", type=float, default=30.0, help="longest utterance kept, in seconds")
    parser.add_argument("--drop-bad", type=boolean, default=False, help="drop utterances whose audio cannot be used")
    parser.add_argument("--audio-format", choices=["flac", "wav"], default="flac", help="of converted audio")
    parser.add_argument("--nj", type=int, default=2, help="audio files converted at a time")
    parser.add_argument("--force", type=boolean, default=False, help="do it again although it is done")


def run(args):
    for source in map(Path, args.data):
        format_one(source, target_of(source, args), args)


def target_of(source: Path, args) -> Path:
    if not args.output_dir:
        return source
    return Path(args.output_dir) if len(args.data) == 1 else Path(args.output_dir).joinpath(*source.parts[-2:])


def format_one(source: Path, target: Path, args):
    """Skipped where options and content are those of the last run; in place, the content is the one it left behind."""
    from speechmerge.data.directory import DataDir
    from speechmerge.data.format import format_dir
    from speechmerge.done import is_done, mark_done, step_key
    from speechmerge.files import read_json

    def key():
        options = {k: v for k, v in resolved(args).items() if k not in ("data", "output_dir", "nj")}
        return step_key({**options, "data": DataDir.read(source).fingerprint()})

    if (source / "wav.scp").is_file() and not args.force and is_done(target, key()):
        print(f"{target}: already done " + line(read_json(target / "stats.json")))
        return
    statistics = format_dir(source, target, min_duration=args.min_duration, max_duration=args.max_duration,
                            drop_bad=args.drop_bad, jobs=args.nj, audio_format=args.audio_format, progress=True)
    mark_done(target, key(), ["wav.scp", "utt2dur", "stats.json"])
    print(f"{target}: " + line(statistics))


def line(statistics: dict) -> str:
    """One line of statistics."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in statistics["dropped"].items() if count)
    converted = ", ".join(f"{count} {what}" for what, count in statistics["converted"].items() if count)
    counts = f"{statistics['utterances']} utterances, {60 * statistics['hours']:.1f} min"
    notes = [f"{statistics['speakers']} speakers", f"dropped {dropped}" if dropped else "", converted]
    return "; ".join(note for note in (counts, *notes) if note)
