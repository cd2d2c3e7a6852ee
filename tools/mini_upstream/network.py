"""The mini upstream: a HubertModel of 1.5 M parameters, its feature extractor, and how both are saved."""
from pathlib import Path

import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

SEED = 31
HOP, WINDOW = 320, 400  # samples between two frames, and what a frame hears: 20 and 25 ms


def make_model() -> HubertModel:
    """Random weights, always the same for SEED. Strides and norm of HuBERT base, fewer channels."""
    torch.manual_seed(SEED)
    config = HubertConfig(
        hidden_size=160, num_hidden_layers=4, num_attention_heads=4, intermediate_size=640,
        conv_dim=[32, 48, 64, 64, 64, 64, 96], num_conv_pos_embeddings=64, num_conv_pos_embedding_groups=8,
        feat_extract_norm="group", do_stable_layer_norm=False, vocab_size=32, layerdrop=0.0, hidden_dropout=0.05,
        attention_dropout=0.05, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0)
    return HubertModel(config)


def make_extractor() -> Wav2Vec2FeatureExtractor:
    """Mean 0 and variance 1 of each utterance; no attention mask, as for every model with this group norm."""
    return Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True,
                                    return_attention_mask=False)


def frames_of(samples: int) -> int:
    """Frames that the convolutions make of so many samples."""
    return (samples - WINDOW) // HOP + 1


def export(state: dict, folder: Path):
    """Weights as fp16; config.json says float32, so they are loaded as that."""
    model = make_model()
    model.load_state_dict(state)
    model.config.dtype = torch.float32
    model.half().save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.architectures = ["HubertModel"]
    model.config.save_pretrained(folder)
    make_extractor().save_pretrained(folder)
