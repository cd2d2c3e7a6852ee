#!/usr/bin/env python
"""Merging LoRA adapters: speechmerge and PEFT's add_weighted_adapter in one process, in turn, on the same files.

    tools/bench/.venv/bin/python tools/bench/make_models.py whisper-small
    setsid nohup tools/bench/.venv/bin/python tools/bench/lora.py > lora.log 2>&1 &     # PEFT's SVDs take their time
    tools/bench/.venv/bin/python tools/bench/lora.py --groups svd ties --cpus 1 --runs 3

Five adapters of rank 16 on all 192 linear layers of a Whisper-small. Two times are taken of each:
files   from adapters on disk to a saved adapter (CPU s, too); for PEFT this includes loading the base, which it needs
memory  the merge alone: PEFT's add_weighted_adapter; ours from adapters that have been read to an adapter in a memory
        file system, the metadata and hashes included
Errors are relative to what is meant (`exact`: the weighted sum of the products; `dense`: the same method on the dense
products, computed by reference.py), over all modules, beside the smallest that is possible at that rank.
"""
import argparse
import contextlib
import ctypes
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import measure
from measure import spread

RANK, KEEP, COUNT = 16, 0.2, 5
EQUAL = [1 / COUNT] * COUNT


def ours(method: str, rank=None, **params):
    return {"tool": "speechmerge", "method": method, "rank": rank, "params": params}


def peft(kind: str, weights=EQUAL, **options):
    return {"tool": "peft", "kind": kind, "weights": weights, "options": options}


DENSITY, ONES = {"density": KEEP}, [1.0] * COUNT
# group -> name -> what is run, then which reference it is compared with
GROUPS = {
    "svd": {"ours": (ours("weighted_delta_n", RANK, coefficients=EQUAL), "exact"),
            "peft svd": (peft("svd", svd_rank=RANK), "exact"),
            "peft svd, reduced": (peft("svd", svd_rank=RANK, svd_full_matrices=False), "exact")},
    "cat": {"ours": (ours("cat", weights=EQUAL), "exact"), "peft cat": (peft("cat"), "exact")},
    "linear": {"ours, mode factors": (ours("weighted_delta_n", coefficients=EQUAL, mode="factors"), "exact"),
               "peft linear": (peft("linear"), "exact")},
    "ties": {"ours": (ours("ties", RANK, k=100 * KEEP, trim="tensor"), "ties"),
             "ours, whole vector": (ours("ties", RANK, k=100 * KEEP), "ties whole"),
             "peft ties_svd": (peft("ties_svd", ONES, svd_rank=RANK, **DENSITY), "ties"),
             "peft ties on factors": (peft("ties", ONES, **DENSITY), "ties")},
    "dare": {"ours": (ours("dare", RANK, drop_rate=1 - KEEP), "exact"),
             "peft dare_linear_svd": (peft("dare_linear_svd", svd_rank=RANK, **DENSITY), "exact"),
             "peft dare_linear on factors": (peft("dare_linear", **DENSITY), "exact")},
    "dare_ties": {"ours": (ours("dare_ties", RANK, drop_rate=1 - KEEP), None),
                  "peft dare_ties_svd": (peft("dare_ties_svd", ONES, svd_rank=RANK, **DENSITY), None),
                  "peft dare_ties on factors": (peft("dare_ties", ONES, **DENSITY), None)},
}


# one run each: seconds from files to a saved adapter, seconds of the merge in memory, MB that the merge needed

def run_ours(what, folders, base, out: Path, memory_folder: Path) -> dict:
    import speechmerge
    from speechmerge.merge.read import read

    def merge(adapters, target):
        merged = speechmerge.merge(adapters, method=what["method"], **what["params"])
        merged.save(target, as_="lora", rank=what["rank"])

    shutil.rmtree(out, ignore_errors=True)
    peak, clock = Peak(), Clock()
    merge([str(folder) for folder in folders], out)
    files, private = clock.read(), peak.over()
    vectors = [read(str(folder), name=folder.name) for folder in folders]
    vectors = [replace(vector, deltas={name: delta.loaded() for name, delta in vector.deltas.items()})
               for vector in vectors]
    clock = Clock()
    merge(vectors, memory_folder / "merged")
    return {**files, "memory": clock.read()["files"], "private": private}


