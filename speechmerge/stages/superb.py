"""speechmerge superb --upstreams alpha0=egs/mini/upstream alpha0.25=exp/merged/alpha0.25 --tasks asr kws phones=data/asr

SUPERB's question of an upstream: what does a small head learn on it while it stays frozen? For every upstream and task a
head is trained, decoded and scored in EXP_DIR/<upstream>/<task>/; then EXP_DIR gets

    superb.json    all scores with their intervals, the SUPERB score, the share of the anchors
    superb.md      the same as tables
    superb.png     the curve over alpha, where upstreams are named alpha<number>

A cell that is there and unchanged is kept, so a killed call goes on. --shard I/N does every N-th cell; a last call
without it makes the tables.
"""
from speechmerge.options import CommaList, boolean, mapping_or_value
from speechmerge.stages.decode import shard

HELP = "train a head per task on frozen upstreams and compare them: scores of all tasks, SUPERB score, curve over alpha"
TRAIN = {"tuning": "head", "features": "weighted", "report_to": []}


def add_arguments(parser):
    parser.add_argument("--upstreams", required=True, nargs="+", action=CommaList, metavar="NAME=MODEL",
                        help="folders, hub ids or names such as s3prl:fbank")
    parser.add_argument("--tasks", required=True, nargs="+", action=CommaList, metavar="TASK[=DIR]",
                        help="DIR holds train/, dev/ and test/; default: DATA/TASK")
    parser.add_argument("--data", default="data", help="folder that holds <task>/<split>/")
    parser.add_argument("--train-split", default="train", help="split that heads are trained on")
    parser.add_argument("--dev-split", default="dev", help="split that chooses their checkpoint")
    parser.add_argument("--split", default="test", help="split to score")
    parser.add_argument("--exp-dir", default="exp/superb", help="results")
    parser.add_argument("--conf", nargs="+", action=CommaList, default=["conf/superb"],
                        help="folders with train.yaml of all heads, and train_TASK.yaml; later ones win")
    parser.add_argument("--train-options", type=mapping_or_value, default={}, metavar="{KEY: VALUE, ...}",
                        help="more options of train for every head, such as {epochs: 3}")
    parser.add_argument("--low", help="upstream that the anchored score takes as 0, such as fbank")
    parser.add_argument("--high", help="upstream that it takes as 1000, such as alpha0")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of the heads")
    parser.add_argument("--shard", type=shard, metavar="I/N", help="do the I-th share of N of the cells, from 1, no tables")
    parser.add_argument("--force", type=boolean, default=False, help="do cells again that are there")


def run(args):
    import logging
    from pathlib import Path

    from speechmerge.report.superb import write_results

    upstreams, tasks = named(args.upstreams, "--upstreams"), task_folders(args.tasks, args.data)
    check_names(args, upstreams)
    cells = [(upstream, task) for task in tasks for upstream in upstreams]
    index, count = args.shard or (0, 1)
    for upstream, task in cells[index::count]:
        folder = Path(args.exp_dir) / upstream / task
        kept = do_cell(args, folder, task, upstreams[upstream], Path(tasks[task]))
        logging.info("%s: %s", folder, "kept" if kept else "done")
    if args.shard is None:
        print(write_results(args.exp_dir, upstreams, list(tasks), low=args.low, high=args.high, seed=args.seed))


def named(words, option: str) -> dict[str, str]:
    """{name: model} of NAME=MODEL words; a folder alone is named as its last part."""
    from pathlib import Path

    from speechmerge.errors import UsageError

    found = {}
    for word in words:
        name, equals, model = word.partition("=")
        name, model = (name, model) if equals else (Path(word).name, word)
        if not name or not model or "/" in name or ":" in name:
            raise UsageError(f"{option}: found {word!r}, expected NAME=MODEL with a name without / and :")
        if name in found:
            raise UsageError(f"{option}: the name {name!r} stands there twice; expected different ones")
        found[name] = model
    return found


def task_folders(words, data) -> dict[str, str]:
    """{task: folder with its splits}. Raises UsageError for an unknown task or one that a head on an upstream cannot do."""
    from pathlib import Path

    from speechmerge.errors import UsageError
    from speechmerge.tasks import get_task

    found = {}
    for word in words:
        task, equals, folder = word.partition("=")
        if get_task(task).asks:
            raise UsageError(f"--tasks: {task} asks a question of each utterance, which no head on an upstream can read")
        if task in found:
            raise UsageError(f"--tasks: {task} stands there twice")
        found[task] = folder if equals else str(Path(data) / task)
    return found


def check_names(args, upstreams):
    """The anchors are among the upstreams; the options of train are a mapping."""
    from speechmerge.errors import UsageError
    from speechmerge.registry import nearest

    for option in ("low", "high"):
        name = getattr(args, option)
        if name and name not in upstreams:
            raise UsageError(f"--{option} {name!r}; {nearest(name, upstreams)}")
    options = args.train_options
    if not isinstance(options, dict) or None in options.values():
        raise UsageError(f"--train-options: found {options}, expected {{key: value, ...}} with a blank after each colon")


def do_cell(args, folder, task: str, model: str, data) -> bool:
    """Train, decode and score one head; True where that was done before with the same inputs."""
    from pathlib import Path

    from speechmerge.data.directory import DataDir
    from speechmerge.done import is_done, mark_done, step_key
    from speechmerge.files import read_json, write_json

    configs = [path for conf in args.conf for path in (Path(conf) / "train.yaml", Path(conf) / f"train_{task}.yaml")
               if path.is_file()]
    splits = {split: DataDir.read(data / split) for split in (args.train_split, args.dev_split, args.split)}
    options = {"task": task, "seed": args.seed, "options": {**TRAIN, **args.train_options},
               "data": [splits[split].fingerprint() for split in splits]}
    weights = model_files(Path(model).expanduser())
    key = step_key({**options, "model": None if weights else model}, [*configs, *weights])
    if is_done(folder, key) and not args.force:
        return True
    train_head(args, folder, task, model, data, configs)
    write_json(folder / "scores.json", {**read_json(decoded(args, folder, task, model, data)), "upstream": model})
    mark_done(folder, key, ["scores.json"])
    return False


def model_files(folder) -> list:
    """What decides of a local model; none for a name on the hub."""
    return sorted(path for pattern in ("*config.json", "*.safetensors", "*.bin") for path in folder.glob(pattern))


def train_head(args, folder, task, model, data, configs):
    words = ["--task", task, "--model", model, "--data", data / args.train_split, "--dev", data / args.dev_split,
             "--exp-dir", folder, "--output-dir", folder / "head", "--name", task, "--seed", args.seed,
             "--device", args.device, "--force", str(args.force).lower(), *option_words({**TRAIN, **args.train_options})]
    call("train", [*words, *(word for path in configs for word in ("--config", path))])


def decoded(args, folder, task, model, data):
    """score.json of the head's hypotheses."""
    output = folder / "decode"
    call("evaluate", ["--task", task, "--model", model, "--data", data / args.split, "--adapter", task, "--exp-dir", folder,
                      "--output-dir", output, "--device", args.device, "--label-scoring", "false"])
    return output / "score.json"


def option_words(options: dict) -> list:
    words = []
    for key, value in options.items():
        words += [f"--{key}".replace("_", "-"), *(value if isinstance(value, list) else [value])]
    return words


def call(verb: str, words):
    """Another verb with these words, as from the command line."""
    from speechmerge.cli import parse, verb_module

    module = verb_module(verb)
    module.run(parse(verb, module, [str(word).lower() if isinstance(word, bool) else str(word) for word in words]))
