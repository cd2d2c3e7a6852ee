"""Augmentation in training: other speeds, and masks over the features (SpecAugment). No noise is added.

What an utterance gets follows from seed, epoch and utterance alone, so that a resumed run repeats it.

    augmentation = Augmentation(speeds=(0.9, 1.0, 1.1), time_masks=2, frequency_masks=2, seed=1)
    faster = augmentation.at_speed(example, epoch=3, longest=30.0)
    masked = augmentation.mask(features, faster, epoch=3)
"""
import hashlib
from dataclasses import dataclass, replace

import numpy as np

from speechmerge.data.audio import Sound

TIME_SHARE = 0.2  # of the frames, the most that one mask covers: short commands would vanish below a fixed width


@dataclass(frozen=True)
class Augmentation:
    """speeds: factors of which one is drawn (Ko et al. 2015); masks: how many, how wide at most (Park et al. 2019)."""

    speeds: tuple[float, ...] = ()
    time_masks: int = 0
    time_mask_frames: int = 100
    frequency_masks: int = 0
    frequency_mask_bins: int = 27
    seed: int = 0

    def draw(self, kind: str, example, epoch: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}/{epoch}/{kind}/{example.id}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def at_speed(self, example, epoch: int, seconds: float, longest: float):
        """The example, played at one of the speeds; at none that would make its `seconds` longer than `longest`."""
        speeds = [speed for speed in self.speeds if seconds / speed <= max(longest, seconds)]
        if not speeds:
            return example
        speed = speeds[int(self.draw("speed", example, epoch).integers(len(speeds)))]
        if speed == 1.0:
            return example
        audio = tuple(Sound(path, speed=speed) for path in example.audio)
        return replace(example, audio=audio, duration=example.duration and example.duration / speed)

    def mask(self, features, example, epoch: int):
        """A copy of (channels, frames) in which stretches of time and of frequency have the mean of all."""
        if not (self.time_masks or self.frequency_masks):
            return features
        draw, masked, mean = self.draw("mask", example, epoch), features.clone(), features.mean()
        channels, frames = features.shape
        for _ in range(self.frequency_masks):
            first, width = stretch(draw, channels, min(self.frequency_mask_bins, channels))
            masked[first : first + width] = mean
        for _ in range(self.time_masks):
            first, width = stretch(draw, frames, min(self.time_mask_frames, int(TIME_SHARE * frames)))
            masked[:, first : first + width] = mean
        return masked


def stretch(draw: np.random.Generator, length: int, widest: int) -> tuple[int, int]:
    """(first, width): the width uniform in [0, widest], the place uniform in what is left, as in SpecAugment."""
    width = int(draw.integers(widest + 1))
    return int(draw.integers(length - width + 1)), width
