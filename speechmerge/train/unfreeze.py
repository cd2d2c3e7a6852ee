"""Gradual unfreezing (ULMFiT, Howard and Ruder 2018, arXiv 1801.06146): the top block learns first, then one more.

    speechmerge train ... --unfreeze-every 0.02      # of all steps; from 1 on: steps

Stage k begins at optimizer step k * every, counted from 0. The order is that from the output to the input: the blocks
of the decoder from the last to the first, then those of the encoder, then what lies in no block (embeddings,
convolutions, final norms). A head beside the pre-trained network learns from the start. Only what the training would
train anyway counts: the factors of a LoRA, or with full tuning the weights. Stages follow from the step alone, so that
a training that was interrupted goes on in the same one.
"""
import logging

from transformers import TrainerCallback

from speechmerge.errors import UsageError
from speechmerge.train.schedule import share_of

log = logging.getLogger(__name__)
OUTSIDE = "outside"


def stages(named, block_of) -> list[tuple[str, list]]:
    """[(name, parameters)], the first to learn first. named: (name, parameter) in the order of the network."""
    blocks, parts = {}, []
    for name, parameter in named:
        place = block_of(name)
        blocks.setdefault(place, []).append(parameter)
        if place and place[0] not in parts:
            parts.append(place[0])
    inside = sorted((place for place in blocks if place), key=lambda place: (-parts.index(place[0]), -place[1]))
    found = [(f"{part}.{index}".lstrip("."), blocks[part, index]) for part, index in inside]
    return [*found, (OUTSIDE, blocks[None])] if None in blocks else found


def steps_of(every: float, steps: int) -> int:
    """Of one stage; `every`: share of all steps, or from 1 on steps."""
    return int(every) if every >= 1 else max(1, share_of(every, steps))


class Unfreezing(TrainerCallback):
    """Lets the parameters of a stage take gradients from its step on. To be made when all that will ever learn does."""

    def __init__(self, speech, every: float):
        learning = [(name, parameter) for name, parameter in speech.core.named_parameters() if parameter.requires_grad]
        self.every, self.stages, self.reached = every, stages(learning, speech.block_of), None

    def on_train_begin(self, args, state, control, **kwargs):
        """Raises UsageError where the last stage would never begin."""
        last = (len(self.stages) - 1) * steps_of(self.every, state.max_steps)
        if last >= state.max_steps:
            raise UsageError(f"--unfreeze-every {self.every:g}: {self.stages[-1][0]}, the last of {len(self.stages)} "
                             f"stages, would learn from step {last} on, but there are only {state.max_steps}; expected "
                             f"at most {1 / len(self.stages):.3g}")

    def on_step_begin(self, args, state, control, **kwargs):
        reached = min(state.global_step // steps_of(self.every, state.max_steps), len(self.stages) - 1)
        if reached == self.reached:
            return control
        for place, (_, parameters) in enumerate(self.stages):
            for parameter in parameters:
                parameter.requires_grad = place <= reached
        self.reached = reached
        log.info("step %d: learning down to %s, stage %d of %d", state.global_step, self.stages[reached][0],
                 reached + 1, len(self.stages))
        return control
