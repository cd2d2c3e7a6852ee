"""speechmerge report --exp-dir exp --split test --data data --output-dir exp/report

Reads exp/scores_<split>.json and the decode folders; writes index.html (self-contained), RESULTS.md, every plot as PNG
and its numbers as CSV. The merge that the findings speak of is chosen on --dev-split where that was scored.
"""

HELP = "make index.html, RESULTS.md, plots and their numbers from the scores of all systems"


def add_arguments(parser):
    parser.add_argument("--exp-dir", default="exp", help="where adapters, merges, hypotheses and scores are")
    parser.add_argument("--split", default="test", help="the split that is reported")
    parser.add_argument("--dev-split", default="dev", help="the best merge is chosen on this split, if it was scored")
    parser.add_argument("--data", default="data", help="DATA/<task>/<split> is read where the data decoded is gone")
    parser.add_argument("--output-dir", default="exp/report", help="where the report is written")
    parser.add_argument("--max-examples", type=int, default=5, help="example utterances per task")
    parser.add_argument("--max-page-mb", type=float, default=6.0, help="audio beyond this size of the page is left out")
    parser.add_argument("--title", default="What merging kept", help="heading of the page")


def run(args):
    from pathlib import Path

    from speechmerge.files import atomic_file, write_text
    from speechmerge.report.contents import gather
    from speechmerge.report.page import render
    from speechmerge.report.results_md import results_markdown

    contents = gather(args.exp_dir, args.split, args.dev_split, args.data, args.max_examples,
                      max_bytes=int(args.max_page_mb * 1e6), title=args.title)
    output = Path(args.output_dir)
    for plot in contents.plots:
        with atomic_file(output / f"{plot.name}.png", "wb") as file:
            file.write(plot.png)
        write_text(output / f"{plot.name}.csv", plot.csv())
    write_text(output / "RESULTS.md", results_markdown(contents))
    write_text(output / "index.html", render(contents))
    print(f"{output / 'index.html'}: {len(contents.results.systems)} systems, {len(contents.results.tasks)} tasks, "
          f"{(output / 'index.html').stat().st_size / 1e6:.1f} MB")
