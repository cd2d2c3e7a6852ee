#!/usr/bin/env python
"""How long it takes until a command answers: help, lists and plans of merges, ours and the peers', as whole processes.

    tools/bench/.venv/bin/python tools/bench/make_models.py hubert whisper-small
    tools/bench/.venv/bin/python tools/bench/startup.py
"""
import sys

import measure
from measure import Contender, ratios, samples_of, spread


def contenders(work) -> dict[str, Contender]:
    """What people type -> the command."""
    def ours(*words):
        return Contender([sys.executable, "-m", "speechmerge", *map(str, words)])

    adapters = sorted((work / "whisper-small" / "lora_r16").glob("[0-9]*"))
    hubert = work / "hubert" / "fp32"
    full = [hubert / name for name in ("asr", "emotion", "keywords")]
    out = ("--output-dir", work / "out" / "plan")
    return {
        "python -c pass": Contender([sys.executable, "-c", "pass"]),
        "python -c 'import torch'": Contender([sys.executable, "-c", "import torch"]),
        "speechmerge --help": ours("--help"),
        "speechmerge merge --help": ours("merge", "--help"),
        "speechmerge list methods": ours("list", "methods"),
        "speechmerge merge --dry-run, five LoRA": ours(
            "merge", "--adapters", *adapters, "--method", "ties", "--rank", "16", *out, "--dry-run"),
        "speechmerge merge --dry-run, HuBERT": ours(
            "merge", "--adapters", *full, "--base", hubert / "base", "--method", "ties", "--save", "full", *out,
            "--dry-run"),
        "mergekit-yaml --help": Contender([measure.program("mergekit-yaml"), "--help"]),
        "mergekit-pytorch --help": Contender([measure.program("mergekit-pytorch"), "--help"]),
        "fusion_bench --help": Contender([measure.program("fusion_bench"), "--help"]),
        "python -c 'import peft'": Contender([sys.executable, "-c", "import peft"]),
    }


def table(rows: dict) -> str:
    reference = samples_of(rows["speechmerge merge --help"])
    lines = []
    for name, record in rows.items():
        runs = samples_of(record)
        failed = [run for run in runs if run.status]
        if failed:
            lines.append([name, f"fails: {failed[0].error[:80]}", *["-"] * 4])
            continue
        lines.append([name, spread(run.wall for run in runs), spread(ratios(runs, reference), 1),
                      spread((run.cpu for run in runs), 2), f"{max(run.rss for run in runs):.0f}",
                      spread((run.load for run in runs), 1)])
    return measure.markdown(["command", "wall s", "/ merge --help", "CPU s", "peak MB", "load"], lines)


def main():
    measure.whole_processes(__doc__, "startup", "Time to an answer", contenders, table, runs=11, warm_up=True)


if __name__ == "__main__":
    main()
