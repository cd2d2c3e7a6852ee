#!/usr/bin/env python3
"""Turn a CTranslate2 Whisper folder (model.bin, tokenizer.json, config.json) into a transformers folder.

    tools/convert_ct2_whisper.py CT2_DIR OUTPUT_DIR [--dtype float16]

The binary layout is read here, without ctranslate2 (writer: `ModelSpec._serialize`, reader: `Model::load` of its
sources). Integers are little-endian. A string is a uint16 length (with its closing NUL) and that many bytes.

    uint32 binary version, string specification, uint32 revision, uint32 number of variables,
    per variable: string name, uint8 rank, uint32 x rank shape, uint8 type, uint32 bytes, the values in C order;
    uint32 number of aliases, per alias: string alias, string name of the variable it stands for

int8 and int16 weights are `round(weight * scale)`; `<name>_scale` holds one scale per output row (int8) or one in all
(int16). Query, key and value projections are stored stacked; Whisper's key projection has no bias, so its part is zero.
"""
import argparse
import struct
import sys
from pathlib import Path

import numpy as np
from convert_whisper_folder import (add_dtype, build_model, generation_config, model_config, read_tokenizer, report,
                                    special_tokens, write_folder)

from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json

BINARY_VERSIONS = (4, 5, 6)  # older files carry an item size instead of a type
SPEC, LAST_REVISION = "WhisperSpec", 3
TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")  # the order of ctranslate2's DataType
SIZES = {"float32": 4, "int8": 1, "int16": 2, "int32": 4, "float16": 2, "bfloat16": 2}
GELU = 3  # ctranslate2's ActivationType
MAX_NAME = 4096  # no name is longer; a longer one means that this is another kind of file


class Reader:
    """A cursor over the bytes of model.bin; every read past the end is an error with the position."""

    def __init__(self, path: Path):
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, size: int, what: str) -> bytes:
        if self.at + size > len(self.data):
            raise SpeechMergeError(f"{self.path}: is truncated: {what} needs {size} bytes at position {self.at}, "
                                   f"the file ends at {len(self.data)}; fetch or concatenate it again")
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, code: str, what: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def string(self, what: str) -> str:
        raw = self.take(self.number("H", f"the length of {what}"), what)
        if not 1 <= len(raw) <= MAX_NAME or raw[-1] != 0:
            raise SpeechMergeError(f"{self.path}: {what} at position {self.at - len(raw)} is no text that ends in NUL; "
                                   "this is no CTranslate2 model")
        return raw[:-1].decode("utf-8", errors="replace")


def read_variables(path) -> dict[str, np.ndarray]:
    """Names to arrays, aliases resolved, types as stored (bfloat16 as float32). Raises SpeechMergeError."""
    path = Path(path)
    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there; the folder must hold a CTranslate2 model.bin")
    reader = Reader(path)
    _check_header(reader)
    variables = dict(_read_variable(reader) for _ in range(reader.number("I", "the number of variables")))
    for _ in range(reader.number("I", "the number of aliases")):
        alias, name = reader.string("an alias"), reader.string("the name behind an alias")
        if name not in variables:
            raise SpeechMergeError(f"{path}: alias {alias} stands for {name}, which is not in the file")
        variables[alias] = variables[name]
    if reader.at != len(reader.data):
        raise SpeechMergeError(f"{path}: {len(reader.data) - reader.at} bytes follow the last alias; it is damaged")
    return variables


def _check_header(reader: Reader):
    version = reader.number("I", "the binary version")
    if version not in BINARY_VERSIONS:
        raise SpeechMergeError(f"{reader.path}: begins with {version} where CTranslate2 writes its binary version; "
                               f"read here: {', '.join(map(str, BINARY_VERSIONS))}")
    spec = reader.string("the specification's name")
    if spec != SPEC:
        raise SpeechMergeError(f"{reader.path}: holds a {spec!r}; only {SPEC} (a Whisper model) can be converted")
    revision = reader.number("I", "the revision")
    if revision > LAST_REVISION:
        raise SpeechMergeError(f"{reader.path}: {SPEC} revision {revision}; known up to {LAST_REVISION}")


