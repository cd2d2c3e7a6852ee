"""Loudness by ITU-R BS.1770-4 (EBU R 128) and silence at both ends of an utterance.

    integrated_loudness(samples, 48000)      # LUFS; a 997 Hz sine at full scale in one channel has -3.01
    samples, limited = normalise_loudness(samples, 16000, target=-23.0)
    samples = trim_silence(samples, 16000, threshold=40.0, margin=0.1)
"""
import math
from functools import lru_cache

import numpy as np

BLOCK, STEP = 0.4, 0.1  # s: blocks of 400 ms that overlap by 75 %
ABSOLUTE_GATE = -70.0  # LUFS: below it there is silence
RELATIVE_GATE = -10.0  # LU below the loudness of what passed the absolute gate
OFFSET = -0.691  # dB: what the K filter adds at 997 Hz
PEAK = 0.99  # of full scale: louder than this is not made


@lru_cache(maxsize=8)
def k_weighting(rate: int) -> tuple:
    """((b, a), (b, a)): the shelf of the head and the high-pass of BS.1770, for any rate.

    The standard tabulates them at 48 kHz; these are the analogue prototypes of its tables (B. De Man, 2014, Evaluation
    of implementations of the EBU R128 loudness measurement), which give the tables back at 48 kHz.
    """
    gain, q, k = 3.999843853973347, 0.7071752369554196, math.tan(math.pi * 1681.974450955533 / rate)
    high = 10 ** (gain / 20)
    middle, norm = high ** 0.4996667741545416, 1 + k / q + k * k
    shelf = ([(high + middle * k / q + k * k) / norm, 2 * (k * k - high) / norm,
              (high - middle * k / q + k * k) / norm], [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm])
    q, k = 0.5003270373238773, math.tan(math.pi * 38.13547087602444 / rate)
    norm = 1 + k / q + k * k
    return shelf, ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm])


def integrated_loudness(samples: np.ndarray, rate: int) -> float:
    """Gated loudness of mono [samples] in LUFS; -inf for silence. Shorter than a block: the whole is one block."""
    from scipy.signal import lfilter

    weighted = np.asarray(samples, dtype=np.float64)
    for b, a in k_weighting(rate):
        weighted = lfilter(b, a, weighted)
    power = block_powers(weighted, rate)
    power = power[power > from_lufs(ABSOLUTE_GATE)]
    if not len(power):
        return -math.inf
    return to_lufs(power[power > from_lufs(to_lufs(power.mean()) + RELATIVE_GATE)].mean())


def block_powers(weighted: np.ndarray, rate: int) -> np.ndarray:
    """Mean square of each block."""
    size, step = round(BLOCK * rate), round(STEP * rate)
    if len(weighted) <= size:
        return np.array([np.square(weighted).mean()])
    total = np.concatenate([[0.0], np.cumsum(np.square(weighted))])
    starts = np.arange(0, len(weighted) - size + 1, step)
    return (total[starts + size] - total[starts]) / size


def to_lufs(power: float) -> float:
    return OFFSET + 10 * math.log10(power)


def from_lufs(lufs: float) -> float:
    return 10 ** ((lufs - OFFSET) / 10)


def normalise_loudness(samples: np.ndarray, rate: int, target: float) -> tuple[np.ndarray, bool]:
    """(samples at `target` LUFS, False), or as loud as full scale allows and True. Silence stays as it is."""
    found, peak = integrated_loudness(samples, rate), float(np.abs(samples).max())
    if found == -math.inf:
        return samples, False
    gain = 10 ** ((target - found) / 20)
    limited = gain * peak > PEAK
    return (samples * np.float32(PEAK / peak if limited else gain)).astype(np.float32), limited


def trim_silence(samples: np.ndarray, rate: int, threshold: float, margin: float = 0.1) -> np.ndarray:
    """Without what is, at the beginning and at the end, more than `threshold` dB below the loudest 25 ms.

    `margin` seconds of it stay on both sides. Silence altogether stays as it is.
    """
    size, step = round(0.025 * rate), round(0.010 * rate)
    if len(samples) <= size:
        return samples
    total = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    starts = np.arange(0, len(samples) - size + 1, step)
    power = (total[starts + size] - total[starts]) / size
    if power.max() <= 0:
        return samples
    loud = np.flatnonzero(power > power.max() * 10 ** (-threshold / 10))
    first = starts[loud[0]] - round(margin * rate)
    last = starts[loud[-1]] + size + round(margin * rate)
    return samples[max(0, first) : last]
