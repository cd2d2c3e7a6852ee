"""What a whole study leaves beside tests/fake_exp.py's: a router and what it routed, a learned merge, sweeps, analyses,
with numbers that are known."""
import random
import shutil
from argparse import Namespace
from pathlib import Path

from fake_exp import record, write_json, write_text
from speechmerge.analysis.base import Findings, table
from speechmerge.analysis.charts import curves, heat_map
from speechmerge.files import read_json
from speechmerge.stages.analyze import write

ADAPTERS = ["asr", "kws", "intent", "emotion"]
BLOCKS = {"model.encoder.layers.0.fc1": 0.25, "model.encoder.layers.10.fc1": 0.5, "model.decoder.layers.2.fc1": -0.125}
ROUTED = "spoken-soft"
CHOSEN = {"kws": 9, "asr": 3}  # of 12 utterances of kws


def add_study(root: Path):
    """To an experiment of write_fake_exp with 12 utterances, on the test set."""
    add_learned_merge(root / "exp/merged/dare/all/runs/run_dare_p0.5")
    add_router(root / "exp")
    for number in (2, 10):
        add_sweep(root / f"exp/merged/ties/asr_kws/sweeps/sweep_{number}.json", 0.1 * number)
    add_analyses(root / "exp", root / "data/kws/test")


def add_learned_merge(folder: Path):
    """Metadata as of a learner with one coefficient per module and adapter."""
    values = {module: {name: start + 0.1 * place for place, name in enumerate(ADAPTERS)} for module, start in BLOCKS.items()}
    metadata = read_json(folder / "merge_metadata.json")
    adapters = [{"name": name, "path": f"exp/{name}/lora", "task": name} for name in ADAPTERS]
    write_json(folder / "merge_metadata.json", {**metadata, "method": "weighted_delta_n", "adapters": adapters,
                                                "params": {"coefficients": None, "allow_negative_coefficients": True},
                                                "lambda_policy": {"type": "table", "group_by": "module", "values": values}})


def add_sweep(path: Path, worst: float):
    points = [{"tag": f"p{place}", "values": {"k": 10.0 * place}, "interference_delta": {"asr": -worst - place, "kws": 0.1}}
              for place in (1, 2)]
    write_json(path, {"method": "ties", "split": "dev", "search": {"type": "grid"}, "points": points, "ranking": ["p1", "p2"],
                      **record(command="merge-sweep")})


def add_router(exp: Path):
    """Its report, and a routed system whose hypotheses are those of `uniform`."""
    labels = ["kws", "asr"]
    splits = {name: {"n": 40, "accuracy": 0.75, "accuracy_over_2s": None, "ece": 0.05, "labels": labels,
                     "confusion": [[15, 5], [5, 15]], "by_label": {"kws": 0.75, "asr": 0.75},
                     "by_duration": {"0-1 s": {"n": 40, "accuracy": 0.75}, "over 1 s": {"n": 0, "accuracy": None}}}
              for name in ("dev", "test")}
    write_json(exp / "router/spoken/report.json", {"splits": splits, "temperature": 1.1,
                                                   **record(command="train-router --output-dir exp/router/spoken")})
    decoded = exp / "decode/test"
    shutil.copytree(decoded / "uniform", decoded / ROUTED)
    ids = [line.split()[0] for line in (decoded / ROUTED / "kws/hyp").read_text().splitlines()]
    chosen = [label for label, count in CHOSEN.items() for _ in range(count)]
    lines = [f"{id} {label} 0.8000 {label}=0.8000 {'asr' if label == 'kws' else 'kws'}=0.2000\n"
             for id, label in zip(ids, chosen)]
    write_text(decoded / ROUTED / "kws/routes", "".join(lines))
    scores = read_json(exp / "scores_test.json")
    like = next(entry for entry in scores["systems"] if entry["name"] == "uniform")
    scores["systems"].append({**like, "name": ROUTED, "kind": "routed", "method": "soft", "params": {}, "path": None})
    write_json(exp / "scores_test.json", scores)


def add_analyses(exp: Path, data: Path):
    """A new one with a table, two pictures, a long CSV and examples; one of the time before tables were kept; a bare
    folder of pictures."""
    rng = random.Random(0)
    values = [[rng.uniform(-1, 1) for _ in ADAPTERS] for _ in ADAPTERS]
    lines = ["cosine of the true deltas, all layers together",
             *table(["adapter", *ADAPTERS], [[name, *row] for name, row in zip(ADAPTERS, values)])]
    plots = [heat_map("cosine", "Cosine of <all> adapters", ADAPTERS, ADAPTERS, values),
             curves("spectra", "Singular values", {"asr": [3.0, 2.0, 1.0], "kws": [2.5, 1.0]}, "place", "value")]
    sound = sorted((data / "wavs").glob("*.wav"))[0]
    examples = [{"set": "kws", "utt": f"u{place}", "system": "base", "kind": "phonetic", "reference": "yes",
                 "hypothesis": "<b>jess</b>", "audio": str(sound) if place < 2 else None, "share": 0.5} for place in range(30)]
    write(exp / "analysis/weights_10", "key", Namespace(kind="weights"), Findings({"examples": examples}, plots, lines))
    write_text(exp / "analysis/weights_10/long.csv", "name,value\n" + "".join(f"n{i},{i}\n" for i in range(100)))
    write(exp / "analysis/weights_2", "key", Namespace(kind="weights"), Findings({}, plots[:1], lines))
    old = read_json(exp / "analysis/weights_2/analysis.json")
    write_json(exp / "analysis/weights_2/analysis.json", {key: old[key] for key in old if key not in ("table", "pictures")})
    (exp / "analysis/bare").mkdir()
    shutil.copy(exp / "analysis/weights_2/cosine.png", exp / "analysis/bare/cosine.png")
