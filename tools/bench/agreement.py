#!/usr/bin/env python
"""Whether we compute what the peers compute, on the same tensors, and why not where we do not.

    tools/bench/.venv/bin/python tools/bench/agreement.py
    tools/bench/.venv/bin/python tools/bench/agreement.py --peers mergekit --only ties

Prints a table, writes results/agreement.md, and ends with status 1 where there is a difference that no row explains, or
where an explained difference is no longer there or not what its reason says. Methods that are not there are named.
"""
import argparse
import contextlib
import importlib
import io
import math
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import measure

PEERS = {"mergekit": ["with_mergekit"], "peft": ["with_peft"],
         "fusion_bench": ["with_fusion_bench", "with_fusion_bench_spectral"]}


def rows(peers):
    """The rows of the peers."""
    from agreement import cases

    for peer in peers:
        for module in PEERS[peer]:
            importlib.import_module(f"agreement.{module}")
    return list(cases.ROWS)


def quiet():
    """No progress bars between the rows."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    os.environ["HF_HUB_OFFLINE"] = "1"


def find(function):
    """(Finding or None, the reason why there is none)."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return function(Path(folder)), ""
        except Exception as error:
            if "unknown method" in str(error):
                return None, "not there"
            traceback.print_exc()
            return None, f"{type(error).__name__}: {error}"


def table(lines) -> str:
    header = ["ours", "theirs", "setting", "largest difference", "result", "explained to", "reason"]
    return measure.markdown(header, lines)


def number(finding) -> str:
    if math.isinf(finding.difference):
        return "other keys"
    return f"{finding.difference:.1f} {finding.unit}" if finding.unit else f"{finding.difference:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--only", help="rows whose method contains this")
    parser.add_argument("--results", type=Path, default=measure.RESULTS, help="folder (default: tools/bench/results)")
    args = parser.parse_args()
    quiet()
    lines, wrong = [], 0
    for row in rows(args.peers):
        if args.only and args.only not in row.ours:
            continue
        finding, trouble = find(row.function)
        says, good = row.verdict(finding) if finding else (trouble, trouble == "not there")
        wrong += not good
        lines.append([row.ours, row.theirs, row.setting, number(finding) if finding else "-", says,
                      f"{finding.explained:.1e}" if finding and row.because else "-", row.because or "-"])
        print(f"{row.ours} / {row.theirs}, {row.setting}: {says}", file=sys.stderr)
    print(table(lines))
    if not args.only and len(args.peers) == len(PEERS):
        about = measure.machine()
        versions = ", ".join(f"{name} {about[name]}" for name in measure.PACKAGES if name in about)
        args.results.mkdir(parents=True, exist_ok=True)
        (args.results / "agreement.md").write_text(f"# Agreement with the peers\n\n{table(lines)}\n\n{versions}\n")
    print(f"{len(lines)} rows, {wrong} wrong", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
