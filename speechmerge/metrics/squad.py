"""Answers as the evaluator of SQuAD v1.1 scores them, and the overlap in time of spoken answers.

    exact_match("the Denver Broncos!", ["Denver Broncos", "Broncos"])    # 1.0
    overlap_scores((1.0, 2.0), [(1.5, 2.5)])                             # AOS 1/3, FF1 1/2
"""
import re
import string
from collections import Counter

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, deleted and not replaced by a space


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces, in this order."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, answers: list[str]) -> float:
    """1 where the prediction is one of the gold answers once both are normalised."""
    return float(normalise(prediction) in [normalise(answer) for answer in answers])


def f1(prediction: str, answers: list[str]) -> float:
    """Best F1 of the bags of words; 0 where no word is shared, also if both are empty."""
    return max(bag_f1(normalise(prediction).split(), normalise(answer).split()) for answer in answers)


def bag_f1(given: list[str], right: list[str]) -> float:
    shared = sum((Counter(given) & Counter(right)).values())
    return 2 * shared / (len(given) + len(right)) if shared else 0.0


def overlap_scores(predicted: tuple[float, float], golds: list[tuple[float, float]]) -> tuple[float, float]:
    """(AOS, FF1) of a predicted answer span and the best of the gold ones; (start, end) in seconds.

    AOS: time shared / time from the first start to the last end. FF1: F1 of the time shared. 0 for spans that are apart
    or hold no time (start >= end). As in Spoken-SQuAD (Lee et al. 2018) and DUAL (Lin et al. 2022).
    """
    found = [(0.0, 0.0)]
    for start, end in golds:
        shared = min(end, predicted[1]) - max(start, predicted[0])
        if shared > 0 and end > start and predicted[1] > predicted[0]:
            reach = max(end, predicted[1]) - min(start, predicted[0])
            found.append((shared / reach, 2 * shared / (end - start + predicted[1] - predicted[0])))
    return max(aos for aos, _ in found), max(ff1 for _, ff1 in found)
