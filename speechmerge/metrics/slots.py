"""Slot filling as SUPERB scores it: F1 of slot types and character error rate of slot values.

A list of slots is [{"type": str, "filler": str}, ...]; references and hypotheses go together by position.
"""
import numpy as np
from rapidfuzz.distance import Levenshtein


def slot_type_f1(references: list[list[dict]], hypotheses: list[list[dict]]) -> float:
    """Mean over utterances of the F1 of the sets of slot types; 1 where both are empty."""
    values = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        right, given = ({slot["type"] for slot in slots} for slots in (reference, hypothesis))
        values.append(2 * len(right & given) / (len(right) + len(given)) if right or given else 1.0)
    return float(np.mean(values))


def slot_value_cer(references: list[list[dict]], hypotheses: list[list[dict]]) -> float | None:
    """Edits / reference characters over all gold values, each beside the nearest value that the hypothesis has for its
    slot (nothing where it has none). A hypothesis' value may serve several gold ones, and values too many cost nothing.
    None where there are no gold values.
    """
    edits = characters = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        for slot in reference:
            given = [other["filler"] for other in hypothesis if other["type"] == slot["type"]] or [""]
            edits += min(Levenshtein.distance(slot["filler"], value) for value in given)
            characters += len(slot["filler"])
    return edits / characters if characters else None
