#!/usr/bin/env python
"""How fast audio is read and becomes features, and how that compares with what training takes. One thread.

    python tools/bench/loader.py            # after egs/mini/run.sh --stop-stage 2; writes results/loader.md

(a) 16 kHz FLAC -> samples -> log-mel features, in seconds of audio per second (real-time factor): utterances of the
mini corpus as they are, and joined to 12 s, about LibriSpeech's mean. (b) The training loader (read, features, batches)
beside the training steps of the mini base on batches that are ready. Median, least and most of the runs, which take
turns. Seconds are those of the processor, so that other programs on the machine count little.
"""
import argparse
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import measure  # noqa: E402
import numpy as np  # noqa: E402

ROOT = measure.ROOT
JOINED = 12.0  # s
WANTED = 200.0  # times real time, on one processor


def make_flacs(data, folder: Path, longest: float | None) -> list[tuple[str, float]]:
    """[(path, seconds)] of FLAC files: the utterances, or all of them one after the other in pieces of `longest`."""
    from speechmerge.data.audio import RATE, read_audio, write_audio

    waves = {id: read_audio(utterance.audio) for id, utterance in data.utterances.items()}
    if longest:
        joined = np.concatenate(list(waves.values()))
        size = round(longest * RATE)
        waves = {f"joined{i:03d}": joined[i * size : (i + 1) * size] for i in range(len(joined) // size)}
    files = []
    for id, wave in waves.items():
        path = folder / f"{id}.flac"
        if not path.is_file():
            write_audio(path, wave)
        files.append((str(path), len(wave) / RATE))
    return files


def read_rates(files, mel) -> dict[str, float]:
    """Seconds of audio per second: reading, features, and both."""
    from speechmerge.data.audio import read_audio

    total = sum(seconds for _, seconds in files)
    spent = {"read": 0.0, "features": 0.0}
    for path, _ in files:
        start = time.process_time()
        wave = read_audio(path)
        middle = time.process_time()
        mel(wave)
        spent["read"] += middle - start
        spent["features"] += time.process_time() - middle
    rates = {name: total / seconds for name, seconds in spent.items()}
    return {**rates, "both": total / sum(spent.values())}


class Training:
    """The mini base with a LoRA on one task, as `speechmerge train` has it."""

    def __init__(self, model_dir, data, batch_size: int):
        import torch

        from speechmerge.models import load_model
        from speechmerge.tasks import get_task
        from speechmerge.train.lora import prepare
        from speechmerge.train.options import TrainOptions

        self.model = load_model(model_dir, device="cpu", audio_context="dynamic", audio_context_min=0.5)
        self.task = get_task("asr")
        self.examples, self.batch_size = self.task.examples(data), batch_size
        prepare(self.model, TrainOptions(rank=8))
        self.optimizer = torch.optim.AdamW([p for p in self.model.module.parameters() if p.requires_grad], lr=1e-4)

    def load(self, augmentation=None, cache=None):
        """(batches, seconds of audio, seconds it took) of one epoch of the loader."""
        from speechmerge.data.augment import Augmentation
        from speechmerge.data.batching import BucketBatchSampler, FeatureCache
        from speechmerge.train.trainer import TrainingSet

        cache = FeatureCache(0) if cache is None else cache
        dataset = TrainingSet(self.model, self.examples, cache, augmentation or Augmentation())
        start = time.process_time()
        sampler = BucketBatchSampler(dataset.lengths(), self.batch_size)
        batches = [self.model.collate([dataset[i] for i in indices], self.task, training=True) for indices in sampler]
        return batches, sum(dataset.seconds), time.process_time() - start

    def step_all(self, batches) -> float:
        """Seconds of one epoch of training steps."""
        self.model.module.train()
        start = time.process_time()
        for batch in batches:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            self.model.loss(self.model.module(**inputs), batch["labels"]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.process_time() - start


def measure_reading(files: dict, mels: dict, runs: int) -> list[list]:
    found = {(kind, name): [] for kind in files for name in mels}
    for _ in range(runs):
        for kind, name in found:
            found[kind, name].append(read_rates(files[kind], mels[name]))
    return [[kind, name, *(measure.spread((rates[part] for rates in rows), 0) for part in ("read", "features", "both"))]
            for (kind, name), rows in found.items()]


def measure_training(training: Training, runs: int) -> list[list]:
    from speechmerge.data.augment import Augmentation
    from speechmerge.data.batching import FeatureCache

    cache = FeatureCache()
    training.load(cache=cache)
    ways = {"read and features anew": {}, "features kept from the first epoch": {"cache": cache},
            "speeds 0.9 1.0 1.1 and masks, anew": {"augmentation": Augmentation((0.9, 1.0, 1.1), 2, 100, 2, 27, 1)}}
    rates = {"training steps alone": [], **{way: [] for way in ways}}
    for _ in range(runs):
        for way, options in ways.items():
            batches, audio, spent = training.load(**options)
            rates[way].append(audio / spent)
        batches, audio, _ = training.load(cache=cache)
        rates["training steps alone"].append(audio / training.step_all(batches))
    steps = sorted(rates["training steps alone"])[runs // 2]
    return [[way, measure.spread(found, 0), f"{sorted(found)[runs // 2] / steps:.1f}"] for way, found in rates.items()]


def mels_of(base: Path) -> dict:
    """LogMel of the mini base and of the published Whisper (80 bins, every 10 ms)."""
    from transformers import WhisperFeatureExtractor

    from speechmerge.models.whisper_encoder import LogMel

    mini = LogMel(WhisperFeatureExtractor.from_pretrained(base))
    mini.samples = int(JOINED * mini.rate)  # the whole of the joined files, not the 4 s that this base hears
    mini.full = mini.samples // mini.hop
    return {"mini base (20 ms)": mini, "Whisper (10 ms)": LogMel(WhisperFeatureExtractor())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_options(parser, runs=7)
    parser.add_argument("--data", type=Path, default=ROOT / "egs/mini/data/asr/train", help="formatted data directory")
    parser.add_argument("--recipe", type=Path, default=ROOT / "egs/mini", help="what its paths are relative to")
    parser.add_argument("--model", type=Path, default=ROOT / "egs/mini/base", help="the mini base")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    work, model, data_dir, results = (path.resolve() for path in (args.work, args.model, args.data, args.results))
    measure.alone(work)
    os.chdir(args.recipe)
    import torch

    from speechmerge.data.directory import DataDir
    torch.set_num_threads(1)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    data = DataDir.read(data_dir)
    files = {"utterances": make_flacs(data, work / "loader" / "utterances", None),
             f"joined to {JOINED:g} s": make_flacs(data, work / "loader" / "joined", JOINED)}
    reading = measure_reading(files, mels_of(model), args.runs)
    steps = measure_training(Training(model, data, args.batch_size), args.runs)
    mean = {kind: np.mean([seconds for _, seconds in found]) for kind, found in files.items()}
    reading = [[f"{row[0]} ({len(files[row[0]])} files, mean {mean[row[0]]:.1f} s)", *row[1:]] for row in reading]
    write(results / "loader.md", reading, steps)


def write(path: Path, reading, steps):
    first = measure.markdown(["16 kHz FLAC", "features of", "read", "features", "both"], reading)
    second = measure.markdown(["asr, mini base, LoRA of rank 8", "s of audio / s", "times the training"], steps)
    about = {"command": " ".join(["python tools/bench/loader.py", *sys.argv[1:]]), "machine": measure.machine()}
    load = os.getloadavg()[0]
    parts = ["# Reading audio and training", f"Seconds of audio per second of one processor (wanted: {WANTED:.0f}):", first,
             f"The loader beside the training that it feeds; load of the machine {load:.0f}:", second, measure._footer(about)]
    text = "\n\n".join(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    measure._replace(path, text + "\n")
    print(f"{text}\n\n{path}")


if __name__ == "__main__":
    main()
