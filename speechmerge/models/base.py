"""What every model family offers, and how a model is found and loaded.

    model = load_model("egs/mini/base", audio_context="dynamic")
    with model.adapter("exp/asr/asr"):
        texts = model.generate(model.collate(items, task), task)

A family is one module of this package: a subclass of SpeechModel registered under the `model_type` of config.json.
"""
import contextlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from speechmerge.data.batching import audio_seconds
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from speechmerge.registry import Registry, nearest

FAMILIES = Registry("model family", "speechmerge.models")
CONTEXTS = ("full", "dynamic")
DTYPES = ("float32", "bfloat16", "float16")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # code of others and pickled weights are not fetched
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
BLOCK = re.compile(r"(?:^|\.)(\w+)\.layers\.(\d+)\.")


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
    minimum: float = 2.0
    step: float = 0.5

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
    pair_silence = 0.0  # seconds between the two utterances of a pair
    full_seconds = float("inf")  # what is longer is cut

    def __init__(self, module, tokenizer, feature_extractor, source: str, path: Path, context: Context):
        self.module, self.tokenizer, self.feature_extractor = module, tokenizer, feature_extractor
        self.source, self.path, self.context = source, Path(path), context

    @classmethod
    def load(cls, path: Path, source: str, device, dtype, context: Context) -> "SpeechModel":
        raise NotImplementedError

    def features(self, audio: tuple[str, ...], utterance: str | None = None):
        """Tensor (channels, frames) of one utterance, or of the two of a pair joined by silence."""
        raise NotImplementedError

    def seconds(self, example) -> float:
        """Duration of what `features` hears of this example."""
        return audio_seconds(example) + self.pair_silence * (len(example.audio) - 1)

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

    def embed(self, batch: dict):
        """Tensor (batch, d) on the CPU, float32: the encoder's last states, their mean over what holds sound."""
        raise NotImplementedError

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
        match = BLOCK.search(parameter_name)
        return (match.group(1), int(match.group(2))) if match else None

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


def load_model(source, device: str = "auto", dtype: str = "float32", audio_context: str = "full",
               audio_context_min: float = 2.0, audio_context_step: float = 0.5) -> SpeechModel:
    """Load a model from a folder or by hub id; the family follows from `model_type` in its config.json.

    device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1"; dtype: of the weights, one of DTYPES;
    audio_context: "full" or "dynamic" (see Context; min and step in seconds).
    Raises SpeechMergeError for a missing folder or file, another family, a vocabulary that does not match.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}; {nearest(dtype, DTYPES)}")
    _quiet()
    path = find_model(source)
    config = read_json(path / "config.json")
    if "auto_map" in config:
        raise SpeechMergeError(f"{path}/config.json: this model brings code of its own (auto_map), which is not run; "
                               f"expected a plain model of a known family ({', '.join(FAMILIES.names())})")
    family = FAMILIES.get(config.get("model_type") or "missing model_type in config.json")
    source = str(path.resolve()) if Path(source).expanduser().is_dir() else str(source)
    context = Context(audio_context, audio_context_min, audio_context_step)
    return family.load(path, source, pick_device(device), dtype, context)


def _quiet():
    """No progress bars in log files, and no deprecations that transformers notes about itself and PEFT."""
    import warnings

    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def find_model(source) -> Path:
    """The local folder of a model; a hub id is taken from the cache or downloaded."""
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SpeechMergeError(f"{path}: has no config.json; expected a model folder as save_pretrained writes it")
        return path
    if path.exists() or not HUB_ID.fullmatch(str(source)):
        raise SpeechMergeError(f"model {source}: no such folder; expected one or a hub id such as openai/whisper-base")
    return _from_hub(str(source))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=HUB_FILES))
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpeechMergeError(f"model {name}: no such folder, not in the hub cache, and the hub gave none ({reason}); "
                               "give a folder, or for openai/whisper-base run tools/get_whisper_base.sh") from error


def pick_device(device: str):
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: expected auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: no NVIDIA GPU here, or a build of torch without CUDA; use --device cpu")
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    return chosen


def require_files(path: Path, alternatives: dict[str, list[str]]):
    """`alternatives`: what it is -> file names of which one must be in the model folder."""
    for what, names in alternatives.items():
        if not any((path / name).is_file() for name in names):
            raise SpeechMergeError(f"{path}: no {what} (expected {' or '.join(names)}); copy the whole folder again")
