"""PEFT adapters of the tiny Whisper with random factors, made by PEFT itself.

    base = shared_base(tmp_path_factory)
    folder = make_adapter(base, tmp_path / "a", seed=1, r=4, lora_alpha=8, use_rslora=True)
"""
import copy
import warnings

import torch
from tiny import tiny_whisper

TARGETS = ["q_proj", "v_proj", "fc1", "fc2"]
_models = {}


def load_base(base):
    """A fresh copy of the base; read from disk once."""
    from transformers import WhisperForConditionalGeneration

    if str(base) not in _models:
        _models[str(base)] = WhisperForConditionalGeneration.from_pretrained(base).eval()
    return copy.deepcopy(_models[str(base)])


def make_base(folder, seed=0):
    return tiny_whisper(folder, seed=seed)


def make_adapter(base, folder, seed=0, size=0.05, **config):
    """Saves a PEFT adapter whose B, A and magnitudes are random; returns its folder."""
    from peft import LoraConfig, get_peft_model

    config = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **config}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(load_base(base), LoraConfig(**config))
        for name, parameter in model.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.data *= 0.8 + 0.4 * torch.rand_like(parameter)
            elif parameter.requires_grad:
                parameter.data += size * torch.randn_like(parameter)
        model.save_pretrained(folder)
    return folder


def peft_model(base, folder):
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base), folder).eval()


def batch(seed=0):
    """(input_features, decoder_input_ids) for the tiny Whisper."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 80, 200, generator=generator)
    return features, torch.randint(1, 40, (2, 5), generator=generator)


@torch.no_grad()
def logits(model, seed=0):
    features, ids = batch(seed)
    return model(input_features=features, decoder_input_ids=ids).logits


def merged_weights(base, folder):
    """name -> weight - base, where PEFT itself merged the adapter."""
    start = load_base(base).state_dict()
    tuned = peft_model(base, folder).merge_and_unload().state_dict()
    return {name: tuned[name] - start[name] for name in tuned if not torch.equal(tuned[name], start[name])}
