"""What every model family offers, and how a model is found and loaded.

    model = load_model("egs/mini/base", audio_context="dynamic")
    with model.adapter("exp/asr/asr"):
        texts = model.generate(model.collate(items, task), task)

A family is one module of this package: a subclass of SpeechModel registered under its name; the families say which
folders and names are theirs (`recognises`, `find`).
"""
import contextlib
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from speechmerge.blocks import block_of
from speechmerge.data.batching import audio_seconds
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from speechmerge.models.loading import Loading
from speechmerge.registry import Registry, nearest

FAMILIES = Registry("model family", "speechmerge.models")
CONTEXTS = ("full", "dynamic")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # code of others and pickled weights are not fetched
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Item:
    """One utterance (or pair) as the model takes it: the task's Example, tensor (channels, frames), seconds."""

    example: object
    features: object
    seconds: float


@dataclass(frozen=True)
class Context:
    """How much audio the encoder sees: always all it can hold, or as much as the utterance needs (seconds)."""

    kind: str = "full"
    minimum: float = 6.0  # a published Whisper that hears less repeats itself; measured in egs/asterisk
    step: float = 3.0

    def __post_init__(self):
        if self.kind not in CONTEXTS:
            raise UsageError(f"audio context {self.kind!r}; {nearest(self.kind, CONTEXTS)}")
        if self.step <= 0:
            raise UsageError(f"audio context step: found {self.step}, expected seconds above 0")

    def seconds(self, duration: float, full: float) -> float:
        """The duration rounded up to a multiple of the step, within [minimum, full]."""
        if self.kind == "full":
            return full
        steps = -(-round(duration * 1000) // round(self.step * 1000))  # milliseconds: 0.1 * 3 must stay three steps
        return min(max(steps * self.step, self.minimum), full)


class SpeechModel:
    """A loaded model of one family. Subclasses implement what raises NotImplementedError here.

    `module` is the network that is called (a PeftModel while an adapter is trained), `core` the family's own network
    inside it; `source` is what the user named, `path` the local folder.
    """

    family: str
    model_types: tuple[str, ...] = ()  # in config.json, of the folders that are of this family
    loadable: tuple[str, ...] = ()  # which of Loading.extras() it can do
    compares = False  # verifies speakers by embeddings, since it cannot write yes or no
    reads_text = False  # can it do without audio, reading the transcript in its prompt?
    needs_instruction = False  # is it told in words what to do (Task.instruction)?
    has_head = False  # does training make a head beside the pre-trained network, that can be trained alone?
    spectral = True  # are features (bins, frames), so that bands and stretches of them can be masked?
    front_end: tuple[str, ...] = ()  # prefixes of parameters in `core` that full fine-tuning keeps as pre-trained
    pair_silence = 0.0  # seconds between the two utterances of a pair
    full_seconds = float("inf")  # what is longer is cut

    def __init__(self, module, tokenizer, feature_extractor, source: str, path: Path, context: Context):
        self.module, self.tokenizer, self.feature_extractor = module, tokenizer, feature_extractor
        self.source, self.path, self.context = source, Path(path), context

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Is this folder a model of the family?"""
        return (path / "config.json").is_file() and read_json(path / "config.json").get("model_type") in cls.model_types

    @classmethod
    def find(cls, name: str) -> Path | None:
        """The local place of a model that only this family knows by this name (fetched where it is not there yet)."""
        return None

    @classmethod
    def load(cls, path: Path, source: str, loading: Loading, context: Context) -> "SpeechModel":
        raise NotImplementedError

    def save(self, folder):
        """What was trained: a PEFT adapter, or the whole model with what belongs to it; a family with heads adds those."""
        from speechmerge.models.adapters import save_adapter

        if self.module is not self.core:
            return save_adapter(self.module, Path(folder))
        self.module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.feature_extractor.save_pretrained(folder)

    def unfreeze(self):
        """Full fine-tuning: all weights take gradients but those that this family keeps as pre-trained."""
        self.module.requires_grad_(True)

    def wrap(self, config):
        """LoRA: put PEFT's adapter of this LoraConfig around the frozen network."""
        from peft import get_peft_model

        self.module = get_peft_model(self.module, config)
        self.module.peft_config["default"].base_model_name_or_path = self.source

    def freeze(self):
        """Training of a head alone: the pre-trained weights take no gradients (families with has_head)."""
        raise NotImplementedError

    def restore(self, folder) -> bool:
        """Take the weights that `save` wrote, to continue a training; False: transformers' Trainer can do it."""
        return False

    def training_examples(self, task, data) -> list:
        """What is trained on for this task."""
        return task.examples(data)

    def build(self, task, examples, labels, options=None):
        """Before training: what the task needs beside the pre-trained weights (a head), made for these examples.

        labels: the closed label set of the task, or None; options: TrainOptions, whose `head...` say what it is like.
        """

    def equip(self, task, folder):
        """Before decoding: the same from the folder of the adapter that was trained on the task (None: there is none)."""

    def equipment(self, folder) -> list[Path]:
        """The files that `equip` reads in this folder; they decide a result like the weights do."""
        return []

    def features(self, audio: tuple[str, ...], utterance: str | None = None):
        """Tensor (channels, frames) of one utterance, or of the two of a pair joined by silence."""
        raise NotImplementedError

    def seconds(self, example) -> float:
        """Duration of what `features` hears of this example."""
        return audio_seconds(example) + self.pair_silence * max(len(example.audio) - 1, 0)

    def context_frames(self, seconds: float) -> int:
        """Frames that an utterance of this duration has in a batch; decoding batches those of equal frames only."""
        raise NotImplementedError

    def prefix_length(self, example, task) -> int:
        """Tokens before the answer; decoding batches utterances of equal length only."""
        return 0

    def writes(self, text: str) -> bool:
        """Has the tokenizer tokens for all of this text?"""
        return True

    def fits(self, example, task) -> str | None:
        """Why this example cannot be trained on (None: it can)."""
        return None

    def collate(self, items: list[Item], task, training: bool = False, frames: int | None = None) -> dict:
        """A batch on the CPU; in training with `labels` (-100: no loss there). `frames`: default the longest item's."""
        raise NotImplementedError

    def loss(self, outputs, labels, num_items_in_batch=None):
        """Mean cross-entropy per target token; with `num_items_in_batch` the sum divided by it (accumulation)."""
        raise NotImplementedError

    def respond(self, batch: dict):
        """Outputs of a training batch on the model's device, with gradients where they are asked for; `loss` takes them."""
        return self.module(**{"use_cache": False, **{key: value for key, value in batch.items() if key != "labels"}})

    def heard(self, batch: dict) -> dict:
        """What of a training batch does not depend on the targets, computed once, with gradients: to be given in place of
        it with other targets."""
        return {}

    def label_scores(self, items: list[Item], task, labels: list[str]):
        """Tensor (items, labels), with gradients: log p(label's text | utterance), summed over its tokens."""
        import torch

        shared, columns = self.heard(self.to_device(self.collate(items, task, training=True))), []
        for label in labels:
            batch = self.collate([replace(item, example=replace(item.example, target=label)) for item in items], task, training=True)
            batch = self.to_device(batch)
            logits, targets = self.respond({**batch, **shared}).logits, batch["labels"]
            chosen = logits.float().log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
            columns.append((chosen * (targets >= 0)).sum(-1))
        return torch.stack(columns, dim=-1)

    def to_device(self, batch: dict) -> dict:
        return {key: value.to(self.device) if hasattr(value, "to") else value for key, value in batch.items()}

    def embed(self, batch: dict):
        """Tensor (batch, d) on the CPU, float32: the encoder's last states, their mean over what holds sound."""
        raise NotImplementedError

    def encoder_states(self, batch: dict, layer: int):
        """(states (batch, positions, d), positions that hold sound (batch)) of one layer of the encoder, for routers.

        layer: 0 the input of the first block, k the output of the k-th, -1 what the decoder is given. Only the blocks up to
        it are computed. Positions are equally far apart; all of them, also those of silence, are returned.
        """
        raise SpeechMergeError(f"{self.source}: models of the family {self.family} give no states of single layers, so "
                               "there is nothing for a router to hear; train routers on a Whisper")

    def layer_states(self, batch: dict, layers: list[int]):
        """(layer, states, positions that hold sound) of each of `layers`, as encoder_states; families that can compute them
        in one pass."""
        for layer in layers:
            yield layer, *self.encoder_states(batch, layer)

    def generate(self, batch: dict, task, num_beams: int = 1) -> list[str]:
        raise NotImplementedError

    def score_labels(self, batch: dict, labels: list[str]):
        """Tensor (batch, labels) on the CPU: mean log-probability per token of each label (end of text included)."""
        raise NotImplementedError

    def target_modules(self, which="all-linear") -> list[str]:
        """Names of the linear layers to adapt: "all-linear", "attention", "decoder", "encoder" or a list of names."""
        raise NotImplementedError

    @property
    def core(self):
        from peft import PeftModel

        return self.module.get_base_model() if isinstance(self.module, PeftModel) else self.module

    @property
    def device(self):
        return next(self.module.parameters()).device

    @property
    def dtype(self):
        return next(self.module.parameters()).dtype

    def block_of(self, parameter_name: str) -> tuple[str, int] | None:
        """("encoder", 3) for a parameter of the encoder's fourth block, None outside the blocks."""
        return block_of(parameter_name)

    def linear_names(self) -> list[str]:
        """Full names of all linear layers except the output head."""
        from torch import nn

        head = self.core.get_output_embeddings()
        return [name for name, part in self.core.named_modules() if isinstance(part, nn.Linear) and part is not head]

    def fingerprint(self) -> str:
        """Of the base weights on disk; equal for equal weights, wherever they lie."""
        from speechmerge.storage.checkpoint import model_fingerprint  # the one function that both floors must agree on

        return model_fingerprint(self.path)

    @contextlib.contextmanager
    def adapter(self, directory):
        """The weights of base + adapter in place while the block runs; the base is bit for bit restored after it.

        `directory`: a PEFT LoRA folder or a fully fine-tuned model. Raises SpeechMergeError for one of another base.
        """
        from speechmerge.models.adapters import applied

        with applied(self, Path(directory)):
            yield self


def load_model(source, loading: Loading | None = None, context: Context | None = None, **options) -> SpeechModel:
    """Load a model from a folder, by hub id or by a name that a family knows.

    options: the fields of Loading (device="cpu", dtype=...), and audio_context, audio_context_min, audio_context_step
    (see Context; seconds), for those who give neither `loading` nor `context`.
    Raises SpeechMergeError for a missing folder or file, another family, a vocabulary that does not match.
    """
    keys = {"audio_context": "kind", "audio_context_min": "minimum", "audio_context_step": "step"}
    context = context or Context(**{keys[name]: options.pop(name) for name in list(options) if name in keys})
    loading = loading or Loading(**options)
    _quiet()
    path, family = find_model(source)
    for name, value in loading.extras().items():
        if name not in family.loadable:
            raise UsageError(f"--{name.replace('_', '-')} {value}: models of the family {family.family} have no such option")
    local = Path(source).expanduser().exists()
    return family.load(path, str(path.resolve()) if local else str(source), loading, context)


def _quiet():
    """No progress bars in log files, and no deprecations that transformers notes about itself and PEFT."""
    import warnings

    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def families() -> list[type[SpeechModel]]:
    return [FAMILIES.get(name) for name in FAMILIES.names()]


def find_model(source) -> tuple[Path, type[SpeechModel]]:
    """The local place of a model and its family; a hub id is taken from the cache or downloaded."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path, family_of(path)
    for family in families():
        if found := family.find(str(source)):
            return found, family
    if path.exists() or not HUB_ID.fullmatch(str(source)):
        raise SpeechMergeError(f"model {source}: no such folder; expected one or a hub id such as openai/whisper-base")
    path = _from_hub(str(source))
    return path, family_of(path)


def family_of(path: Path) -> type[SpeechModel]:
    """Raises SpeechMergeError for a folder that is no model, of no known family, or that brings code of its own."""
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if "auto_map" in config:
        raise SpeechMergeError(f"{path}/config.json: this model brings code of its own (auto_map), which is not run; "
                               f"expected a plain model of a known family ({', '.join(FAMILIES.names())})")
    for family in families():
        if family.recognises(path):
            return family
    if not config:
        raise SpeechMergeError(f"{path}: has no config.json; expected a model folder as save_pretrained writes it")
    known = [name for family in families() for name in family.model_types]
    raise SpeechMergeError(f"{path}/config.json: model_type {config.get('model_type')!r}; "
                           f"{nearest(str(config.get('model_type')), known)}")


def _from_hub(name: str, files=HUB_FILES) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=files))
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpeechMergeError(f"model {name}: no such folder, not in the hub cache, and the hub gave none ({reason}); "
                               "give a folder, or for openai/whisper-base run tools/get_whisper_base.sh") from error
