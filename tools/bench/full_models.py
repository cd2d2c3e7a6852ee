#!/usr/bin/env python
"""Merging full fine-tuned models: speechmerge, mergekit and fusion_bench as whole processes on the same files.

    tools/bench/.venv/bin/python tools/bench/make_models.py hubert wav2vec2
    tools/bench/.venv/bin/python tools/bench/full_models.py                                   # everything
    tools/bench/.venv/bin/python tools/bench/full_models.py --models hubert --dtypes fp32 --methods ties slerp
    tools/bench/.venv/bin/python tools/bench/full_models.py --without fusion_bench --cpus 1

Each method: the contenders run in turn, and with them the floor (load the same files, save one model), so that every
ratio is of runs made within the same minutes. Each has run once before anything counts. speechmerge hashes the base to
know it again, at the first merge; `--remember-base true` measures the merges after that one. It also waits until its
result is on the disk, which the others do not. Afterwards the results are compared with each other.
"""
import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import measure
from measure import Contender, alternate, ratios, samples_of, spread

TUNED = ("asr", "emotion", "keywords")
METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "slerp")
KINDS = ("floor", "floor_fsync", "bytes", "ours", "mergekit-pytorch", "mergekit-yaml", "fusion_bench")

# the same merge in everybody's words; `ours` may name several variants
OURS = {
    "linear": {"ours": ["uniform"]},
    "task_arithmetic": {"ours": ["task_arithmetic", "scale=0.4"]},
    "ties": {"ours": ["ties", "k=20", "trim=tensor"], "ours, whole vector": ["ties", "k=20", "trim=all"]},
    "dare_ties": {"ours": ["dare_ties", "drop_rate=0.8"]},
    "slerp": {"ours": ["slerp", "t=0.3", "space=weights"], "ours, task vectors": ["slerp", "t=0.3"]},
}
MERGEKIT = {
    "linear": ("linear", {}, {"weight": 1.0}),
    "task_arithmetic": ("task_arithmetic", {}, {"weight": 0.4}),
    "ties": ("ties", {}, {"weight": 1.0, "density": 0.2}),
    "dare_ties": ("dare_ties", {"normalize": True}, {"weight": 1.0, "density": 0.2}),
    "slerp": ("slerp", {"t": 0.3}, {}),
}


def tuned_models(folder: Path, method: str) -> list[Path]:
    return [folder / name for name in (TUNED[:2] if method == "slerp" else TUNED)]


def mergekit_config(method: str, folder: Path, raw: bool) -> str:
    """JSON, which is YAML. `raw`: for mergekit-pytorch, whose models are files."""
    def path(model: Path) -> str:
        return str(model / "model.safetensors" if raw else model)

    name, common, each = MERGEKIT[method]
    models = tuned_models(folder, method)
    config = {"merge_method": name, "parameters": common,
              "models": [{"model": path(model), "parameters": each} for model in models]}
    if method != "linear":
        config["base_model"] = path(models[0] if method == "slerp" else folder / "base")
    return json.dumps(config, indent=1)


def contenders(method: str, model: str, folder: Path, work: Path, remember: bool) -> dict[str, Contender]:
    """Name -> command, the floors first."""
    out, models, python = work / "out", tuned_models(folder, method), sys.executable
    files = [str(path / "model.safetensors") for path in (folder / "base", *models)]
    floor = [python, str(measure.HERE / "floor.py")]
    found = {"floor": Contender([*floor, "tensors", str(out / "floor"), *files], out / "floor"),
             "floor_fsync": Contender([*floor, "tensors", str(out / "floor_fsync"), *files, "--fsync", "true"],
                                      out / "floor_fsync"),
             "bytes": Contender([*floor, "bytes", str(out / "bytes"), *files], out / "bytes")}
    for name, (own, *parameters) in OURS[method].items():
        target = out / name.replace(", ", "_").replace(" ", "_")
        command = [python, "-m", "speechmerge", "merge", "--adapters", *map(str, models), "--base",
                   str(folder / "base"), "--method", own, "--save", "full", "--output-dir", str(target),
                   "--force", "true"]
        command += [word for parameter in parameters for word in ("--param", parameter)]
        found[name] = Contender(command, target, None if remember else out / "cache")
    for kind in ("mergekit-pytorch", "mergekit-yaml"):
        config = work / f"{kind}.json"
        config.write_text(mergekit_config(method, folder, kind == "mergekit-pytorch"))
        found[kind] = Contender([measure.program(kind), str(config), str(out / kind)], out / kind)
    found["mergekit-yaml"].command.append("--no-copy-tokenizer")
    found["fusion_bench"] = Contender([python, str(measure.HERE / "fusion_bench_merge.py"), method,
                                       str(out / "fusion_bench"), str(folder / "base"), *map(str, models)],
                                      out / "fusion_bench")
    if model == "hubert":
        del found["mergekit-yaml"]  # it cannot read HubertModel: get_input_embeddings not auto-handled
    return found


def wanted(found: dict[str, Contender], names, without) -> dict[str, Contender]:
    """The contenders whose kind (name before a comma) is in `names` and not in `without`."""
    def kind(name):
        return name.split(",")[0]

    chosen = set(names) - set(without)
    return {name: contender for name, contender in found.items() if kind(name) in chosen}


