"""Upstreams as SUPERB and Speech-FT use them: a self-supervised encoder that hears waves, and one small head per task.

    --model facebook/hubert-base-ls960      transformers' HuBERT, wav2vec 2.0 or WavLM, by folder or hub id
    --model s3prl:fbank                     any upstream of s3prl.hub by name (see hub.py)

The head is trained beside a LoRA, beside all weights, or alone (`--tuning head`). It lies in head.json and
head.safetensors of the adapter's folder; merging does not touch it, and every task is decoded with its own.
"""
from pathlib import Path

import numpy as np
import torch
from torch import nn

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from speechmerge.models.base import FAMILIES, Context, Item, SpeechModel
from speechmerge.models.loading import Loading, named_layers, pick_device, pretrained_options, require_files
from speechmerge.models.s3prl.ctc import beam_search, greedy, needed_frames, text_scores
from speechmerge.models.s3prl.heads import (DEFAULT_HEADS, FILE, IGNORED, WEIGHTS, make_head, read_head, save_head,
                                            spec_for, split, units_of)
from speechmerge.models.s3prl.hub import PREFIX, RATE, load_hub, parse
from speechmerge.models.s3prl.network import SHORTEST, Network, Waves, make_length_aware
from speechmerge.models.s3prl.plain import AS_FINE_TUNED, fetched, plain_folder, save_plain
from speechmerge.registry import nearest

CLASSES = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model", "wavlm": "WavLMModel"}
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
BUCKET = 25  # frames (0.5 s) within which lengths count as equal for batches


