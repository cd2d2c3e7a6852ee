"""Published folders of upstreams as the plain network: names of weights as in HubertModel, weights as safetensors.

A folder may hold the network within another one (`wav2vec2.encoder...` of Wav2Vec2ForPreTraining), the two parts of the
positional convolution's weight under their old names (weight_g, weight_v), or pickled weights. Adapters and fine-tuned
models have the plain names, and merging compares names; so a plain copy is made once, in the cache folder.
"""
import logging
import os
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_dir, read_json, write_json
from speechmerge.models.base import HUB_FILES, HUB_ID, _from_hub
from speechmerge.storage.checkpoint import Checkpoint, model_fingerprint

log = logging.getLogger(__name__)
AS_FINE_TUNED = {"layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
KINDS = ("hubert", "wav2vec2", "wavlm")  # words in hub ids
PICKLED = ("pytorch_model.bin", "pytorch_model*.bin", "pytorch_model.bin.index.json")


def fetched(name: str) -> Path | None:
    """The folder of a hub id of an upstream: many have pickled weights alone. None for other names."""
    if not HUB_ID.fullmatch(name) or not any(kind in name.lower() for kind in KINDS):
        return None
    path = _from_hub(name)
    if not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
        path = _from_hub(name, [*HUB_FILES, *PICKLED])
    return path


def plain_folder(path: Path, kind) -> Path:
    """`path` itself where it is plain, else its copy. kind: transformers' class of the plain network."""
    names = set(Checkpoint(path).entries)
    expected = set(_network_names(path, kind))
    if names == expected:
        return path
    target = cache_folder() / f"{Path(path).resolve().name}-{model_fingerprint(path)[:16]}"
    if not (target / "config.json").is_file():
        log.info("%s: a copy with the names and files of a plain %s is made in %s", path, kind.__name__, target)
        with atomic_dir(target) as beside:
            _write_plain(path, kind, beside)
    return target


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechmerge" / "upstreams"


def _network_names(path: Path, kind):
    import torch

    with torch.device("meta"):
        return kind(kind.config_class.from_pretrained(path)).state_dict()


def _write_plain(path: Path, kind, target: Path):
    import torch
    from transformers import AutoFeatureExtractor

    with torch.random.fork_rng(devices=[]):  # masked_spec_embed, where it is missing, starts at random
        torch.manual_seed(0)
        core, notes = kind.from_pretrained(path, output_loading_info=True, dtype="auto")
    if missing := sorted(set(notes["missing_keys"]) - {"masked_spec_embed"}):
        raise SpeechMergeError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}; is this a "
                               f"{kind.__name__}? copy the whole folder again")
    core.save_pretrained(target, save_original_format=False)
    AutoFeatureExtractor.from_pretrained(path).save_pretrained(target)


def save_plain(network, feature_extractor, base: Path, folder: Path):
    """A fine-tuned upstream as a folder. Of layerdrop and masks, its config.json says what that of `base` says."""
    network.save_pretrained(folder, save_original_format=False)
    feature_extractor.save_pretrained(folder)
    before, now = read_json(base / "config.json"), read_json(folder / "config.json")
    for name in AS_FINE_TUNED:
        now.pop(name, None)
        if name in before:
            now[name] = before[name]
    write_json(folder / "config.json", now)
