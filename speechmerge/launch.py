"""python -m speechmerge.launch --processes 2 train --task asr ...      as many processes of a verb, on this machine

On several machines the same on each of them, with --nodes 2 --node 0 (of the first, 1 of the second) and --master HOST:PORT
of the first. It is torchrun, but that what failed is said last and in one line. utils/torchrun.sh calls it.
"""
import argparse
import logging
import sys

from speechmerge.errors import UsageError


def add_arguments(parser):
    parser.add_argument("--processes", type=int, required=True, help="on this machine")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument("--node", type=int, default=0, help="which of them this is, from 0")
    parser.add_argument("--master", default="", metavar="HOST:PORT", help="of the first, where they meet")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="VERB ...", help="a verb of speechmerge and its options")


def torchrun_words(args) -> list[str]:
    """The command line of torchrun. UsageError where it says no place to meet, or nothing to run."""
    if args.processes < 1 or not 0 <= args.node < args.nodes:
        raise UsageError(f"launch: found --processes {args.processes} --nodes {args.nodes} --node {args.node}, expected at "
                         "least one process, and a node below the number of nodes")
    if not args.words:
        raise UsageError("launch: no verb given, such as train; see speechmerge --help")
    host, _, port = args.master.rpartition(":")
    if args.master and not (host and port.isdigit()) or args.nodes > 1 and not args.master:
        raise UsageError(f"launch: --master: found {args.master!r}, expected HOST:PORT of the first node")
    if not args.master:
        where = ["--standalone"]
    else:
        where = [f"--nnodes={args.nodes}", f"--node-rank={args.node}", f"--master-addr={host}", f"--master-port={port}"]
    return [f"--nproc-per-node={args.processes}", *where, "-m", "speechmerge", *args.words]


def launch(words: list[str]) -> int:
    """Runs torchrun. Its status: that of the process that failed first, 128 + N after signal N."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        run(parse_args(words))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        cause = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"status {failure.exitcode}"
        print(f"speechmerge: process {rank} ended with {cause}, its reason stands above; the others were ended", file=sys.stderr)
        return 128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="speechmerge.launch", description=__doc__, allow_abbrev=False)
    add_arguments(parser)
    try:
        return launch(torchrun_words(parser.parse_args(argv)))
    except UsageError as error:
        print(f"speechmerge: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
