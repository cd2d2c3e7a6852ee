"""The converter of openai/whisper's checkpoints: names, logits and vocabulary against what was put in."""
import base64
import importlib
import sys
from pathlib import Path

import pytest
import torch

from speechmerge.errors import SpeechMergeError
from speechmerge.models import load_model
from speechmerge.tasks import get_task

TOOLS = Path(__file__).parents[1] / "tools"
THEIRS = {"self_attn.q_proj": "attn.query", "self_attn.k_proj": "attn.key", "self_attn.v_proj": "attn.value",
          "self_attn.out_proj": "attn.out", "encoder_attn.q_proj": "cross_attn.query", "encoder_attn.k_proj": "cross_attn.key",
          "encoder_attn.v_proj": "cross_attn.value", "encoder_attn.out_proj": "cross_attn.out", "fc1": "mlp.0",
          "fc2": "mlp.2", "self_attn_layer_norm": "attn_ln", "encoder_attn_layer_norm": "cross_attn_ln",
          "final_layer_norm": "mlp_ln"}
TOP = {"encoder.embed_positions.weight": "encoder.positional_embedding", "encoder.layer_norm.": "encoder.ln_post.",
       "decoder.embed_positions.weight": "decoder.positional_embedding", "decoder.layer_norm.": "decoder.ln.",
       "decoder.embed_tokens.": "decoder.token_embedding."}
