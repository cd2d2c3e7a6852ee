"""Adapters that must not be merged: each is refused with the file and the key."""
import json

import pytest
import torch
from adapters import make_adapter, make_base
from safetensors.torch import load_file, save_file

import speechmerge
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_json
from speechmerge.merge.read import read
from speechmerge.storage.checkpoint import Checkpoint
from speechmerge.storage.checkpoint import model_fingerprint
from speechmerge.storage.safetensors_file import read_header

KEY = "base_model.model.model.encoder.layers.0.fc1.lora_A.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("bad") / "base")


@pytest.fixture
def adapter(base, tmp_path):
    return make_adapter(base, tmp_path / "asr", seed=1)


def change_weights(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def change_config(folder, **values):
    write_json(folder / "adapter_config.json", {**read_json(folder / "adapter_config.json"), **values})


def refused(folder, *words, **options):
    with pytest.raises(SpeechMergeError) as caught:
        speechmerge.merge([folder], **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity(adapter, value):
    change_weights(adapter, lambda tensors: tensors[KEY].__setitem__((0, 0), value))
    with pytest.raises(SpeechMergeError) as error:
        speechmerge.merge([adapter]).save(adapter.parent / "out")
    assert all(word in str(error.value) for word in ("adapter_model.safetensors", KEY, "1 of 128 values are NaN or infinite"))
    assert sorted(path.name for path in adapter.parent.iterdir() if not path.name.endswith(".lock")) == [adapter.name]


def test_truncated(adapter):
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    for length, word in (
        (len(whole) - 1, "truncated"),
        (len(whole) // 2, "truncated"),
        (100, "truncated"),
        (5, "truncated"),
        (0, "truncated"),
    ):
        path.write_bytes(whole[:length])
        refused(adapter, "adapter_model.safetensors", word)


def damaged(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + b"\0" * 16


@pytest.mark.parametrize(
    "header,word",
    [
        (b"{not json", "header is damaged"),
        (b"[]", "no mapping"),
        (b'{"a": 3}', "key a"),
        (b"\xff\xfe{}", "header is damaged"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "key a: F32 [2] needs 8 bytes"),
        (b'{"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}}', "key a"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}', "key a"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [999992, 1000000]}}', "truncated: key a"),
        (b'{"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}', "unknown type"),
    ],
)
def test_damaged_headers(tmp_path, header, word):
    path = tmp_path / "x.safetensors"
    path.write_bytes(damaged(header))
    with pytest.raises(SpeechMergeError) as caught:
        read_header(path)
    assert str(path) in str(caught.value) and word in str(caught.value)


def test_missing_factor(adapter):
    change_weights(adapter, lambda tensors: tensors.pop(KEY.replace("lora_A", "lora_B")))
    refused(adapter, "adapter_model.safetensors", KEY.replace("lora_A", "lora_B"), "is missing beside lora_A")


def test_shapes_that_do_not_fit(adapter):
    change_weights(adapter, lambda tensors: tensors.update({KEY: torch.zeros(3, 32)}))
    refused(adapter, KEY, "[3, 32] does not fit")


def test_rank_other_than_configured(adapter):
    change_config(adapter, r=8)
    refused(adapter, "lora_A", "rank 4, adapter_config.json says 8")


@pytest.mark.parametrize(
    "key,value",
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("r", 0),
        ("lora_alpha", "x"),
        ("init_lora_weights", "pissa_niter_4"),
        ("layer_replication", [[0, 1]]),
        ("target_parameters", ["x"]),
        ("alora_invocation_tokens", [1]),
    ],
)
def test_configs_that_mean_something_else(adapter, key, value):
    change_config(adapter, **{key: value})
    refused(adapter, "adapter_config.json", f"key {key}")


def test_pickles_are_read_without_running_them(adapter, tmp_path):
    expected = read(adapter)
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    for name, delta in read(adapter).deltas.items():
        assert torch.equal(delta.dense(), expected.deltas[name].dense())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    refused(folder, "pytorch_model.bin", "no checkpoint of torch.save", base=folder)
    assert not (tmp_path / "ran").exists()


def test_embeddings_and_strange_keys(adapter):
    change_weights(
        adapter,
        lambda tensors: tensors.update(
            {"base_model.model.model.decoder.embed_tokens.lora_embedding_A": torch.ones(4, 9)}
        ),
    )
    refused(adapter, "embed_tokens.lora_embedding_A", "not handled")
    change_weights(adapter, lambda tensors: (tensors.clear(), tensors.update({"fc1.lora_A.weight": torch.ones(4, 9)})))
    refused(adapter, "key fc1.lora_A.weight", "base_model.model.")


def test_integers_and_empty_files(adapter):
    change_weights(adapter, lambda tensors: tensors.update({KEY: torch.zeros(4, 32, dtype=torch.int32)}))
    refused(adapter, KEY, "type I32")
    save_file({}, adapter / "adapter_model.safetensors")
    refused(adapter, "no LoRA weights")


def test_missing_files(adapter, tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "no such folder")
    (adapter / "adapter_config.json").write_text("{")
    refused(adapter, "adapter_config.json", "not valid JSON")
    (adapter / "adapter_config.json").unlink()
    refused(adapter, "adapter weights without adapter_config.json")
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, "no weights found", base=adapter)


def test_dora_says_that_it_needs_its_base(base, tmp_path):
    folder = make_adapter(base, tmp_path / "dora", use_dora=True)
    change_config(folder, base_model_name_or_path="nowhere/at-all")
    refused(folder, str(folder), "DoRA", "nowhere/at-all")
    merged = speechmerge.merge(
        [folder], base=base
    )  # whoever gives the base is believed where its name cannot be looked up
    assert merged.base.computed() == model_fingerprint(base)
    change_weights(folder, lambda tensors: tensors.pop(KEY.replace("lora_A.weight", "lora_magnitude_vector")))
    refused(folder, "lora_magnitude_vector is missing", base=base)
    plain = make_adapter(base, tmp_path / "plain")
    change_weights(
        plain, lambda tensors: tensors.update({KEY.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(64)})
    )
    refused(plain, "DoRA weights, adapter_config.json says use_dora false")


def claim_base(folder, source, fingerprint):
    write_json(
        folder / "speechmerge.json", {"task": folder.name, "base": {"source": str(source), "fingerprint": fingerprint}}
    )


def test_adapters_of_other_bases(base, tmp_path):
    first, second = (make_adapter(base, tmp_path / name, seed=seed) for seed, name in enumerate(("asr", "kws")))
    claim_base(first, base, model_fingerprint(base))
    assert speechmerge.merge([first, second]).base.fingerprint == model_fingerprint(base)
    claim_base(second, base, "0" * 64)
    with pytest.raises(
        SpeechMergeError, match="(asr|kws) belongs to base.*(asr|kws) to base.*only changes of the same base"
    ):
        speechmerge.merge([first, second])


def test_foreign_adapters_are_compared_by_the_name_of_their_base(base, tmp_path):
    first, second = (make_adapter(base, tmp_path / name, seed=seed) for seed, name in enumerate(("asr", "kws")))
    other = make_base(tmp_path / "other", seed=9)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    change_config(second, base_model_name_or_path=str(copy))
    assert speechmerge.merge([first, second])  # another place, the same weights
    change_config(second, base_model_name_or_path=str(other))
    with pytest.raises(SpeechMergeError, match="only changes of the same base"):
        speechmerge.merge([first, second])
    change_config(second, base_model_name_or_path="openai/never-downloaded")
    with pytest.raises(SpeechMergeError, match="openai/never-downloaded"):
        speechmerge.merge([first, second])


def test_a_given_base_must_be_the_one(base, adapter, tmp_path):
    claim_base(adapter, base, model_fingerprint(base))
    other = make_base(tmp_path / "other", seed=9)
    refused(adapter, "only changes of the same base", base=other)
    merged = speechmerge.merge([adapter])
    with pytest.raises(SpeechMergeError, match="only changes of the same base"):
        merged.save(tmp_path / "full", as_="full", base=other)
    assert not (tmp_path / "full").exists()


def test_full_models_of_other_architectures(base, tmp_path):
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    tensors = load_file(base / "model.safetensors")
    name = sorted(tensors)[0]
    save_file({**tensors, name: torch.zeros(3, 3)}, tuned / "model.safetensors")
    refused(tuned, name, "[3, 3]", base=base)
    save_file({**tensors, "more.weight": torch.zeros(3)}, tuned / "model.safetensors")
    merged = speechmerge.merge([tuned], base=base)
    assert merged.details["left_out"] == {"tuned": ["more.weight"]} and "more.weight" not in merged.deltas
    with pytest.raises(SpeechMergeError, match="strict.*tuned has 1 more: more.weight"):
        speechmerge.merge([tuned], base=base, merge_mode="strict")
    save_file({key: value for key, value in tensors.items() if key != name}, tuned / "model.safetensors")
    refused(tuned, f"1 of {len(tensors)} keys are not in", name, base=base)
    save_file(tensors, tuned / "model.safetensors")
    refused(tuned, "relative to its base; give --base")
    tensors[name][0] = float("nan")
    save_file(tensors, tuned / "model.safetensors")
    with pytest.raises(SpeechMergeError, match="NaN"):
        speechmerge.merge([tuned], base=base).save(tmp_path / "merged", as_="full")
    assert not (tmp_path / "merged").exists()


def test_index_files_cannot_lead_elsewhere(base, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("../base/model.safetensors", "/etc/passwd", "model.bin"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(SpeechMergeError, match="key w.*not the name of a .safetensors file"):
            Checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "gone.safetensors"}}))
    with pytest.raises(SpeechMergeError, match="gone.safetensors is missing"):
        Checkpoint(folder)


def test_an_adapter_for_another_architecture_cannot_be_saved_full(base, adapter, tmp_path):
    change_weights(
        adapter,
        lambda tensors: [
            tensors.update({key.replace("layers.0.fc1", "layers.7.fc1"): tensors.pop(key)})
            for key in list(tensors)
            if "encoder.layers.0.fc1" in key
        ],
    )
    with pytest.raises(SpeechMergeError, match="key model.encoder.layers.7.fc1.weight is not among"):
        read(adapter).save(tmp_path / "full", as_="full", base=base)
    assert not (tmp_path / "full").exists()
