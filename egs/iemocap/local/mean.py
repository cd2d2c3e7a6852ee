"""The mean over folds: python local/mean.py exp/fold1 ... exp/fold5

Prints for the base and the adapter, as they generate and as they score the labels: the mean of the folds' accuracies (SUPERB's
number), the accuracy over all utterances together, and the mean of the unweighted average recalls.
"""
import json
import sys
from pathlib import Path

SYSTEMS, READINGS = ("base", "emotion"), {"generation": "free generation", "labels": "label scoring"}


def scores(folder: Path, system: str) -> dict:
    path = folder / "decode/test" / system / "emotion/score.json"
    if not path.is_file():
        sys.exit(f"{path}: not there; run local/folds.sh, which scores all five folds")
    return json.loads(path.read_text(encoding="utf-8"))


def main(folders: list[Path]):
    if len(folders) != 5:
        sys.exit("expected five folders: python local/mean.py exp/fold1 exp/fold2 exp/fold3 exp/fold4 exp/fold5")
    print(f"{'system':<10} {'read by':<16} {'folds':<30} {'mean':>6} {'pooled':>7} {'UAR':>6}")
    for system in SYSTEMS:
        for reading, name in READINGS.items():
            found = [scores(folder, system).get(reading) for folder in folders]
            if None in found:  # decoded without --label-scoring
                continue
            accuracies, total = [score["accuracy"] for score in found], sum(score["n"] for score in found)
            pooled = sum(score["accuracy"] * score["n"] for score in found) / total
            each = " ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)
            recall = sum(score["uar"] for score in found) / len(found)
            print(f"{system:<10} {name:<16} {each:<30} {100 * sum(accuracies) / 5:>6.1f} {100 * pooled:>7.1f} {100 * recall:>6.1f}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
