"""From examples to batches: features computed once, batches of like length, the same order after an interruption."""
import logging
import math
import random

from speechmerge.errors import SpeechMergeError

log = logging.getLogger(__name__)


def audio_seconds(example) -> float:
    """Seconds of all audio of an example together, from its data directory or else from the files' headers."""
    if example.duration is not None:
        return example.duration
    from speechmerge.data.audio import AudioError, audio_info

    try:
        return sum(audio_info(path)[0] for path in example.audio)
    except AudioError as error:
        raise SpeechMergeError(f"utterance {example.id}: {error}; run `speechmerge validate` on its data") from error


class FeatureCache:
    """Features by audio, kept in memory up to `limit` bytes, computed again beyond that.

    What is kept is what the audio says; what is drawn anew in each epoch (masks) is applied to copies.
    """

    def __init__(self, limit: int = 2 << 30):
        self.limit, self.size, self.kept = limit, 0, {}

    def get(self, example, compute):
        if example.audio in self.kept:
            return self.kept[example.audio]
        features = compute(example.audio, example.id)
        self.size += features.numel() * features.element_size()
        if self.size <= self.limit:
            self.kept[example.audio] = features
        return features


def batches_by_length(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Indices in batches whose members all have the same length, shortest first: what decoding uses."""
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    return [group[i : i + batch_size] for _, group in sorted(groups.items()) for i in range(0, len(group), batch_size)]


class BucketBatchSampler:
    """Shuffled batches of similar length. The order depends on seed and epoch alone, so a resumed run repeats it.

    Indices are shuffled, cut into pools of `pool` batches, sorted by length within a pool, and the batches of all pools
    are shuffled again.
    """

    drop_last = False

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0, pool: int = 8):
        if not lengths:
            raise SpeechMergeError("no utterances to train on; is the data directory the right one?")
        self.lengths, self.batch_size, self.seed, self.pool, self.epoch = lengths, batch_size, seed, pool, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self):
        order = random.Random(f"{self.seed}/{self.epoch}")
        indices = list(range(len(self.lengths)))
        order.shuffle(indices)
        span = self.pool * self.batch_size
        batches = []
        for start in range(0, len(indices), span):
            pool = sorted(indices[start : start + span], key=lambda index: self.lengths[index])
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        order.shuffle(batches)
        yield from batches


class DurationBatchSampler:
    """Shuffled batches of at most `batch_seconds` of padded audio: members times the longest member.

    Utterances are grouped by padded length; within a group, they are shuffled and cut into batches that are as large as
    the group allows, and what is left over joins the next longer group. So every epoch has the same number of batches,
    with other members, and hardly any padding; order and members depend on seed and epoch alone.
    """

    drop_last = False
    STEP = 0.5  # s: lengths within a step count as equal

    def __init__(self, seconds: list[float], batch_seconds: float, seed: int = 0):
        if not seconds:
            raise SpeechMergeError("no utterances to train on; is the data directory the right one?")
        self.batch_seconds, self.seed, self.epoch = batch_seconds, seed, 0
        groups: dict[int, list[int]] = {}
        for index, duration in enumerate(seconds):
            groups.setdefault(max(1, math.ceil(duration / self.STEP - 1e-6)), []).append(index)
        self.groups = sorted(groups.items())
        self.count = sum(1 for _ in self._batches(random.Random(0)))

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def _batches(self, order: random.Random):
        left = []
        for steps, members in self.groups:
            size = max(1, int(self.batch_seconds / (steps * self.STEP) + 1e-6))
            members = members.copy()
            order.shuffle(members)
            if len(left) >= size:  # too many for a longer batch: they are one of their own
                yield left
                left = []
            members = left + members
            whole = len(members) // size * size
            for start in range(0, whole, size):
                yield members[start : start + size]
            left = members[whole:]
        if left:
            yield left

    def __iter__(self):
        order = random.Random(f"{self.seed}/{self.epoch}")
        batches = list(self._batches(order))
        order.shuffle(batches)
        yield from batches