def _read_variable(reader: Reader) -> tuple[str, np.ndarray]:
    name = reader.string("a variable's name")
    shape = [reader.number("I", f"the shape of {name}") for _ in range(reader.number("B", f"the rank of {name}"))]
    kind = reader.number("B", f"the type of {name}")
    size = reader.number("I", f"the size of {name}")
    if kind >= len(TYPES):
        raise SpeechMergeError(f"{reader.path}: variable {name} has type {kind}; known: 0 to {len(TYPES) - 1}")
    expected = int(np.prod(shape, dtype=np.int64)) * SIZES[TYPES[kind]]
    if size != expected:
        raise SpeechMergeError(f"{reader.path}: variable {name} {shape} of {TYPES[kind]} has {size} bytes, "
                               f"expected {expected}")
    raw = reader.take(size, f"variable {name}")
    if TYPES[kind] == "bfloat16":  # the upper half of a float32
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, np.dtype(TYPES[kind]).newbyteorder("<"))
    return name, values.reshape(shape)


class Weights:
    """The variables of one file as float32 arrays, undoing quantisation; remembers which were asked for."""

    def __init__(self, variables: dict[str, np.ndarray], path: Path):
        self.variables, self.path, self.used = variables, path, set()

    def __contains__(self, name: str) -> bool:
        return name in self.variables

    def raw(self, name: str) -> np.ndarray:
        if name not in self.variables:
            raise SpeechMergeError(f"{self.path}: variable {name} is missing; this is no complete Whisper model")
        self.used.add(name)
        return self.variables[name]

    def number(self, name: str) -> int:
        return int(self.raw(name))

    def get(self, name: str) -> np.ndarray:
        value = self.raw(name)
        if value.dtype not in (np.int8, np.int16):
            return value.astype(np.float32)
        scale = self.raw(f"{name}_scale").astype(np.float32)
        return value.astype(np.float32) / scale.reshape(scale.shape + (1,) * (value.ndim - scale.ndim))

    def layers(self, side: str) -> int:
        numbers = {int(name.split("/")[1][6:]) for name in self.variables if name.startswith(f"{side}/layer_")
                   and name.split("/")[1][6:].isdigit()}
        if not numbers or numbers != set(range(len(numbers))):
            raise SpeechMergeError(f"{self.path}: the {side} has layers {sorted(numbers)}; expected 0, 1, 2 ...")
        return len(numbers)


def state_dict(weights: Weights) -> dict[str, np.ndarray]:
    """transformers' names to float32 arrays in transformers' shapes. Raises SpeechMergeError on anything unforeseen."""
    state = {f"model.encoder.{conv}.{part}": weights.get(f"encoder/{conv}/{part}")
             for conv in ("conv1", "conv2") for part in ("weight", "bias")}
    state["model.decoder.embed_tokens.weight"] = weights.get("decoder/embeddings/weight")
    for side in ("encoder", "decoder"):
        prefix = f"model.{side}"
        state[f"{prefix}.embed_positions.weight"] = weights.get(f"{side}/position_encodings/encodings")
        _norm(state, f"{prefix}.layer_norm", weights, f"{side}/layer_norm")
        for i in range(weights.layers(side)):
            source, target = f"{side}/layer_{i}", f"{prefix}.layers.{i}"
            _self_attention(state, f"{target}.self_attn", weights, f"{source}/self_attention")
            _norm(state, f"{target}.self_attn_layer_norm", weights, f"{source}/self_attention/layer_norm")
            if side == "decoder":
                _cross_attention(state, f"{target}.encoder_attn", weights, f"{source}/attention")
                _norm(state, f"{target}.encoder_attn_layer_norm", weights, f"{source}/attention/layer_norm")
            _linear(state, f"{target}.fc1", weights, f"{source}/ffn/linear_0")
            _linear(state, f"{target}.fc2", weights, f"{source}/ffn/linear_1")
            _norm(state, f"{target}.final_layer_norm", weights, f"{source}/ffn/layer_norm")
    if not np.array_equal(weights.get("decoder/projection/weight"), state["model.decoder.embed_tokens.weight"]):
        raise SpeechMergeError(f"{weights.path}: the output projection differs from the embeddings; Whisper ties them")
    return state


