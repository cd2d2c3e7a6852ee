#!/usr/bin/env python3
"""Turn a checkpoint of openai/whisper (base.pt, large-v3.pt, ...) into a transformers folder.

    tools/convert_openai_whisper.py base.pt OUTPUT_DIR                       # with the package openai-whisper installed
    tools/convert_openai_whisper.py base.pt OUTPUT_DIR --tokenizer whisper-small/   # or a *.tiktoken, tokenizer.json

The checkpoint holds `dims` and `model_state_dict`, nothing else: the vocabulary is part of the Python package
openai-whisper (whisper/assets/*.tiktoken). Models of equal vocabulary size share it: 51864 (English only), 51865
(multilingual), 51866 (large-v3 and turbo, with Cantonese).
"""
import argparse
import pickle
import re
import sys
import zipfile
from pathlib import Path

from convert_tiktoken import ENGLISH, MULTILINGUAL, make_tokenizer, packaged, unwritten, unwritten_first
from convert_whisper_folder import (add_dtype, build_model, generation_config, model_config, read_tokenizer, report,
                                    special_tokens, write_folder)

from speechmerge.errors import SpeechMergeError
from speechmerge.models.whisper import ENGLISH_ONLY

SIZES = {"n_vocab": "vocab_size", "n_mels": "num_mel_bins", "n_audio_ctx": "max_source_positions",
         "n_audio_layer": "encoder_layers", "n_audio_head": "encoder_attention_heads",
         "n_text_ctx": "max_target_positions", "n_text_layer": "decoder_layers", "n_text_head": "decoder_attention_heads"}
WIDTHS = ("n_audio_state", "n_text_state")  # one number in transformers
FEED_FORWARD = 4  # times the width, in all of openai's models
NAMES = [(re.compile(pattern), name) for pattern, name in (
    (r"^(encoder|decoder)\.", r"model.\1."), (r"\.blocks\.(\d+)\.", r".layers.\1."),
    (r"\.cross_attn\.", ".encoder_attn."), (r"\.attn\.", ".self_attn."),
    (r"_attn\.([qkv])(?:uery|ey|alue)\.", r"_attn.\1_proj."),
    (r"_attn\.out\.", "_attn.out_proj."), (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."), (r"\.mlp\.0\.", ".fc1."), (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."), (r"\.ln(_post)?\.", ".layer_norm."),
    (r"\.token_embedding\.", ".embed_tokens."), (r"\.positional_embedding$", ".embed_positions.weight"))]


def read_checkpoint(path: Path) -> tuple[dict[str, int], dict]:
    """(dims, state dict). Nothing of the file is run. Raises SpeechMergeError for anything else than such a file."""
    import torch

    if not path.is_file():
        raise SpeechMergeError(f"{path}: no such file; expected a checkpoint of openai/whisper, such as base.pt")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SpeechMergeError(f"{path}: is damaged or no checkpoint of weights alone "
                               f"({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})") from error
    for key in ("dims", "model_state_dict"):
        if not isinstance(found, dict) or not isinstance(found.get(key), dict):
            raise SpeechMergeError(f"{path}: has no {key}; expected a checkpoint of openai/whisper, not of another "
                                   "program (transformers folders need no conversion)")
    return found["dims"], found["model_state_dict"]


def sizes_of(dims: dict[str, int], path) -> dict[str, int]:
    """The sizes of WhisperConfig from openai's ModelDimensions."""
    missing = [name for name in (*SIZES, *WIDTHS) if not isinstance(dims.get(name), int)]
    if missing:
        raise SpeechMergeError(f"{path}: dims have no {', '.join(missing)}; expected those of openai/whisper")
    audio, text = (dims[name] for name in WIDTHS)
    if audio != text:
        raise SpeechMergeError(f"{path}: an encoder of width {audio} and a decoder of {text}; transformers has one width")
    return {**{name: dims[theirs] for theirs, name in SIZES.items()}, "d_model": audio,
            "encoder_ffn_dim": FEED_FORWARD * audio, "decoder_ffn_dim": FEED_FORWARD * audio}


def renamed(name: str) -> str:
    """transformers' name of a weight of openai/whisper."""
    for pattern, replacement in NAMES:
        name = pattern.sub(replacement, name)
    return name


def find_tokenizer(given, vocabulary: int) -> tuple[dict, Path]:
    """(content of tokenizer.json, where it is from): given as a folder, a tokenizer.json or a *.tiktoken, else from the
    package openai-whisper."""
    if given is None:
        name = ENGLISH if vocabulary == ENGLISH_ONLY else MULTILINGUAL
        path = packaged(name)
        if path is None:
            raise SpeechMergeError(f"no vocabulary: the package openai-whisper, which has {name}, is not installed; run "
                                   "`pip install --no-deps openai-whisper`, or give --tokenizer: a *.tiktoken, or the "
                                   "transformers folder of a Whisper of the same vocabulary size")
    else:
        path = Path(given) / "tokenizer.json" if Path(given).is_dir() else Path(given)
    if path.suffix == ".tiktoken":
        return make_tokenizer(path, vocabulary), path
    return read_tokenizer(path), path


def convert(source, target, tokenizer=None, dtype="float32"):
    """Write `target` (replaced as a whole) from the checkpoint `source`. Raises SpeechMergeError."""
    source = Path(source)
    dims, weights = read_checkpoint(source)
    sizes = sizes_of(dims, source)
    content, place = find_tokenizer(tokenizer, sizes["vocab_size"])
    tokens = special_tokens(content, place, sizes["vocab_size"])
    state = {renamed(name): value.float() for name, value in weights.items()}
    model = build_model(model_config(sizes, tokens), state, source)
    model.generation_config = generation_config(model.config, tokens, unwritten(content),
                                                unwritten_first(content, tokens["<|endoftext|>"]))
    write_folder(model, content, tokens, target, dtype)
    return model


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a .pt of openai/whisper")
    parser.add_argument("output_dir", help="transformers folder to write")
    parser.add_argument("--tokenizer", help="*.tiktoken, tokenizer.json or a folder that has one; default: the vocabulary "
                                            "of the installed package openai-whisper")
    add_dtype(parser)
    args = parser.parse_args(argv)
    return report(Path(__file__).name, args.output_dir,
                  lambda: convert(args.checkpoint, args.output_dir, args.tokenizer, args.dtype))


if __name__ == "__main__":
    sys.exit(main())
