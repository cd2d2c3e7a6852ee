"""speechmerge train-router --config conf/route/languages.yaml --model M --tasks hi it --data data --output-dir exp/router/languages

The routed systems of `strategies` are entered in exp/routed.json: `decode --systems all` and `score` know them as
<router>-<strategy>.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, mapping_or_value, split_name

HELP = "train the classifier that routes utterances to adapters: exp/router/<name>/, and register its strategies"


def add_arguments(parser):
    parser.add_argument("--tasks", required=True, nargs="+", action=CommaList, help="sets to tell apart: DATA/<set>/<split>")
    parser.add_argument("--data", default="data", help="folder that holds <set>/<split>/")
    parser.add_argument("--train-split", default="train", help="to train on")
    parser.add_argument("--dev-split", type=split_name, default="dev", help="to stop early and to calibrate on")
    parser.add_argument("--report-splits", nargs="*", action=CommaList, default=["test"], help="to report on, where all sets have them")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    parser.add_argument("--output-dir", required=True, help="exp/router/<name>")
    add_model_arguments(parser)
    add_classifier_arguments(parser.add_argument_group("classifier"))
    add_system_arguments(parser.add_argument_group("routed systems"))
    parser.add_argument("--seed", type=int, default=0, help="of crops, draws, first weights and dropout")
    parser.add_argument("--force", type=boolean, default=False, help="train again although nothing changed")


def add_classifier_arguments(group):
    group.add_argument("--classifier", default="linear", help="linear, statistics, cnn, lstm, attention (speechmerge list classifiers)")
    group.add_argument("--classifier-options", type=mapping_or_value, default={}, help="such as {hidden: [256, 128], dropout: 0.3}")
    group.add_argument("--labels-from", default="set", help="set: the set that an utterance comes from; language: utt2lang; "
                       "or another column, utt2<name>")
    group.add_argument("--layer", type=int, default=-1, help="of the encoder: 0 the input of the first block, k the output of "
                       "the k-th, -1 the last, normalised; a low one costs less")
    group.add_argument("--stride", type=int, default=4, help="positions that are averaged to one")
    group.add_argument("--seconds", type=float, default=5.0, help="of the beginning of an utterance that are heard; 0: all")
    group.add_argument("--step", type=float, default=1.0, help="seconds: the encoder's context is a multiple of it")
    group.add_argument("--crops", type=int, default=2, help="random stretches of each training utterance, beside its beginning")
    group.add_argument("--crop-seconds", nargs=2, type=float, default=[1.0, 5.0], help="their shortest and longest")
    group.add_argument("--speeds", nargs="*", action=CommaList, item=float, default=[],
                       help="of which each of these stretches gets one, as 0.9 1.0 1.1: other voices (0.5 to 2)")
    group.add_argument("--utterances", type=int, default=1000, help="of each label to train on, drawn; 0: all")
    group.add_argument("--epochs", type=int, default=60, help="at most")
    group.add_argument("--patience", type=int, default=8, help="epochs without gain on dev before it ends")
    group.add_argument("--batch-size", type=int, default=32, help="stretches per update")
    group.add_argument("--learning-rate", type=float, default=1e-3, help="of AdamW")
    group.add_argument("--weight-decay", type=float, default=1e-2, help="of AdamW")
    group.add_argument("--balanced", type=boolean, default=True, help="draw all labels equally often")


def add_system_arguments(group):
    group.add_argument("--strategies", type=mapping_or_value, default={"hard": {}, "soft": {}, "oracle": {}},
                       help="{name: {option: value}}; name: a strategy (speechmerge list strategies), or any with {strategy: ...}")
    group.add_argument("--adapters", type=mapping_or_value, default={}, help="{label: adapter}, where they are not called alike")
    group.add_argument("--base-labels", nargs="*", action=CommaList, default=[], help="labels without adapter: the base alone")


def run(args):
    from pathlib import Path

    from speechmerge.models.options import model_from
    from speechmerge.route.fitting import FitOptions
    from speechmerge.route.hearing import Hearing
    from speechmerge.route.systems import register
    from speechmerge.route.train import Recipe, train_router

    fit = FitOptions(args.epochs, args.patience, args.batch_size, args.learning_rate, args.weight_decay, args.balanced, args.seed)
    hearing = Hearing(args.layer, args.stride, args.seconds, args.step)
    recipe = Recipe(args.classifier, args.classifier_options or {}, args.labels_from, args.utterances, hearing, args.crops,
                    tuple(args.crop_seconds), tuple(args.speeds), fit)
    splits = (args.train_split, args.dev_split, args.report_splits)
    found = train_router(model_from(args), args.tasks, args.data, splits, args.output_dir, recipe, args.force)
    names = register(args.exp_dir, Path(args.output_dir), args.strategies, args.adapters or {}, args.base_labels)
    kept = "kept (--force true trains again), " if found.get("kept") else ""
    print(f"{args.output_dir}: {kept}temperature {found['temperature']:.2f}, systems {' '.join(names)}")
    for split, row in found["splits"].items():
        over = "" if row["accuracy_over_2s"] is None else f", over 2 s {100 * row['accuracy_over_2s']:.1f} %"
        print(f"  {split:<6} accuracy {100 * row['accuracy']:.1f} %{over}, ECE {100 * row['ece']:.1f} %, n = {row['n']}")
