"""Pre-train the mini base on the speech of speech.py. Killed and run again, it goes on from its last checkpoint.

    python tools/mini_base/pretrain.py --work DIR --steps 14000 [--export-every 2000 --export-to DIR]

The loss is the decoder's cross entropy plus that of a character CTC head on the encoder, which is thrown away. Phrases
first, then sentences, then the other tasks too. A batch holds one context length, as decoding does: the utterance's
duration rounded up to 0.5 s, at times a longer one, up to the full 4 s.
"""
import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from build import SEED, make_extractor, make_model, make_tokenizer
from speechmerge.files import atomic_file
from speechmerge.models.whisper_encoder import AnyLengthEncoder, LogMel

BATCH = 32
RATE, WARMUP = 2e-3, 200  # AdamW's learning rate, constant to half of the steps, then linear to 2 %
STEP_FRAMES, LEAST_FRAMES, FULL_FRAMES = 25, 25, 200  # 0.5 s in frames of 20 ms
SHARES = {"asr": 0.46, "request": 0.12, "phrase": 0.04, "few": 0.06, "kws": 0.04, "intent": 0.09, "emotion": 0.08, "langid": 0.06,
          "speaker_id": 0.05}
PAIR_SHARES = {"speaker_ver": 0.6, "asr": 0.4}  # of every eighth batch: pairs are long, so they go with long sentences
SEEN_SHARE = 0.04  # of a label task's draws come from the pool with the task's own labels
CHECKPOINT_EVERY = 500  # steps


