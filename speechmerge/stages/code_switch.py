"""speechmerge code-switch --tasks hi it --data data --split test --kind inter --output-dir data/switch_inter/test
speechmerge code-switch --score exp/decode/test/*/switch_inter

The first makes a set of speech that switches; decode and route treat it as any other set (--task asr). The second scores
what was decoded on it: WER, errors on switched words (PIER), and of frame routing latency, misses, false switches, F1.
"""
from speechmerge.metrics.wer import NORMALISERS
from speechmerge.options import CommaList, split_name

HELP = "make sets of speech that switches between languages, or score what was decoded on them"


def add_arguments(parser):
    parser.add_argument("--tasks", nargs="+", action=CommaList, default=[], help="sets to switch between: DATA/<set>/<split>")
    parser.add_argument("--data", default="data", help="folder that holds <set>/<split>/")
    parser.add_argument("--split", type=split_name, default="test", help="train, dev (validation) or test")
    parser.add_argument("--kind", default="inter", help="inter: whole utterances with pauses; intra: a short one inside another "
                        "label's speech; rapid: many short ones")
    parser.add_argument("--count", type=int, default=40, help="utterances to make")
    parser.add_argument("--max-seconds", type=float, default=28.0, help="the longest")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--output-dir", help="data directory to write: data/<name>/<split>")
    parser.add_argument("--score", nargs="+", default=[], help="folders exp/decode/<split>/<system>/<set> to score instead")
    parser.add_argument("--normaliser", choices=list(NORMALISERS), default="basic", help="of --score")


def run(args):
    from pathlib import Path

    from speechmerge.errors import UsageError

    if args.score:
        return print_scores(args)
    if not args.output_dir:
        raise UsageError("code-switch: --output-dir is not given (or --score, to score what was decoded)")
    from speechmerge.data.directory import DataDir
    from speechmerge.route.code_switch import Options, make

    options = Options(args.kind, args.count, args.seed, args.max_seconds)
    sets = {name: DataDir.read(Path(args.data) / name / args.split, formatted=True) for name in args.tasks}
    data = make(sets, args.output_dir, options)
    seconds = sum(utterance.duration for utterance in data.utterances.values())
    print(f"{args.output_dir}: {len(data.utterances)} utterances, {seconds / 60:.1f} minutes")


def print_scores(args):
    from speechmerge.route.switch_scores import score_folder
    from speechmerge.stages.score import aligned

    columns = {"F1 0.25 s": "f1_0.25s", "F1 0.5 s": "f1_0.5s", "miss": "miss_rate", "false/min": "false_per_minute",
               "latency s": "latency_median", "p90 s": "latency_p90", "boundary s": "boundary_error_median"}
    rows = [["system", "n", "WER %", "PIER %", "time right %", *columns]]
    for folder in args.score:
        found = score_folder(folder, args.normaliser)
        timeline = found.get("timeline", {})
        cells = [number(found["wer"], 100), number(found["pier"], 100), number(timeline.get("frame_accuracy"), 100)]
        rows.append([found["system"], str(found["n"]), *cells, *(number(timeline.get(key)) for key in columns.values())])
    print(aligned(rows))


def number(value, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.1f}" if factor > 1 else f"{value:.2f}"
