"""python -m speechmerge.grid.slurm_options [--gpu N] [--mem 64G] [--time 24:00:00] ... [FILE.yaml ...]

Prints the options of sbatch for one kind of job, one a line: what conf/slurm.yaml files say (later over earlier, key by
key), and the command line over them. utils/slurm.sh calls it.
"""
import argparse
import re
import sys

from speechmerge.config import read_yaml
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

WORDS = ("account", "comment", "constraint", "exclude", "gres", "mail_user", "nice", "nodelist", "partition", "qos",
         "reservation")
LISTS = ("extra", "mail_type")
KEYS = (*WORDS, *LISTS, "array_limit", "mem", "requeue", "time")
SECTIONS = ("all", "cpu", "gpu")
TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d\d?(:\d\d){0,2}|UNLIMITED|INFINITE")  # as in sbatch(1)
MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)


def read_settings(paths, gpus: int) -> dict:
    """What the files say of jobs with so many GPUs. UsageError names file, key, what was found and expected."""
    settings = {}
    for path in paths:
        sections = read_yaml(path)
        for name, section in sections.items():
            if name not in SECTIONS:
                raise UsageError(f"{path}: unknown section {name!r}; {nearest(str(name), SECTIONS)}")
            check_section(path, name, section)
        for name in ("all", "gpu" if gpus else "cpu"):
            settings.update(sections.get(name) or {})
    return {key: value for key, value in settings.items() if value not in (None, "", [])}


def check_section(path, name, section):
    if not isinstance(section or {}, dict):
        raise UsageError(f"{path}: {name}: expected `key: value` lines, found {section!r}")
    for key, value in (section or {}).items():
        if key not in KEYS:
            raise UsageError(f"{path}: {name}: unknown key {key!r}; {nearest(str(key), KEYS)}")
        if value not in (None, ""):
            check_value(f"{path}: {name}: {key}", key, value)


def check_value(where: str, key: str, value):
    if key == "time" and isinstance(value, int):
        raise UsageError(
            f'{where}: found the number {value}, which YAML makes of an unquoted 24:00:00; expected "24:00:00"')
    expected = expectation(key, value)
    if expected:
        raise UsageError(f"{where}: expected {expected}, found {value!r}")
    if any("\n" in word for word in (value if isinstance(value, list) else [str(value)])):
        raise UsageError(f"{where}: expected one line, found {value!r}")


def expectation(key: str, value) -> str | None:
    """What a value should have been, None where it is right."""
    if key in LISTS:
        right = isinstance(value, list) and all(isinstance(word, str) for word in value)
        return None if right else "a list of words in [brackets]"
    if key == "requeue":
        return None if isinstance(value, bool) else "true or false"
    if key == "array_limit":
        return None if type(value) is int and value > 0 else "a whole number from 1"
    if key == "time":
        return None if isinstance(value, str) and TIME.fullmatch(value) else "minutes, h:mm:ss or days-hours"
    if key == "mem":
        return None if MEMORY.fullmatch(str(value)) else "megabytes, or such as 64G"
    return None if isinstance(value, (str, int)) and not isinstance(value, bool) else "one word"


def sbatch_options(settings: dict, gpus: int, threads: int, nodes: int = 1) -> list[str]:
    """The words for sbatch. GPUs (of each node) are asked for with gres, which every version and cluster knows; where it
    is empty, with {gpus} in a word of `extra`."""
    words = [f"--cpus-per-task={threads}"]
    if nodes > 1:  # one task on each, which starts its processes
        words += [f"--nodes={nodes}", "--ntasks-per-node=1"]
    settings = dict(settings)
    gres = settings.pop("gres", "")
    if gpus and gres:
        words.append(f"--gres={gres.replace('{gpus}', str(gpus))}")
    words.append("--requeue" if settings.pop("requeue", False) else "--no-requeue")
    extra = [word.replace("{gpus}", str(gpus)) for word in settings.pop("extra", [])]
    settings.pop("array_limit", None)
    if not settings.get("mail_user"):
        settings.pop("mail_type", None)  # Slurm would write to the local mailbox of the node
    for key, value in sorted(settings.items()):
        text = ",".join(value) if isinstance(value, list) else re.sub(r"(?i)(?<=[KMGT])B$", "", str(value))
        words.append(f"--{key.replace('_', '-')}={text}")
    return words + extra


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="slurm_options", description=__doc__, allow_abbrev=False)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--max-jobs-run", type=int)
    parser.add_argument("--requeue", action="store_true", default=None)
    for key in ("mem", "time", "partition", "account"):
        parser.add_argument(f"--{key}")
    args = parser.parse_args(argv)
    try:
        settings = read_settings(args.files, args.gpu)
        given = {
            key: getattr(args, key)
            for key in ("mem", "time", "partition", "account", "requeue") if getattr(args, key)
        }
        for key, value in given.items():
            check_value(f"--{key}", key, value)
        settings.update(given)
        print(args.max_jobs_run or settings.get("array_limit", 0))
        print("\n".join(sbatch_options(settings, args.gpu, args.num_threads, args.nodes)))
    except SpeechMergeError as error:
        print(f"slurm.sh: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
