"""speechmerge score --split test [--exp-dir exp]: all hypotheses of a split, compared over base, adapters and merges."""
from speechmerge.options import CommaList

HELP = "score decoded hypotheses and compute interference_delta"


def add_arguments(parser):
    parser.add_argument("--split", default="test", help="what exp/decode/<split> holds")
    parser.add_argument("--exp-dir", default="exp", help="results are read from and written to this folder")
    parser.add_argument("--tasks", nargs="+", action=CommaList, help="only these tasks or sets (default: all that were decoded)")
    parser.add_argument("--data", help="data directories, DATA/<task>/<split> (default: those that were decoded)")
    parser.add_argument("--normaliser", choices=["none", "basic", "english"], default="basic", help="of transcripts")
    parser.add_argument("--repetitions", type=int, default=1000, help="bootstrap repetitions of the intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")


def run(args):
    from speechmerge.merge_results import write_merge_results
    from speechmerge.scoring import Options, score_split

    sets = tuple(args.tasks) if args.tasks else None
    results = score_split(args.exp_dir, args.split, Options(args.normaliser, args.repetitions, args.seed, sets, args.data))
    write_merge_results(args.exp_dir, results)
    for reading, title in (("generation", "free generation"), ("labels", "label scoring")):
        if any(scores[reading] is not None for entry in results["systems"] for scores in entry["scores"].values()):
            print(f"\n{title}, split {args.split}, %; worst: smallest interference_delta over its tasks")
            print(score_table(results, reading))


def score_table(results: dict, reading: str) -> str:
    """Systems by sets, aligned columns; the metric stands in the head with its better direction."""
    from speechmerge.metrics.interference import HARMED_BELOW

    rows = [["system", *results["tasks"], "worst"]]
    for entry in results["systems"]:
        cells = [entry["scores"].get(name, {}).get(reading) for name in results["tasks"]]
        worst = entry["summary"][reading]["min"] if entry["kind"] == "merged" else None
        mark = " harmed" if worst is not None and worst < HARMED_BELOW else ""
        rows.append([entry["name"], *("-" if cell is None else f"{100 * cell:.1f}" for cell in cells),
                     "-" if worst is None else f"{worst:+.2f}{mark}"])
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)