SENTENCES = ["the test of that tone tells the truth", "naïve café — déjà vu", "so it's 12 o'clock, isn't it?",
             "  two  spaces\n"]


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module("convert_openai_whisper")
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def trained():
    """A byte-level BPE trained by the tokenizers library: what the ranks are written from."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([Path(__file__).read_text(), *SENTENCES], trainer)
    return tokenizer


def write_tiktoken(path, trained):
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    lines = [f"{base64.b64encode(bytes(letters[letter] for letter in token)).decode()} {rank}"
             for token, rank in sorted(trained.get_vocab().items(), key=lambda row: row[1])]
    path.write_text("\n".join(lines) + "\n")
    return path


def random_whisper(vocabulary, mels=80, decoder_layers=3):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(7)
    model = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=vocabulary, d_model=16, encoder_layers=2, decoder_layers=decoder_layers, encoder_attention_heads=2,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=1500,
        max_target_positions=12, num_mel_bins=mels, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=1)).eval()
    for parameter in model.parameters():  # biases and norms too, so that a lost one is seen
        parameter.data = torch.randn_like(parameter) * 0.2
    return model


def openai_state(model):
    state = {}
    for name, value in model.model.state_dict().items():
        for ours, theirs in TOP.items():
            name = name.replace(ours, theirs)
        if ".layers." in name:
            side, _, number, *rest = name.split(".")
            middle, leaf = ".".join(rest[:-1]), rest[-1]
            name = f"{side}.blocks.{number}.{THEIRS[middle]}.{leaf}"
        state[name] = value.clone()
    return state


def dims_of(model):
    config = model.config
    return {"n_mels": config.num_mel_bins, "n_audio_ctx": 1500, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2,
            "n_vocab": config.vocab_size, "n_text_ctx": 12, "n_text_state": 16, "n_text_head": 4,
            "n_text_layer": config.decoder_layers}


def write_pt(path, model, dtype=torch.float32, change=None, dims=None):
    state = {name: value.to(dtype) for name, value in openai_state(model).items()}
    torch.save({"dims": {**dims_of(model), **(dims or {})}, "model_state_dict": {**state, **(change or {})}}, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("openai")
    words = write_tiktoken(folder / "words.tiktoken", trained)
    model = random_whisper(trained.get_vocab_size() + 99 + 1509)
    return write_pt(folder / "tiny.pt", model), words, model


def logits(model):
    torch.manual_seed(1)
    features, tokens = torch.randn(2, model.config.num_mel_bins, 3000), torch.randint(0, 300, (2, 9))
    with torch.no_grad():
        return model(input_features=features, decoder_input_ids=tokens).logits


def test_same_logits_and_tied_output(tool, files, tmp_path):
    from transformers import WhisperForConditionalGeneration

    checkpoint, words, model = files
    tool.convert(checkpoint, tmp_path / "hf", words)
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.proj_out.weight is loaded.model.decoder.embed_tokens.weight


def test_half_precision_in_and_out(tool, files, tmp_path):
    from safetensors.torch import load_file

    _, words, model = files
    checkpoint = write_pt(tmp_path / "half.pt", model, torch.float16)
    for dtype in ("float32", "float16"):
        tool.convert(checkpoint, tmp_path / dtype, words, dtype)
        found = load_file(tmp_path / dtype / "model.safetensors")
        for name, value in found.items():
            assert value.dtype == getattr(torch, dtype) and torch.equal(value.half(), model.state_dict()[name].half())


def test_vocabulary_cuts_text_as_the_trained_tokenizer(tool, files, trained, tmp_path):
    from transformers import AutoTokenizer

    checkpoint, words, _ = files
    tool.convert(checkpoint, tmp_path / "hf", words)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in SENTENCES:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == trained.encode(text).ids
        assert tokenizer.decode(ids) == text
    first = trained.get_vocab_size()
    expected = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>"]
    assert tokenizer.convert_ids_to_tokens(list(range(first, first + 5))) == expected
    times = {"<|notimestamps|>": 106, "<|0.00|>": 107, "<|30.00|>": 1607}
    assert {token: tokenizer.convert_tokens_to_ids(token) - first for token in times} == times


def test_generation_config(tool, files, trained, tmp_path):
    from transformers import GenerationConfig

    checkpoint, words, _ = files
    tool.convert(checkpoint, tmp_path / "hf", words)
    config, first = GenerationConfig.from_pretrained(tmp_path / "hf"), trained.get_vocab_size()
    assert config.is_multilingual and len(config.lang_to_id) == 99 and config.lang_to_id["<|it|>"] == first + 17
    assert config.task_to_id == {"translate": first + 101, "transcribe": first + 102}
    vocabulary = trained.get_vocab()
    assert config.begin_suppress_tokens == [vocabulary["Ġ"], first]
    never = set(config.suppress_tokens)
    assert {vocabulary[sign] for sign in '#()*+/:;<=>@[\\]^_{|}~'} <= never
    assert not {vocabulary[sign] for sign in "abc.,!?-'$%&0"} & never
    assert {first + 1, *range(first + 101, first + 106)} == {id for id in never if id >= first}


def test_converted_folder_goes_through_the_library(tool, files, tmp_path):
    checkpoint, words, _ = files
    tool.convert(checkpoint, tmp_path / "hf", words)
    model = load_model(tmp_path / "hf", device="cpu")
    prefix = model.tokenizer.convert_ids_to_tokens(model.prefix(get_task("asr"), "it"))
    assert prefix == ["<|startoftranscript|>", "<|it|>", "<|transcribe|>", "<|notimestamps|>"]


def test_tokenizer_from_another_folder(tool, files, tmp_path):
    checkpoint, words, _ = files
    tool.convert(checkpoint, tmp_path / "a", words)
    tool.convert(checkpoint, tmp_path / "b", tmp_path / "a")
    for name in ("tokenizer.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_vocabulary_of_another_size(tool, files, tmp_path):
    _, words, _ = files
    checkpoint = write_pt(tmp_path / "odd.pt", random_whisper(330 + 1509 + 200))
    with pytest.raises(SpeechMergeError, match="leaves 200 languages, expected 1 to"):
        tool.convert(checkpoint, tmp_path / "hf", words)


def test_without_the_package(tool, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "packaged", lambda name: None)
    assert tool.main([str(files[0]), str(tmp_path / "hf")]) == 1
    assert "pip install --no-deps openai-whisper" in capsys.readouterr().err and not (tmp_path / "hf").exists()


def test_vocabulary_of_the_package(tool, files, trained, tmp_path, monkeypatch):
    """Found without importing the package."""
    assets = tmp_path / "site" / "whisper" / "assets"
    assets.mkdir(parents=True)
    (assets.parent / "__init__.py").write_text("raise SystemExit('imported')\n")
    write_tiktoken(assets / "multilingual.tiktoken", trained)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert tool.main([str(files[0]), str(tmp_path / "hf")]) == 0
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


@pytest.mark.parametrize("content, message", [
    ({"state_dict": {}}, "has no dims"), ({"dims": {}, "model_state_dict": {}}, "dims have no n_vocab"), ([1], "has no dims")])
def test_other_checkpoints(tool, tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(SpeechMergeError, match=message):
        tool.convert(tmp_path / "x.pt", tmp_path / "hf")


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file was run')",)


def test_code_in_a_checkpoint_is_not_run(tool, tmp_path):
    torch.save({"dims": Harmful(), "model_state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(SpeechMergeError, match="damaged or no checkpoint of weights alone"):
        tool.convert(tmp_path / "x.pt", tmp_path / "hf")


def test_damaged_and_contradicting_checkpoints(tool, files, tmp_path):
    checkpoint, words, model = files
    whole = checkpoint.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(SpeechMergeError, match="damaged"):
            tool.convert(tmp_path / "cut.pt", tmp_path / "hf", words)
    cases = [({"change": {"decoder.extra": torch.ones(2)}}, r"unexpected \['model.decoder.extra'\]"),
             ({"change": {"encoder.conv1.weight": torch.ones(16, 80, 5)}}, "conv1.weight"),
             ({"dims": {"n_text_state": 32}}, "width 16 and a decoder of 32"), ({"dims": {"n_audio_layer": 3}}, "missing")]
    for options, message in cases:
        with pytest.raises(SpeechMergeError, match=message):
            tool.convert(write_pt(tmp_path / "bad.pt", model, **options), tmp_path / "hf", words)
    assert not (tmp_path / "hf").exists()


def test_damaged_vocabulary(tool, files, tmp_path):
    checkpoint, words, _ = files
    lines = words.read_text().splitlines()
    cases = (lines[:40] + lines[41:], "ranks are not"), (["???? 0"], "line 1: found"), (["QQ=="], "line 1")
    for text, message in cases:
        (tmp_path / "x.tiktoken").write_text("\n".join(text))
        with pytest.raises(SpeechMergeError, match=message):
            tool.convert(checkpoint, tmp_path / "hf", tmp_path / "x.tiktoken")


def test_against_openai_code(tool, files, tmp_path):
    """Runs where the package openai-whisper is installed, which is no part of this project's environment."""
    whisper = pytest.importorskip("whisper.model", reason="pip install openai-whisper")
    checkpoint, words, _ = files
    found = torch.load(checkpoint, weights_only=True)
    theirs = whisper.Whisper(whisper.ModelDimensions(**found["dims"]))
    theirs.load_state_dict(found["model_state_dict"])
    ours = tool.convert(checkpoint, tmp_path / "hf", words)
    features, tokens = torch.randn(2, 80, 3000), torch.randint(0, 300, (2, 9))
    with torch.no_grad():
        expected = theirs.eval()(features, tokens)
        assert torch.allclose(ours.eval()(input_features=features, decoder_input_ids=tokens).logits, expected, atol=1e-5)