def differences(method: str, found, folder: Path, samples) -> dict:
    """How far our result is from each peer's; nothing where masks are random."""
    done = [name for name in found if samples[name] and not samples[name][-1].status]
    ours = [name for name in done if name.startswith("ours")]
    apart = {}
    for peer in done:
        if not ours or method == "dare_ties" or peer.split("-")[0] not in ("mergekit", "fusion_bench"):
            continue
        # fusion_bench's TIES trims the whole vector, as the second of ours does
        mine = ours[-1] if (peer, ours[-1]) == ("fusion_bench", "ours, whole vector") else ours[0]
        words = [sys.executable, str(measure.HERE / "compare_models.py"), str(folder / "base"),
                 str(found[mine].output), str(found[peer].output)]
        result = subprocess.run(words, capture_output=True, text=True)
        apart[f"{mine} / {peer}"] = (json.loads(result.stdout) if result.returncode == 0 else
                                     {"error": result.stderr[-200:]})
    return apart


def in_order(rows: dict) -> list[str]:
    """Keys by model, float32 first, number of processors, then as METHODS stand."""
    def place(key):
        model, dtype, cpus, method = key.split("/")
        return model, dtype != "fp32", int(cpus), METHODS.index(method)

    return sorted(rows, key=place)


def table(rows: dict) -> str:
    header = ["model", "method", "contender", "wall s", "/ ours", "/ floor", "CPU s", "peak MB", "private MB", "load"]
    lines = []
    for key in in_order(rows):
        model, dtype, cpus, method = key.split("/")
        samples = {name: samples_of(record) for name, record in rows[key]["contenders"].items()}
        for name, runs in samples.items():
            failed = [run for run in runs if run.status]
            if failed:
                says = f"fails: {failed[0].error[:60]}"
                lines.append([f"{model} {dtype}, {cpus} CPU", method, name, says, *["-"] * 6])
                continue
            lines.append([f"{model} {dtype}, {cpus} CPU", method, name, spread(run.wall for run in runs),
                          spread(ratios(runs, samples.get("ours", []))), spread(ratios(runs, samples.get("floor", []))),
                          spread((run.cpu for run in runs), 1), f"{max(run.rss for run in runs):.0f}",
                          f"{max(run.private for run in runs):.0f}", spread((run.load for run in runs), 1)])
    return measure.markdown(header, lines) + "\n\n" + difference_table(rows)


def difference_table(rows: dict) -> str:
    lines = []
    for key in in_order(rows):
        for pair, apart in rows[key]["differences"].items():
            shown = [f"{apart['relative']:.2e}", f"{apart['differing']} of {apart['elements']}",
                     ", ".join(apart["lost_keys"]) or "none"] if "relative" in apart else [apart["error"], "-", "-"]
            lines.append([key, pair, *shown])
    header = ["run", "results compared", "relative difference of the change", "elements that differ", "keys lost"]
    return measure.markdown(header, lines)


def measure_one(args, report, model: str, dtype: str, method: str):
    folder = args.work / model / dtype
    found = contenders(method, model, folder, args.work, args.remember_base == "true")
    found = wanted(found, args.contenders, args.without)
    print(f"{model} {dtype} {method}, {args.cpus} CPU", flush=True)
    samples = alternate(found, args.runs, args.cpus, args.work)
    report.put({f"{model}/{dtype}/{args.cpus}/{method}": {
        "contenders": {name: measure.row(runs) for name, runs in samples.items()},
        "differences": differences(method, found, folder, samples)}})
    for contender in found.values():
        shutil.rmtree(contender.output, ignore_errors=True)


def warm(args):
    """The files in the page cache, every program once."""
    for model in args.models:
        for dtype in args.dtypes:
            measure.read_through(sorted((args.work / model / dtype).rglob("*.safetensors")))
    model = args.models[-1]
    found = contenders("linear", model, args.work / model / args.dtypes[0], args.work, True)
    alternate(wanted(found, args.contenders, args.without), 1, args.cpus, args.work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_options(parser)
    parser.add_argument("--models", nargs="+", choices=("hubert", "wav2vec2"), default=["hubert", "wav2vec2"])
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--contenders", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--without", nargs="+", choices=KINDS, default=[])
    parser.add_argument("--cpus", type=int, default=2, help="processors and threads of every contender (default: 2)")
    parser.add_argument("--remember-base", choices=("true", "false"), default="false", help="as at a second merge")
    args = parser.parse_args()
    args.work = args.work.resolve()
    for folder in (args.work / model / dtype / "base" for model in args.models for dtype in args.dtypes):
        if not folder.is_dir():
            parser.error(f"{folder} is not there; tools/bench/make_models.py {' '.join(args.models)}")
    report = measure.Report(args.results, "full_models", "Full models", table)
    measure.alone(args.work)
    print("one run of each first, which does not count", flush=True)
    warm(args)
    for model in args.models:
        for dtype in args.dtypes:
            for method in args.methods:
                measure_one(args, report, model, dtype, method)
    report.show()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
