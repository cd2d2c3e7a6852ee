"""Accuracy, unweighted average recall, macro F1 and the confusion matrix over a closed label set."""
import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from speechmerge.errors import SpeechMergeError

UNPARSED = "<unparsed>"  # the column of hypotheses that are no label


def classification_scores(references: list[str], hypotheses: list[str | None], labels: list[str]) -> dict:
    """`hypotheses`: None where no label could be read; it is an error.

    uar and macro_f1 average over the labels that occur in `references`: a label without examples has no recall, and a
    false alarm for it already costs the recall of the label it should have been.
    Returns {"accuracy", "uar", "macro_f1", "confusion": {"labels", "columns", "counts" [references, hypotheses]}}.
    """
    if not references:
        raise SpeechMergeError("classification: no references to score")
    unknown = sorted(set(references) - set(labels))
    if unknown:
        raise SpeechMergeError(f"classification: reference label {unknown[0]!r} is not in the label set "
                               f"({', '.join(labels[:10])}); correct the reference or the label set")
    read = [hyp if hyp in labels else UNPARSED for hyp in hypotheses]
    columns = list(labels) + [UNPARSED]
    present = [label for label in labels if label in set(references)]
    counts = confusion_matrix(references, read, labels=columns)[: len(labels)]
    return {
        "accuracy": float(np.mean([ref == hyp for ref, hyp in zip(references, read)])),
        "uar": float(recall_score(references, read, labels=present, average="macro", zero_division=0)),
        "macro_f1": float(f1_score(references, read, labels=present, average="macro", zero_division=0)),
        "confusion": {"labels": list(labels), "columns": columns, "counts": counts.tolist()},
    }


def classification_replicates(references, hypotheses, labels, counts: np.ndarray) -> dict[str, np.ndarray]:
    """{"uar", "macro_f1"} [repetitions] of resampled test sets; counts [repetitions, references]. A label that a
    resampled set lacks has no part in its averages."""
    right, given = (np.array([[name == label for label in labels] for name in names], dtype=float)
                    for names in (references, hypotheses))
    true, all_right, all_given = (counts @ table for table in (right * given, right, given))
    there = np.where(all_right > 0, all_right, np.nan)
    return {"uar": np.nanmean(true / there, axis=1), "macro_f1": np.nanmean(2 * true / (there + all_given), axis=1)}
