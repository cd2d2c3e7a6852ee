"""A made-up recipe folder (data/ and exp/) whose hypotheses contain known errors: every number can be recounted."""

import json
import random
from pathlib import Path

import numpy as np
import soundfile

from speechmerge.data.directory import DataDir, Trial, Utterance

WORDS = "turn the lamp on in kitchen play some music now please open window call anna stop घर में बत्ती".split()
LABELS = {"kws": ["yes", "no", "stop", "go"], "intent": ["lights on", "lights off", "play music", "set timer"],
          "emotion": ["happy", "sad", "angry", "neutral"]}
TASKS = ("asr", *LABELS, "speaker_ver")
# share of utterances (asr: words) that are wrong: base, single adapter; the merges lie between them, by `strength`
WRONG = {
    "asr": (0.3, 0.1),
    "kws": (0.3, 0.025),
    "intent": (0.5, 0.15),
    "emotion": (0.6, 0.6),
    "speaker_ver": (0.45, 0.2),
}
MERGES = {
    "uniform": ("uniform", {}, 0.45),
    "task_arithmetic_scale0.4": ("task_arithmetic", {"scale": 0.4}, 0.7),
    "task_arithmetic_scale0.7": ("task_arithmetic", {"scale": 0.7}, 0.5),
    "task_arithmetic_scale1": ("task_arithmetic", {"scale": 1.0}, -0.4),
    "ties_k20_lambda1": ("ties", {"k": 20, "lambda": 1.0}, 0.2),
    "dare_p0.5": ("dare", {"p": 0.5, "seed": 0}, 0.55),
}
COLUMNS = {"kws": "keyword"}  # utt2keyword; the others are named as the task
METRICS = {"asr": "wer", "speaker_ver": "eer"}  # the others: accuracy
COMMIT = "abc123def456"


def write_fake_exp(root, utterances: int = 40, adapters=TASKS, merges=tuple(MERGES), splits=("dev", "test")) -> Path:
    """Write root/data and root/exp; returns root. Audio paths are absolute."""
    root = Path(root)
    for split in splits:
        for task in TASKS:
            write_data(root / "data" / task / split, task, utterances)
    systems = [
        {
            "name": "base",
            "kind": "base",
            "task": None,
            "path": None,
            "method": None,
            "params": {},
            "own_sets": list(TASKS),
        }
    ]
    systems += [write_adapter(root, task) for task in adapters]
    systems += [write_merge(root, name, adapters) for name in merges]
    for split in splits:
        write_scores(root, split, systems)
    return root


def write_text(path: Path, text: str):
    """Without the syncing of speechmerge.files, which hundreds of files would wait for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, data):
    write_text(path, json.dumps(data, ensure_ascii=False))


def write_data(path: Path, task: str, count: int):
    rng = random.Random(f"{path.name} {task}")
    rows = {}
    for i in range(count):
        id_ = f"{task}-spk{i % 4}-{i:03d}"
        audio = path.absolute() / "wavs" / f"{id_}.wav"
        audio.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(int(16000 * 0.6)) / 16000
        soundfile.write(audio, 0.3 * np.sin(2 * np.pi * (200 + 10 * i) * time), 16000)
        labels = {COLUMNS.get(task, task): rng.choice(LABELS[task])} if task in LABELS else {}
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 7)))
        rows[id_] = Utterance(id_, str(audio), text, f"spk{i % 4}", "en", 0.6, labels)
    ids = sorted(rows)
    trials = [Trial(f"trial-{i:03d}", ids[i], ids[(i + 1 + i % 3) % count], i % 2 == 0) for i in range(count)]
    DataDir(path, rows, LABELS.get(task), trials if task == "speaker_ver" else None).write()


def record(**extra) -> dict:
    return {
        "command": "python -m speechmerge " + extra.pop("command"),
        "date": "2026-11-21T12:00:00Z",
        "commit": COMMIT,
        "speechmerge": "0.1.0",
        "python": "3.11.7",
        "platform": "Linux",
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        **extra,
    }


def write_adapter(root: Path, task: str) -> dict:
    path = root / "exp" / task / "lora"
    write_json(
        path / "speechmerge.json",
        {
            "task": task,
            "language": None,
            "base": {"source": "base", "fingerprint": "0" * 64},
            **record(command=f"train --task {task} --output-dir {path}", config={"rank": 8}),
        },
    )
    return {
        "name": task,
        "kind": "adapter",
        "task": task,
        "path": str(path),
        "method": None,
        "params": {},
        "own_sets": [task],
    }


def write_merge(root: Path, name: str, adapters) -> dict:
    method, params, _ = MERGES[name]
    path = root / "exp" / "merged" / method / "all" / "runs" / f"run_{name}"
    write_json(
        path / "merge_metadata.json",
        {
            "tag": name,
            "method": method,
            "params": params,
            "adapters": [{"path": f"exp/{task}/lora", "task": task} for task in adapters],
            "base": {"source": "base", "fingerprint": "0" * 64},
            **record(command=f"merge --method {method} --output-dir {path}"),
        },
    )
    return {
        "name": name,
        "kind": "merged",
        "task": None,
        "path": str(path),
        "method": method,
        "params": params,
        "own_sets": list(adapters),
    }


def wrong_share(system: dict, task: str) -> float:
    base, single = WRONG[task]
    strength = MERGES[system["name"]][2] if system["kind"] == "merged" else float(system["task"] == task)
    return min(max(base - strength * (base - single), 0.0), 0.95)


def write_scores(root: Path, split: str, systems: list[dict]):
    entries, values = [], {}
    for system in systems:
        scores = {task: write_decoded(root, split, system, task) for task in TASKS}
        entries.append({**system, "scores": scores})
        values[system["name"]] = scores
    for entry in entries:
        entry["interference_delta"] = {task: delta_entry(values, entry["name"], task) for task in TASKS}
    write_json(
        root / "exp" / f"scores_{split}.json",
        {
            "split": split,
            "base": {"source": "egs/mini/base"},
            "tasks": list(TASKS),
            "systems": entries,
            "normaliser": "basic",
            "ranking": {reading: ranking(entries, reading) for reading in ("generation", "labels")},
            **record(command=f"score --split {split}"),
        },
    )


def ranking(entries: list[dict], reading: str) -> list[str]:
    """Merges by their smallest interference_delta, best first."""
    worst = {}
    for entry in entries:
        deltas = [readings.get(reading, {}).get("value") for readings in entry["interference_delta"].values()]
        if entry["kind"] == "merged" and any(delta is not None for delta in deltas):
            worst[entry["name"]] = min(delta for delta in deltas if delta is not None)
    return sorted(worst, key=worst.get, reverse=True)


def delta_entry(values: dict, system: str, task: str) -> dict:
    """Both readings of interference_delta; emotion's adapter gains nothing, so there it is undefined."""
    found, sign = {}, -1 if task in METRICS else 1
    for reading in ("generation", "labels"):
        if values[system][task][reading] is None:
            continue
        if task not in values:
            found[reading] = {"value": None, "reason": "no single adapter to compare with"}
            continue
        merged, single, base = (sign * values[name][task][reading] for name in (system, task, "base"))
        gains = single - base > 0.02
        found[reading] = {"value": (merged - single) / (single - base) if gains else None,
                          "reason": None if gains else "undefined_no_gain"}
        found[reading].update(
            {"ci": [found[reading]["value"] - 0.2, found[reading]["value"] + 0.2]} if gains else {"log_ratio": 0.0}
        )
    return found


