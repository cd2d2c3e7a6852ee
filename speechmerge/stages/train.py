"""speechmerge train --task kws --model egs/mini/base --data data/kws/train --dev data/kws/dev [--rank 8]

On several GPUs: torchrun --nproc_per_node=2 -m speechmerge train ... The processes share every batch, so that what is
learnt is the same for any number of them.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean
from speechmerge.stages.decode import add_task_arguments
from speechmerge.train.mix import share
from speechmerge.train.options import DECAYS, FEATURES, OPTIMIZERS, PRECISIONS, TUNINGS, TrainOptions

HELP = "fine-tune a base model on one task: exp/<task>/<name>/ with a LoRA adapter, or with a full model"
REPORTS = ("tensorboard", "wandb")


def add_arguments(parser):
    parser.add_argument("--task", required=True, help="what to train (speechmerge list tasks)")
    parser.add_argument("--data", required=True, help="data directory to train on")
    parser.add_argument("--dev", help="data directory that chooses the best checkpoint; without it the last one counts")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder; adapters.json in it lists all adapters")
    parser.add_argument("--name", help="of the adapter, for --adapters and --systems; default: the task")
    parser.add_argument("--output-dir", help="default: EXP_DIR/TASK/NAME")
    add_model_arguments(parser)
    add_task_arguments(parser.add_argument_group("task"))
    add_data_arguments(parser.add_argument_group("what is trained on, and from"))
    add_lora_arguments(parser.add_argument_group("what is trained"))
    add_head_arguments(parser.add_argument_group("head of an upstream (HuBERT, wav2vec 2.0, WavLM, s3prl)"))
    add_schedule_arguments(parser.add_argument_group("schedule"))
    add_stable_arguments(parser.add_argument_group("stable fine-tuning (Speech-FT)"))
    add_augmentation_arguments(parser.add_argument_group("augmentation, drawn anew in each epoch"))
    add_choice_arguments(parser.add_argument_group("choice of the checkpoint"))
    parser.add_argument("--report-to", nargs="*", action=CommaList, default=["tensorboard"], help="tensorboard, wandb")
    parser.add_argument("--keep-checkpoints", type=boolean, default=False, help="leave the last and the best")
    parser.add_argument("--force", type=boolean, default=False, help="train again although nothing changed")


def add_data_arguments(group):
    group.add_argument("--mix", nargs="+", action=CommaList, item=share, default=[], metavar="KIND=SHARE",
                       help="kinds of --inputs with shares of their examples, as text=1 audio=0.05; default: all as --inputs")
    group.add_argument("--max-train-samples", type=int, default=0, help="examples to train on; 0: all")
    group.add_argument("--init-adapter", help="folder of a training whose weights this one starts from (curriculum)")


def add_lora_arguments(group):
    group.add_argument("--tuning", choices=TUNINGS, default="lora", help="lora: an adapter; full: all weights; head: of a "
                       "frozen upstream")
    group.add_argument("--rank", type=int, default=8, help="of the LoRA")
    group.add_argument("--alpha", type=float, help="scaling: alpha / rank (rsLoRA: alpha / sqrt(rank)); default: rank")
    group.add_argument("--dropout", type=float, default=0.0, help="on the adapter's input")
    group.add_argument("--targets", nargs="+", action=CommaList, default=["all-linear"],
                       help="all-linear, attention, encoder, decoder, or names of layers such as q_proj v_proj")
    group.add_argument("--use-rslora", type=boolean, default=False, help="rank-stabilised scaling")
    group.add_argument("--use-dora", type=boolean, default=False, help="weight-decomposed LoRA")


def add_head_arguments(group):
    group.add_argument("--head", help="ctc-linear, ctc-blstm, mean, attention or xvector; default: by the task's kind")
    group.add_argument("--features", choices=FEATURES, help="that the head hears: the last hidden state (default), or a "
                       "learned weighting of all layers (SUPERB)")
    group.add_argument("--head-size", type=int, default=256, help="of its projection, recurrent layers and embedding")
    group.add_argument("--head-layers", type=int, default=2, help="recurrent ones, of ctc-blstm")
    group.add_argument("--head-dropout", type=float, default=0.0, help="within the head")


def add_stable_arguments(group):
    group.add_argument("--freeze-encoder-share", type=float, default=0.0, help="of all steps, at the start, in which the "
                       "head alone is trained")
    group.add_argument("--freeze-front-end", type=boolean, default=True, help="full tuning: the convolutions in front of "
                       "an upstream's transformer stay as pre-trained")
    group.add_argument("--hold", type=float, default=0.4, help="share of all steps at the peak, where --decay is stable")
    group.add_argument("--weight-decay-to-base", type=float, default=0.0, metavar="LAMBDA",
                       help="the loss has LAMBDA * |weights - pre-trained weights|^2 added")
    group.add_argument("--save-at", nargs="*", action=CommaList, item=float, default=[],
                       help="shares of all steps, such as 0.25 0.5, after which the model is kept in OUTPUT_DIR/at_<step>/")


def add_schedule_arguments(group):
    group.add_argument("--epochs", type=float, default=3.0, help="passes over the data")
    group.add_argument("--max-steps", type=int, default=-1, help="optimizer steps, instead of --epochs")
    group.add_argument("--batch-size", type=int, default=16, help="utterances per forward pass, of all processes together")
    group.add_argument("--batch-seconds", type=float, default=0.0,
                       help="seconds of padded audio, instead of --batch-size; 0: not")
    group.add_argument("--unfreeze-every", type=float, default=0.0, metavar="SHARE",
                       help="gradual unfreezing, the top block first: one more after each such share of all steps; from 1 "
                       "on: number of steps; 0: all learn from the start")
    group.add_argument("--accumulation", type=int, default=1, help="forward passes per optimizer step")
    group.add_argument("--learning-rate", type=float, default=1e-3, help="peak")
    group.add_argument("--warmup", type=float, default=0.1, help="share of all steps; from 1 on: number of steps")
    group.add_argument("--decay", choices=DECAYS, default="linear", help="after the warm-up; stable: hold, then linear")
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw",
                       help="adam: weight decay, if any, is part of the gradient")
    group.add_argument("--weight-decay", type=float, default=0.0, help="of the optimizer")
    group.add_argument("--max-grad-norm", type=float, default=1.0, help="gradient clipping; 0: none")
    group.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the computation; weights: --dtype")
    group.add_argument("--gradient-checkpointing", type=boolean, default=False, help="less memory, a third slower")
    group.add_argument("--seed", type=int, default=0, help="of the adapter's start, the data order and the dropout")
    group.add_argument("--logging-steps", type=int, default=10, help="steps between two lines of the log")
    group.add_argument("--cache-mb", type=int, default=2048, help="memory for features that are kept between epochs")


def add_augmentation_arguments(group):
    group.add_argument("--speeds", nargs="*", action=CommaList, item=float, default=[],
                       help="each utterance is played at one of these, such as 0.9 1.0 1.1")
    group.add_argument("--time-masks", type=int, default=0, help="stretches of time that are masked (SpecAugment)")
    group.add_argument("--time-mask-frames", type=int, default=100,
                       help="the widest, in frames of the features; never more than a fifth of the utterance")
    group.add_argument("--mask-time-prob", type=float, default=0.0, help="of a frame of an upstream to lie in a masked "
                       "stretch, as in its pre-training")
    group.add_argument("--frequency-masks", type=int, default=0, help="bands of frequency that are masked")
    group.add_argument("--frequency-mask-bins", type=int, default=27, help="the widest, in bins of the features")


def add_choice_arguments(group):
    group.add_argument("--eval-steps", type=int, default=0, help="steps between evaluations; 0: each epoch")
    group.add_argument("--eval-batch-size", type=int, default=32, help="utterances that are decoded together")
    group.add_argument("--eval-beams", type=int, default=1, help="beam width on the dev set")
    group.add_argument("--dev-limit", type=int, default=200, help="utterances of the dev set, evenly spread; 0: all")
    group.add_argument("--sample-steps", type=int, default=0,
                       help="steps between samples of what the model writes, in train.log and samples.jsonl; 0: none")
    group.add_argument("--patience", type=int, default=0, help="stop after so many evaluations without gain; 0: never")


def run(args):
    from dataclasses import fields
    from importlib.util import find_spec
    from pathlib import Path

    from speechmerge.data.directory import DataDir
    from speechmerge.distributed import World
    from speechmerge.errors import UsageError
    from speechmerge.models.options import configured, model_from
    from speechmerge.systems import register_adapter
    from speechmerge.tasks import get_task
    from speechmerge.train.again import kept
    from speechmerge.train.mix import check_mix

    check_mix(args.mix)
    world = World.of_environment()
    if world.size > 1 and args.device_map:
        raise UsageError("--device-map spreads a model over the GPUs that torchrun gives one to each process; use one of them")
    for name in args.report_to:
        if name not in REPORTS:
            raise UsageError(f"--report-to: found {name!r}, expected {' or '.join(REPORTS)}")
        if not find_spec(name):
            raise UsageError(f"--report-to {name}: not installed; run `pip install {name}`")
    chosen = {field.name: getattr(args, field.name) for field in fields(TrainOptions)}
    options = TrainOptions(**{**chosen, "targets": tuple(args.targets), "speeds": tuple(args.speeds), "mix": tuple(args.mix),
                              "save_at": tuple(args.save_at)})
    [task], name = configured([get_task(args.task)], [], args), args.name or args.task
    output_dir = Path(args.output_dir or Path(args.exp_dir) / args.task / name)
    data, dev = DataDir.read(args.data), DataDir.read(args.dev) if args.dev else None
    if record := kept(args, task, data, dev, output_dir, options):
        if world.first:
            register_adapter(args.exp_dir, name, output_dir, task.name)
        record = {**record, "kept": True}
    else:
        from speechmerge.train.run import train  # with torch, which takes seconds

        args.device = world.device(args.device)
        with world.together("train", args.device):
            record = train(model_from(args), task, data, dev, output_dir, options, name=name, exp_dir=args.exp_dir,
                           reports=args.report_to, force=args.force, keep_checkpoints=args.keep_checkpoints)
    if not world.first:
        return
    result = f"  dev {task.metric} {record['dev'][task.metric]:.4f}" if record["dev"] else ""
    before = "already trained with the same data and options (--force true trains again), " if record.get("kept") else ""
    print(f"{output_dir}: {before}{record['utterances']} utterances, step {record['step']} of {record['steps']}{result}")
