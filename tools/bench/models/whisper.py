"""Whisper: our trainer and decoder, and the plain scripts that they are measured against.

The plain side is what the guides of transformers show: WhisperProcessor, audio padded to 30 s, Seq2SeqTrainer around a
model of `get_peft_model`, `model.generate(language=..., task="transcribe")`. In the pairs "both cut" its position table
is cut and its feature extractor made for as much: then both sides do the same arithmetic, and the rest is overhead.
"""
import functools
import tempfile
from pathlib import Path

import soundfile
import torch
from models import Clock, Finding, Pair
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (AutoTokenizer, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback, WhisperConfig,
                          WhisperFeatureExtractor, WhisperForConditionalGeneration)

from speechmerge.data.batching import BucketBatchSampler, audio_seconds
from speechmerge.data.directory import DataDir
from speechmerge.decode import Options, hypotheses
from speechmerge.models import load_model
from speechmerge.tasks import get_task
from speechmerge.train.lora import prepare
from speechmerge.train.options import TrainOptions
from speechmerge.train.trainer import TaskTrainer

CUT = 6  # seconds of context in the pairs "both cut"
NEW_TOKENS = 64
PREFIX = 4  # tokens that the decoder is told first
RANK = 16
LOSS_TOLERANCE = 2e-3  # of the first step's loss: bf16 rounds sums in another order


def pairs(args) -> list[Pair]:
    """All comparisons of this family; a model is loaded when it first runs."""
    bench = Bench(args)
    full, cut = {"audio_context": "full"}, {"audio_context": "dynamic", "audio_context_min": bench.cut,
                                            "audio_context_step": bench.cut / 2}
    made = []
    for name, context, seconds, same in ((f"both {bench.full} s", full, None, True),
                                         (f"both cut to {bench.cut} s", cut, bench.cut, True),
                                         (f"dynamic from {bench.cut} s, beside {bench.full} s", cut, None, False)):
        made.append(Pair(f"decoding, {name}", f"utterance, of {bench.count}", *bench.decoding(context, seconds), same_texts if same else None))
        made.append(Pair(f"training, {name}", f"step of {args.batch_size}", *bench.training(context, seconds), same_loss if same else None))
    return made


def same_texts(ours: dict, plain: dict) -> str:
    differing = [id for id in ours if ours[id] != plain[id]]
    return f"{len(differing)} of {len(ours)} differ, such as {differing[0]}" if differing else ""


def same_loss(ours: float, plain: float) -> str:
    return "" if abs(ours - plain) <= LOSS_TOLERANCE * abs(plain) else f"losses {ours:.4f} and {plain:.4f}"


