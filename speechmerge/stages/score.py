"""speechmerge score --split test [--exp-dir exp]: all hypotheses of a split; base, adapters and merges compared."""
from speechmerge.options import CommaList, split_name

HELP = "score decoded hypotheses and compute interference_delta"
NORMALISERS = ("none", "basic", "english", "indic")


def add_arguments(parser):
    parser.add_argument("--split", type=split_name, default="test", help="what exp/decode/<split> holds")
    parser.add_argument("--exp-dir", default="exp", help="results are read from and written to this folder")
    parser.add_argument("--tasks", nargs="+", action=CommaList, help="only these tasks or sets (default: all)")
    parser.add_argument("--data", help="data directories, DATA/<task>/<split> (default: those that were decoded)")
    parser.add_argument("--normaliser", choices=NORMALISERS, default="basic", help="of transcripts")
    parser.add_argument("--repetitions", type=int, default=1000, help="bootstrap repetitions of the intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")


def run(args):
    from speechmerge.merge_results import write_merge_results
    from speechmerge.scoring import Options, score_split

    sets = tuple(args.tasks) if args.tasks else None
    options = Options(args.normaliser, args.repetitions, args.seed, sets=sets, data=args.data)
    results = score_split(args.exp_dir, args.split, options)
    write_merge_results(args.exp_dir, results)
    print_tables(results)


def print_tables(results: dict):
    """By free generation and, where labels were scored, by label scoring."""
    for reading, title in (("generation", "free generation"), ("labels", "label scoring")):
        if any(scores[reading] is not None for entry in results["systems"] for scores in entry["scores"].values()):
            print(f"\n{title}, split {results['split']}, % (BLEU: points); worst: smallest interference_delta")
            print(score_table(results, reading))


def score_table(results: dict, reading: str) -> str:
    """Systems by sets, aligned columns; the metric stands in the head with its better direction."""
    from speechmerge.metrics.interference import HARMED_BELOW

    rows = [["system", *results["tasks"], "worst"]]
    for entry in results["systems"]:
        cells = [entry["scores"].get(name, {}).get(reading) for name in results["tasks"]]
        worst = entry["summary"][reading]["min"] if entry["kind"] in ("merged", "routed") else None
        mark = " harmed" if worst is not None and worst < HARMED_BELOW else ""
        rows.append([entry["name"], *("-" if cell is None else f"{100 * cell:.1f}" for cell in cells),
                     "-" if worst is None else f"{worst:+.2f}{mark}"])
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    justified = [[cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))]
                 for row in rows]
    return "\n".join("  ".join(cells).rstrip() for cells in justified)
