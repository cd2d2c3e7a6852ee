"""Masked prediction of units (HuBERT, arXiv 2106.07447). Killed and run again, it goes on from its last checkpoint.

    python tools/mini_upstream/pretrain.py --work DIR --units units1 --name iteration1 --steps 1000 \\
        --output-dir egs/mini/upstream
    python tools/mini_upstream/pretrain.py --work DIR --units units2 --name iteration2 --steps 2700 --start iteration1 \\
        --output-dir egs/mini/upstream

The loss is the cross entropy at masked frames plus HEARD times that at the others: short of data and time, naming what is
heard is the quicker start. A batch holds utterances of about one length, cut to the shortest of them: nothing is padded.
"""
import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from network import HOP, SEED, WINDOW, export, frames_of, make_model
from speech import Speech
from speechmerge.files import atomic_file
from units import UNITS

BATCH_SECONDS = 24
RATE, WARMUP = 1.2e-3, 200  # AdamW's learning rate after so many steps, then linear to 0
STARTS, SPAN = 0.055, 10  # share of the frames at which a mask of so many frames begins: 0.42 of all are masked
HEARD = 0.5  # weight of the loss at frames that are not masked
CHECKPOINT_EVERY = 100  # steps
SHORTEST = 0.5  # seconds


class Learner(nn.Module):
    """The network with the layer that names the unit, which is thrown away."""

    def __init__(self):
        super().__init__()
        self.model = make_model()
        self.unit = nn.Linear(self.model.config.hidden_size, UNITS)

    def forward(self, waves, masked):
        """(batch, samples), bool (batch, frames) -> (batch, frames, units)."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model(waves, mask_time_indices=masked).last_hidden_state
        return self.unit(hidden.float())


def mask(rng: random.Random, rows: int, frames: int) -> torch.Tensor:
    """bool (rows, frames): spans, in every row the same number of them."""
    masked = torch.zeros(rows, frames, dtype=torch.bool)
    for row in masked:
        for _ in range(max(1, round(STARTS * frames))):
            start = rng.randrange(max(1, frames - SPAN + 1))
            row[start : start + SPAN] = True
    return masked


class Batches:
    """Draws of utterances of about one length."""

    def __init__(self, speech: Speech, units: np.ndarray):
        self.speech, self.units = speech, units
        self.offsets = np.concatenate([[0], np.cumsum(frames_of(speech.lengths))])
        known = [n for n in range(len(speech.lengths) - len(speech.held_out)) if speech.lengths[n] > SHORTEST * 16000]
        self.order = sorted(known, key=lambda n: speech.lengths[n])

    def draw(self, rng: random.Random):
        middle = rng.randrange(len(self.order))
        size = max(4, round(BATCH_SECONDS * 16000 / self.speech.lengths[self.order[middle]]))
        near = range(max(0, middle - 10 * size), min(len(self.order), middle + 10 * size))
        return self.tensors([self.order[i] for i in rng.sample(near, size)], rng)

    def tensors(self, numbers: list[int], rng: random.Random):
        """Waves (batch, samples), units (batch, frames), masks; each utterance from a random place on."""
        frames = min(frames_of(self.speech.lengths[n]) for n in numbers)
        waves, units = [], []
        for number in numbers:
            first = rng.randint(0, int(frames_of(self.speech.lengths[number])) - int(frames))
            wave = self.speech[number][first * HOP :][: (frames - 1) * HOP + WINDOW]
            waves.append(torch.from_numpy(wave))
            units.append(torch.from_numpy(self.units[self.offsets[number] + first :][:frames].astype(np.int64)))
        return torch.stack(waves), torch.stack(units), mask(rng, len(numbers), int(frames))


@torch.no_grad()
def held_out_score(learner: Learner, batches: Batches) -> tuple[float, float]:
    """(loss, accuracy) at the masked frames of the held-out utterances, always the same masks."""
    learner.eval()
    rng, losses, hits, count = random.Random(SEED), 0.0, 0, 0
    numbers = [n for n in batches.speech.held_out if batches.speech.lengths[n] > SHORTEST * 16000]
    for number in numbers:
        waves, units, masked = batches.tensors([number], rng)
        logits = learner(waves, masked)[masked]
        losses += F.cross_entropy(logits, units[masked], reduction="sum").item()
        hits += (logits.argmax(-1) == units[masked]).sum().item()
        count += len(logits)
    learner.train()
    return losses / count, hits / count


def learning_rate(step: int, steps: int) -> float:
    return RATE * min((step + 1) / WARMUP, 1 - step / steps)


def load(path: Path, learner, optimizer=None) -> int:
    state = torch.load(path, weights_only=True)
    learner.load_state_dict(state["model"])
    if optimizer:
        optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def train(args):
    torch.set_num_threads(1)
    batches = Batches(Speech(args.work), np.load(args.work / f"{args.units}.npy"))
    torch.manual_seed(SEED)
    learner, first = Learner(), 0
    optimizer = torch.optim.AdamW(learner.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    checkpoint = args.work / f"{args.name}.pt"
    if checkpoint.exists():
        first = load(checkpoint, learner, optimizer)
    elif args.start:
        load(args.work / f"{args.start}.pt", learner)
        nn.init.normal_(learner.unit.weight, std=0.02)  # the units are others
    started, total, hits, count = time.time(), 0.0, 0, 0
    for step in range(first, args.steps):
        rng = random.Random(f"{SEED}:{args.name}:{step}")  # a step's data depends on its number alone
        waves, units, masked = batches.draw(rng)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        logits = learner(waves, masked)
        heard = F.cross_entropy(logits[~masked], units[~masked])
        logits, units = logits[masked], units[masked]
        loss = F.cross_entropy(logits, units)
        (loss + HEARD * heard).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total, hits, count = total + loss.item(), hits + (logits.argmax(-1) == units).sum().item(), count + len(logits)
        if (step + 1) % 50 == 0:
            print(f"{args.name} step {step + 1} loss {total / 50:.3f} accuracy {hits / count:.3f} heard {heard.item():.3f} "
                  f"seconds {time.time() - started:.0f}", flush=True)
            total, hits, count = 0.0, 0, 0
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == args.steps:
            with atomic_file(checkpoint, "wb") as file:
                torch.save({"model": learner.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, file)
    loss, accuracy = held_out_score(learner, batches)
    print(f"{args.name} held out: loss {loss:.3f} accuracy {accuracy:.3f}", flush=True)
    if args.output_dir:
        export(learner.model.state_dict(), args.output_dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where speech.py and units.py wrote; for checkpoints, too")
    parser.add_argument("--units", required=True)
    parser.add_argument("--name", required=True, help="of the checkpoint")
    parser.add_argument("--start", help="checkpoint to take the weights from")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--output-dir", type=Path, help="where the model is written when it is done")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
