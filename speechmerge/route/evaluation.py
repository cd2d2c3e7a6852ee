"""How good a router's classifier is: accuracy in all, by label and by duration, confusions, calibration."""
import torch

from speechmerge.route.calibration import calibration_error

EDGES = (1.0, 2.0, 5.0)  # seconds
LONG = 2.0  # seconds: above, a language should be known


def report(probabilities: torch.Tensor, targets: torch.Tensor, seconds: list[float], labels: list[str]) -> dict:
    """probabilities: [n, labels], targets: [n], seconds: duration of each utterance.

    confusion: rows the true labels, columns what was chosen. Accuracies are None where there is nothing to count.
    """
    chosen = probabilities.argmax(-1)
    right, durations = (chosen == targets).double(), torch.tensor(seconds)
    confusion = torch.zeros(len(labels), len(labels), dtype=torch.long)
    confusion.index_put_((targets, chosen), torch.ones_like(targets), accumulate=True)
    return {
        "n": len(targets), "accuracy": mean(right), "accuracy_over_2s": mean(right[durations > LONG]),
        "ece": calibration_error(probabilities, targets), "labels": labels, "confusion": confusion.tolist(),
        "by_label": {label: mean(right[targets == index]) for index, label in enumerate(labels)},
        "by_duration": by_duration(right, durations),
    }


def by_duration(right: torch.Tensor, seconds: torch.Tensor) -> dict:
    """{"1-2 s": {"n", "accuracy"}} of the ranges between EDGES."""
    found, bounds = {}, [0.0, *EDGES, float("inf")]
    for low, high in zip(bounds, bounds[1:]):
        inside = (seconds > low) & (seconds <= high)
        name = f"over {low:g} s" if high == float("inf") else f"{low:g}-{high:g} s"
        found[name] = {"n": int(inside.sum()), "accuracy": mean(right[inside])}
    return found


def mean(values: torch.Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
