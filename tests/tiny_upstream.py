"""Tiny random upstreams, so that tests need no network: HuBERT, wav2vec 2.0 and WavLM of transformers.

    base = tiny_upstream(tmp_path / "base")                 # group norm in the front end, as the base sizes
    large = tiny_upstream(tmp_path / "large", large=True)   # layer norm and pre-norm blocks, as the large sizes
"""
from pathlib import Path


def tiny_upstream(dir, kind="hubert", large=False, seed=0, width=32, layers=2):
    """Writes config, weights and feature extractor; returns `dir`."""
    import torch
    import transformers

    names = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}
    config = getattr(transformers, f"{names[kind]}Config")(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=2 * width,
        conv_dim=(16, 16, 16), conv_kernel=(10, 8, 4), conv_stride=(10, 8, 4), num_feat_extract_layers=3,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large, initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{names[kind]}Model")(config)
    model.save_pretrained(dir)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=large).save_pretrained(dir)
    return Path(dir)
