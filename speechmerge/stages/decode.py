"""speechmerge decode --model egs/mini/base --systems all --tasks asr kws --data data --split test [--shard 1/2]

Writes exp/decode/<split>/<system>/<task>/{hyp,hyp_labels,scores,decode.json}; what is there and unchanged is kept. On
several GPUs: torchrun --nproc_per_node=2 -m speechmerge decode ...; what a lost process has not done is made up for by
running it again, with as many processes as you like.
"""
import argparse

from speechmerge.models.options import add_model_arguments
from speechmerge.options import CommaList, boolean, split_name

HELP = "decode the base, adapters and merged models on the tasks' data: exp/decode/<split>/<system>/<task>/hyp"


def add_arguments(parser):
    parser.add_argument("--tasks", required=True, nargs="+", action=CommaList, help="or sets: DATA/<set>/<split>")
    parser.add_argument("--task", help="of all, where --tasks are sets (languages); default: that of the set's adapter")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/")
    parser.add_argument("--split", type=split_name, default="test", help="train, dev (validation) or test")
    parser.add_argument("--systems", nargs="+", action=CommaList, default=["all"],
                        help="base, names out of exp/adapters.json, tags of merges, folders, adapters, merged, all")
    parser.add_argument("--exp-dir", default="exp", help="experiment folder")
    add_model_arguments(parser)
    add_decode_arguments(parser)
    parser.add_argument("--shard", type=shard, metavar="I/N",
                        help="the I-th share of N, from 1; default: all, or by torchrun the process's own")
    parser.add_argument("--force", type=boolean, default=False, help="decode again what is there")


def add_decode_arguments(parser):
    parser.add_argument("--num-beams", type=int, default=1, help="beam width; 1: greedy")
    parser.add_argument("--batch-size", type=int, default=32, help="utterances decoded together; changes no result")
    parser.add_argument("--label-scoring", type=boolean, default=True, help="also score every label of label tasks")
    parser.add_argument("--verification", choices=["answers", "cosine"],
                        help="speaker_ver: yes/no answers (default), or the cosine of the encoder's mean states")
    add_task_arguments(parser)


def add_task_arguments(parser):
    """What training and decoding of a task must agree in; decoding takes it from the adapters unless it is given."""
    parser.add_argument("--prompt", help="text that the model is given, with the fields {labels} {transcript} "
                        "{question} {language} {target_language} {candidates}; default: the task's (speechmerge list tasks)")
    parser.add_argument("--inputs", choices=["audio", "text", "audio+text"],
                        help="what is given of an utterance: its sound (default), its transcript, both (audio LLMs)")
    parser.add_argument("--target-format", choices=["json", "compact", "linear", "plain"],
                        help="slu: how frames are written; default: the first of these that the model has tokens for")


def shard(text: str) -> tuple[int, int]:
    index, slash, count = str(text).partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
        raise argparse.ArgumentTypeError(f"expected I/N with 1 <= I <= N, found {text!r}")
    return int(index) - 1, int(count)


def run(args):
    from collections import Counter
    from pathlib import Path

    from speechmerge.decode import Decoder, Options
    from speechmerge.data.directory import DataDir
    from speechmerge.distributed import World
    from speechmerge.errors import UsageError
    from speechmerge.models.options import configured, model_from
    from speechmerge.systems import find_systems, task_of, training_records

    world = World.of_environment()
    if world.size > 1 and args.shard:
        raise UsageError("decode: --shard and torchrun both share out the work; use one of them")
    args.device = world.device(args.device)
    systems = find_systems(args.systems, args.exp_dir)
    tasks = {name: task_of(name, args.task, args.exp_dir) for name in args.tasks}
    data = {name: DataDir.read(Path(args.data) / name / args.split) for name in tasks}
    records = training_records(systems, args.exp_dir)
    model, options, counts = model_from(args, records), Options.of(args), Counter()
    configured(tasks.values(), records, args)
    mine, batches = shares(len(tasks) * len(systems), args.shard or (world.rank, world.size))
    with world.together("decode"):
        for place, (name, task) in enumerate(tasks.items()):
            decoder = Decoder(model, task, data[name], args.split, args.exp_dir, options, batches, set_name=name)
            for number, system in enumerate(systems, place * len(systems)):
                if number in mine:
                    counts[decoder.decode(system, args.force)] += 1
    folder = Path(args.exp_dir) / "decode" / args.split
    if world.size > 1:  # by now the last process has put the shares of each result together
        if not world.rank:
            print(f"{folder}: {len(tasks) * len(systems)} results by {world.size} processes")
        return
    waiting = f", {counts['part']} waiting for other shards" if counts["part"] else ""
    print(f"{folder}: {counts['made']} decoded, {counts['kept']} kept{waiting}")


def shares(jobs: int, shard: tuple[int, int]) -> tuple[range, tuple[int, int]]:
    """(jobs of this shard, shard of the batches in a job): whole jobs where there are plenty, else a part of each."""
    index, count = shard
    return (range(index, jobs, count), (0, 1)) if jobs >= 4 * count else (range(jobs), shard)
