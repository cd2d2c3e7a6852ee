"""Whole processes measured in turn, A B C A B C ..., so that a machine that slows down slows all of them.

    samples = alternate({"ours": Contender([...]), "peer": Contender([...])}, runs=5, cpus=2, work=folder)

Of each run: wall and CPU seconds from before the interpreter starts to its end, the peak of resident memory (with
mapped input files) and the peak of private memory (anonymous and shared-memory pages, without mapped files) over the
process and its children, sampled from /proc every 10 ms. The page cache is warm; dirty pages are written out between
runs.
"""
import argparse
import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK, RESULTS = HERE / "work", HERE / "results"
STEP = 0.01  # seconds between two samples of memory
KIB = 1024 / 1e6  # MB
PACKAGES = ("torch", "transformers", "safetensors", "numpy", "peft", "mergekit", "fusion-bench")


@dataclass
class Contender:
    """A command; `output`: what it writes, `cache`: XDG_CACHE_HOME of its own, both removed before each run."""

    command: list[str]
    output: Path | None = None
    cache: Path | None = None


@dataclass
class Sample:
    wall: float  # seconds
    cpu: float  # seconds, user and system
    rss: float  # MB, peak of resident memory
    private: float  # MB, peak of anonymous and shared memory
    load: float  # load average of the last minute, before the run
    status: int
    error: str = ""  # last line of a run that failed


class Memory(threading.Thread):
    """Peaks of a process and its children, in MB."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.rss, self.private, self.over = pid, 0.0, 0.0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(STEP):
            totals = [memory_of(pid) for pid in family(self.pid)]
            self.rss = max(self.rss, sum(rss for rss, _ in totals))
            self.private = max(self.private, sum(private for _, private in totals))


def family(pid: int) -> list[int]:
    """The process and its descendants; not those that were forked to start a program and still have their parent's
    pages, which would count twice."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            found += [int(child) for child in children if _words(child) != _words(parent)]
    return found


def _words(pid) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def memory_of(pid: int) -> tuple[float, float]:
    """(resident, private) MB now; zeros once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    found = {key: int(value.split()[0]) * KIB for key, value in (line.split(":", 1) for line in lines)
             if key in ("VmRSS", "RssAnon", "RssShmem")}
    return found.get("VmRSS", 0.0), found.get("RssAnon", 0.0) + found.get("RssShmem", 0.0)


def environment(cpus: int, work: Path, cache: Path | None = None) -> dict:
    """The same for all: this many threads, no network, no accelerator, caches in the work folder."""
    return {**os.environ, "OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus), "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(work / "cache"), "XDG_CACHE_HOME": str(cache or work / "cache"), "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "false"}


def processors(cpus: int) -> set[int]:
    """The first `cpus` processors that this process may use."""
    return set(sorted(os.sched_getaffinity(0))[:cpus])


def run(contender: Contender, cpus: int, work: Path) -> Sample:
    """One run, pinned to `cpus` processors. Its output goes to work/last_output.txt."""
    for folder in filter(None, (contender.output, contender.cache)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
    os.sync()
    load, log = os.getloadavg()[0], work / "last_output.txt"
    if not shutil.which(contender.command[0]):
        return Sample(0, 0, 0, 0, load, 127, f"{Path(contender.command[0]).name}: not installed")
    with open(log, "wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            contender.command, cwd=work, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment(cpus, work, contender.cache),
            preexec_fn=lambda: os.sched_setaffinity(0, processors(cpus)))
        memory = Memory(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    memory.over.set()
    memory.join()
    error = "" if process.returncode == 0 else _last_line(log)
    return Sample(wall, usage.ru_utime + usage.ru_stime, max(memory.rss, usage.ru_maxrss * KIB), memory.private, load,
                  process.returncode, error)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def alternate(contenders: dict[str, Contender], runs: int, cpus: int, work: Path) -> dict[str, list[Sample]]:
    """`runs` samples of each, in turn. One that fails is not run again."""
    samples = {name: [] for name in contenders}
    for number in range(1, runs + 1):
        for name, contender in contenders.items():
            if any(sample.status for sample in samples[name]):
                continue
            samples[name].append(run(contender, cpus, work))
            print(f"  {number}/{runs} {name}: {describe(samples[name][-1])}", flush=True)
    return samples


def describe(sample: Sample) -> str:
    if sample.status:
        return f"exit status {sample.status}: {sample.error}"
    return (f"{sample.wall:.2f} s, CPU {sample.cpu:.2f} s, peak {sample.rss:.0f} MB, private {sample.private:.0f} MB, "
            f"load {sample.load:.1f}")


def read_through(paths):
    """Brings files into the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


