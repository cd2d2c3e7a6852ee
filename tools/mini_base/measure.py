"""Scores of a mini base on unseen voices and sentences: WER per language, and the label tasks without any adapter.

    python tools/mini_base/measure.py --model egs/mini/base --work DIR     # writes DIR/measured/scores.json
"""
import argparse
import random
from pathlib import Path

from speechmerge.corpora.mini import plans
from speechmerge.corpora.mini.corpus import MiniCorpus, write_split
from speechmerge.corpora.mini.render import begin, render_all
from speechmerge.corpora.mini.voices import speakers
from speechmerge.data.directory import DataDir
from speechmerge.files import write_json
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.tasks import TASKS

SENTENCES = 60  # of each language
SEED = 7


def general_speech(directory: Path) -> DataDir:
    """Test sentences of the words that the base knows, by the test voices."""
    plan = plans.Plan(random.Random(SEED), "test", speakers("test"), None, "test", SEED, plans.LANGUAGES + ("pa", "te"))
    requests = plans.asr(plan, SENTENCES * len(plan.languages))
    render_all(begin(requests, directory / "audio"))
    write_split(directory, "asr", requests, None)
    return DataDir.read(directory)


def decode(model, task, data) -> tuple[dict, dict, dict]:
    """References, generated answers and best labels (verification: score of yes), by id."""
    examples, labels = task.examples(data), task.labels(data)
    groups = {}
    for example in examples:
        seconds = model.seconds(example)
        item = Item(example, model.features(example.audio), seconds)
        groups.setdefault(model.context_frames(seconds), []).append(item)
    generated, scored = {}, {}
    for frames, items in groups.items():
        batch = model.collate(items, task, frames=frames)
        ids = [item.example.id for item in items]
        generated.update(zip(ids, model.generate(batch, task)))
        if labels:
            scored.update(zip(ids, model.score_labels(batch, labels).tolist()))
    return {e.id: e.target for e in examples}, generated, scored


def score_labels(task, data, refs, scored) -> float:
    labels = task.labels(data)
    if task.kind == "verification":
        margins = {id: row[labels.index("yes")] - row[labels.index("no")] for id, row in scored.items()}
        hyps = {id: "yes" if margin > 0 else "no" for id, margin in margins.items()}
        return task.score(refs, hyps, scores=margins)["value"]
    best = {id: labels[max(range(len(row)), key=row.__getitem__)] for id, row in scored.items()}
    return task.score(refs, best)["value"]


def measure(model, work: Path) -> dict:
    data = general_speech(work / "general")
    task = TASKS.get("asr")()
    refs, hyps, _ = decode(model, task, data)
    scores = {"wer": {}}
    for language in plans.LANGUAGES + ("pa", "te"):
        ids = [id for id in refs if data.utterances[id].language == language]
        scores["wer"][language] = task.score({i: refs[i] for i in ids}, {i: hyps[i] for i in ids})["value"]
    MiniCorpus().prepare(work / "corpus")
    for name in plans.TASKS:
        task, data = TASKS.get(name)(), DataDir.read(work / "corpus" / name / "test")
        refs, hyps, scored = decode(model, task, data)
        scores[name] = {"generation": task.score(refs, hyps)["value"]}
        if scored:
            scores[name]["labels"] = score_labels(task, data, refs, scored)
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    scores = measure(load_model(args.model, device="cpu", audio_context="dynamic", audio_context_min=0.5), args.work / "measured")
    write_json(args.work / "measured" / "scores.json", scores)
    for name, values in scores.items():
        print(name, " ".join(f"{key} {100 * value:.1f}" for key, value in values.items()))


if __name__ == "__main__":
    main()