class Speech:
    """The features on disk, and batches of them drawn from the pools."""

    def __init__(self, work: Path, tokenizer):
        index = json.loads((work / "index.json").read_text(encoding="utf-8"))
        frames = [entry["frames"] for entry in index]
        self.offsets = np.concatenate([[0], np.cumsum(frames)])
        self.data = np.memmap(work / "features.bin", np.float16, "r")
        self.frames, self.mel, self.tokenizer = frames, LogMel(make_extractor()), tokenizer
        self.pools = {}
        for number, entry in enumerate(index):
            for pool, task, language, text in entry["answers"]:
                self.pools.setdefault(pool, []).append((number, task, language, text))
        letters = {letter for entry in index for answer in entry["answers"] for letter in answer[3]}
        self.characters = {letter: i for i, letter in enumerate(sorted(letters), 1)}  # 0 is CTC's blank

    def features(self, number: int, frames: int) -> torch.Tensor:
        flat = self.data[self.offsets[number] * 80 : self.offsets[number + 1] * 80]
        return self.mel.pad(torch.from_numpy(flat.astype(np.float32)).view(80, -1), frames)

    def draw(self, rng, progress: float) -> list[tuple]:
        """Examples of about one length: a place in each pool's order by length, and its neighbours.

        The first 8 % are phrases alone, the next 12 % phrases and sentences.
        """
        if progress < 0.08:
            shares = {"phrase": 1.0}
        elif progress < 0.2:
            shares = {"phrase": 0.4, "asr": 0.55, "few": 0.05}
        else:
            shares = PAIR_SHARES if rng.random() < 1 / 8 else SHARES
        length = self.frames[rng.choice(self.pools["phrase" if progress < 0.08 else "asr"])[0]]
        if shares is PAIR_SHARES:
            length = FULL_FRAMES
        chosen = rng.choices(list(shares), list(shares.values()), k=BATCH)
        return [self._near(rng, pool, length) for pool in chosen]

    def _near(self, rng, pool: str, frames: int):
        """An example of the pool, where a few draws find one hardly longer than `frames`."""
        if rng.random() < SEEN_SHARE and f"{pool}-seen" in self.pools:
            pool = f"{pool}-seen"
        draws = [rng.choice(self.pools[pool]) for _ in range(6)]
        return next((d for d in draws if self.frames[d[0]] <= frames + STEP_FRAMES / 2), min(draws, key=self._length))

    def _length(self, example) -> int:
        return self.frames[example[0]]

    def batch(self, rng, progress: float) -> dict:
        """Tensors: features (batch, 80, frames), decoder inputs and labels (batch, tokens); characters for CTC."""
        examples = self.draw(rng, progress)
        longest = max(self.frames[example[0]] - 1 for example in examples)
        context = max(-(-longest // STEP_FRAMES) * STEP_FRAMES, LEAST_FRAMES)
        if rng.random() < 0.15 or progress > 0.97:
            context = rng.randrange(context, FULL_FRAMES + 1, STEP_FRAMES) if progress < 0.97 else FULL_FRAMES
        context = min(context, FULL_FRAMES)
        context += context % 2
        features = torch.stack([self.features(example[0], context) for example in examples])
        inputs, labels = zip(*(self.tokens(*example[1:]) for example in examples))
        return {"features": features, "inputs": pad(inputs, 0), "labels": pad(labels, -100),
                "lengths": torch.tensor([min(self.frames[e[0]], context) // 2 for e in examples]),
                "characters": [[self.characters[c] for c in e[3]] if e[1] == "transcribe" else [] for e in examples]}

    def tokens(self, task: str, language: str, text: str) -> tuple[list[int], list[int]]:
        ids = self.tokenizer.convert_tokens_to_ids(
            ["<|startoftranscript|>", f"<|{language}|>", f"<|{task}|>", "<|notimestamps|>", "<|endoftext|>"])
        words = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids[:4] + words, [-100] * 3 + words + ids[4:]


def pad(rows, value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def mask(features: torch.Tensor, rng) -> torch.Tensor:
    """SpecAugment, lightly: one band of up to 10 mels and one stretch of up to 8 frames (160 ms) per utterance."""
    for row in features:
        band, start = rng.randrange(11), rng.randrange(70)
        row[start : start + band] = row.mean()
        stretch, start = rng.randrange(9), rng.randrange(features.shape[-1])
        row[:, start : start + stretch] = row.mean()
    return features


class Learner(nn.Module):
    """The Whisper with its throw-away CTC head."""

    def __init__(self, model, characters: int):
        super().__init__()
        self.model = model
        self.ctc = nn.Linear(model.config.d_model, characters + 1)

    def forward(self, batch, ctc_weight: float) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):  # with eager attention 1.6 times as fast where the CPU has AMX
            hidden = self.model.model.encoder(batch["features"])[0]
            logits = self.model(encoder_outputs=(hidden,), decoder_input_ids=batch["inputs"]).logits.float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.05)
        rows = [i for i, row in enumerate(batch["characters"]) if row]
        if not rows:
            return loss
        log_probs = self.ctc(hidden[rows].float()).log_softmax(-1).transpose(0, 1)
        targets = torch.tensor([c for i in rows for c in batch["characters"][i]])
        sizes = torch.tensor([len(batch["characters"][i]) for i in rows])
        ctc = F.ctc_loss(log_probs, targets, batch["lengths"][rows], sizes, reduction="none", zero_infinity=True)
        return loss + ctc_weight * (ctc / sizes).mean()


def learning_rate(step: int, steps: int) -> float:
    return RATE * min(1.0, (step + 1) / WARMUP, max(0.02, 2 * (1 - step / steps)))


def save(path: Path, learner, optimizer, step: int):
    with atomic_file(path, "wb") as file:
        torch.save({"model": learner.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, file)


def export(learner, tokenizer, folder: Path):
    """The folder that is shipped: fp16 weights, tokenizer, feature extractor."""
    model = make_model(tokenizer)
    model.load_state_dict(learner.model.state_dict())
    for part in (model.half(), tokenizer, make_extractor()):
        part.save_pretrained(folder)


def train(args):
    torch.set_num_threads(args.threads)
    tokenizer = make_tokenizer()
    speech = Speech(args.work, tokenizer)
    torch.manual_seed(SEED)
    model = make_model(tokenizer)
    model.model.encoder.__class__ = AnyLengthEncoder
    model.set_attn_implementation("eager")
    learner = Learner(model, len(speech.characters))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    checkpoint, first = args.work / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    started, total = time.time(), 0.0
    for step in range(first, args.steps):
        rng, progress = random.Random(f"{SEED}:{step}"), step / args.steps  # a step's data depends on its number alone
        batch = speech.batch(rng, progress)
        batch["features"] = mask(batch["features"], rng)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        loss = learner(batch, 0.5 if progress < 0.5 else 0.3)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {total / 100:.3f} seconds {time.time() - started:.0f}", flush=True)
            total = 0.0
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == args.steps:
            save(checkpoint, learner, optimizer, step + 1)
        if args.export_every and (step + 1) % args.export_every == 0:
            export(learner, tokenizer, args.output_dir / f"step{step + 1}")
    export(learner, tokenizer, args.output_dir)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where speech.py wrote; for checkpoints, too")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export-every", type=int, default=0, help="also export every so many steps")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