def run_peft(what, folders, base: Path, out: Path, memory_folder: Path) -> dict:
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    shutil.rmtree(out, ignore_errors=True)
    names = [f"a{number}" for number in range(len(folders))]
    clock = Clock()
    model = PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), folders[0], names[0])
    for name, folder in list(zip(names, folders))[1:]:
        model.load_adapter(folder, name)
    before, peak = time.perf_counter(), Peak()
    model.add_weighted_adapter(names, what["weights"], "merged", combination_type=what["kind"], **what["options"])
    memory, private = time.perf_counter() - before, peak.over()
    model.save_pretrained(out, selected_adapters=["merged"])
    files = clock.read()
    for path in (out / "merged").iterdir():
        path.rename(out / path.name)
    return {**files, "memory": memory, "private": private}


class Clock:
    """Wall and CPU seconds of this process since now."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict:
        return {"files": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


class Peak:
    """The largest growth of this process' private memory, in MB, after giving back what is free."""

    def __init__(self):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.before, self.memory = measure.memory_of(os.getpid())[1], measure.Memory(os.getpid())

    def over(self) -> float:
        self.memory.over.set()
        self.memory.join()
        return max(0.0, self.memory.private - self.before)


RUN = {"speechmerge": run_ours, "peft": run_peft}


def one_run(what, args, out: Path, memory_folder: Path) -> dict:
    load = os.getloadavg()[0]
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        try:
            found = RUN[what["tool"]](what, args.adapters, args.base, out, memory_folder)
        except Exception as error:  # a method that is not there (yet), a peer that refuses: a row of the table
            return {"failed": f"{type(error).__name__}: {error}"[:200], "load": load}
    gc.collect()
    return {**found, "load": load}


# errors

def references(adapters) -> dict:
    """name -> function(module) -> the dense matrix that is meant."""
    import reference

    read = [reference.Adapter(folder) for folder in adapters]
    whole = []

    def ties_whole(module):
        whole[:] = whole or reference.whole_thresholds(read, KEEP)
        return reference.ties(read, module, KEEP, whole)

    return {"exact": lambda module: reference.exact_sum(read, module, EQUAL),
            "ties": lambda module: reference.ties(read, module, KEEP), "ties whole": ties_whole}


def errors(contender, target: str | None, out: Path, known) -> dict:
    import reference

    if target is None or not (out / "adapter_config.json").is_file():
        return {}
    rank = contender.get("rank") or contender.get("options", {}).get("svd_rank")
    return {"target": target, **reference.relative_errors(out, known[target], rank)}


# the worker: all runs with one number of processors

def work(args):
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(args.worker)
    warm_up(args)
    report, known = measure.Report(args.results, "lora", "LoRA adapters", table), references(args.adapters)
    for group in args.groups:
        contenders = {name: entry for name, entry in GROUPS[group].items()
                      if name not in args.without and (args.peers == "true" or entry[0]["tool"] != "peft")}
        outs = {name: args.work / "out" / f"lora_{number}" for number, name in enumerate(contenders)}
        runs = {name: [] for name in contenders}
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            for number in range(args.runs):
                for name, (what, _) in contenders.items():
                    if not any("failed" in run for run in runs[name]):
                        runs[name].append(one_run(what, args, outs[name], Path(folder)))
                        about = f"{args.worker} CPU, {group}, {number + 1}/{args.runs} {name}"
                        print(f"{about}: {describe(runs[name][-1])}", flush=True)
        found = {name: errors(what, target, outs[name], known) if args.errors == "true" else {}
                 for name, (what, target) in contenders.items()}
        report.put({f"{args.size}/{group}/{args.worker}":
                    {name: {"runs": runs[name], "errors": found[name]} for name in contenders}})
        for out in outs.values():
            shutil.rmtree(out, ignore_errors=True)
    report.show()


