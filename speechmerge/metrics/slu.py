"""Scores of scenario, action and entities, by the rules of SLURP's own evaluator (Bastianelli et al. 2020).

    tables = frame_tables(golds, predictions)        # one per utterance; a prediction is None where there is none
    f1(tables, "slu"), f1(tables, "intent", macro=True)

A frame is {"scenario": str, "action": str, "entities": [{"type": str, "filler": str}, ...]}. A table holds, for each
measure, true positives, false positives and false negatives by label.

 - scenario, action, intent (= scenario_action): a wrong answer is a false positive of the label given and a false
   negative of the right one, so that the micro F1 is the accuracy.
 - entity: type and filler must be equal.
 - word, char: an entity takes the nearest gold entity of its type that is left (the first of equally near ones); it is
   one true positive, and its distance is added to the false positives and to the false negatives. Distances: word error
   rate (may exceed 1), and edits of characters / length of the longer filler.
 - slu: word and char together (SLU-F1). This is not the mean of their two F1s.

The published evaluator leaves out utterances without a prediction; here they are errors unless the caller does, too.
"""
from collections import defaultdict

import numpy as np
from rapidfuzz.distance import Levenshtein

MEASURES = ("scenario", "action", "intent", "entity", "word", "char", "slu")
MISSING = "<missing>"  # the answer where there is none; it is no label and has no part in macro averages


def frame_tables(golds: list[dict], predictions: list[dict | None]) -> list[dict]:
    """[{measure: {label: [true positives, false positives, false negatives]}}] of pairs of frames."""
    return [frame_table(gold, predicted) for gold, predicted in zip(golds, predictions, strict=True)]


def frame_table(gold: dict, predicted: dict | None) -> dict:
    answer = predicted or {"scenario": None, "action": None, "entities": []}
    table = {}
    for measure in ("scenario", "action", "intent"):
        right, given = label_of(gold, measure), label_of(answer, measure)
        table[measure] = {right: [1, 0, 0]} if given == right else {right: [0, 0, 1], given: [0, 1, 0]}
    table["entity"] = exact_table(gold["entities"], answer["entities"])
    table["word"] = distance_table(gold["entities"], answer["entities"], word_distance)
    table["char"] = distance_table(gold["entities"], answer["entities"], character_distance)
    table["slu"] = added(table["word"], table["char"])
    return table


def label_of(frame: dict, measure: str) -> str:
    if frame["scenario"] is None:
        return MISSING
    return f"{frame['scenario']}_{frame['action']}" if measure == "intent" else frame[measure]


def exact_table(gold: list[dict], predicted: list[dict]) -> dict:
    """Entities that are equal in type and filler, one to one."""
    table, left = defaultdict(lambda: [0, 0, 0]), list(gold)
    for entity in predicted:
        found = entity in left
        table[entity["type"]][0 if found else 1] += 1
        if found:
            left.remove(entity)
    for entity in left:
        table[entity["type"]][2] += 1
    return dict(table)


def distance_table(gold: list[dict], predicted: list[dict], distance) -> dict:
    """Entities of equal type are paired greedily, in the order of the predictions, and their distance is shared out."""
    table, left = defaultdict(lambda: [0, 0, 0]), list(gold)
    for entity in predicted:
        counts = table[entity["type"]]
        rivals = [other for other in left if other["type"] == entity["type"]]
        if not rivals:
            counts[1] += 1
            continue
        distances = [distance(other["filler"], entity["filler"]) for other in rivals]
        nearest = int(np.argmin(distances))
        counts[0] += 1
        counts[1] += distances[nearest]
        counts[2] += distances[nearest]
        left.remove(rivals[nearest])  # an equal entity earlier in the list is the same to everything that follows
    for entity in left:
        table[entity["type"]][2] += 1
    return dict(table)


def word_distance(gold: str, predicted: str) -> float:
    """Word error rate of one filler. An empty gold filler, which SLURP has none of, counts as one word."""
    words = gold.split()
    return Levenshtein.distance(words, predicted.split()) / max(len(words), 1)


def character_distance(gold: str, predicted: str) -> float:
    """Edits of characters, divided by the length of the longer filler."""
    return Levenshtein.distance(gold, predicted) / max(len(gold), len(predicted), 1)


def added(*tables: dict) -> dict:
    """Sums by label."""
    total = defaultdict(lambda: [0, 0, 0])
    for table in tables:
        for label, counts in table.items():
            total[label] = [have + more for have, more in zip(total[label], counts)]
    return dict(total)


def totals(tables: list[dict], measure: str) -> np.ndarray:
    """Counts over all labels: [utterances, 3], what a bootstrap resamples."""
    return np.array([np.sum([*table[measure].values(), [0, 0, 0]], axis=0) for table in tables]).reshape(-1, 3)


def f1_of(counts) -> np.ndarray:
    """F1 of (true positives, false positives, false negatives) in the last axis; 0 where there is nothing."""
    counts = np.asarray(counts, dtype=float)
    below = 2 * counts[..., 0] + counts[..., 1] + counts[..., 2]
    return np.divide(2 * counts[..., 0], below, out=np.zeros_like(below), where=below > 0)


def f1(tables: list[dict], measure: str, macro: bool = False) -> float:
    """Micro: of the sums over all labels. Macro: unweighted mean over the labels that were seen, right or wrong."""
    if not macro:
        return float(f1_of(totals(tables, measure).sum(axis=0)))
    by_label = added(*(table[measure] for table in tables))
    values = [float(f1_of(counts)) for label, counts in by_label.items() if label != MISSING]
    return float(np.mean(values)) if values else 0.0
