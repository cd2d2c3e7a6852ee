"""Random masks that depend on what they are for, and on nothing else: not on order, threads, machine or hash seed."""
import hashlib

import numpy as np
import torch


def keep_mask(shape, drop_rate: float, seed: int, stream: str, name: str) -> torch.Tensor:
    """Boolean [shape], True with probability 1 - drop_rate. The generator's seed is sha256 of (seed, stream, name)."""
    digest = hashlib.sha256(f"{seed}\n{stream}\n{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return torch.from_numpy(generator.random(tuple(shape), dtype=np.float32) >= drop_rate)
