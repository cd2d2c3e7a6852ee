"""speechmerge report --exp-dir exp --split test --data data --output-dir exp/report

Reads exp/scores_<split>.json and the decode folders; writes index.html (self-contained), RESULTS.md, every plot as PNG and its
numbers as CSV. The merge that the findings speak of is chosen on --dev-split where that was scored.
"""
HELP = "make index.html, RESULTS.md, plots and their numbers from the scores of all systems"


def add_arguments(parser):
    parser.add_argument("--exp-dir", default="exp", help="where adapters, merges, hypotheses and scores are")
    parser.add_argument("--split", default="test", help="the split that is reported")
    parser.add_argument("--dev-split", default="dev", help="the split that the best merge is chosen on, if it was scored")
    parser.add_argument("--data", default="data", help="for the examples: DATA/<task>/<split>, where the data that was decoded is no longer in its place")
    parser.add_argument("--output-dir", default="exp/report", help="where the report is written")
    parser.add_argument("--max-examples", type=int, default=5, help="example utterances per task")
    parser.add_argument("--max-page-mb", type=float, default=6.0, help="audio is left out of the page beyond this size (MB)")
    parser.add_argument("--title", default="What merging kept", help="heading of the page")


def run(args):
    import logging
    from pathlib import Path

    from speechmerge.files import atomic_file, write_text
    from speechmerge.provenance import provenance
    from speechmerge.report.origin import steps
    from speechmerge.report.page import render
    from speechmerge.report.plots import all_plots
    from speechmerge.report.results_md import results_markdown
    from speechmerge.report.tables import read_results

    results = read_results(args.exp_dir, args.split)
    chosen_on = dev_results(args)
    plots, own, history = all_plots(results), provenance(), steps(results)
    room = int(args.max_page_mb * 1e6) - sum(4 * len(plot.png) // 3 for plot in plots) - 400_000  # bytes; tables and text: 0.4 MB
    examples, notes = collect_examples(args, results, chosen_on, room)
    output = Path(args.output_dir)
    for plot in plots:
        with atomic_file(output / f"{plot.name}.png", "wb") as file:
            file.write(plot.png)
        write_text(output / f"{plot.name}.csv", plot.csv())
    write_text(output / "RESULTS.md", results_markdown(results, chosen_on, history, own, args.title))
    write_text(output / "index.html", render(results, chosen_on, plots, examples, history, own, args.title, notes))
    logging.info("%s: %d systems, %d tasks, %d plots, %.1f MB", output / "index.html", len(results.systems), len(results.tasks),
                 len(plots), (output / "index.html").stat().st_size / 1e6)
    print(output / "index.html")


def dev_results(args):
    """Scores of the split that merges are chosen on; None where it was not scored or is the reported split itself."""
    from pathlib import Path

    from speechmerge.report.tables import read_results

    if args.dev_split == args.split or not (Path(args.exp_dir) / f"scores_{args.dev_split}.json").is_file():
        return None
    return read_results(args.exp_dir, args.dev_split)


def collect_examples(args, results, chosen_on, room: int):
    """Examples of every task and notes on what was left out. `room`: bytes for audio."""
    from pathlib import Path

    from speechmerge.report.examples import Audio, task_examples
    from speechmerge.report.findings import choose_merge

    if args.max_examples < 1:
        return [], []
    best, _ = choose_merge(results, chosen_on)
    merge = best.system if best else None
    examples, left_out = [], 0
    for i, task in enumerate(results.tasks):
        audio = Audio(max(room, 0) // (len(results.tasks) - i))  # what one task leaves over is shared by the others
        data_dir = task.data if Path(task.data).is_dir() else Path(args.data) / task.name / args.split
        examples.append(task_examples(results, task, data_dir, merge, args.max_examples, audio))
        room -= audio.used
        left_out += audio.left_out
    note = f"The audio of {left_out} utterances was left out to keep the page below {args.max_page_mb:g} MB."
    return examples, [note] if left_out else []
