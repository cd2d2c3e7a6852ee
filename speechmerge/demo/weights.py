"""Weights of many systems for one loaded model, that can be changed in no time.

    weights = KeptWeights(model, limit=4 << 30)
    with weights.of(system):        # base + adapter in place, the very bits that `decode` computes with
        model.generate(batch, task)
"""
import contextlib
import zlib
from itertools import chain

import torch

from speechmerge.decode import weights_of


class KeptWeights:
    """What a system changes of the base is computed once, as `decode` does, and kept beside it on the model's device.

    limit: bytes of kept tensors; what does not fit is put in place anew each time, which takes seconds.
    """

    def __init__(self, model, limit: int):
        self.model, self.limit, self.size = model, limit, 0
        self.kept: dict[str, list] = {}  # name of the system -> [(parameter, its value)]
        self.own = list(chain(model.core.parameters(), model.core.buffers()))
        self.sums = [checksum(tensor) for tensor in self.own] if limit else []  # a copy to compare with could be too large

    @contextlib.contextmanager
    def of(self, system):
        """Within the block the model has the system's weights; after it those of the base, bit for bit."""
        changed = self.kept.get(system.name)
        if changed is None:
            with weights_of(self.model, system):
                yield
            return
        before = [(own, own.data) for own, _ in changed]
        try:
            for own, value in changed:
                own.data = value
            yield
        finally:
            for own, value in before:
                own.data = value

    def keep(self, system) -> bool:
        """Make the system's weights now; False where they do not fit into the limit."""
        if system.path is None or system.kind == "routed" or system.name in self.kept:
            return True
        if not self.limit:
            return False
        with weights_of(self.model, system):
            changed = [own for own, before in zip(self.own, self.sums) if checksum(own) != before]
            size = sum(own.numel() * own.element_size() for own in changed)
            if self.size + size > self.limit:
                return False
            self.kept[system.name] = [(own, own.detach().clone()) for own in changed]
        self.size += size
        return True


def checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
