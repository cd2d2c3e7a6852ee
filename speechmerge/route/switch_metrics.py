"""How well switches are followed: latency, misses, false switches, F1 with a collar, and the errors on switched words.

There is no standard for speech recognition; the definitions (after switch detection in auditory attention):

    latency of a true switch at t_k to label b = min{t >= t_k: the router says b from t on for `hold` seconds} - t_k + look-ahead
    a miss: there is none within `within` seconds or before the next switch
    false switches per minute: found switches that are not within `collar` of a true switch to the same label
    F1: of found and true switches, matched one to one within the collar
    PIER (2501.09512): word errors at the words of interest (not in the utterance's main label) per such word

A full-context encoder hears the future, so its latency is that of the decisions, not of a system that answers while one
speaks; the boundary error |found - true| of matched switches says more there.
"""
import jiwer
import numpy as np

from speechmerge.metrics.wer import normaliser_by_name
from speechmerge.route.timeline import Segment, label_at, switches

HOLD, WITHIN = 0.2, 2.0  # seconds
COLLARS = (0.25, 0.5)  # seconds


def switch_report(true: list[list[Segment]], found: list[list[Segment]], look_ahead: float = 0.0) -> dict:
    """Over utterances: true and found timelines. look_ahead: seconds beyond a moment that the decision on it heard."""
    latencies, missed, total = [], 0, 0
    for timeline, heard in zip(true, found, strict=True):
        for found_after in map(lambda index: latency(timeline, index, heard), range(len(switches(timeline)))):
            total += 1
            missed += found_after is None
            latencies += [] if found_after is None else [found_after + look_ahead]
    minutes = sum(timeline[-1].end for timeline in true) / 60
    report = {"switches": total, "latency_median": quantile(latencies, 0.5), "latency_p90": quantile(latencies, 0.9),
              "look_ahead": look_ahead, "miss_rate": missed / total if total else None,
              "frame_accuracy": sum(agreement(a, b) for a, b in zip(true, found)) / (60 * minutes)}
    for collar in COLLARS:
        pairs = [matched(switches(a), switches(b), collar) for a, b in zip(true, found)]
        hits, said = sum(map(len, pairs)), sum(len(switches(b)) for b in found)
        report[f"f1_{collar:g}s"] = 2 * hits / (total + said) if total + said else None
    report["false_per_minute"] = (said - hits) / minutes  # by the widest collar
    errors = [gap for a, b in zip(true, found) for gap in matched(switches(a), switches(b), WITHIN)]
    return {**report, "boundary_error_median": quantile(errors, 0.5)}


def latency(true: list[Segment], index: int, found: list[Segment]) -> float | None:
    """Seconds after the index-th switch until the router says its label and keeps saying it; None: missed."""
    moments = switches(true)
    time, label = moments[index]
    until = moments[index + 1][0] if index + 1 < len(moments) else true[-1].end
    for segment in joined(found):
        begun = max(time, segment.start)
        held = min(begun + HOLD, true[-1].end)
        if segment.label == label and segment.end >= held - 1e-6 and segment.end > begun and begun < min(time + WITHIN, until):
            return begun - time
    return None


def joined(segments: list[Segment]) -> list[Segment]:
    """Neighbours of one label made one."""
    found = []
    for segment in segments:
        if found and found[-1].label == segment.label:
            found[-1] = Segment(found[-1].start, segment.end, segment.label)
        else:
            found.append(segment)
    return found


def matched(true, found, collar: float) -> list[float]:
    """Distances of switches (time, label) that are matched one to one, the closest pairs first."""
    pairs = sorted((abs(a - b), i, j) for i, (a, x) in enumerate(true) for j, (b, y) in enumerate(found)
                   if x == y and abs(a - b) <= collar + 1e-9)
    used_true, used_found, gaps = set(), set(), []
    for gap, i, j in pairs:
        if i not in used_true and j not in used_found:
            used_true.add(i)
            used_found.add(j)
            gaps.append(gap)
    return gaps


def agreement(true: list[Segment], found: list[Segment]) -> float:
    """Seconds in which both say the same."""
    edges = sorted({edge for segment in [*true, *found] for edge in (segment.start, segment.end)})
    end = true[-1].end
    return sum(b - a for a, b in zip(edges, edges[1:]) if b <= end + 1e-9 and label_at(true, (a + b) / 2) == label_at(found, (a + b) / 2))


def quantile(values: list[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


def interest_errors(words: list[str], interesting: list[bool], hypothesis: str, normaliser: str = "basic") -> tuple[int, int]:
    """(errors at the words of interest, their number) after normalisation.

    Substituted and deleted words of interest are errors, and inserted words right behind one (at the start: before one).
    """
    normalise = normaliser_by_name(normaliser)
    tokens = [(token, flag) for word, flag in zip(words, interesting, strict=True) for token in normalise(word).split()]
    flags, total = [flag for _, flag in tokens], sum(flag for _, flag in tokens)
    if not total:
        return 0, 0
    errors = 0
    output = jiwer.process_words(" ".join(token for token, _ in tokens), normalise(hypothesis))
    for chunk in output.alignments[0]:
        if chunk.type == "insert":
            errors += flags[max(0, chunk.ref_start_idx - 1)] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
        elif chunk.type != "equal":
            errors += sum(flags[chunk.ref_start_idx : chunk.ref_end_idx])
    return errors, total
