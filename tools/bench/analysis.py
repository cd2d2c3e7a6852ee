#!/usr/bin/env python
"""Analyses of weights: eight adapters of rank 16 on all 192 linear layers of a Whisper-small, as whole processes that read files.

    tools/bench/.venv/bin/python tools/bench/make_models.py whisper-small --adapters 8
    tools/bench/.venv/bin/python tools/bench/analysis.py

Each kind of `speechmerge analyze` that reads weights alone, with its shipped options, pictures and tables included; beside them the
time that Python needs to import torch.
"""
import sys

import measure
from measure import ROOT, Contender, samples_of, spread

KINDS = ("weights", "subspaces", "spectra")


def contenders(work) -> dict[str, Contender]:
    adapters = sorted((work / "whisper-small" / "lora_r16").glob("[0-9]*"))[:8]
    if len(adapters) < 8:
        sys.exit(f"{work}/whisper-small: found {len(adapters)} adapters, expected 8; run make_models.py whisper-small --adapters 8")
    found = {"python -c 'import torch'": Contender([sys.executable, "-c", "import torch"])}
    for kind in KINDS:
        out = work / "out" / f"analysis_{kind}"
        found[kind] = Contender([sys.executable, "-m", "speechmerge", "analyze", "--config", str(ROOT / f"conf/analyze/{kind}.yaml"),
                                 "--adapters", *map(str, adapters), "--exp-dir", str(work / "out" / "exp"), "--output-dir", str(out)], out)
    return found


def table(rows: dict) -> str:
    lines = []
    for name, record in rows.items():
        runs = samples_of(record)
        failed = [run for run in runs if run.status]
        lines.append([name, f"fails: {failed[0].error[:80]}", *["-"] * 3] if failed else
                     [name, spread(run.wall for run in runs), spread(run.cpu for run in runs),
                      f"{max(run.rss for run in runs):.0f}", spread((run.load for run in runs), 1)])
    kinds = [samples_of(rows[kind]) for kind in KINDS if kind in rows]
    together = [sum(run.wall for run in runs) for runs in zip(*kinds)]
    return measure.markdown(["", "wall s", "CPU s", "peak MB", "load"], lines) + f"\n\n- all three: {spread(together)} s"


def main():
    measure.whole_processes(__doc__, "analysis", "Analyses of eight adapters' weights", contenders, table, runs=3)


if __name__ == "__main__":
    main()