class Bench:
    """The utterances of the data directory that are short enough, and both ways to work on them."""

    def __init__(self, args):
        self.args, self.task = args, get_task("asr")
        self.task.max_new_tokens = min(NEW_TOKENS, WhisperConfig.from_pretrained(args.model).max_target_positions - PREFIX)
        self.full = WhisperFeatureExtractor.from_pretrained(args.model).chunk_length
        self.cut = min(CUT, self.full // 2)
        examples = self.task.examples(DataDir.read(args.data))
        self.examples = [example for example in examples if audio_seconds(example) <= min(args.longest, self.cut)]

    @property
    def count(self) -> int:
        return min(self.args.utterances, len(self.examples))

    def training(self, context: dict, seconds: int | None):
        ours = functools.cache(lambda: OurTraining(self, context))
        plain = functools.cache(lambda: PlainTraining(self, seconds))
        return lambda: ours().run(), lambda: plain().run()

    def decoding(self, context: dict, seconds: int | None):
        examples = self.examples[: self.count]
        ours = functools.cache(lambda: load_model(self.args.model, device="cpu", **context))
        plain = functools.cache(lambda: PlainDecoding(self, seconds))
        return lambda: self.decode(ours(), examples), lambda: plain().run(examples)

    def decode(self, model, examples) -> Finding:
        clock = Clock()
        batches = hypotheses(model, self.task, examples, None, Options(batch_size=self.args.batch_size))
        texts = {hypothesis.id: hypothesis.text for batch in batches for hypothesis in batch}
        return clock.stop(len(examples), texts)

    def train_examples(self) -> list:
        """As many as the steps take, the same again and again where there are fewer."""
        count = self.args.batch_size * (self.args.steps + 1)
        return (self.examples * (1 + count // len(self.examples)))[:count]

    def options(self) -> TrainOptions:
        return TrainOptions(rank=RANK, batch_size=self.args.batch_size, max_steps=self.args.steps + 1, logging_steps=1,
                            precision=self.args.precision, learning_rate=1e-4)


class StepTimes(TrainerCallback):
    """From the end of the first step to the end of the last one."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.clock = Clock()
        elif state.global_step == state.max_steps:
            self.finding = self.clock.stop(state.max_steps - 1)


def timed(trainer) -> Finding:
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    times.finding.result = trainer.state.log_history[0]["loss"]
    return times.finding


def restart(module):
    """The adapter as at its start: a product of zero."""
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()


class OurTraining:
    def __init__(self, bench: Bench, context: dict):
        self.bench, self.model = bench, load_model(bench.args.model, device="cpu", **context)
        prepare(self.model, bench.options())

    def run(self) -> Finding:
        restart(self.model.module)
        with tempfile.TemporaryDirectory() as folder:
            return timed(TaskTrainer(self.model, self.bench.task, self.bench.train_examples(), [], None,
                                     self.bench.options(), Path(folder, "checkpoints")))


def plain_model(args, seconds: int | None):
    """(network, feature extractor, tokenizer) of transformers alone; `seconds`: with a position table that is cut."""
    network = WhisperForConditionalGeneration.from_pretrained(args.model)
    extractor = WhisperFeatureExtractor.from_pretrained(args.model)
    if seconds:
        extractor = WhisperFeatureExtractor(extractor.feature_size, hop_length=extractor.hop_length, chunk_length=seconds)
        encoder, positions = network.model.encoder, extractor.nb_max_frames // 2
        encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight.data[:positions])
        network.config.max_source_positions = encoder.max_source_positions = positions
    return network, extractor, AutoTokenizer.from_pretrained(args.model)


def waves_of(examples) -> list:
    return [soundfile.read(example.audio[0], dtype="float32")[0] for example in examples]


def prefix_of(tokenizer, example) -> list[int]:
    names = ("<|startoftranscript|>", f"<|{example.language}|>", "<|transcribe|>", "<|notimestamps|>")
    return tokenizer.convert_tokens_to_ids(names)


class PlainTraining:
    def __init__(self, bench: Bench, seconds: int | None):
        self.bench = bench
        network, self.extractor, self.tokenizer = plain_model(bench.args, seconds)
        targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        self.network = get_peft_model(network, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))

    def collate(self, examples) -> dict:
        features = self.extractor(waves_of(examples), sampling_rate=16000, return_tensors="pt").input_features
        rows = []
        for example in examples:
            prefix = prefix_of(self.tokenizer, example)
            words = self.tokenizer(f" {example.target}", add_special_tokens=False).input_ids
            rows.append((len(prefix), [*prefix, *words, self.tokenizer.eos_token_id]))
        padded = self.tokenizer.pad({"input_ids": [row for _, row in rows]}, return_tensors="pt")
        labels = padded.input_ids.masked_fill(padded.attention_mask.ne(1), -100)[:, 1:].clone()
        for row, (told, _) in zip(labels, rows):
            row[: told - 1] = -100  # no loss on what the decoder is told
        return {"input_features": features, "decoder_input_ids": padded.input_ids[:, :-1], "labels": labels}

    def run(self) -> Finding:
        restart(self.network)
        args = self.bench.args
        with tempfile.TemporaryDirectory() as folder:
            chosen = Seq2SeqTrainingArguments(
                folder, per_device_train_batch_size=args.batch_size, max_steps=args.steps + 1, learning_rate=1e-4,
                warmup_steps=0.1, bf16=args.precision == "bf16", use_cpu=True, logging_steps=1, report_to="none",
                save_strategy="no", remove_unused_columns=False, label_names=["labels"], disable_tqdm=True)
            return timed(SameOrder(model=self.network, args=chosen, train_dataset=self.bench.train_examples(),
                                   data_collator=self.collate, processing_class=self.extractor))


class SameOrder(Seq2SeqTrainer):
    """With the batches of our sampler."""

    def get_train_dataloader(self):
        data, size = self.train_dataset, self.args.per_device_train_batch_size
        loader = DataLoader(data, batch_sampler=BucketBatchSampler([1] * len(data), size), collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class PlainDecoding:
    def __init__(self, bench: Bench, seconds: int | None):
        self.size, self.new_tokens = bench.args.batch_size, bench.task.max_new_tokens
        self.network, self.extractor, self.tokenizer = plain_model(bench.args, seconds)
        self.network.eval()

    def run(self, examples) -> Finding:
        clock, texts = Clock(), {}
        for start in range(0, len(examples), self.size):
            chosen = examples[start : start + self.size]
            features = self.extractor(waves_of(chosen), sampling_rate=16000, return_tensors="pt").input_features
            for example, text in zip(chosen, self.generate(features, chosen)):
                texts[example.id] = " ".join(text.split())
        return clock.stop(len(examples), texts)

    def generate(self, features, chosen) -> list[str]:
        """Greedy, as `hypotheses` does by default."""
        ids = self.network.generate(features, language=chosen[0].language, task="transcribe",
                                    max_new_tokens=self.new_tokens)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)
