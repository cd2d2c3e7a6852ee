"""speechmerge analyze --config conf/analyze/weights.yaml --adapters asr kws --output-dir exp/analysis/weights

Writes analysis.json ("table": the lines that are printed, "pictures": what each shows), and each picture as PNG with its
numbers as CSV. `kind` names the analysis (speechmerge.analysis), `options` are its own. What is done with the same
adapters, data and options is kept; decoding that was interrupted goes on.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, mapping_or_value, split_name
from speechmerge.stages.decode import add_decode_arguments

HELP = "what adapters have in common and where they work: numbers, pictures, a table (docs/analysis.md)"


def add_arguments(parser):
    parser.add_argument("--kind", required=True,
                        help="of adapters: weights, subspaces, spectra; on data: layers, transfer, families, representations, probing, "
                        "prediction, errors; of a study's trainings: few_shot, ranks, mixing")
    parser.add_argument("--options", type=mapping_or_value, default={}, help="{option: value} of this analysis")
    parser.add_argument("--adapters", nargs="+", action=CommaList, default=["adapters"],
                        help="registered names or folders; default: all registered ones")
    parser.add_argument("--task", help="of all sets, where they are languages; default: that of the set's adapter")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/")
    parser.add_argument("--split", type=split_name, default="dev",
                        help="what layers, transfer and representations are judged on")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    parser.add_argument("--output-dir", required=True, help="such as exp/analysis/weights")
    add_model_arguments(parser)
    add_decode_arguments(parser)
    parser.add_argument("--force", type=boolean, default=False, help="analyze again although nothing changed")


def run(args):
    from pathlib import Path

    from speechmerge.analysis.base import ANALYSES, Study
    from speechmerge.done import is_done, step_key
    from speechmerge.memory import keep_memory
    from speechmerge.systems import find_adapters

    keep_memory()
    study = Study(find_adapters(args.adapters, args.exp_dir), args)
    analysis = ANALYSES.get(args.kind)(study, args.options or {})
    decided = {"kind": args.kind, "options": analysis.values, "adapters": study.names, "key": analysis.key()}
    key, folder = step_key(decided, study.files()), Path(args.output_dir)
    if not args.force and is_done(folder, key):
        print(f"{folder}: kept (--force true analyzes again)")
        return
    findings = analysis.run()
    write(folder, key, args, findings)
    print(f"{folder}: analysis.json and {len(findings.plots)} pictures")
    print("\n".join(f"  {line}" for line in findings.lines))


def write(folder, key: str, args, findings):
    """done.json last; pictures of an earlier run that are no longer made go."""
    from speechmerge.done import NAME, mark_done
    from speechmerge.files import atomic_file, read_json, write_json, write_text
    from speechmerge.options import resolved
    from speechmerge.provenance import provenance

    earlier = read_json(folder / NAME)["outputs"] if (folder / NAME).is_file() else {}
    outputs = ["analysis.json"]
    pictures = {plot.name: {"title": plot.title, "alt": plot.alt} for plot in findings.plots}
    write_json(folder / "analysis.json", {"kind": args.kind, **findings.data, "table": findings.lines, "pictures": pictures,
                                          **provenance(options=resolved(args))})
    for plot in findings.plots:
        with atomic_file(folder / f"{plot.name}.png", "wb") as file:
            file.write(plot.png)
        write_text(folder / f"{plot.name}.csv", plot.csv())
        outputs += [f"{plot.name}.png", f"{plot.name}.csv"]
    mark_done(folder, key, outputs)
    for name in earlier.keys() - set(outputs):
        (folder / name).unlink(missing_ok=True)
