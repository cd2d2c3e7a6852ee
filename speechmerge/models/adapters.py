"""A model's weights changed for the length of a `with` block: by a LoRA folder, or by a fully fine-tuned model."""
import contextlib
import warnings
from pathlib import Path

import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json
from speechmerge.models.weights import read_file, read_weights

LORA_WEIGHTS, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
RECORDS = ("speechmerge.json", "merge_metadata.json")


@contextlib.contextmanager
def applied(model, directory: Path):
    """Put base + adapter in place in `model.core`; on exit the touched weights are copied back, so the base is exact again."""
    check_base(model, directory)
    if (directory / LORA_CONFIG).is_file():
        merge = _merge_lora
    elif (directory / "delta.json").is_file():
        merge = _add_delta
    elif (directory / "config.json").is_file():
        merge = _load_full
    else:
        raise SpeechMergeError(f"{directory}: neither an adapter ({LORA_CONFIG}) nor a model (config.json); "
                               "train or merge it again, or correct its path in exp/adapters.json")
    saved = {}
    try:
        merge(model, directory, saved)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in saved.values():
                parameter.copy_(value)


def check_base(model, directory: Path):
    """Raises SpeechMergeError where the folder says that it belongs to other base weights. Plain PEFT folders say nothing."""
    for name in RECORDS:
        if not (directory / name).is_file():
            continue
        base = read_json(directory / name).get("base") or {}
        found, expected = base.get("fingerprint"), model.fingerprint()
        if found and found != expected:
            raise SpeechMergeError(f"{directory}: belongs to the base {base.get('source')} ({found[:12]}), but the model here is "
                                   f"{model.source} ({expected[:12]}); give its own base with --model, or train it again on this one")
        return


def _keep(saved: dict, name: str, parameter):
    saved[name] = (parameter, parameter.detach().clone())


def _merge_lora(model, directory: Path, saved: dict):
    """PEFT itself merges, so that rsLoRA, DoRA, rank and alpha patterns mean here what they mean there."""
    from peft import PeftConfig, PeftModel

    check_finite(directory / LORA_WEIGHTS)
    try:
        config = PeftConfig.from_pretrained(str(directory))
        config.inference_mode = True
        before = {id(parameter): name for name, parameter in model.core.named_parameters()}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            wrapped = PeftModel.from_pretrained(model.core, str(directory), config=config, torch_device=str(model.device))
    except (ValueError, RuntimeError, KeyError, TypeError, UserWarning) as error:
        _strip(model)
        reason = " ".join(str(error).split())[:300]
        raise SpeechMergeError(f"{directory}: this adapter does not fit {model.source} ({reason})") from error
    for module in wrapped.modules():
        if hasattr(module, "get_base_layer") and hasattr(module, "merge"):
            for name, parameter in module.get_base_layer().named_parameters():
                _keep(saved, f"{before[id(parameter)]}", parameter)
    wrapped.merge_and_unload()
    _strip(model)


def _strip(model):
    """What PEFT leaves on a network that it has been wrapped around."""
    core = model.core
    if hasattr(core, "peft_config"):
        del core.peft_config
    core.eval()


def _load_full(model, directory: Path, saved: dict):
    for name, tensor in read_weights(directory):
        parameter = _matching(model, directory, name, tensor.shape)
        _keep(saved, name, parameter)
        with torch.no_grad():
            parameter.copy_(tensor)


def _add_delta(model, directory: Path, saved: dict):
    """delta.json names the parameters; delta.safetensors holds `name.B` and `name.A`, or `name.dense`, in float32."""
    tensors = dict(read_file(directory / "delta.safetensors"))
    for name, facts in read_json(directory / "delta.json")["parameters"].items():
        parameter = _matching(model, directory, name, torch.Size(facts["shape"]))
        _keep(saved, name, parameter)
        low = facts["kind"] == "low_rank"
        change = (tensors[f"{name}.B"] @ tensors[f"{name}.A"]).view(parameter.shape) if low else tensors[f"{name}.dense"]
        with torch.no_grad():
            parameter.copy_(parameter.float() + change.to(parameter.device))


def _matching(model, directory: Path, name: str, shape):
    parameters = dict(model.core.named_parameters(remove_duplicate=False))
    if name not in parameters or parameters[name].shape != shape:
        found = "no such weight" if name not in parameters else f"shape {tuple(parameters[name].shape)}"
        raise SpeechMergeError(f"{directory}: weight {name} has shape {tuple(shape)}, {model.source} has {found}")
    return parameters[name]


def check_finite(path: Path):
    """Raises SpeechMergeError for an adapter file that is missing, cut off or holds NaN or infinity."""
    for name, tensor in read_file(path):
        if not torch.isfinite(tensor).all():
            raise SpeechMergeError(f"{path}: key {name} holds NaN or infinity; train it again (a lower learning rate, fp32)")
