"""speechmerge evaluate --task asr --model egs/mini/base [--adapter exp/asr/lora] --data data/asr/test"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import boolean, split_name
from speechmerge.stages.decode import add_decode_arguments

HELP = "decode and score one system on one task; prints the scores"


def add_arguments(parser):
    parser.add_argument("--task", required=True, help="the task (speechmerge list tasks)")
    parser.add_argument("--data", required=True, help="data directory, or with --split what holds <task>/<split>/")
    parser.add_argument("--split", type=split_name, help="train, dev or test, below --data")
    parser.add_argument("--adapter", default="base", help="folder or name of an adapter or a merged model")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    parser.add_argument("--output-dir", help="default: EXP_DIR/decode/SPLIT/SYSTEM/TASK")
    add_model_arguments(parser)
    add_decode_arguments(parser)
    parser.add_argument("--force", type=boolean, default=False, help="decode again what is there")


def run(args):
    from pathlib import Path

    from speechmerge.data.directory import DataDir
    from speechmerge.decode import Decoder, Options
    from speechmerge.models.options import configured, model_from
    from speechmerge.scoring import score_decoded
    from speechmerge.stages.score_files import table
    from speechmerge.systems import find_systems, training_records
    from speechmerge.tasks import get_task

    task, [system] = get_task(args.task), find_systems([args.adapter], args.exp_dir)
    data = DataDir.read(Path(args.data) / args.task / args.split if args.split else args.data)
    options = Options.of(args)
    split = args.split or data.path.name
    records = training_records([system], args.exp_dir)
    model = model_from(args, records)
    configured([task], records, args)
    decoder = Decoder(model, task, data, split, args.exp_dir, options, output_dir=args.output_dir)
    decoder.decode(system, args.force)
    score = score_decoded(decoder.folder(system)).score
    print(f"{system.name} on {task.name} ({data.path}): {score['n']} utterances, in {decoder.folder(system)}")
    for reading in ("generation", "labels"):
        if score[reading]:
            print(f"[{reading}]", table(score[reading]), sep="\n")