def warm_up(args):
    """Imports and first calls of both, which no run should pay for."""
    out = args.work / "out" / "lora_warm_up"
    with tempfile.TemporaryDirectory() as folder:
        for what, _ in GROUPS["cat"].values():
            if what["tool"] == "speechmerge" or args.peers == "true":
                print(f"first run, not counted: {describe(one_run(what, args, out, Path(folder)))}", flush=True)
    shutil.rmtree(out, ignore_errors=True)


def describe(run: dict) -> str:
    if "failed" in run:
        return run["failed"]
    return (f"files {run['files']:.2f} s, CPU {run['cpu']:.2f} s, memory {run['memory']:.2f} s, "
            f"{run['private']:.0f} MB, load {run['load']:.1f}")


def table(rows: dict) -> str:
    header = ["Whisper", "merge", "CPU", "contender", "files s", "/ ours", "memory s", "/ ours", "CPU s", "MB",
              "error", "least possible", "norm", "load"]
    lines = []
    for key in sorted(rows):
        place = key.split("/")  # size, group, processors
        contenders = {name: entry for name, entry in rows[key].items() if name != "date"}
        first = next(iter(contenders.values()))["runs"]
        for name, entry in contenders.items():
            runs, wrong = entry["runs"], entry["errors"]
            if any("failed" in run for run in runs):
                lines.append([*place, name, f"fails: {runs[-1]['failed'][:60]}", *["-"] * 9])
                continue
            lines.append([*place, name, *times(runs, first), spread(run["cpu"] for run in runs),
                          f"{max(run['private'] for run in runs):.0f}", *shown(wrong),
                          spread((run["load"] for run in runs), 1)])
    return measure.markdown(header, lines)


def times(runs, first) -> list[str]:
    cells = []
    for kind in ("files", "memory"):
        against = [run[kind] / own[kind] for run, own in zip(runs, first) if "failed" not in own]
        cells += [spread(run[kind] for run in runs), spread(against, 1)]
    return cells


def shown(wrong: dict) -> list[str]:
    if not wrong:
        return ["-"] * 3
    return [f"{wrong['error']:.3g} ({wrong['target']})", f"{wrong['least']:.3g}", f"{wrong['norm_ratio']:.3f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_options(parser)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--cpus", nargs="+", type=int, default=[1, 2], help="processors and threads (default: 1 2)")
    parser.add_argument("--size", default="small", help="of the Whisper (default: small; tiny to try)")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="contenders to leave out, by name")
    parser.add_argument("--peers", choices=("true", "false"), default="true", help="PEFT, too")
    parser.add_argument("--errors", choices=("true", "false"), default="true", help="some minutes per group")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work = args.work.resolve()
    folder = args.work / f"whisper-{args.size}"
    args.base, args.adapters = folder / "base", sorted((folder / f"lora_r{RANK}").glob("[0-9]*"))[:COUNT]
    if len(args.adapters) < COUNT:
        made_by = "tiny, with --work WORK/tiny" if args.size == "tiny" else f"whisper-{args.size}"
        parser.error(f"{folder}/lora_r{RANK}: {COUNT} adapters are needed; tools/bench/make_models.py {made_by}")
    if args.worker:
        return work(args)
    measure.alone(args.work)
    for cpus in args.cpus:
        command = [sys.executable, *sys.argv, "--worker", str(cpus)]
        status = subprocess.run(command, env=measure.environment(cpus, args.work),
                                preexec_fn=lambda: os.sched_setaffinity(0, measure.processors(cpus))).returncode
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
