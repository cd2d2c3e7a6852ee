#!/usr/bin/env python3
"""Turn a CTranslate2 Whisper folder (model.bin, tokenizer.json, config.json) into a transformers folder.

    tools/convert_ct2_whisper.py CT2_DIR OUTPUT_DIR

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

from speechmerge.errors import SpeechMergeError
from speechmerge.files import atomic_dir, read_json, write_json

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


def model_config(weights: Weights, tokens: dict[str, int]):
    """WhisperConfig read off the shapes of the variables and the ids of the special tokens."""
    from transformers import WhisperConfig

    if "decoder/activation" in weights and weights.number("decoder/activation") != GELU:
        raise SpeechMergeError(f"{weights.path}: activation {weights.number('decoder/activation')}; "
                               f"Whisper has gelu ({GELU})")
    vocabulary, d = weights.raw("decoder/embeddings/weight").shape
    sides = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = weights.layers(side)
        sides[f"{side}_attention_heads"] = weights.number(f"{side}/num_heads")
        sides[f"{side}_ffn_dim"] = weights.raw(f"{side}/layer_0/ffn/linear_0/weight").shape[0]
    end = tokens["<|endoftext|>"]
    return WhisperConfig(
        vocab_size=vocabulary, d_model=d, num_mel_bins=weights.raw("encoder/conv1/weight").shape[1],
        max_source_positions=weights.raw("encoder/position_encodings/encodings").shape[0],
        max_target_positions=weights.raw("decoder/position_encodings/encodings").shape[0],
        decoder_start_token_id=tokens["<|startoftranscript|>"], bos_token_id=end, eos_token_id=end, pad_token_id=end,
        **sides)


def read_tokens(folder: Path, vocabulary: int) -> dict[str, int]:
    """Special tokens to ids from tokenizer.json, checked against the model's vocabulary."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise SpeechMergeError(f"{path}: not there; copy tokenizer.json of this Whisper from its transformers folder")
    tokenizer = read_json(path)
    tokens = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    for needed in ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"):
        if needed not in tokens:
            raise SpeechMergeError(f"{path}: has no {needed}; this is no Whisper tokenizer")
    largest = max([*tokens.values(), *tokenizer["model"]["vocab"].values()])
    if largest >= vocabulary:
        raise SpeechMergeError(f"{path}: has ids up to {largest}, the model has {vocabulary}: these are two models")
    return tokens


def generation_config(tokens: dict[str, int], ct2: dict, config):
    """What openai/whisper-* has in generation_config.json, from the special tokens and CTranslate2's config.json."""
    from transformers import GenerationConfig
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    languages = {f"<|{code}|>": tokens[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in tokens}
    tasks = {name: tokens[f"<|{name}|>"] for name in ("transcribe", "translate") if f"<|{name}|>" in tokens}
    extra = {"lang_to_id": languages, "task_to_id": tasks} if len(languages) > 1 else {}
    end = tokens["<|endoftext|>"]
    return GenerationConfig(
        is_multilingual=len(languages) > 1, no_timestamps_token_id=tokens["<|notimestamps|>"],
        prev_sot_token_id=tokens.get("<|startofprev|>"), decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, max_length=config.max_target_positions,
        max_initial_timestamp_index=50, return_timestamps=False, alignment_heads=ct2.get("alignment_heads"),
        suppress_tokens=ct2.get("suppress_ids"), begin_suppress_tokens=ct2.get("suppress_ids_begin"), **extra)


def build_model(weights: Weights, tokens: dict[str, int], ct2: dict):
    """WhisperForConditionalGeneration in float32 with these weights; every tensor accounted for."""
    import torch
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(model_config(weights, tokens))
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state_dict(weights).items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # sizes differ: the tensors contradict each other
        raise SpeechMergeError(f"{weights.path}: {str(error).splitlines()[-1].strip()}") from error
    missing = set(missing) - {"proj_out.weight"}  # tied to the embeddings
    if missing or unexpected:
        raise SpeechMergeError(f"{weights.path}: left over after the conversion: missing {sorted(missing)}, "
                               f"unexpected {sorted(unexpected)}")
    model.tie_weights()
    model.generation_config = generation_config(tokens, ct2, model.config)
    return model


def write_tokenizer(source: Path, target: Path, tokens: dict[str, int], positions: int):
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "WhisperTokenizer", "model_max_length": positions, "errors": "replace",
                "bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end, "add_prefix_space": False,
                "additional_special_tokens": [token for token in tokens if token != end],
                "clean_up_tokenization_spaces": False, "return_attention_mask": False}
    write_json(target / "tokenizer_config.json", settings)


def convert(source, target):
    """Write `target` (replaced as a whole) from the CTranslate2 folder `source`. Raises SpeechMergeError."""
    from transformers import WhisperFeatureExtractor

    source = Path(source)
    weights = Weights(read_variables(source / "model.bin"), source / "model.bin")
    tokens = read_tokens(source, weights.raw("decoder/embeddings/weight").shape[0])
    ct2 = read_json(source / "config.json") if (source / "config.json").exists() else {}
    model = build_model(weights, tokens, ct2)
    with atomic_dir(target) as folder:
        model.save_pretrained(folder)
        write_tokenizer(source, folder, tokens, model.config.max_target_positions)
        WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)
    return model


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct2_dir", help="folder with model.bin, tokenizer.json and config.json")
    parser.add_argument("output_dir", help="transformers folder to write")
    args = parser.parse_args(argv)
    try:
        model = convert(args.ct2_dir, args.output_dir)
    except SpeechMergeError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    print(f"{args.output_dir}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
          f"{model.config.encoder_layers} + {model.config.decoder_layers} layers, d {model.config.d_model}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