def _norm(state, target, weights, source):
    state[f"{target}.weight"] = weights.get(f"{source}/gamma")
    state[f"{target}.bias"] = weights.get(f"{source}/beta")


def _linear(state, target, weights, source):
    state[f"{target}.weight"] = weights.get(f"{source}/weight")
    state[f"{target}.bias"] = weights.get(f"{source}/bias")


def _self_attention(state, target, weights, source):
    _split(state, target, weights, f"{source}/linear_0", ("q_proj", "k_proj", "v_proj"))
    _linear(state, f"{target}.out_proj", weights, f"{source}/linear_1")


def _cross_attention(state, target, weights, source):
    _linear(state, f"{target}.q_proj", weights, f"{source}/linear_0")
    _split(state, target, weights, f"{source}/linear_1", ("k_proj", "v_proj"))
    _linear(state, f"{target}.out_proj", weights, f"{source}/linear_2")


def _split(state, target, weights, source, names):
    """Cut a stacked projection [len(names) * d, d] into its parts [d, d]."""
    weight, bias = weights.get(f"{source}/weight"), weights.get(f"{source}/bias")
    d = weight.shape[1]
    if weight.shape[0] != len(names) * d or bias.shape != (len(names) * d,):
        raise SpeechMergeError(f"{weights.path}: {source} is {list(weight.shape)} with a bias of {list(bias.shape)}; "
                               f"expected {len(names)} projections of {d} rows")
    for i, name in enumerate(names):
        state[f"{target}.{name}.weight"] = weight[i * d:(i + 1) * d].copy()
        part = bias[i * d:(i + 1) * d]
        if name != "k_proj":
            state[f"{target}.{name}.bias"] = part.copy()
        elif part.any():
            raise SpeechMergeError(f"{weights.path}: {source}/bias biases the keys; Whisper's keys have no bias")


def sizes_of(weights: Weights) -> dict:
    """The sizes of WhisperConfig read off the shapes of the variables."""
    if "decoder/activation" in weights and weights.number("decoder/activation") != GELU:
        raise SpeechMergeError(f"{weights.path}: activation {weights.number('decoder/activation')}; "
                               f"Whisper has gelu ({GELU})")
    vocabulary, d = weights.raw("decoder/embeddings/weight").shape
    sides = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = weights.layers(side)
        sides[f"{side}_attention_heads"] = weights.number(f"{side}/num_heads")
        sides[f"{side}_ffn_dim"] = weights.raw(f"{side}/layer_0/ffn/linear_0/weight").shape[0]
    return {"vocab_size": vocabulary, "d_model": d, "num_mel_bins": weights.raw("encoder/conv1/weight").shape[1],
            "max_source_positions": weights.raw("encoder/position_encodings/encodings").shape[0],
            "max_target_positions": weights.raw("decoder/position_encodings/encodings").shape[0], **sides}


def convert(source, target, dtype="float32"):
    """Write `target` (replaced as a whole) from the CTranslate2 folder `source`. Raises SpeechMergeError."""
    import torch

    source = Path(source)
    weights = Weights(read_variables(source / "model.bin"), source / "model.bin")
    sizes, tokenizer = sizes_of(weights), read_tokenizer(source / "tokenizer.json")
    tokens = special_tokens(tokenizer, source / "tokenizer.json", sizes["vocab_size"])
    ct2 = read_json(source / "config.json") if (source / "config.json").exists() else {}
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state_dict(weights).items()}
    model = build_model(model_config(sizes, tokens), state, weights.path)
    model.generation_config = generation_config(model.config, tokens, ct2.get("suppress_ids"),
                                                ct2.get("suppress_ids_begin"), ct2.get("alignment_heads"))
    write_folder(model, tokenizer, tokens, target, dtype)
    return model


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct2_dir", help="folder with model.bin, tokenizer.json and config.json")
    parser.add_argument("output_dir", help="transformers folder to write")
    add_dtype(parser)
    args = parser.parse_args(argv)
    return report(Path(__file__).name, args.output_dir, lambda: convert(args.ct2_dir, args.output_dir, args.dtype))


if __name__ == "__main__":
    sys.exit(main())
