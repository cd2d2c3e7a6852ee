"""speechmerge inspect --task slu --model egs/mini/base --data data/slu/train [--num-samples 3] [--save-path seen.jsonl]

Exactly what the model sees of a training example: the raw item, prompt, tokens and which of them carry loss.
"""
from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList
from speechmerge.stages.decode import add_task_arguments
from speechmerge.train.mix import share

HELP = "show what a model sees of training examples: prompt, tokens, which of them carry loss"


def add_arguments(parser):
    parser.add_argument("--task", required=True, help="the task (speechmerge list tasks)")
    parser.add_argument("--data", required=True, help="data directory")
    parser.add_argument("--num-samples", type=int, default=3, help="the first so many; 0: all")
    parser.add_argument("--save-path", help="also write them to this JSONL file, whole")
    add_model_arguments(parser)
    add_task_arguments(parser.add_argument_group("task"))
    parser.add_argument("--mix", nargs="+", action=CommaList, item=share, default=[], metavar="KIND=SHARE",
                        help="as in training: kinds of --inputs with shares of their examples")
    parser.add_argument("--seed", type=int, default=0, help="of --mix")


def run(args):
    import json

    from speechmerge.data.directory import DataDir
    from speechmerge.errors import UsageError
    from speechmerge.files import atomic_file
    from speechmerge.inspection import lines, seen
    from speechmerge.models.options import configured, model_from
    from speechmerge.tasks import get_task
    from speechmerge.train.mix import check_mix, training_examples
    from speechmerge.train.options import TrainOptions

    if args.num_samples < 0:
        raise UsageError(f"--num-samples: found {args.num_samples}, expected a number of examples, or 0 for all")
    check_mix(args.mix)
    [task], data, model = configured([get_task(args.task)], [], args), DataDir.read(args.data), model_from(args)
    task.adapt(model)
    options = TrainOptions(mix=tuple(args.mix), seed=args.seed)
    examples = training_examples(model, task, data, options)
    model.build(task, examples, task.labels(data), options)
    chosen = examples[: args.num_samples or None]
    rows = [seen(model, task, data, example) for example in chosen]
    for number, row in enumerate(rows, 1):
        print("\n".join(lines(row, number, len(examples))))
    if args.save_path:
        with atomic_file(args.save_path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{args.save_path}: {len(rows)} examples")
