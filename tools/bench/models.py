#!/usr/bin/env python
"""Training steps and decoding of a model family, ours beside a plain script of transformers and PEFT that does the same.

    tools/get_whisper_base.sh && (cd egs/asterisk && ./run.sh --stop-stage 1)     # a model and real speech
    tools/bench/models.py --family whisper --model downloads/models/whisper-base --data egs/asterisk/data/it/test

Both sides run in one process, in turn, on the same utterances in the same batches: of each pair the ratio ours / plain is
taken, and its median, least and most are given. Seconds are those of the processor (one thread), so that other programs
on the machine count little; `wall` is the ratio by the clock. Texts and the loss of the first step must be equal where
both sides hear the same. What a family has to offer: models/<family>.py.
"""
import argparse
import importlib
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"

import measure  # noqa: E402
from models import Pair  # noqa: E402

ROOT = measure.ROOT
FAMILIES = sorted(path.stem for path in (measure.HERE / "models").glob("[a-z]*.py"))


def measure_pair(pair: Pair, runs: int) -> dict:
    """One row: runs in turn, after one of each that does not count."""
    found = {"ours": [], "plain": []}
    for number in range(runs + 1):
        for side in ("ours", "plain"):
            finding = getattr(pair, side)()
            if number:
                found[side].append(finding)
                print(f"  {pair.name} {number}/{runs} {side}: {finding.cpu:.3f} s, wall {finding.wall:.3f} s", flush=True)
    ratios = {kind: [getattr(ours, kind) / getattr(plain, kind) for ours, plain in zip(found["ours"], found["plain"])]
              for kind in ("cpu", "wall")}
    difference = pair.same(found["ours"][0].result, found["plain"][0].result) if pair.same else None
    return {"unit": pair.unit, "ratios": ratios, "difference": difference, "load": os.getloadavg()[0],
            **{side: [finding.cpu for finding in findings] for side, findings in found.items()}}


def table(rows: dict) -> str:
    header = ["what", "s per", "ours", "plain", "ours / plain", "by the clock", "plain / ours", "results", "load"]
    said = {None: "not comparable", "": "equal"}
    return measure.markdown(header, [
        [name, row["unit"], measure.spread(row["ours"], 3), measure.spread(row["plain"], 3),
         measure.spread(row["ratios"]["cpu"]), measure.spread(row["ratios"]["wall"]),
         f"{1 / statistics.median(row['ratios']['cpu']):.1f}", said.get(row["difference"], row["difference"]),
         f"{row['load']:.1f}"] for name, row in rows.items()])


def options(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_options(parser)
    parser.add_argument("--family", choices=FAMILIES, default="whisper")
    parser.add_argument("--model", type=Path, default=ROOT / "downloads/models/whisper-base", help="local folder")
    parser.add_argument("--data", type=Path, default=ROOT / "egs/asterisk/data/it/test", help="data directory (asr)")
    parser.add_argument("--root", type=Path, help="where relative audio paths of the data begin; default: three above it")
    parser.add_argument("--pairs", nargs="+", help="only those whose names contain one of these words")
    parser.add_argument("--longest", type=float, default=6.0, help="seconds; longer utterances are left out")
    parser.add_argument("--utterances", type=int, default=24, help="that are decoded")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="that are timed in a run, after one that is not")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of training")
    return parser.parse_args(argv)


def main():
    args = options()
    for name in ("model", "data", "work", "results"):
        setattr(args, name, getattr(args, name).resolve())
    if not args.model.is_dir() or not args.data.is_dir():
        sys.exit(f"{args.model} and {args.data} must both be there; {Path(__file__).name} --help says how")
    measure.alone(args.work)
    os.chdir(args.root or args.data.parents[2])
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    report = measure.Report(args.results, "models", "Training and decoding beside plain transformers and PEFT", table)
    for pair in importlib.import_module(f"models.{args.family}").pairs(args):
        if not args.pairs or any(word in pair.name for word in args.pairs):
            report.put({f"{args.family}: {pair.name}": measure_pair(pair, args.runs)})
    report.show()


if __name__ == "__main__":
    main()
