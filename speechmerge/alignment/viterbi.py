"""The best monotone way of frames through a row of states, some of which may be left out."""
import numpy as np

from speechmerge.errors import SpeechMergeError


def best_path(scores: np.ndarray, optional: np.ndarray) -> np.ndarray:
    """The state of each frame [T] that maximises the sum of its scores.

    scores: [T, S] log-likelihood of frame t in state s; optional: [S] bool, never two neighbours. A path begins in the
    first state, ends in the last and takes every state in order for at least one frame; optional ones may be left out,
    also at both ends (Viterbi, 1967). SpeechMergeError where there are fewer frames than states that must be taken.
    """
    frames, states = scores.shape
    optional = np.asarray(optional, bool)
    if frames < (~optional).sum():
        raise SpeechMergeError(f"{frames} frames for {(~optional).sum()} states; the audio is too short for its "
                               "transcript")
    padded = np.full(states + 2, -np.inf)  # scores of the best ways to each state, after two that nothing comes from
    best, one, two = padded[2:], padded[1:-1], padded[:-2]
    best[: 2 if optional[0] else 1] = scores[0, : 2 if optional[0] else 1]
    leap = np.full(states, -np.inf)
    leap[2:][optional[1:-1]] = 0.0
    moves, ways = np.zeros((frames, states), np.int8), np.empty((3, states))
    for frame in range(1, frames):
        ways[0], ways[1] = best, one
        np.add(two, leap, out=ways[2])
        moves[frame] = ways.argmax(0)
        np.add(ways.max(0), scores[frame], out=best)
    state = states - 1 if not (optional[-1] and states > 1 and best[-2] > best[-1]) else states - 2
    path = np.empty(frames, int)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= int(moves[frame, state])
    return path
