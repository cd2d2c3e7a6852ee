"""speechmerge report --exp-dir exp --split test --data data --output-dir exp/report

Reads exp/scores_<split>.json and the decode folders; writes index.html (self-contained), RESULTS.md, every plot as PNG
and its numbers as CSV. The merge that the findings speak of is chosen on --dev-split where that was scored.

speechmerge report --compare exp other/exp instead: compare.html, the same systems and sets side by side.
speechmerge report --aggregate conf/grid/mini.yaml instead: one table of what the cells of a grid have finished so far.
"""
from speechmerge.options import key_value

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
    parser.add_argument("--compare", nargs="+", metavar="EXP", help="instead: two or more experiment folders, each against "
                        "the first; compare.html in --output-dir")
    add_grid_arguments(parser.add_argument_group("cells of a grid"))


def add_grid_arguments(group):
    group.add_argument("--aggregate", metavar="GRID.yaml", help="results.csv and results.md of what its cells have finished")
    group.add_argument("--param", nargs="+", action="extend", type=key_value, default=[], metavar="KEY=VALUE",
                       help="over exp_dir and the values of the grid")


def aggregated(args):
    from collections import Counter

    from speechmerge.grid.file import in_order
    from speechmerge.report.aggregate import aggregate, write_tables

    phases = in_order(args.aggregate, dict(args.param))
    rows = aggregate(phases)
    counts = Counter({(row["phase"], row["cell"]): row["state"] for row in rows}.values())
    path = write_tables(rows, phases[-1].folder.parent)
    print(f"{path}: {', '.join(f'{count} {name}' for name, count in counts.items())} of {counts.total()} cells, {len(rows)} rows")


def compared(args):
    from pathlib import Path

    from speechmerge.files import write_text
    from speechmerge.report import compare_page
    from speechmerge.report.comparison import compare_experiments

    found, output = compare_experiments(args.compare, args.split), Path(args.output_dir)
    tables = [compare_page.overview(found), compare_page.only(found), compare_page.settings(found)]
    write_items(output, [*compare_page.plots(found), *compare_page.listings(found).values(), *tables])
    write_text(output / "compare.md", compare_page.markdown(found))
    write_text(output / "compare.html", compare_page.render(found))
    print(f"{output / 'compare.html'}: " + " ".join(compare_page.counts(found)))


def write_items(output, items):
    """Plots as PNG, and the numbers of plots and tables as CSV."""
    from speechmerge.files import atomic_file, write_text

    for item in items:
        if hasattr(item, "png"):
            with atomic_file(output / f"{item.name}.png", "wb") as file:
                file.write(item.png)
        write_text(output / f"{item.name}.csv", item.csv())


def run(args):
    if args.aggregate:
        return aggregated(args)
    if args.compare:
        return compared(args)
    from pathlib import Path

    from speechmerge.files import write_text
    from speechmerge.report.contents import gather
    from speechmerge.report.page import render
    from speechmerge.report.results_md import results_markdown

    contents = gather(args.exp_dir, args.split, args.dev_split, args.data, args.max_examples,
                      max_bytes=int(args.max_page_mb * 1e6), title=args.title)
    output = Path(args.output_dir)
    write_items(output, contents.files())
    write_text(output / "RESULTS.md", results_markdown(contents))
    write_text(output / "index.html", render(contents))
    print(f"{output / 'index.html'}: {len(contents.results.systems)} systems, {len(contents.results.tasks)} tasks, "
          f"{(output / 'index.html').stat().st_size / 1e6:.1f} MB")
