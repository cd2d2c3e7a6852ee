"""Whisper and everything of its architecture: the published sizes, the mini base, converted checkpoints.

The decoder starts with `<|startoftranscript|> <|LANGUAGE|> <|TASK|> <|notimestamps|>`. A tokenizer that has a token for
the task (the mini base: `<|kws|>`) says it with that; the published Whisper is told other tasks than transcription by a
text prompt before the start (`<|startofprev|> prompt`), the way openai/whisper passes `initial_prompt`. A tokenizer
without `<|startofprev|>` gets the bare prompt there, if the task cannot do without. Models for English only (`base.en`)
have tokens for languages and tasks that nothing was trained with: they start with `<|startoftranscript|> <|notimestamps|>`.
"""
import copy
import functools
import logging
import unicodedata

import numpy as np
import torch
from torch import nn

from speechmerge.errors import SpeechMergeError
from speechmerge.models.base import FAMILIES, Context, Item, SpeechModel
from speechmerge.models.label_tree import chunks, score_tree
from speechmerge.models.loading import Loading, named_layers, pick_device, pretrained_options, require_files
from speechmerge.models.whisper_encoder import AnyLengthEncoder, LogMel

log = logging.getLogger(__name__)
IGNORED = -100  # label of positions without loss
CACHE_BYTES = 1 << 28  # decoder cache of a chunk of labels while they are scored, or logits of a block of a label tree
FEW_LABELS = 32  # more are scored as a tree
ENGLISH_ONLY = 51864  # tokens of openai's models for English; all multilingual ones have more
TREE_TOKENS = 768  # of one tree, before labels share their beginnings: attention within it grows with the square
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@FAMILIES.register("whisper")
class Whisper(SpeechModel):
    """Whisper of any size, by hub id or folder; also the mini base."""

    family = "whisper"
    model_types = ("whisper",)
    loadable = ("attention",)
    pair_silence = 0.2

    def __init__(self, module, tokenizer, feature_extractor, source, path, context):
        super().__init__(module, tokenizer, feature_extractor, source, path, context)
        self.mel = LogMel(feature_extractor)
        self.vocabulary = tokenizer.get_vocab()
        self.full_seconds = self.mel.full * self.mel.hop / self.mel.rate
        self.max_positions = module.config.max_target_positions
        told = getattr(module.generation_config, "is_multilingual", None)
        self.multilingual = module.config.vocab_size != ENGLISH_ONLY if told is None else told
        self.cut_a_prompt = False

    @classmethod
    def load(cls, path, source, loading: Loading, context: Context):
        from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration

        require_files(path, {"tokenizer": ["tokenizer.json", "vocab.json"],
                             "feature extractor": ["preprocessor_config.json", "processor_config.json"],
                             "weights as safetensors": ["model.safetensors", "model.safetensors.index.json"]})
        tokenizer = AutoTokenizer.from_pretrained(path)
        module = WhisperForConditionalGeneration.from_pretrained(path, use_safetensors=True, **pretrained_options(loading))
        module.model.encoder.__class__ = AnyLengthEncoder
        extractor = AutoFeatureExtractor.from_pretrained(path)
        model = cls(module.to(pick_device(loading.device)).eval(), tokenizer, extractor, source, path, context)
        model.check_vocabulary()
        model.check_merges()
        return model

    def check_vocabulary(self):
        """Raises SpeechMergeError where tokenizer, features and network cannot belong together."""
        config = self.core.config
        if len(self.tokenizer) > config.vocab_size:
            raise SpeechMergeError(f"{self.path}: the tokenizer has {len(self.tokenizer)} tokens, the network "
                                   f"{config.vocab_size}: they do not belong together; copy both from the same model")
        ids = {"<|startoftranscript|>": config.decoder_start_token_id, "<|endoftext|>": config.eos_token_id}
        for token, expected in ids.items():
            if self.vocabulary.get(token) != expected:
                raise SpeechMergeError(f"{self.path}: the tokenizer has {token} at {self.vocabulary.get(token)}, "
                                       f"config.json at {expected}; copy tokenizer and weights from the same model")
        if self.mel.filters.shape[0] != config.num_mel_bins:
            raise SpeechMergeError(f"{self.path}: preprocessor_config.json makes {self.mel.filters.shape[0]} mel bins, the "
                                   f"network takes {config.num_mel_bins}; copy both from the same model")
        frames = config.max_source_positions * 2
        if self.mel.full != frames:
            raise SpeechMergeError(f"{self.path}: preprocessor_config.json makes {self.mel.full} frames, the network "
                                   f"takes {frames}; copy both from the same model")

    def check_merges(self):
        """Warns of a tokenizer as the hub had it before February 2024, and as many copies still are: without the merge
        of " t" all words that begin with t are cut as in no training, which fine-tuning then has to learn."""
        if "Ġt" in self.vocabulary and self.text_ids(" t") != [self.vocabulary["Ġt"]]:
            log.warning("%s/tokenizer.json lacks a merge (' t' is two tokens): words are cut as in no training; copy it "
                        "again from the hub, or convert the model again (tools/convert_*_whisper.py)", self.path)

    # Audio

    def features(self, audio, utterance=None):
        from speechmerge.data.audio import read_audio

        waves = [read_audio(path, self.mel.rate, utterance=utterance) for path in audio]
        gap = np.zeros(round(self.pair_silence * self.mel.rate), dtype=np.float32)
        joined = [part for wave in waves for part in (gap, wave)][1:]
        return self.mel(np.concatenate(joined))

    def context_frames(self, seconds):
        frames = round(self.context.seconds(seconds, self.full_seconds) * self.mel.rate / self.mel.hop)
        return min(frames + frames % 2, self.mel.full)

    # Text

    def prefix(self, task, language: str | None, prompt: str | None = None,
               target_language: str | None = None) -> list[int]:
        """Token ids before the answer; equally long for all utterances of a task unless each has its own prompt."""
        own = f"<|{task.name}|>" if task.kind != "transcription" else "<|transcribe|>"
        spoken, told = self._language_token(task, language), own if own in self.vocabulary else "<|transcribe|>"
        if target_language:
            spoken, told = self._translation_tokens(spoken, target_language)
        asked = [spoken, told] if self.multilingual else []
        words = ["<|startoftranscript|>", *asked, "<|notimestamps|>"]
        return self._prompt(task, prompt) + [self.vocabulary[word] for word in words if word in self.vocabulary]

    def prefix_of(self, example, task) -> list[int]:
        return self.prefix(task, example.language, example.prompt, example.target_language)

    def prefix_length(self, example, task):
        return len(self.prefix_of(example, task))

    def _language_token(self, task, language) -> str:
        token = f"<|{language}|>"
        if task.uses_language and language and token in self.vocabulary:
            return token
        return "<|und|>" if "<|und|>" in self.vocabulary else "<|en|>"

    def _translation_tokens(self, spoken: str, target: str) -> tuple[str, str]:
        """Whisper translates to English by a token of its own; other languages are asked for as if they were spoken."""
        if not self.multilingual:
            raise SpeechMergeError(f"{self.path}: a Whisper for English only cannot translate; take a multilingual one")
        if target == "en" and "<|translate|>" in self.vocabulary:
            return spoken, "<|translate|>"
        if f"<|{target}|>" not in self.vocabulary:
            raise SpeechMergeError(f"{self.path}: no token for the target language {target!r}; Whisper's codes are "
                                   "such as de, zh, sv; correct utt2target_lang")
        return f"<|{target}|>", "<|transcribe|>"

    def _prompt(self, task, prompt: str | None) -> list[int]:
        """At most half the decoder, cut from the left as openai/whisper does. The default prompt of a task that has a
        token of its own, or that this tokenizer has no place for, is left out."""
        if not prompt:
            return []
        told, marker = f"<|{task.name}|>" in self.vocabulary, self.vocabulary.get("<|startofprev|>")
        if (told or marker is None) and not task.asks and task.prompt == type(task).prompt:
            return []
        ids, most = self.text_ids(" " + self.writable(prompt.strip())), self.max_positions // 2 - 1
        if len(ids) > most and not self.cut_a_prompt:
            log.warning("a prompt has %d tokens, the decoder takes the last %d: %r", len(ids), most, prompt[:60])
            self.cut_a_prompt = True  # said once
        return [*([] if marker is None else [marker]), *ids[-most:]]

    def text_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def writes(self, text):
        return self._has_token(text)

    def _has_token(self, text: str) -> bool:
        return "<unk>" not in self.vocabulary or self.vocabulary["<unk>"] not in self.text_ids(text)

    def writable(self, text: str) -> str:
        """What a small tokenizer has no token for becomes a lower-case letter, one without accent, or a space.
        Whisper's own tokenizer has tokens for everything."""
        if self._has_token(text):
            return text
        return " ".join("".join(map(self._nearest, text)).split())

    def _nearest(self, char: str) -> str:
        forms = (char, char.lower(), unicodedata.normalize("NFKD", char)[0].lower())
        return next((form for form in forms if form.isspace() or self._character(form)), " ")

    @functools.cached_property
    def _character(self):
        return functools.lru_cache(maxsize=None)(self._has_token)

    def target_ids(self, text: str) -> list[int]:
        """With the leading space of Whisper's pre-training: without it the base's loss is half as high again."""
        return self.text_ids(" " + self.writable(text.strip())) + [self.tokenizer.eos_token_id]

    def fits(self, example, task):
        length = self.prefix_length(example, task) + len(self.target_ids(task.written(example.target))) - 1
        if length > self.max_positions:
            return f"prefix and text are {length} tokens, the decoder holds {self.max_positions}"
        if task.hears_all and self.seconds(example) > self.full_seconds:
            return f"the audio is {self.seconds(example):.1f} s long, the encoder holds {self.full_seconds:g} s"
        return None

    # Batches

    def collate(self, items: list[Item], task, training=False, frames=None):
        frames = frames or max(self.context_frames(item.seconds) for item in items)
        features = torch.stack([self.mel.pad(item.features, frames) for item in items])
        batch = {"input_features": features.to(self.dtype)}
        prefixes = [self.prefix_of(item.example, task) for item in items]
        if not training:
            positions = [-(-min(item.features.shape[-1], frames) // 2) for item in items]
            return {**batch, "decoder_input_ids": torch.tensor(prefixes), "positions": torch.tensor(positions)}
        rows = [prefix + self.target_ids(task.written(item.example.target)) for prefix, item in zip(prefixes, items)]
        width = max(map(len, rows)) - 1
        inputs = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), IGNORED)
        for i, (prefix, row) in enumerate(zip(prefixes, rows)):
            inputs[i, : len(row) - 1] = torch.tensor(row[:-1])
            labels[i, len(prefix) - 1 : len(row) - 1] = torch.tensor(row[len(prefix) :])
        return {**batch, "decoder_input_ids": inputs, "labels": labels}

    def loss(self, outputs, labels, num_items_in_batch=None):
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED,
                                           reduction=reduction)
        return loss if num_items_in_batch is None else loss / num_items_in_batch

    # Decoding

    @torch.inference_mode()
    def encode(self, batch):
        """Encoder output (batch, positions, d); kept in the batch, so that generation and label scoring share it."""
        if "encoder_outputs" not in batch:
            batch["encoder_outputs"] = self.core.model.encoder(batch["input_features"].to(self.device))
        return batch["encoder_outputs"]

    def heard(self, batch):
        return {"encoder_outputs": self.core.model.encoder(batch["input_features"])}

    @torch.inference_mode()
    def embed(self, batch):
        states = self.encode(batch)[0].float()
        positions = batch["positions"].to(states.device)[:, None]
        heard = torch.arange(states.shape[1], device=states.device) < positions
        return ((states * heard[..., None]).sum(1) / positions).cpu()

    @torch.inference_mode()
    def encoder_states(self, batch, layer):
        depth = self._layer(layer)
        features = batch["input_features"].to(self.device)
        found = self.core.model.encoder(features, depth=None if layer == -1 else depth).last_hidden_state
        return found, batch["positions"]

    @torch.inference_mode()
    def layer_states(self, batch, layers):
        encoder, deepest = self.core.model.encoder, max(map(self._layer, layers))
        states = encoder(batch["input_features"].to(self.device), depth=deepest, output_hidden_states=True).hidden_states
        for layer in layers:
            yield layer, encoder.layer_norm(states[-1]) if layer == -1 else states[layer], batch["positions"]

    def _layer(self, layer: int) -> int:
        """How many blocks it needs."""
        depth = len(self.core.model.encoder.layers)
        if not -1 <= layer <= depth:
            raise SpeechMergeError(f"{self.source}: layer {layer} of an encoder of {depth}; expected 0 to {depth}, or -1")
        return depth if layer == -1 else layer

    @torch.inference_mode()
    def generate(self, batch, task, num_beams=1):
        """Texts by greedy or beam search, without the language and timestamp logic of Whisper's own generate()."""
        from transformers import GenerationMixin

        self.core.eval()
        prefix = batch["decoder_input_ids"].to(self.device)
        encoded = self.encode(batch)
        config = copy.deepcopy(self.core.generation_config)  # keeps the tokens that this model must not write
        config.max_length, config.max_new_tokens = min(prefix.shape[1] + task.max_new_tokens, self.max_positions), None
        config.num_beams, config.do_sample, config.use_cache = num_beams, False, True
        if task.free_symbols and config.suppress_tokens:
            config.suppress_tokens = [id for id in config.suppress_tokens if id in self._special_ids] or None
        ids = GenerationMixin.generate(
            self.core, generation_config=config, encoder_outputs=encoded, decoder_input_ids=prefix,
            attention_mask=torch.ones(encoded[0].shape[:2], device=self.device),
        )
        answers = ids[:, prefix.shape[1] :].tolist()
        return [self.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]

    @functools.cached_property
    def _special_ids(self) -> set[int]:
        return {id for token, id in self.vocabulary.items() if token.startswith("<|") and token.endswith("|>")}

    @torch.inference_mode()
    def score_labels(self, batch, labels):
        self.core.eval()
        prefix = batch["decoder_input_ids"].to(self.device)
        targets = [self.target_ids(label) for label in labels]
        if len(labels) > FEW_LABELS:
            return self._score_many(batch, prefix, targets)
        scores = []
        for start in range(0, len(labels), self._labels_at_once(batch)):
            scores.append(self._score(batch, prefix, targets[start : start + self._labels_at_once(batch)]))
        return torch.cat(scores, dim=1)

    def _score_many(self, batch, prefix, targets):
        encoded, scores = self.encode(batch)[0], torch.empty(len(prefix), len(targets))
        for chosen in chunks(targets, TREE_TOKENS):
            found = score_tree(self.core, encoded, prefix, [targets[i] for i in chosen], CACHE_BYTES)
            scores[:, chosen] = found.cpu()
        return scores

    def _labels_at_once(self, batch) -> int:
        config, encoded = self.core.config, self.encode(batch)[0]
        positions = encoded.shape[1] + self.max_positions
        row = 2 * config.decoder_layers * positions * config.d_model * encoded.element_size()
        return max(1, CACHE_BYTES // (row * len(encoded)))

    def _score(self, batch, prefix, targets):
        """The prefix and the encoder's keys and values are computed once per utterance, then repeated per label."""
        count, size = len(targets), len(prefix)
        first = self.core(encoder_outputs=self.encode(batch), decoder_input_ids=prefix, use_cache=True)
        width = max(map(len, targets))
        labels = torch.tensor([ids + [IGNORED] * (width - len(ids)) for ids in targets], device=self.device)
        logits = first.logits[:, -1:].repeat_interleave(count, dim=0)
        if width > 1:
            logits = torch.cat([logits, self._continue(batch, first.past_key_values, labels, size)], dim=1)
        labels = labels.repeat(size, 1)  # rows: utterance by utterance, all labels of each
        chosen = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        known = labels != IGNORED
        return ((chosen * known).sum(-1) / known.sum(-1)).view(size, count).cpu()

    def _continue(self, batch, cache, labels, size):
        from transformers.modeling_outputs import BaseModelOutput

        cache.batch_repeat_interleave(len(labels))
        encoded = self.encode(batch)[0]
        hidden = BaseModelOutput(last_hidden_state=encoded.repeat_interleave(len(labels), dim=0))
        inputs = labels[:, :-1].clamp(min=0).repeat(size, 1)
        return self.core(encoder_outputs=hidden, decoder_input_ids=inputs, past_key_values=cache, use_cache=True).logits

    # Layers

    def unfreeze(self):
        """Fixed sinusoids stay fixed, as in pre-training."""
        self.module.requires_grad_(True)
        self.core.model.encoder.embed_positions.requires_grad_(False)

    def target_modules(self, which="all-linear"):
        names = self.linear_names()
        last = sorted({name.rsplit(".", 1)[-1] for name in names})
        if which in ("all-linear", ["all-linear"]):
            return last
        if which in ("attention", ["attention"]):
            return list(ATTENTION)
        if which in ("decoder", "encoder", ["decoder"], ["encoder"]):
            part = which if isinstance(which, str) else which[0]
            return [name for name in names if f"model.{part}." in f"{name}."]
        return named_layers(which, names, "all-linear, attention, encoder, decoder")
