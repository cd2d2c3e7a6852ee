"""The SUPERB score: how far a representation comes from filterbanks (0) to the best known one (1000), over all tasks.

    1000 / |T| * sum over tasks of the mean over a task's metrics of (s - s_low) / (s_high - s_low)

Signs cancel where lower is better. The rows of FBANK and of the state of the art are in superb.yaml, with their dates.
With rows of one's own (`low`, `high`) the same formula compares upstreams on data of one's own.
"""
from functools import lru_cache
from pathlib import Path

from speechmerge.errors import SpeechMergeError

# SUPERB's task -> (task here, {SUPERB's metric: metric here}); QbE and SD have no task here
OURS = {
    "PR": ("phones", {"per": "per"}), "ASR": ("asr", {"wer": "wer"}), "KS": ("kws", {"accuracy": "accuracy"}),
    "SID": ("speaker_id", {"accuracy": "accuracy"}), "ASV": ("speaker_ver", {"eer": "eer"}),
    "ER": ("emotion", {"accuracy": "accuracy"}), "IC": ("intent", {"accuracy": "accuracy"}),
    "SF": ("slu", {"slot_type_f1": "slot_type_f1", "slot_value_cer": "slot_value_cer"}),
}
Row = dict[str, dict[str, float]]  # {task: {metric: value}}


@lru_cache
def references() -> dict:
    """superb.yaml: tasks, rows (FBANK, SOTA), published rows."""
    import yaml

    return yaml.safe_load((Path(__file__).parent / "superb.yaml").read_text(encoding="utf-8"))


def lower_is_better(task: str, metric: str) -> bool:
    return references()["tasks"][task][metric] == "lower"


def superb_score(values: Row, low: Row | None = None, high: Row | None = None) -> float:
    """values: {SUPERB's task: {metric: percent}} of the tasks that are to count; low and high default to FBANK and SOTA.

    Raises SpeechMergeError for a task or metric without reference, and where both references are equal.
    """
    if not values:
        raise SpeechMergeError("SUPERB score: no task to score; expected some of " + ", ".join(references()["tasks"]))
    low, high = low or references()["rows"]["FBANK"], high or references()["rows"]["SOTA"]
    shares = [task_share(task, metrics, low, high) for task, metrics in values.items()]
    return 1000 * sum(shares) / len(shares)


def task_share(task: str, metrics: dict[str, float], low: Row, high: Row) -> float:
    """How far a task has come from `low` (0) to `high` (1): the mean over its metrics."""
    expected = references()["tasks"].get(task)
    if expected is None:
        raise SpeechMergeError(f"SUPERB score: no task {task!r}; expected some of {', '.join(references()['tasks'])}")
    if missing := [metric for metric in expected if metric not in metrics]:
        raise SpeechMergeError(f"SUPERB score: {task} has no {missing[0]}; expected {', '.join(expected)}")
    shares = []
    for metric in expected:
        start, end = (row.get(task, {}).get(metric) for row in (low, high))
        if start is None or end is None or start == end:
            raise SpeechMergeError(f"SUPERB score: {task} {metric}: references {start} and {end}, expected two numbers that "
                                   "differ")
        shares.append((metrics[metric] - start) / (end - start))
    return sum(shares) / len(shares)


def comparable(low: Row, high: Row) -> list[str]:
    """The tasks of both rows on which `high` is better than `low` in every metric: on others a share means nothing."""
    found = []
    for task, metrics in references()["tasks"].items():
        if task in low and task in high and all(
                (low[task][metric] > high[task][metric]) if lower_is_better(task, metric)
                else (low[task][metric] < high[task][metric]) for metric in metrics):
            found.append(task)
    return found
