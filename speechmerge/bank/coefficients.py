"""How much of each adapter: one tensor whose last axis is the adapters.

    Coefficients.per_task([0.7, 0.3])                    # [T]        the same everywhere
    Coefficients.per_layer(tensor)                       # [L, T]     L: the bank's groups, see AdapterBank.groups
    Coefficients.per_utterance(tensor)                   # [U, T]     one row for each utterance of the batch
    Coefficients.per_frame(tensor)                       # [U, F, T]  F: positions of the encoder's output

A policy, a search, a learner and a router are four ways to fill it. Gradients flow through.
"""
from dataclasses import dataclass

import torch

from speechmerge.errors import SpeechMergeError

AXES = {"task": 1, "layer": 2, "utterance": 2, "frame": 3, "utterance_layer": 3}


@dataclass(frozen=True)
class Coefficients:
    """`values`: float tensor; `kind`: what its axes before the last mean."""

    values: torch.Tensor
    kind: str

    def __post_init__(self):
        if self.values.dim() != AXES[self.kind]:
            raise SpeechMergeError(f"coefficients {self.kind}: found shape {tuple(self.values.shape)}, expected "
                                   f"{AXES[self.kind]} axes, the last one the adapters")
        if not torch.isfinite(self.values.detach()).all():
            raise SpeechMergeError(f"coefficients {self.kind}: some are NaN or infinite")

    @classmethod
    def per_task(cls, values) -> "Coefficients":
        return cls(_tensor(values), "task")

    @classmethod
    def per_layer(cls, values) -> "Coefficients":
        return cls(_tensor(values), "layer")

    @classmethod
    def per_utterance(cls, values) -> "Coefficients":
        return cls(_tensor(values), "utterance")

    @classmethod
    def per_frame(cls, values) -> "Coefficients":
        return cls(_tensor(values), "frame")

    @classmethod
    def per_utterance_and_layer(cls, values) -> "Coefficients":
        """[U, L, T]"""
        return cls(_tensor(values), "utterance_layer")

    def check(self, adapters: int, groups: int):
        """Raises SpeechMergeError where the tensor does not fit a bank of so many adapters and groups."""
        found = tuple(self.values.shape)
        if found[-1] != adapters:
            raise SpeechMergeError(f"coefficients {self.kind}: {found[-1]} in the last axis, the bank has {adapters} adapters")
        if self.kind.endswith("layer") and found[-2] != groups:
            raise SpeechMergeError(f"coefficients {self.kind}: {found[-2]} layers, the bank has {groups}")

    @property
    def rows(self) -> int | None:
        """The number of utterances, None where they all have the same."""
        return None if self.kind in ("task", "layer") else self.values.shape[0]

    def of(self, group: int, rows: int, positions: int | None) -> torch.Tensor:
        """For one layer's input of `rows` sequences with `positions` (None: not positions of the encoder).

        [T], or [rows, 1, T], or [rows, positions, T]. Rows are utterances, each repeated for its beams or labels.
        """
        if self.kind == "task":
            return self.values
        if self.kind == "layer":
            return self.values[group]
        values = self.values[:, group] if self.kind == "utterance_layer" else self.values
        if values.dim() == 2:
            values = values[:, None]
        elif positions != values.shape[1]:  # the decoder hears the whole utterance
            values = values.mean(1, keepdim=True)
        utterances = values.shape[0]
        if rows % utterances:
            raise SpeechMergeError(f"coefficients of {utterances} utterances, but the batch has {rows} sequences: expected as many, "
                                   "or a multiple (beams)")
        return values if rows == utterances else values.repeat_interleave(rows // utterances, dim=0)


def _tensor(values) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=torch.float32)