# numbers and tables

def spread(values, digits=2) -> str:
    """median (smallest-largest)"""
    values = list(values)
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(samples: list[Sample], others: list[Sample]) -> list[float]:
    """wall of `samples` / wall of `others`, run by run, of the runs that both finished."""
    return [a.wall / b.wall for a, b in zip(samples, others) if not a.status and not b.status]


def row(samples: list[Sample]) -> dict:
    """What is kept of a contender's runs."""
    return {"samples": [asdict(sample) for sample in samples]}


def samples_of(record: dict) -> list[Sample]:
    return [Sample(**sample) for sample in record["samples"]]


def markdown(header, rows) -> str:
    rows = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> dict:
    """What the numbers depend on."""
    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    return {"processor": model[0] if model else "unknown", "processors": len(os.sched_getaffinity(0)),
            "memory_gb": round(memory), "python": sys.version.split()[0], **_versions()}


def _versions() -> dict:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


class Report:
    """results/<name>.json and <name>.md. What was measured before stays until it is measured again."""

    def __init__(self, folder: Path, name: str, title: str, table):
        folder.mkdir(parents=True, exist_ok=True)
        self.json, self.md, self.title, self.table = folder / f"{name}.json", folder / f"{name}.md", title, table
        self.rows = json.loads(self.json.read_text())["rows"] if self.json.is_file() else {}

    def put(self, rows: dict[str, dict]):
        """Keep these rows and write both files."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
        self.rows.update({key: {**record, "date": now} for key, record in rows.items()})
        words = [os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]
        about = {"command": " ".join(["python", *words]), "machine": machine()}
        _replace(self.json, json.dumps({**about, "rows": self.rows}, indent=1) + "\n")
        _replace(self.md, "\n".join([f"# {self.title}", "", self.table(self.rows), "", _footer(about), ""]))

    def show(self):
        print(f"\n{self.table(self.rows)}\n\n{self.md}")


def _replace(path: Path, text: str):
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    os.replace(beside, path)


def _footer(about: dict) -> str:
    machine = dict(about["machine"])
    first = f"{machine.pop('processor')}, {machine.pop('processors')} processors, {machine.pop('memory_gb')} GB"
    return f"`{about['command']}`\n\n{first}; " + ", ".join(f"{name} {version}" for name, version in machine.items())


def whole_processes(about: str, name: str, title: str, contenders, table, runs: int, warm_up: bool = False):
    """A benchmark that is nothing but commands in turn, its command line (described by `about`) included: --runs of each of
    `contenders(work)`, kept and shown. warm_up: one of each before."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, runs)
    parser.add_argument("--cpus", type=int, default=2, help="processors and threads (default: 2)")
    args = parser.parse_args()
    args.work = args.work.resolve()
    found = contenders(args.work)
    alone(args.work)
    if warm_up:
        print("one run of each first, which does not count", flush=True)
        alternate(found, 1, args.cpus, args.work)
    report = Report(args.results, name, title, table)
    samples = alternate(found, args.runs, args.cpus, args.work)
    report.put({label: row(runs) for label, runs in samples.items()})
    report.show()


# options that all benchmarks share

def add_options(parser, runs=5):
    parser.add_argument("--runs", type=int, default=runs, help=f"runs of each contender (default: {runs})")
    parser.add_argument("--work", type=Path, default=WORK, help="models and outputs (default: tools/bench/work)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="tables (default: tools/bench/results)")


def alone(work: Path):
    """Only one benchmark at a time in a work folder: two would write the same files and slow each other."""
    work.mkdir(parents=True, exist_ok=True)
    alone.lock = open(work / "lock", "w")  # held until the process ends
    try:
        fcntl.flock(alone.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"{work}: another benchmark is running there; wait for it, or give another --work")


def program(name: str) -> str:
    """A command of the environment that this script runs in."""
    return str(Path(sys.executable).parent / name)
