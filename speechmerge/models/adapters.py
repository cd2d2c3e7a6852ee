"""A model's weights changed for the length of a `with` block: by a LoRA folder, or by a fully fine-tuned model."""
import contextlib
from pathlib import Path

import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_json
from speechmerge.storage.checkpoint import Checkpoint

LORA_WEIGHTS, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
RECORDS = ("speechmerge.json", "merge_metadata.json")


def save_adapter(module, folder: Path):
    """A PEFT adapter as plain PEFT loads it, the same bytes for the same weights."""
    module.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    config = read_json(folder / LORA_CONFIG)
    write_json(folder / LORA_CONFIG, {**config, "target_modules": sorted(config["target_modules"])})


@contextlib.contextmanager
def applied(model, directory: Path):
    """Put base + adapter in place in `model.core`; on exit the touched weights are copied back: the base is exact."""
    saved = {}
    try:
        place(model, directory, saved)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in saved.values():
                parameter.copy_(value)


def place(model, directory: Path, saved: dict):
    """Put base + adapter in place; `saved` takes (parameter, its value before) of what is touched."""
    check_base(model, directory)
    if (directory / LORA_CONFIG).is_file():
        merge = _merge_lora
    elif (directory / "delta.json").is_file():
        merge = _add_delta
    elif (directory / "config.json").is_file():
        merge = _load_full
    elif model.equipment(directory):
        merge = _keep
    else:
        raise SpeechMergeError(f"{directory}: neither an adapter ({LORA_CONFIG}) nor a model (config.json); "
                               "train or merge it again, or correct its path in exp/adapters.json")
    merge(model, directory, saved)


def check_base(model, directory: Path):
    """Raises SpeechMergeError where the folder says that it belongs to another base. Plain PEFT folders say nothing."""
    for name in RECORDS:
        if not (directory / name).is_file():
            continue
        base = read_json(directory / name).get("base") or {}
        found, expected = base.get("fingerprint"), model.fingerprint()
        if found and found != expected:
            raise SpeechMergeError(f"{directory}: belongs to the base {base.get('source')} ({found[:12]}), but the "
                                   f"model here is {model.source} ({expected[:12]}); give its own base with --model, "
                                   "or train it again on this one")
        return


def _merge_lora(model, directory: Path, saved: dict):
    """PEFT itself merges, so that rsLoRA, DoRA, rank and alpha patterns mean here what they mean there."""
    wrapped = _wrap(model, directory)
    for module in wrapped.modules():
        if hasattr(module, "get_base_layer") and hasattr(module, "merge"):
            for parameter in module.get_base_layer().parameters():
                saved[id(parameter)] = (parameter, parameter.detach().clone())
    wrapped.merge_and_unload()
    _strip(model)


def _wrap(model, directory: Path):
    """The network with the adapter around it, not yet merged; where it does not fit the network is left as it was."""
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    tensors = read_all(directory / LORA_WEIGHTS)
    wrapped = None
    try:
        config = PeftConfig.from_pretrained(str(directory))
        config.inference_mode = True
        wrapped = PeftModel(model.core, config)
        result = set_peft_model_state_dict(wrapped, tensors)
        missing = [name for name in result.missing_keys if "lora_" in name]
        if missing or result.unexpected_keys:
            raise KeyError(f"{len(missing)} weights are missing, {len(result.unexpected_keys)} are unknown, such as "
                           f"{(missing + result.unexpected_keys)[0]}")
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        if wrapped is not None:
            wrapped.unload()
        _strip(model)
        reason = " ".join(str(error).split())[:300]
        raise SpeechMergeError(f"{directory}: this adapter does not fit {model.source} ({reason})") from error
    return wrapped.eval()


def _strip(model):
    """What PEFT leaves on a network that it has been wrapped around."""
    core = model.core
    if hasattr(core, "peft_config"):
        del core.peft_config
    core.eval()


def _keep(model, directory: Path, saved: dict):
    """A head alone was trained: the weights are the base's."""


def _load_full(model, directory: Path, saved: dict):
    weights = Checkpoint(directory)
    for name in weights.entries:
        tensor = weights.tensor(name)
        parameter = _matching(model, directory, name, tensor.shape)
        saved[name] = (parameter, parameter.detach().clone())
        with torch.no_grad():
            parameter.copy_(tensor)


def _add_delta(model, directory: Path, saved: dict):
    """delta.json names the parameters; delta.safetensors holds `name.B` and `name.A`, or `name.dense`, in float32."""
    tensors = read_all(directory / "delta.safetensors")
    for name, facts in read_json(directory / "delta.json")["parameters"].items():
        parameter = _matching(model, directory, name, torch.Size(facts["shape"]))
        saved[name] = (parameter, parameter.detach().clone())
        low = facts["kind"] == "low_rank"
        change = tensors[f"{name}.B"] @ tensors[f"{name}.A"] if low else tensors[f"{name}.dense"]
        with torch.no_grad():
            parameter.copy_(parameter.float() + change.view(parameter.shape).to(parameter.device))


def _matching(model, directory: Path, name: str, shape):
    parameters = {**dict(model.core.named_buffers()), **dict(model.core.named_parameters(remove_duplicate=False))}
    if name not in parameters or parameters[name].shape != shape:
        found = "no such weight" if name not in parameters else f"shape {tuple(parameters[name].shape)}"
        raise SpeechMergeError(f"{directory}: weight {name} has shape {tuple(shape)}, {model.source} has {found}")
    return parameters[name]


def read_all(path: Path) -> dict:
    """The tensors of a file. Raises SpeechMergeError where it is missing, cut off or holds NaN or infinity."""
    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there; only safetensors files are read")
    weights = Checkpoint(path)
    return {name: weights.tensor(name) for name in weights.entries}
