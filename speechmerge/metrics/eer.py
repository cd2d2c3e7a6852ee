"""Equal error rate and minimum detection cost of verification scores.

The EER is where the ROC, its operating points joined by straight lines, meets miss rate = false alarm rate: what
`brentq` on the interpolated ROC gives, exactly. Trials of equal score are accepted or rejected together.
"""
import numpy as np

from speechmerge.errors import SpeechMergeError


def operating_points(scores, targets, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """(miss rate, false alarm rate), each [..., thresholds + 1], from reject-all to accept-all.

    scores: [trials], higher is more alike; targets: bool [trials]; weights: counts [trials] or [repetitions, trials].
    Rates of a repetition without targets (or non-targets) are NaN.
    """
    scores, targets = np.asarray(scores, dtype=float), np.asarray(targets, dtype=bool)
    if scores.shape != targets.shape or not np.isfinite(scores).all():
        raise SpeechMergeError("EER: every trial needs one finite score; decode again")
    if targets.all() or not targets.any():
        raise SpeechMergeError(f"EER: found {int(targets.sum())} target and {int((~targets).sum())} nontarget trials, "
                               "expected some of both; check the `trials` file")
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    accepted = np.cumsum(np.where(targets, weights, 0)[..., order], axis=-1)
    alarms = np.cumsum(np.where(targets, 0, weights)[..., order], axis=-1)
    zero = np.zeros(accepted.shape[:-1] + (1,))
    with np.errstate(invalid="ignore", divide="ignore"):
        miss = 1 - np.concatenate([zero, accepted[..., last_of_ties]], axis=-1) / accepted[..., -1:]
        alarm = np.concatenate([zero, alarms[..., last_of_ties]], axis=-1) / alarms[..., -1:]
    return miss, alarm


def equal_error_rate(scores, targets, weights=None):
    """EER as a fraction (an array [repetitions] for weights [repetitions, trials])."""
    miss, alarm = operating_points(scores, targets, weights)
    gap = alarm - miss  # rises from -1 to +1
    right = np.argmax(gap >= 0, axis=-1)[..., None]
    left = right - 1
    gap_left, gap_right = (np.take_along_axis(gap, index, axis=-1) for index in (left, right))
    alarm_left, alarm_right = (np.take_along_axis(alarm, index, axis=-1) for index in (left, right))
    share = -gap_left / (gap_right - gap_left)
    eer = (alarm_left + share * (alarm_right - alarm_left))[..., 0]
    return float(eer) if np.ndim(eer) == 0 else eer


def min_dcf(scores, targets, p_target: float = 0.01, c_miss: float = 1.0, c_false_alarm: float = 1.0, weights=None):
    """Minimum detection cost, divided by the cost of the better trivial system (as Kaldi and s3prl do).

    A float, or an array [repetitions] for weights [repetitions, trials].
    """
    miss, alarm = operating_points(scores, targets, weights)
    cost = c_miss * p_target * miss + c_false_alarm * (1 - p_target) * alarm
    least = cost.min(axis=-1) / min(c_miss * p_target, c_false_alarm * (1 - p_target))
    return float(least) if np.ndim(least) == 0 else least
