"""What all audio LLMs of the Qwen family share: conversations in, answers out, loss on the answer alone.

The audio encoder and its projector stay as they are unless they are named as targets; what learns is the language model.
"""
import contextlib
import functools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models.base import SpeechModel
from speechmerge.models.qwen_audio.conversation import Conversation
from speechmerge.models.qwen_audio.label_scores import score_labels
from speechmerge.models.whisper_encoder import LogMel

IGNORED = -100  # label of positions without loss
END_OF_TURN = "<|im_end|>"
SHORTEST = 0.1  # s; shorter audio is continued with silence: below 40 ms the encoder has one state or none
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LANGUAGE_MODEL, AUDIO_TOWER = "model.language_model.", "model.audio_tower."
COMPANIONS = ("tokenizer*", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.*",
              "*preprocessor_config.json", "processor_config.json", "generation_config.json")


class QwenAudio(SpeechModel):
    """The common part. A family says which network and processor it has, and how its encoder is fed (`hear`)."""

    loadable = ("quantization", "attention", "device_map")
    reads_text = True
    needs_instruction = True
    system: str | None = None  # what the model is told it is; None: the chat template's default
    tail = 0  # frames after the last one with sound that the encoder's convolutions reach

    def __init__(self, module, processor, source, path, context, quantization=None):
        context = replace(context, kind="dynamic")  # padding to the full context is masked: it would change nothing
        super().__init__(module, processor.tokenizer, processor.feature_extractor, source, path, context)
        self.processor, self.quantization = processor, quantization
        self.conversation = Conversation(processor, self.system)
        self.mel = LogMel(processor.feature_extractor)
        self.full_seconds = self.mel.samples / self.mel.rate
        self.fewest = -(-round(SHORTEST * self.mel.rate) // self.mel.hop)
        self.end_id = self.tokenizer.convert_tokens_to_ids(END_OF_TURN)
        self.frames: dict[tuple, tuple[int, ...]] = {}  # pair of audio -> log-mel frames of each recording

    @property
    def device(self):
        return self.core.get_input_embeddings().weight.device

    def save(self, folder):
        """An adapter, or the whole network with the base's own tokenizer, template and feature files, byte for byte."""
        if self.module is not self.core:
            return super().save(folder)
        self.module.save_pretrained(folder)
        for pattern in COMPANIONS:
            for file in self.path.glob(pattern):
                shutil.copyfile(file, Path(folder) / file.name)

    def build(self, task, examples, labels, options=None):
        if self.quantization:
            from peft import prepare_model_for_kbit_training

            prepare_model_for_kbit_training(self.core, use_gradient_checkpointing=False)  # train/lora.py switches it on

    def unfreeze(self):
        """The language model learns, its embeddings and output layer included; what hears stays as it was pre-trained."""
        if self.quantization:
            raise UsageError(f"--tuning full: a base of {self.quantization} weights cannot learn; use --tuning lora, or "
                             "leave --quantization out")
        self.module.requires_grad_(False)
        self.core.model.language_model.requires_grad_(True)
        self.core.get_output_embeddings().requires_grad_(True)

    @contextlib.contextmanager
    def adapter(self, directory):
        """Quantized weights cannot take an adapter in and give it back unchanged: there it runs beside them."""
        from speechmerge.models import adapters

        if not self.quantization:
            with super().adapter(directory) as model:
                yield model
            return
        directory = Path(directory)
        adapters.check_base(self, directory)
        if not (directory / adapters.LORA_CONFIG).is_file():
            raise UsageError(f"{directory}: no LoRA, and a base of {self.quantization} weights takes nothing else; decode "
                             "without --quantization")
        wrapped = adapters._wrap(self, directory)
        try:
            yield self
        finally:
            wrapped.unload()
            adapters._strip(self)

    # Audio

    def features(self, audio, utterance=None):
        """(mels, frames): log-mel frames of one recording after the other, each with `tail` more; without audio 0 frames."""
        found, counts = [], []
        for path in audio:
            wave = self._wave(path, utterance)
            counts.append(-(-len(wave) // self.mel.hop))
            found.append(self.mel.pad(self.mel(wave), counts[-1] + self.tail))
        self.frames[audio] = tuple(counts)
        return torch.cat(found, dim=1) if found else torch.zeros(self.mel.filters.shape[0], 0)

    def _wave(self, path, utterance):
        from speechmerge.data.audio import read_audio

        wave = read_audio(path, self.mel.rate, utterance=utterance)[: self.mel.samples]
        return np.pad(wave, (0, max(0, round(SHORTEST * self.mel.rate) - len(wave))))

    def recordings(self, item) -> tuple[list[torch.Tensor], tuple[int, ...]]:
        """The features of each recording of an item, tail included, and their frames without it."""
        audio, features = item.example.audio, item.features
        if len(audio) == 1:  # perhaps a stretch of it
            features = nn.functional.pad(features, (0, max(0, self.fewest + self.tail - features.shape[1])))
            return [features], (features.shape[1] - self.tail,)
        if audio not in self.frames:  # features that another model of this family computed
            self.features(audio, item.example.id)
        return list(features.split([count + self.tail for count in self.frames[audio]], dim=1)), self.frames[audio]

    def context_frames(self, seconds):
        return round(self.context.seconds(seconds, self.full_seconds) * self.mel.rate / self.mel.hop)

    def pad(self, recordings: list[torch.Tensor], counts: list[int], frames: int = 0) -> dict:
        """Features (recordings, mels, width) and their mask; what is not heard is zero."""
        width = max(frames, max(counts) + self.tail)
        width = min(width + width % 2, self.mel.full)
        features = torch.zeros(len(recordings), recordings[0].shape[0], width)
        mask = torch.zeros(len(recordings), width, dtype=torch.long)
        for i, (recording, count) in enumerate(zip(recordings, counts)):
            features[i, :, : recording.shape[1]] = recording[:, :width]
            mask[i, :count] = 1
        return {"input_features": features.to(self.dtype), "feature_attention_mask": mask}

    def hear(self, features, mask) -> list[torch.Tensor]:
        """States (n, d) of each recording, n as many as it has placeholders."""
        raise NotImplementedError

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """The encoder's states as embeddings of the language model."""
        return states

    # Text

    def told(self, example, task) -> str:
        return example.prompt or task.instruction_for(example)

    def prefix_of(self, example, task, frames: tuple[int, ...]) -> list[int]:
        return self.conversation.prefix(self.told(example, task), frames)

    def answer_ids(self, text: str) -> list[int]:
        return self.tokenizer(text.strip(), add_special_tokens=False).input_ids + [self.end_id]

    def fits(self, example, task):
        seconds, count = self.seconds(example), len(example.audio)
        if task.hears_all and seconds > self.full_seconds * max(count, 1):
            return f"the audio is {seconds:.1f} s long, the encoder holds {self.full_seconds:g} s"
        frames = (round(min(seconds / max(count, 1), self.full_seconds) * self.mel.rate / self.mel.hop),) * count
        answer = self.answer_ids(task.written(example.target))
        length, most = len(self.prefix_of(example, task, frames)) + len(answer), self.text_config.max_position_embeddings
        if length > most:
            return f"conversation and answer are {length} tokens, the language model holds {most}"
        return None

    @property
    def text_config(self):
        return self.core.config.get_text_config()

    # Batches

    def collate(self, items, task, training=False, frames=None):
        """Conversations padded on the left for decoding; in training with their answers, padded on the right.

        frames: least width of the features; nothing that is heard depends on it.
        """
        heard = [self.recordings(item) for item in items]
        rows = [self.prefix_of(item.example, task, counts) for item, (_, counts) in zip(items, heard)]
        recordings = [recording for found, _ in heard for recording in found]
        counts = [count for _, found in heard for count in found]
        batch = self.pad(recordings, counts, frames or 0) if recordings else {}
        if training:
            answers = [self.answer_ids(task.written(item.example.target)) for item in items]
            return {**batch, **self._lesson(rows, answers), "use_cache": False}
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return {**batch, "input_ids": ids, "attention_mask": mask, "recordings": [len(found) for _, found in heard]}

    def _lesson(self, prefixes, answers) -> dict:
        """Inputs and labels of the same width: the label of a position is the token after it."""
        width = max(len(prefix) + len(answer) for prefix, answer in zip(prefixes, answers)) - 1
        ids = torch.full((len(prefixes), width), self.tokenizer.pad_token_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for i, (prefix, answer) in enumerate(zip(prefixes, answers)):
            row, start = prefix + answer, len(prefix) - 1
            ids[i, : len(row) - 1] = torch.tensor(row[:-1])
            mask[i, : len(row) - 1] = 1
            labels[i, start : start + len(answer)] = torch.tensor(answer)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def loss(self, outputs, labels, num_items_in_batch=None):
        known = labels != IGNORED  # most positions are audio and instruction: their logits are not copied to float32
        logits, reduction = outputs.logits[known].float(), "mean" if num_items_in_batch is None else "sum"
        loss = nn.functional.cross_entropy(logits, labels[known], reduction=reduction)
        return loss if num_items_in_batch is None else loss / num_items_in_batch

    # Decoding

    @torch.inference_mode()
    def encode(self, batch) -> list[torch.Tensor]:
        """The encoder's states of all recordings; kept in the batch, so that generation and label scoring share them."""
        if "states" not in batch:
            there = {name: batch[name].to(self.device) for name in ("input_features", "feature_attention_mask") if name in batch}
            batch["states"] = self.hear(there["input_features"], there["feature_attention_mask"]) if there else []
        return batch["states"]

    @torch.inference_mode()
    def embedded(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (rows, length, d) of the conversations, audio in its places, and their mask."""
        ids, states = batch["input_ids"].to(self.device), self.encode(batch)
        found = self.core.get_input_embeddings()(ids)
        if states:
            places = (ids == self.conversation.audio_id)[..., None]
            found = found.masked_scatter(places, self.project(torch.cat(states)).to(found.device, found.dtype))
        return found, batch["attention_mask"].to(self.device)

    @torch.inference_mode()
    def embed(self, batch):
        if 0 in batch["recordings"]:
            raise SpeechMergeError(f"{self.source}: embeddings are of audio, and an example has none; use --inputs audio")
        means = torch.stack([states.float().mean(0) for states in self.encode(batch)])
        return torch.stack([own.mean(0) for own in means.split(batch["recordings"])]).cpu()

    @torch.inference_mode()
    def encoder_states(self, batch, layer):
        depth = len(self.core.model.audio_tower.layers)
        if not -1 <= layer <= depth:
            raise SpeechMergeError(f"{self.source}: layer {layer} of an encoder of {depth}; expected 0 to {depth}, or -1")
        if set(batch["recordings"]) != {1}:
            raise SpeechMergeError(f"{self.source}: routers hear one recording per example, not {max(batch['recordings'])}")
        if layer == -1:
            states = self.encode(batch)
        else:
            counts = (batch["feature_attention_mask"].sum(-1) - 1) // 2 + 1
            with first_layers(self.core.model.audio_tower, layer) as seen:
                self.encode({name: value for name, value in batch.items() if name != "states"})
            packed = seen[0].dim() == 2  # Qwen2.5-Omni's encoder knows no rows
            states = seen[0].split(counts.tolist()) if packed else [row[:count] for row, count in zip(seen[0], counts)]
        return nn.utils.rnn.pad_sequence(states, batch_first=True), torch.tensor([len(own) for own in states])

    @torch.inference_mode()
    def generate(self, batch, task, num_beams=1):
        """Texts by greedy or beam search, up to the end of the turn. What the published generation_config.json says of
        sampling and of penalties for repetition is meant for chats and left out."""
        from transformers import GenerationConfig

        self.core.eval()
        embeds, mask = self.embedded(batch)
        ends = sorted({self.end_id, self.tokenizer.convert_tokens_to_ids("<|endoftext|>")})
        config = GenerationConfig(max_new_tokens=task.max_new_tokens, num_beams=num_beams, do_sample=False, use_cache=True,
                                  eos_token_id=ends, pad_token_id=self.tokenizer.pad_token_id)
        found = self.core.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=config)
        return [self.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in found.tolist()]

    @torch.inference_mode()
    def score_labels(self, batch, labels):
        self.core.eval()
        return score_labels(self.core, *self.embedded(batch), [self.answer_ids(label) for label in labels])

    # Layers

    @functools.cached_property
    def _parts(self) -> dict[str, list[str]]:
        names = self.linear_names()
        spoken = [name for name in names if name.startswith(LANGUAGE_MODEL)]
        return {"all-linear": spoken, "decoder": spoken, "encoder": [name for name in names if name.startswith(AUDIO_TOWER)],
                "attention": [name for name in spoken if name.endswith(ATTENTION)]}

    def target_modules(self, which="all-linear"):
        """Full names: the encoder has layers of the same short names. A short name means the language model's layers, unless
        only the others have it."""
        chosen = [which] if isinstance(which, str) else list(which)
        if len(chosen) == 1 and chosen[0] in self._parts:
            return self._parts[chosen[0]]
        found, names = [], self.linear_names()
        for name in chosen:
            own = [full for full in names if full == name or full.endswith("." + name)]
            spoken = [full for full in own if full.startswith(LANGUAGE_MODEL)]
            if not own:
                last = sorted({full.rsplit(".", 1)[-1] for full in names})
                raise UsageError(f"target {name!r}: no such layer; expected {', '.join(sorted(self._parts))}, or names out of "
                                 f"{', '.join(last)}")
            found += [full for full in spoken or own if full not in found]
        return found


@contextlib.contextmanager
def first_layers(tower, count: int):
    """Within the block the encoder has its first `count` layers alone. Yields a list, into which go the states after them
    (0: before the first)."""
    layers, seen = tower.layers, []
    tower.layers = layers[: max(count, 1)]
    if count:
        hook = layers[count - 1].register_forward_hook(
            lambda _, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output))
    else:
        hook = layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()
        tower.layers = layers