@FAMILIES.register("s3prl")
class Upstream(SpeechModel):
    """HuBERT, wav2vec 2.0, WavLM and s3prl's other upstreams, with a head per task."""

    family = "s3prl"
    compares = True
    model_types = tuple(CLASSES)
    loadable = ("attention",)
    has_head = True
    spectral = False
    front_end = ("feature_extractor.",)

    def __init__(self, module, feature_extractor, source, path, context, rate: int, normalises: bool):
        super().__init__(module, None, feature_extractor, source, path, context)
        self.rate, self.normalises = rate, normalises
        self.hub_fingerprint: str | None = None  # of an upstream of s3prl
        self.tuning = "full"
        self.numbers: dict[str, int] = {}  # of the head's symbols
        self.equipped = None  # the task and the files that the head was read from

    @classmethod
    def find(cls, name):
        return Path(name) if name.startswith(PREFIX) else fetched(name)

    @classmethod
    def load(cls, path, source, loading: Loading, context: Context):
        if str(source).startswith(PREFIX):
            return cls._from_hub(source, loading, context)
        import transformers

        require_files(path, {"feature extractor": ["preprocessor_config.json", "processor_config.json"],
                             "weights": ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                         "pytorch_model.bin.index.json"]})
        kind = getattr(transformers, CLASSES[read_json(path / "config.json")["model_type"]])
        plain = plain_folder(path, kind)
        if plain != path:
            path, source = plain, str(plain)
        core = kind.from_pretrained(path, **pretrained_options(loading))
        for name, value in AS_FINE_TUNED.items():
            setattr(core.config, name, value)
        make_length_aware(core)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
        network = Network(Waves(core)).to(pick_device(loading.device)).eval()
        return cls(network, extractor, source, path, context, extractor.sampling_rate, bool(extractor.do_normalize))

    @classmethod
    def _from_hub(cls, source, loading: Loading, context: Context):
        """An upstream of s3prl, which normalises by itself."""
        if loading.attention or loading.dtype != "float32":
            raise UsageError(f"--model {source}: upstreams of s3prl have neither --attention nor --dtype")
        name, file = parse(source)
        path = Path(file).expanduser().resolve() if file else Path(source)
        network = Network(load_hub(source)).eval()
        model = cls(network, None, f"{PREFIX}{name}@{path}" if file else source, path, context, RATE, False)
        model.hub_fingerprint = network.body.fingerprint(name)
        network.to(pick_device(loading.device))
        return model

    @property
    def of_hub(self) -> bool:
        return self.source.startswith(PREFIX)

    @property
    def core(self):
        return self.module.body.core

    @property
    def device(self):
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self):
        return next((parameter.dtype for parameter in self.core.parameters()), torch.float32)

    def fingerprint(self):
        return self.hub_fingerprint if self.of_hub else super().fingerprint()

    @property
    def head(self):
        return self.module.head

    # What is trained and kept

    def wrap(self, config):
        from peft import get_peft_model

        body, self.tuning = self.module.body, "lora"
        body.upstream = get_peft_model(body.upstream, config)
        body.upstream.peft_config["default"].base_model_name_or_path = self.source

    def unfreeze(self):
        if self.of_hub:
            raise UsageError(f"--tuning full: a fine-tuned {self.source} could not be kept in a form that s3prl reads; take "
                             "the same model as a folder of transformers, or --tuning lora or head")
        self.tuning = "full"
        self.module.requires_grad_(True)

    def freeze(self):
        """The head alone is trained. The upstream's states are computed once per utterance and kept like features."""
        self.tuning = "head"
        self.core.requires_grad_(False)

    def save(self, folder):
        from speechmerge.models.adapters import save_adapter

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.tuning == "lora":
            save_adapter(self.module.body.upstream, folder)
        elif self.tuning == "full":
            save_plain(self.core, self.feature_extractor, self.path, folder)
        if self.head is not None:
            save_head(self.head, folder)

    def restore(self, folder):
        """Continue from what `save` wrote."""
        from speechmerge.models.adapters import LORA_WEIGHTS, read_all
        from speechmerge.storage.checkpoint import Checkpoint

        self.head.load_state_dict(read_all(folder / WEIGHTS))
        if self.tuning == "lora":
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(self.module.body.upstream, read_all(folder / LORA_WEIGHTS))
        elif self.tuning == "full":
            weights, parameters = Checkpoint(folder), dict(self.core.named_parameters())
            with torch.no_grad():
                for name in weights.entries:
                    parameters[name].copy_(weights.tensor(name))
        return True

    def build(self, task, examples, labels, options=None):
        from speechmerge.train.options import TrainOptions

        self.check_task(task)
        options, body = options or TrainOptions(), self.module.body
        spec = spec_for(task, examples, labels, options, body.width, body.layers)
        if not self.of_hub:
            self.mask(options.mask_time_prob)
        elif options.mask_time_prob:
            raise UsageError(f"--mask-time-prob: {self.source} masks nothing")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self._put(make_head(spec))

    def mask(self, probability: float):
        """SpecAugment over the input of the transformer, in training; 0: none, whatever config.json says."""
        if probability and not hasattr(self.core, "masked_spec_embed"):
            raise UsageError(f"--mask-time-prob: {self.source} has no masked_spec_embed, what masked frames get")
        self.core.config.apply_spec_augment, self.core.config.mask_time_prob = probability > 0, probability

    def _put(self, head):
        self.module.head, self.equipped = head if head is None else head.to(self.device), None
        self.tuning = "full"
        first = int(head is not None and head.ctc)  # 0 is CTC's blank
        self.numbers = {symbol: number for number, symbol in enumerate(head.spec.symbols if head else (), first)}

    def equip(self, task, folder):
        self.check_task(task)
        if folder is None:
            self._put(None)
            return
        now = (task.name, [(str(path), path.stat().st_mtime_ns) for path in self.equipment(folder)])
        if now == self.equipped:
            return
        head = read_head(folder, self.module.body.width, self.module.body.layers)
        if head.spec.task != task.name:
            raise SpeechMergeError(f"{folder}/{FILE}: a head of the task {head.spec.task}, expected {task.name}")
        self._put(head)
        self.equipped = now

    def equipment(self, folder):
        found = [Path(folder) / name for name in (FILE, WEIGHTS)] if folder else []
        return [path for path in found if path.is_file()]

    def check_task(self, task):
        """Raises UsageError for a task that a head cannot do."""
        if task.asks:
            raise UsageError(f"the task {task.name} asks a question of each utterance, which an upstream with a head "
                             "cannot read; choose an audio LLM with --model")
        if task.kind == "verification" and task.verification != "cosine":
            raise UsageError(f"{task.name}: an upstream compares embeddings: --verification cosine")

    def training_examples(self, task, data):
        """Speaker verification learns the speakers of single utterances."""
        if task.kind != "verification":
            return task.examples(data)
        self.check_task(task)
        found = []
        for id, utterance in sorted(data.utterances.items()):
            if utterance.speaker is None:
                raise SpeechMergeError(f"{data.path / 'utt2spk'}: utterance {id} has no speaker to be learned")
            found.append(task.example(utterance, utterance.speaker))
        return found

    def _head(self):
        if self.head is None:
            raise SpeechMergeError(f"{self.source}: no head for this task; train one (speechmerge train --tuning head) "
                                   "and give its folder, or the experiment folder that it is registered in")
        return self.head

    # Audio

    def features(self, audio, utterance=None):
        """(1, samples); where only a head is trained the upstream's states (layers, frames, width)."""
        from speechmerge.data.audio import read_audio

        wave = np.concatenate([read_audio(path, self.rate, utterance=utterance) for path in audio])
        if self.normalises:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        wave = np.pad(wave, (0, max(0, SHORTEST - len(wave)))).astype(np.float32)
        wave = torch.from_numpy(wave)[None]
        if self.tuning != "head":
            return wave
        length = torch.tensor([wave.shape[1]], device=self.device)
        with torch.no_grad():
            states, _ = self.module.eval().states(wave.to(self.device, self.dtype), length)
        return states[0].cpu()

    def context_frames(self, seconds):
        samples = max(round(seconds * self.rate), SHORTEST)
        return -(-int(self.module.body.frames(samples)) // BUCKET) * BUCKET

    # Text

    def target_ids(self, text: str) -> list[int]:
        """What the head has no symbol for (only in other data than it was built for) is left out."""
        spec = self._head().spec
        symbols = split(text, spec.units) if self.head.ctc else [text]
        return [self.numbers[symbol] for symbol in symbols if symbol in self.numbers]

    def text_of(self, ids: list[int]) -> str:
        symbols = [self.head.spec.symbols[id - 1] for id in ids]
        return " ".join(symbols) if self.head.spec.units == "word" else "".join(symbols).strip()

    def writes(self, text):
        """CTC writes whatever it was trained on, but the brackets and quotes of JSON would cost too many frames."""
        return not set('{"').intersection(text)

    def fits(self, example, task):
        if len(example.audio) != 1:
            return "it is a pair; heads are trained on single utterances"
        if task.kind in DEFAULT_HEADS:
            known = self.head is None or self.head.ctc or example.target in self.numbers
            return None if known else f"the head has no label {example.target!r}"
        symbols = split(task.written(example.target), units_of(task))
        frames = int(self.module.body.frames(max(round(self.seconds(example) * self.rate), SHORTEST)))
        if needed_frames(symbols) > frames:
            return f"{len(symbols)} symbols in {frames} frames: CTC cannot write them"
        return None

    # Batches

    def collate(self, items: list[Item], task, training=False, frames=None):
        rows = [item.features for item in items]
        if rows[0].dim() == 3:
            lengths = [row.shape[1] for row in rows]
            states = [nn.functional.pad(row, (0, 0, 0, max(lengths) - row.shape[1])) for row in rows]
            batch = {"states": torch.stack(states), "lengths": torch.tensor(lengths)}
        else:
            lengths = [row.shape[1] for row in rows]
            waves = [nn.functional.pad(row[0], (0, max(lengths) - row.shape[1])) for row in rows]
            batch = {"waves": torch.stack(waves).to(self.dtype), "lengths": torch.tensor(lengths)}
        if training:
            targets = [self.target_ids(task.written(item.example.target)) for item in items]
            width = max(1, *map(len, targets))
            batch["labels"] = torch.tensor([ids + [IGNORED] * (width - len(ids)) for ids in targets])
        return batch

    def loss(self, outputs, labels, num_items_in_batch=None):
        """CTC: per symbol of the texts; labels: per utterance."""
        total = self.head.loss_sum(outputs, labels)
        return total / (labels.ne(IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)

    # Decoding

    @torch.inference_mode()
    def encode(self, batch):
        """(states, frames of each row); kept in the batch."""
        if "encoded" not in batch:
            lengths = batch["lengths"].to(self.device)
            if "states" in batch:
                batch["encoded"] = batch["states"].to(self.device), lengths
            else:
                batch["encoded"] = self.module.eval().states(batch["waves"].to(self.device), lengths)
        return batch["encoded"]

    def respond(self, batch):
        self._head()
        return self.module.eval()(**{key: value for key, value in batch.items() if key != "labels"})

    def label_scores(self, items, task, labels):
        batch = self.to_device(self.collate(items, task))
        found = self._head().eval()(*self.module.states(batch["waves"], batch["lengths"]))
        return self._of_labels(found, labels)

    @torch.inference_mode()
    def embed(self, batch):
        states, lengths = self.encode(batch)
        if self.head is not None and not self.head.ctc:
            return self.head.eval().embed(states, lengths).float().cpu()
        heard = torch.arange(states.shape[2], device=states.device) < lengths[:, None]
        return ((states[:, -1].float() * heard[..., None]).sum(1) / lengths[:, None]).cpu()

    def encoder_states(self, batch, layer):
        return next(self.layer_states(batch, [layer]))[1:]

    @torch.inference_mode()
    def layer_states(self, batch, layers):
        """All blocks are computed, also those above; padding ends in no row's states."""
        waves, lengths = batch["waves"].to(self.device), batch["lengths"].to(self.device)
        for every in sorted({layer >= 0 for layer in layers}):
            states, heard = self.module.eval().body(waves, lengths, every)
            yield from ((layer, states[:, layer], heard) for layer in layers if (layer >= 0) == every)

    @torch.inference_mode()
    def _output(self, batch):
        return self._head().eval()(*self.encode(batch))

    @torch.inference_mode()
    def generate(self, batch, task, num_beams=1):
        scores, lengths = self._output(batch)
        if not self.head.ctc:
            return [self.head.spec.symbols[best] for best in scores.argmax(-1).tolist()]
        rows = [row[:length] for row, length in zip(scores, lengths.tolist())]
        return [self.text_of(beam_search(row, num_beams) if num_beams > 1 else greedy(row)) for row in rows]

    @torch.inference_mode()
    def score_labels(self, batch, labels):
        """Log-probabilities of the labels; of a text that CTC writes over all its paths."""
        return self._of_labels(self._output(batch), labels).cpu()

    def _of_labels(self, output, labels):
        scores, lengths = output
        if self.head.ctc:
            return text_scores(scores, lengths, [self.target_ids(label) for label in labels])
        if unknown := sorted(set(labels) - self.numbers.keys()):
            raise SpeechMergeError(f"{self.head.spec.task}: the head has no label {unknown[0]!r}; "
                                   f"{nearest(unknown[0], self.numbers)}; decode data with the labels that it learned")
        return scores.float().log_softmax(-1)[:, [self.numbers[label] for label in labels]]

    # Layers

    def linear_names(self):
        if self.of_hub:
            return self.module.body.adaptable()
        return [name for name, part in self.core.named_modules() if isinstance(part, nn.Linear)
                and not name.startswith(self.front_end)]

    def target_modules(self, which="all-linear"):
        names = self.linear_names()
        last = sorted({name.rsplit(".", 1)[-1] for name in names})
        word = which[0] if not isinstance(which, str) and len(which) == 1 else which
        if not names:
            raise UsageError(f"--tuning lora: {self.source} has no layers to adapt; use --tuning head")
        if word == "all-linear":
            return names if self.of_hub else last
        if word == "attention":
            if not (found := [name for name in last if name in ATTENTION]):
                raise UsageError(f"target attention: {self.source} has no such layers to adapt; expected all-linear, "
                                 f"encoder, or names out of {', '.join(last)}")
            return found
        if word == "encoder":
            return [name for name in names if self.block_of(f"{name}.weight")]
        return named_layers(which, names, "all-linear, attention, encoder")
