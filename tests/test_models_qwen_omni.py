"""What only Qwen2.5-Omni has: a full checkpoint around the thinker, an encoder in chunks, positions with a memory."""
import json

import pytest
import torch
from safetensors.torch import load_file
from test_models_qwen import ASR, items_of
from tiny import RATE, tiny_tones, tone
from tiny_qwen import tiny_omni, tiny_tokenizer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.models import load_model
from speechmerge.models.qwen_audio import Qwen2_5Omni
from speechmerge.tasks import get_task
from speechmerge.tasks.base import Example


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return tiny_omni(tmp_path_factory.mktemp("thinker"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same thinker in a full checkpoint."""
    return tiny_omni(tmp_path_factory.mktemp("omni"), full=True)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return get_task("kws").examples(DataDir.read(tiny_tones(tmp_path_factory.mktemp("data"), n=6)))


def test_the_thinker_comes_out_of_the_full_checkpoint(thinker, whole):
    assert json.loads((whole / "config.json").read_text())["model_type"] == "qwen2_5_omni"
    alone, inside = (dict(load_model(path, device="cpu").core.named_parameters()) for path in (thinker, whole))
    assert alone.keys() == inside.keys() and all(torch.equal(value, inside[name]) for name, value in alone.items())
    assert type(load_model(whole, device="cpu")) is Qwen2_5Omni and "talker" not in " ".join(inside)
    assert any(name.startswith("talker.") for name in load_file(whole / "model.safetensors"))


def test_a_tuned_thinker_is_saved_by_itself(whole, tmp_path):
    model = load_model(whole, device="cpu")
    with torch.no_grad():
        model.core.lm_head.weight.mul_(1.5)
    model.save(tmp_path)
    found, facts = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2_5_omni_thinker"
    again = load_model(tmp_path, device="cpu")
    for name, value in model.core.named_parameters():
        assert torch.equal(value, dict(again.core.named_parameters())[name])
        assert torch.equal(value, dict(found.named_parameters())[name])
    assert (tmp_path / "chat_template.json").read_bytes() == (whole / "chat_template.json").read_bytes()


def test_a_part_without_its_end(whole, tmp_path):
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(whole, tmp_path / "base")
    weights = {name: value for name, value in load_file(whole / "model.safetensors").items() if "thinker.model" not in name}
    save_file(weights, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpeechMergeError, match="weights are missing, such as model.language_model"):
        load_model(tmp_path / "base", device="cpu")


def test_without_a_chat_template(thinker, tmp_path):
    import shutil

    shutil.copytree(thinker, tmp_path / "base")
    (tmp_path / "base/chat_template.json").unlink()
    with pytest.raises(SpeechMergeError, match="no chat template .expected chat_template.json"):
        load_model(tmp_path / "base", device="cpu")


def test_without_the_tokens_of_turns(thinker, tmp_path):
    import shutil

    shutil.copytree(thinker, tmp_path / "base")
    special = ["<|endoftext|>", "<|im_begin|>", "<|im_over|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    tokenizer = tiny_tokenizer(special)
    tokenizer.eos_token = "<|im_over|>"
    tokenizer.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    key = next(key for key in ("audio_token_index", "audio_token_id") if key in config)
    config[key] = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    with pytest.raises(SpeechMergeError, match=r"no <\|im_start\|>, with which turns begin or end"):
        load_model(tmp_path / "base", device="cpu")


def test_positions_do_not_remember_another_batch(thinker, examples):
    """transformers keeps what it added to the positions of the last batch; other sizes and lengths must not meet it."""
    fresh, used = load_model(thinker, device="cpu"), load_model(thinker, device="cpu")
    labels = ["yes", "no", "stop it now"]
    large, small = (lambda model: model.collate(items_of(model, examples), ASR)), (
        lambda model: model.collate(items_of(model, examples[:2]), ASR))
    batch = large(used)
    used.generate(batch, ASR)
    used.score_labels(batch, labels)
    lesson = used.collate(items_of(used, examples[:4]), ASR, training=True)
    lesson.pop("labels")
    with torch.no_grad():
        used.core(**lesson)
    assert torch.equal(used.score_labels(small(used), labels), fresh.score_labels(small(fresh), labels))
    assert used.generate(small(used), ASR) == fresh.generate(small(fresh), ASR)


def test_audio_longer_than_one_window_of_the_encoder(thinker, tmp_path):
    """The encoder cuts frames into chunks of 2 * n_window (50 here) that do not hear each other."""
    import soundfile

    model = load_model(thinker, device="cpu")
    paths = []
    for name, seconds in (("a", 0.5), ("b", 1.3)):
        paths.append(str(tmp_path / f"{name}.wav"))
        soundfile.write(paths[-1], tone(300, seconds, seed=len(paths)), RATE, subtype="FLOAT")
    items = items_of(model, [Example(path, (path,), "", "en", None, None, prompt="What?") for path in paths])
    together = model.encode(model.collate(items, ASR))
    assert [len(states) for states in together] == [12, 32]
    alone = model.encode(model.collate(items[1:], ASR))
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    head = model.hear(items[1].features[None, :, :50], torch.ones(1, 50, dtype=torch.long))[0]
    assert torch.allclose(together[1][:12], head[:12], atol=1e-5)  # the first chunk knows nothing of the others
