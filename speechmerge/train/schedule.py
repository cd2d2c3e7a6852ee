"""Stable fine-tuning of Speech-FT (arXiv 2502.12672): when the encoder learns, and how fast.

    lr(s) / peak = s / W             s < W = int(warmup N)       warm-up
                   1                 s < H = W + int(hold N)     hold
                   (N - s) / (N - H)                             linear to zero

For the first `freeze_encoder_share` of the N steps only the head is trained, so that an untrained head does not pull
the encoder away from what it knows: before optimizer step int(share N), counted from 0, the encoder has no gradients.
"""
import functools

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

EDGE = 1e-9  # 0.29 * 100 is just below 29 in floating point


def share_of(share: float, steps: int) -> int:
    """The whole steps in a share of all."""
    return int(share * steps + EDGE)


def stable_factor(step: int, *, warm: int, hold_end: int, steps: int) -> float:
    """Of the peak learning rate, at optimizer step `step`, counted from 0."""
    if step < warm:
        return step / warm
    if step < hold_end:
        return 1.0
    return max(steps - step, 0) / max(steps - hold_end, 1)


def stable_schedule(optimizer, options, steps: int) -> LambdaLR:
    warm = int(options.warmup) if options.warmup >= 1 else share_of(options.warmup, steps)
    hold_end = warm + share_of(options.hold, steps)
    return LambdaLR(optimizer, functools.partial(stable_factor, warm=warm, hold_end=hold_end, steps=steps))


class Pull:
    """The penalty of weight-space regularisation (L2-SP, Li et al. 2018): |theta - theta_0|^2 over what is trained."""

    def __init__(self, parameters):
        self.pairs = [(parameter, parameter.detach().clone()) for parameter in parameters if parameter.requires_grad]

    def __call__(self) -> torch.Tensor:
        return sum(((parameter - start).float().square().sum() for parameter, start in self.learning()), torch.zeros(()))

    def learning(self) -> list[tuple]:
        """(parameter, where it started) of those that take gradients now."""
        return [(parameter, start) for parameter, start in self.pairs if parameter.requires_grad]

    @torch.no_grad()
    def add_gradients(self, factor: float):
        """Those of factor * |theta - theta_0|^2, added to what the parameters have."""
        for parameter, start in self.learning():
            gradient = 2 * factor * (parameter - start)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


class Early(TrainerCallback):
    """Calls `keep(step)` when a share of all steps is done: earlier points of a fine-tuning, to compare merges with."""

    def __init__(self, shares, keep):
        self.shares, self.keep = shares, keep

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in {share_of(share, state.max_steps) for share in self.shares}:
            self.keep(state.global_step)
        return control


class Freezing(TrainerCallback):
    """The pre-trained network takes no gradients before a share of all steps is done. What never does stays so."""

    def __init__(self, speech, share: float):
        self.share = share
        self.parameters = [parameter for parameter in speech.core.parameters() if parameter.requires_grad]

    def on_step_begin(self, args, state, control, **kwargs):
        learns = state.global_step >= share_of(self.share, state.max_steps)
        if self.parameters and self.parameters[0].requires_grad != learns:
            for parameter in self.parameters:
                parameter.requires_grad = learns
        return control
