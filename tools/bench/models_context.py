#!/usr/bin/env python
"""What a short audio context costs in words and saves in seconds: a Whisper on real speech, with 30 s and with less.

    cd egs/asterisk && ./run.sh --stop-stage 1                     # the telephone prompts and whisper-base
    tools/bench/models_context.py                                  # every second prompt of five test sets; results/context.md
    tools/bench/models_context.py --contexts full 10/5 6/3 --limit 0 --adapter egs/asterisk/exp/asr/it --sets it

A context is `full` or `minimum/step` in seconds (--audio-context-min, --audio-context-step). All contexts decode the same
utterances in turn, set by set, in one process; features are computed once, before. Seconds are those of one processor.
"""
import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import measure  # noqa: E402

ROOT = measure.ROOT
MODEL, DATA = ROOT / "egs/asterisk/downloads/models/whisper-base", ROOT / "egs/asterisk/data"


def context_of(word: str) -> dict:
    """Options of load_model."""
    if word == "full":
        return {"audio_context": "full"}
    minimum, _, step = word.partition("/")
    return {"audio_context": "dynamic", "audio_context_min": float(minimum), "audio_context_step": float(step or 0.5)}


def decode(model, task, examples, args, cache) -> tuple[dict, float]:
    """(texts by utterance, processor seconds)"""
    from speechmerge.decode import Options, hypotheses

    start = time.process_time()
    batches = hypotheses(model, task, examples, None, Options(batch_size=args.batch_size), cache)
    texts = {hypothesis.id: hypothesis.text for batch in batches for hypothesis in batch}
    return texts, time.process_time() - start


def study(args) -> dict[str, dict]:
    """Per context: seconds of audio and of the processor, and WER and utterances per set."""
    from speechmerge.data.batching import FeatureCache
    from speechmerge.data.directory import DataDir
    from speechmerge.models import load_model
    from speechmerge.tasks import get_task

    task = get_task("asr")
    models = {word: load_model(args.model, device="cpu", dtype=args.dtype, **context_of(word)) for word in args.contexts}
    rows = {word: {"audio": 0.0, "seconds": 0.0, "wer": {}} for word in models}
    for name in args.sets:
        examples = every(task.examples(DataDir.read(args.data / name / "test")), args.limit)
        cache = FeatureCache()
        for word, model in models.items():
            for example in examples:
                cache.get(example, model.features)
            with model.adapter(args.adapter) if args.adapter else contextlib.nullcontext():
                texts, seconds = decode(model, task, examples, args, cache)
            wer = task.score({e.id: e.target for e in examples}, texts)["value"]
            rows[word]["wer"][name] = wer
            rows[word]["seconds"] += seconds
            rows[word]["audio"] += sum(model.seconds(example) for example in examples)
            print(f"{name} {word}: {len(examples)} utterances, {seconds:.1f} s, WER {100 * wer:.1f} %", flush=True)
    return rows


def every(examples: list, limit: int) -> list:
    """Evenly spread; 0: all."""
    count = min(limit or len(examples), len(examples))
    return [examples[i * len(examples) // count] for i in range(count)]


def table(rows: dict) -> str:
    sets = list(next(iter(rows.values()))["wer"])
    first = next(iter(rows.values()))["seconds"]
    return measure.markdown(
        ["context", "s", "real-time factor", "times as fast", *(f"WER {name}" for name in sets)],
        [[word if word == "full" else f"{word} s", f"{row['seconds']:.1f}", f"{row['seconds'] / row['audio']:.3f}",
          f"{first / row['seconds']:.1f}", *(f"{100 * row['wer'][name]:.1f}" for name in sets)] for word, row in rows.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=DATA, help="holds <set>/test")
    parser.add_argument("--sets", nargs="+", default=["it", "es", "fr", "ru", "en"])
    parser.add_argument("--contexts", nargs="+", default=["full", "15/5", "6/3", "2/0.5"])
    parser.add_argument("--adapter", type=Path, help="in place while decoding")
    parser.add_argument("--limit", type=int, default=30, help="utterances of each set, evenly spread; 0: all")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    args = parser.parse_args()
    if not args.model.is_dir() or not args.data.is_dir():
        sys.exit(f"{args.model} and {args.data} must both be there; run egs/asterisk/run.sh --stop-stage 1")
    for name in ("model", "data", "results", *(["adapter"] if args.adapter else [])):
        setattr(args, name, getattr(args, name).resolve())
    os.chdir(args.data.parent)
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    text = table(study(args))
    about = {"command": " ".join(["python", "tools/bench/models_context.py", *sys.argv[1:]]), "machine": measure.machine()}
    measure._replace(args.results / "context.md", "\n\n".join(["# Audio context", text, measure._footer(about)]) + "\n")
    print(text)


if __name__ == "__main__":
    main()
