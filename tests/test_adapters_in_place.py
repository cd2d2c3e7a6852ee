"""model.adapter(dir): base + adapter while the block runs, the base bit for bit after it."""
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_tones, tiny_whisper
from transformers import WhisperForConditionalGeneration

from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_json
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.tasks import get_task

TARGETS = ["q_proj", "v_proj", "fc1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu")


@pytest.fixture(scope="module")
def batch(model, tmp_path_factory):
    task = get_task("kws")
    examples = task.examples(DataDir.read(tiny_tones(tmp_path_factory.mktemp("data"), n=4)))
    items = [Item(example, model.features(example.audio), model.seconds(example)) for example in examples]
    return model.collate(items, task, training=True)


def write_adapter(base, folder, **options):
    """A LoRA with random A and B, saved by PEFT."""
    torch.manual_seed(1)
    reference = WhisperForConditionalGeneration.from_pretrained(base)
    wrapped = get_peft_model(reference, LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, **options))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folder)
    return folder


def logits(module, batch):
    with torch.no_grad():
        return module(input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]).logits


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True},
                                     {"rank_pattern": {"fc1": 2}, "alpha_pattern": {"fc1": 9}}])
def test_same_outputs_as_peft_and_base_restored(base, model, batch, tmp_path, options):
    folder = write_adapter(base, tmp_path / "adapter", **options)
    reference = PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), folder).eval()
    before = {name: tensor.clone() for name, tensor in model.core.state_dict().items()}
    plain = logits(model.core, batch)
    with model.adapter(folder):
        changed = logits(model.core, batch)
        assert torch.allclose(changed, logits(reference, batch), atol=1e-4)
        assert not torch.allclose(changed, plain, atol=1e-2)
    after = model.core.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(model.core, batch), plain)
    assert not hasattr(model.core, "peft_config")


def test_base_is_restored_after_an_error(base, model, batch, tmp_path):
    folder, plain = write_adapter(base, tmp_path / "adapter"), logits(model.core, batch)
    with pytest.raises(ZeroDivisionError):
        with model.adapter(folder):
            1 / 0
    assert torch.equal(logits(model.core, batch), plain)


def test_full_model_and_delta(base, model, batch, tmp_path):
    plain = logits(model.core, batch)
    other = tiny_whisper(tmp_path / "full", seed=7)
    with model.adapter(other):
        expected = logits(WhisperForConditionalGeneration.from_pretrained(other), batch)
        assert torch.equal(logits(model.core, batch), expected)
    name, bias_name = "model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1.bias"
    weight = dict(model.core.named_parameters())[name]
    B, A, bias = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1]), torch.ones(weight.shape[0])
    (tmp_path / "delta").mkdir()
    tensors = {f"{name}.B": B, f"{name}.A": A, f"{bias_name}.dense": bias}
    save_file(tensors, tmp_path / "delta/delta.safetensors")
    write_json(tmp_path / "delta/delta.json", {"parameters": {
        name: {"kind": "low_rank", "shape": list(weight.shape)},
        bias_name: {"kind": "dense", "shape": list(bias.shape)}}})
    expected = weight.detach() + B @ A
    with model.adapter(tmp_path / "delta"):
        assert torch.allclose(dict(model.core.named_parameters())[name], expected)
    assert torch.equal(logits(model.core, batch), plain)


def test_adapter_of_another_base_is_refused(base, model, tmp_path):
    folder = write_adapter(base, tmp_path / "adapter")
    write_json(folder / "speechmerge.json", {"base": {"source": "other/whisper", "fingerprint": "0" * 64}})
    with pytest.raises(SpeechMergeError, match="belongs to the base other/whisper .000000000000."):
        with model.adapter(folder):
            pass


def test_adapter_of_another_size_is_refused(base, model, batch, tmp_path):
    folder = write_adapter(tiny_whisper(tmp_path / "wide", d_model=64), tmp_path / "adapter")
    plain = logits(model.core, batch)
    with pytest.raises(SpeechMergeError, match="does not fit"):
        with model.adapter(folder):
            pass
    assert torch.equal(logits(model.core, batch), plain)


def test_damaged_adapters(base, model, batch, tmp_path):
    folder, plain = write_adapter(base, tmp_path / "adapter"), logits(model.core, batch)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] * float("nan")}, weights)
    with pytest.raises(SpeechMergeError, match="NaN or infinite"):
        with model.adapter(folder):
            pass
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SpeechMergeError, match="truncated"):
        with model.adapter(folder):
            pass
    weights.unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    with pytest.raises(SpeechMergeError, match="only safetensors"):
        with model.adapter(folder):
            pass
    with pytest.raises(SpeechMergeError, match="neither an adapter"):
        with model.adapter(tmp_path):
            pass
    save_file({key: value for key, value in tensors.items() if "fc1" not in key}, weights)
    with pytest.raises(SpeechMergeError, match="does not fit"):
        with model.adapter(folder):
            pass
    assert torch.equal(logits(model.core, batch), plain)
