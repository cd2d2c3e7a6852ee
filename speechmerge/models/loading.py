"""How a model is loaded: device, type, and what the families check and ask of transformers alike."""
from dataclasses import dataclass
from pathlib import Path

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.registry import nearest

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("4bit", "8bit")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")


@dataclass(frozen=True)
class Loading:
    """Where the weights go and in which type. A family refuses what it cannot do (see SpeechModel.loadable)."""

    device: str = "auto"  # "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1"
    dtype: str = "float32"  # of the weights, one of DTYPES
    quantization: str | None = None  # of a frozen base, one of QUANTIZATIONS (bitsandbytes)
    attention: str | None = None  # one of ATTENTIONS; None: what the family takes
    device_map: str | None = None  # "auto": spread over all GPUs (accelerate)

    def __post_init__(self):
        for name, known in (("dtype", DTYPES), ("quantization", QUANTIZATIONS), ("attention", ATTENTIONS)):
            found = getattr(self, name)
            if found is not None and found not in known:
                raise UsageError(f"{name.replace('_', ' ')} {found!r}; {nearest(found, known)}")

    def extras(self) -> dict[str, str]:
        """What goes beyond device and type, by option name."""
        names = ("quantization", "attention", "device_map")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


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


def pretrained_options(loading: Loading) -> dict:
    """Arguments of `from_pretrained` for type and attention. Raises SpeechMergeError where a package is missing."""
    import importlib.util

    import torch

    options = {"dtype": getattr(torch, loading.dtype)}
    if loading.attention == "flash_attention_2" and not importlib.util.find_spec("flash_attn"):
        raise SpeechMergeError("--attention flash_attention_2: the package is not installed; run `pip install flash-attn "
                               "--no-build-isolation` on a machine with an NVIDIA GPU")
    if loading.attention:
        options["attn_implementation"] = loading.attention
    return options


def require_files(path: Path, alternatives: dict[str, list[str]]):
    """`alternatives`: what it is -> file names of which one must be in the model folder."""
    for what, names in alternatives.items():
        if not any((path / name).is_file() for name in names):
            raise SpeechMergeError(f"{path}: no {what} (expected {' or '.join(names)}); copy the whole folder again")


def named_layers(which, layers, expected: str) -> list[str]:
    """The names of a list, or one name, of layers to adapt. UsageError for one that is no layer's name nor the end of one.

    expected: the words that stand for groups, for the message.
    """
    chosen = [which] if isinstance(which, str) else list(which)
    for name in chosen:
        if not any(full == name or full.endswith("." + name) for full in layers):
            last = sorted({full.rsplit(".", 1)[-1] for full in layers})
            raise UsageError(f"target {name!r}: no such layer; expected {expected}, or names out of {', '.join(last)}")
    return chosen
