"""What a router hears: states of one layer of the frozen base encoder, averaged over a few positions.

Short audio is encoded by itself, not in the middle of 30 s of silence, whatever context the base decodes with: a router
must cost little, and what it learns from is what it hears later.
"""
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from speechmerge.data.batching import batches_by_length
from speechmerge.errors import UsageError
from speechmerge.files import atomic_file, fingerprint
from speechmerge.models.base import Context, Item


@dataclass(frozen=True)
class Hearing:
    """layer: of the encoder, see SpeechModel.encoder_states; stride: positions that are averaged to one state.

    seconds: of the beginning of an utterance that are heard, 0: all; step: the context is a multiple of it (seconds).
    """

    layer: int = -1
    stride: int = 4
    seconds: float = 5.0
    step: float = 1.0

    def __post_init__(self):
        if self.stride < 1 or self.seconds < 0 or self.step <= 0:
            raise UsageError(f"router: stride {self.stride}, seconds {self.seconds}, step {self.step}: expected a stride from "
                             "1, seconds from 0 and a step above 0")


@dataclass(frozen=True)
class Stretch:
    """Of an example, the part that is heard (seconds)."""

    example: object
    start: float
    seconds: float


def beginning(model, example, hearing: Hearing) -> Stretch:
    whole = min(model.seconds(example), model.full_seconds)
    return Stretch(example, 0.0, min(whole, hearing.seconds) if hearing.seconds else whole)


def hear(model, task, stretches: list[Stretch], hearing: Hearing, cache, batch_size: int = 32,
         dtype=torch.float32) -> list[torch.Tensor]:
    """One tensor [t, d] on the CPU for each stretch; the same in any batch, since batches have one length."""
    found = [None] * len(stretches)
    with short_context(model, hearing):
        shapes = [(model.context_frames(s.seconds), model.prefix_length(s.example, task)) for s in stretches]
        for indices in batches_by_length(shapes, batch_size):
            batch = model.collate([item_of(model, stretches[i], cache) for i in indices], task)
            states, lengths = model.encoder_states(batch, hearing.layer)
            for index, rows, length in zip(indices, averaged(states, lengths, hearing.stride), lengths.tolist()):
                found[index] = rows[: -(-length // hearing.stride)].to("cpu", dtype)
    return found


def item_of(model, stretch: Stretch, cache) -> Item:
    """The stretch cut out of the features, whose last axis is time."""
    features, total = cache.get(stretch.example, model.features), model.seconds(stretch.example)
    rate = features.shape[-1] / min(total, model.full_seconds)
    start = round(stretch.start * rate)
    length = max(2, round(stretch.seconds * rate))
    return Item(replace(stretch.example, duration=stretch.seconds), features[..., start : start + length], stretch.seconds)


def averaged(states: torch.Tensor, lengths: torch.Tensor, stride: int) -> torch.Tensor:
    """[b, t, d] -> [b, ceil(t / stride), d]: means of what is heard in `stride` positions (0 where nothing is)."""
    heard = (torch.arange(states.shape[1], device=states.device) < lengths.to(states.device)[:, None])[..., None]
    missing = -states.shape[1] % stride
    pad = torch.nn.functional.pad
    sums = pad(states * heard, (0, 0, 0, missing)).unflatten(1, (-1, stride)).sum(2)
    counts = pad(heard, (0, 0, 0, missing)).unflatten(1, (-1, stride)).sum(2)
    return sums / counts.clamp(min=1)


@contextlib.contextmanager
def short_context(model, hearing: Hearing):
    before = model.context
    model.context = Context("dynamic", hearing.step, hearing.step)
    try:
        yield
    finally:
        model.context = before


def remembered(folder, key: dict, compute) -> list[torch.Tensor]:
    """compute(), unless the states of this key lie in `folder`; float16, on disk and in memory."""
    path = Path(folder) / f"{fingerprint(key)[:24]}.safetensors"
    if not path.is_file():
        found = compute()
        lengths = torch.tensor([len(rows) for rows in found])
        with atomic_file(path, "wb") as file:
            file.write(save({"rows": torch.cat(found).half(), "lengths": lengths}))
    kept = load_file(path)
    return list(kept["rows"].split(kept["lengths"].tolist()))

