"""Merges of LoRA written down anew, dense, in float64 and as slowly as they read, for the errors that lora.py reports.

Adapters are read with safetensors alone: delta = alpha / r * B A, B and A from the folder that PEFT wrote.
"""
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

PREFIX = "base_model.model."


class Adapter:
    """`modules`; `delta(module)` -> float64 [out, in]."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "adapter_config.json").read_text())
        self.file = safe_open(folder / "adapter_model.safetensors", "np")
        self.modules = sorted(key.removesuffix(".lora_A.weight").removeprefix(PREFIX) for key in self.file.keys()
                              if "lora_A" in key)

    def delta(self, module: str) -> np.ndarray:
        A = self.file.get_tensor(f"{PREFIX}{module}.lora_A.weight").astype(np.float64)
        B = self.file.get_tensor(f"{PREFIX}{module}.lora_B.weight").astype(np.float64)
        rank = self.config.get("rank_pattern", {}).get(module, self.config["r"])
        alpha = self.config.get("alpha_pattern", {}).get(module, self.config["lora_alpha"])
        assert len(A) == rank and not self.config.get("use_rslora"), module
        return alpha / rank * B @ A


def exact_sum(adapters, module: str, weights) -> np.ndarray:
    return sum(weight * adapter.delta(module) for adapter, weight in zip(adapters, weights))


def threshold(magnitudes: np.ndarray, keep: float):
    """The smallest of the floor(keep * N) largest, of the same type."""
    count = int(keep * len(magnitudes))
    place = len(magnitudes) - count
    return np.partition(magnitudes, place)[place] if count else magnitudes.dtype.type(np.inf)


def whole_thresholds(adapters, keep: float) -> list:
    """One per adapter, over all its modules. float32: N values are held at once."""
    return [threshold(np.concatenate([np.abs(adapter.delta(module)).astype(np.float32).ravel()
                                      for module in adapter.modules]), keep) for adapter in adapters]


def ties(adapters, module: str, keep: float, thresholds=None) -> np.ndarray:
    """Trim to `keep` (per tensor, or by the thresholds given), elect by the sum, mean of those that agree."""
    deltas = [adapter.delta(module) for adapter in adapters]
    thresholds = thresholds or [threshold(np.abs(delta).ravel(), keep) for delta in deltas]
    trimmed = np.stack([np.where(np.abs(delta).astype(limit.dtype) >= limit, delta, 0)
                        for delta, limit in zip(deltas, thresholds)])
    agrees = (np.sign(trimmed) == np.sign(trimmed.sum(0))) & (trimmed != 0)
    return (trimmed * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


def best_error(matrix: np.ndarray, rank: int) -> float:
    """Squared Frobenius error of the best approximation of this rank: the eigenvalues of the smaller Gram matrix."""
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return float(np.clip(np.linalg.eigvalsh(gram)[:-rank], 0, None).sum())


def relative_errors(folder: Path, target, rank: int | None) -> dict:
    """Of a merged adapter against `target(module)`: relative Frobenius error over all modules, the ratio of norms, and
    with a rank the smallest possible error."""
    merged, wrong, size, own, least = Adapter(folder), 0.0, 0.0, 0.0, 0.0
    for module in merged.modules:
        found, wanted = merged.delta(module), target(module)
        wrong, size, own = wrong + ((found - wanted) ** 2).sum(), size + (wanted ** 2).sum(), own + (found ** 2).sum()
        least += best_error(wanted, rank) if rank else 0.0
    return {"error": float((wrong / size) ** 0.5), "norm_ratio": float((own / size) ** 0.5),
            "least": float((least / size) ** 0.5)}
