#!/usr/bin/env python
"""Time and memory of a TIES merge as the number of adapters grows: rank 64, all 512 linear layers of Whisper-large-v3.

    tools/bench/.venv/bin/python tools/bench/make_models.py whisper-large-v3 --adapters 32       # 15 GB
    setsid nohup tools/bench/.venv/bin/python tools/bench/scale.py > scale.log 2>&1 &
    tools/bench/.venv/bin/python tools/bench/scale.py --modules 16 --numbers 2 4 8 --runs 1      # to try

Each point is a process of its own, from adapters on disk to an adapter of rank 64; the points are measured in turn,
once each and then again. Runs that are done are kept, so that a stopped measurement goes on; `--again true` forgets
them. Writes scale.md, scale.json, scale.csv and scale.png.
"""
import argparse
import csv
import json
import shutil
import statistics
import struct
import subprocess
import sys

import measure
from measure import Contender, samples_of, spread

RANK = 64


def command(args, number: int) -> Contender:
    out = args.work / "out" / f"scale_{number}"
    words = [sys.executable, "-m", "speechmerge", "merge", "--adapters", *map(str, args.adapters[:number]),
             "--method", "ties", "--param", "k=20", "--param", f"trim={args.trim}", "--save", "lora",
             "--rank", str(RANK), "--output-dir", str(out), "--force", "true"]
    return Contender(words, out)


def key(args, number: int) -> str:
    return f"{args.trim}/{count_modules(args.adapters[0])}/{args.cpus}/{number:02d}"


def count_modules(adapter) -> int:
    """From the header of its file."""
    with open(adapter / "adapter_model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return sum("lora_A" in name for name in header)


def find_adapters(args) -> list:
    """Those of make_models.py; those of a few modules are made here."""
    name = f"lora_r{RANK}"
    if args.modules:
        name += f"_m{args.modules}"
        words = ["whisper-large-v3", "--work", args.work, "--adapters", max(args.numbers), "--modules", args.modules]
        subprocess.run([sys.executable, str(measure.HERE / "make_models.py"), *map(str, words)], check=True)
    return sorted((args.work / "whisper-large-v3" / name).glob("[0-9]*"))


def measure_points(args, report):
    """Run by run over all points; what is there is not run again."""
    for round_ in range(args.runs):
        for number in args.numbers:
            done = report.rows.get(key(args, number), {"samples": []})["samples"]
            if len(done) > round_:
                continue
            contender = command(args, number)
            sample = measure.run(contender, args.cpus, args.work)
            print(f"{number} adapters, run {round_ + 1}/{args.runs}: {measure.describe(sample)}", flush=True)
            shutil.rmtree(contender.output, ignore_errors=True)
            if sample.status:
                sys.exit(1)
            report.put({key(args, number): {"samples": [*done, *measure.row([sample])["samples"]]}})


def table(rows: dict) -> str:
    lines = []
    for name in sorted(rows):
        trim, modules, cpus, number = name.split("/")
        runs = samples_of(rows[name])
        lines.append([int(number), modules, f"trim={trim}", cpus, spread(run.wall for run in runs),
                      f"{statistics.median(run.wall for run in runs) / int(number):.2f}",
                      spread((run.cpu for run in runs), 1), f"{max(run.private for run in runs):.0f}",
                      f"{max(run.rss for run in runs):.0f}", spread((run.load for run in runs), 1)])
    header = ["adapters", "modules", "TIES", "CPU", "wall s", "s per adapter", "CPU s", "private MB",
              "peak MB with mapped files", "load"]
    return measure.markdown(header, lines)


def write_csv(rows: dict, path):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("trim modules cpus adapters run wall_s cpu_s private_mb peak_mb load".split())
        for name in sorted(rows):
            for number, run in enumerate(samples_of(rows[name]), 1):
                writer.writerow([*name.split("/"), number, f"{run.wall:.3f}", f"{run.cpu:.3f}", f"{run.private:.1f}",
                                 f"{run.rss:.1f}", run.load])


def plot(rows: dict, path):
    """Seconds and private memory over the number of adapters, a line for each setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for setting in sorted({name.rsplit("/", 1)[0] for name in rows}):
        trim, modules, cpus = setting.split("/")
        points = [(int(name.rsplit("/", 1)[1]), samples_of(rows[name])) for name in sorted(rows)
                  if name.startswith(setting + "/")]
        label = f"trim={trim}, {modules} modules, {cpus} CPU"
        for axis, value in zip(axes, (lambda run: run.wall, lambda run: run.private / 1000)):
            middle = [statistics.median(map(value, runs)) for _, runs in points]
            around = [[mid - min(map(value, runs)) for mid, (_, runs) in zip(middle, points)],
                      [max(map(value, runs)) - mid for mid, (_, runs) in zip(middle, points)]]
            axis.errorbar([number for number, _ in points], middle, yerr=around, marker="o", capsize=3, label=label)
    for axis, title in zip(axes, ("wall time, s", "peak private memory, GB")):
        axis.set(xlabel=f"adapters of rank {RANK}", ylabel=title, ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_options(parser)
    parser.add_argument("--numbers", nargs="+", type=int, default=[2, 4, 8, 12, 16, 20, 24, 28, 32], metavar="N",
                        help="of adapters (default: 2 4 8 12 16 20 24 28 32)")
    parser.add_argument("--trim", choices=("all", "tensor"), default="all", help="TIES' threshold (default: all)")
    parser.add_argument("--modules", type=int, help="only the first so many modules, as they were made")
    parser.add_argument("--cpus", type=int, default=2, help="processors and threads (default: 2)")
    parser.add_argument("--again", choices=("true", "false"), default="false", help="measure anew what is there")
    args = parser.parse_args()
    args.work = args.work.resolve()
    measure.alone(args.work)
    args.adapters = find_adapters(args)
    if len(args.adapters) < max(args.numbers):
        parser.error(f"{max(args.numbers)} adapters are needed, found {len(args.adapters)}; "
                     f"tools/bench/make_models.py whisper-large-v3 --adapters {max(args.numbers)}")
    report = measure.Report(args.results, "scale", "TIES of many adapters", table)
    if args.again == "true":
        for number in args.numbers:
            report.rows.pop(key(args, number), None)
    measure_points(args, report)
    write_csv(report.rows, args.results / "scale.csv")
    plot(report.rows, args.results / "scale.png")
    report.show()


if __name__ == "__main__":
    main()