def write_decoded(root: Path, split: str, system: dict, task: str) -> dict:
    """hyp, hyp_labels, decode.json and score.json with exactly the number of errors that `wrong_share` asks for."""
    folder = root / "exp" / "decode" / split / system["name"] / task
    data = DataDir.read(root / "data" / task / split)
    share = wrong_share(system, task)
    make = transcripts if task == "asr" else answers
    hyps, generation = make(data, task, share, random.Random(f"{system['name']} {task} {split}"))
    write_text(folder / "hyp", "".join(f"{id_} {text}\n" for id_, text in sorted(hyps.items())))
    labels = None
    if task != "asr":
        by_labels, labels = answers(data, task, share / 2, random.Random(0))
        write_text(folder / "hyp_labels", "".join(f"{id_} {text}\n" for id_, text in sorted(by_labels.items())))
    write_json(
        folder / "decode.json",
        record(
            command=f"decode --system {system['name']} --split {split}",
            seconds=1.5,
            n=len(hyps),
            data=f"data/{task}/{split}",
        ),
    )
    write_json(
        folder / "score.json",
        {
            "task": task,
            "set": task,
            "data": f"data/{task}/{split}",
            "metric": METRICS.get(task, "accuracy"),
            "n": len(hyps),
            "higher_is_better": task not in METRICS,
            "generation": generation,
            "labels": labels,
        },
    )
    return {"generation": generation["value"], "labels": labels and labels["value"]}


def references(data: DataDir, task: str) -> tuple[dict[str, str], list[str]]:
    if task == "speaker_ver":
        return {trial.id: "yes" if trial.target else "no" for trial in data.trials}, ["yes", "no"]
    return {id_: utterance.labels[COLUMNS.get(task, task)] for id_, utterance in data.utterances.items()}, LABELS[task]


def answers(data: DataDir, task: str, share: float, rng) -> tuple[dict[str, str], dict]:
    refs, labels = references(data, task)
    wrong = set(rng.sample(sorted(refs), round(share * len(refs))))
    hyps = {id_: rng.choice([x for x in labels if x != ref]) if id_ in wrong else ref for id_, ref in refs.items()}
    value = len(wrong) / len(refs)
    return hyps, score(value if task in METRICS else 1 - value)


def transcripts(data: DataDir, task: str, share: float, rng) -> tuple[dict[str, str], dict]:
    """Each word is substituted, deleted or followed by an insertion with a third of `share`; no text has these."""
    counts, hyps, words = {"substitutions": 0, "deletions": 0, "insertions": 0}, {}, 0
    for id_, utterance in data.utterances.items():
        out = []
        for word in utterance.text.split():
            words += 1
            kind = rng.choice(sorted(counts)) if rng.random() < share else None
            out += {None: [word], "substitutions": [f"q{word}"], "deletions": [], "insertions": [word, "zzz"]}[kind]
            if kind:
                counts[kind] += 1
        hyps[id_] = " ".join(out)
    return hyps, {**score(sum(counts.values()) / words), **counts, "words": words}


def score(value: float) -> dict:
    return {"value": value, "ci": [max(value - 0.06, 0.0), min(value + 0.06, 1.0)]}
