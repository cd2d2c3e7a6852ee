"""Reading and saving against PEFT itself, on a tiny Whisper."""
import json

import pytest
import torch
from adapters import load_base, logits, make_adapter, make_base, merged_weights, peft_model

import speechmerge
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_json
from speechmerge.merge.delta import LowRank
from speechmerge.merge.read import read
from speechmerge.merge.run import again
from speechmerge.storage.checkpoint import model_fingerprint

KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 6},
    "dora": {"use_dora": True},
    "dora_rslora": {"use_dora": True, "use_rslora": True, "r": 8},
    "patterns": {
        "rank_pattern": {"fc1": 2, r"encoder.layers.1.self_attn.q_proj": 7},
        "alpha_pattern": {"fc2": 3, r"layers.0.+v_proj": 20},
    },
    "rslora_patterns": {"use_rslora": True, "rank_pattern": {"fc1": 2}, "alpha_pattern": {"fc1": 5}},
    "kernels": {"target_modules": ["conv1", "conv2", "out_proj"]},
    "dora_kernels": {"use_dora": True, "target_modules": ["conv2", "k_proj"]},
    "bias": {"bias": "lora_only"},
    "all_biases": {"bias": "all"},
    "modules_to_save": {"modules_to_save": ["layer_norm"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("merge_peft") / "base")


@pytest.fixture(scope="module")
def pair(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [
        make_adapter(base, folder / "asr", seed=1),
        make_adapter(base, folder / "kws", seed=2, r=6, lora_alpha=9, use_rslora=True),
    ]


@pytest.fixture(scope="module", params=sorted(KINDS))
def adapter(request, base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp(request.param) / request.param, seed=3, **KINDS[request.param])


def test_every_kind_is_read_as_peft_merges_it(base, adapter):
    vector, expected = read(adapter), merged_weights(base, adapter)
    assert set(vector.deltas) == set(expected)
    for name, delta in vector.deltas.items():
        torch.testing.assert_close(delta.dense(), expected[name], atol=2e-6, rtol=1e-5, msg=name)


def test_one_adapter_with_weight_one_is_itself(base, adapter):
    merged = speechmerge.merge([adapter], method="cat")
    model = load_base(base)
    with merged.applied(model):
        # merged by PEFT, because Whisper's forward cannot run with PEFT's wrapped kernels
        torch.testing.assert_close(
            logits(model), logits(peft_model(base, adapter).merge_and_unload()), atol=2e-5, rtol=1e-5
        )
    assert torch.equal(logits(model), logits(load_base(base)))


def test_factors_are_read_without_the_base(base, tmp_path):
    folder = make_adapter(base, tmp_path / "alone")
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": "nowhere/to-be-found"})
    vector = speechmerge.merge([folder, folder])
    assert all(isinstance(delta, LowRank) for delta in vector.deltas.values())
    assert vector.base.source == "nowhere/to-be-found"


def test_concatenation_equals_pefts_active_adapters(base, pair):
    """The sum of PEFT's own active adapters, and PEFT's `cat` where it is right (no rsLoRA)."""
    model = peft_model(base, pair[0])
    model.load_adapter(pair[1], adapter_name="kws")
    model.base_model.set_adapter(["default", "kws"])
    merged, ours = speechmerge.merge(pair, method="cat"), load_base(base)
    with merged.applied(ours):
        torch.testing.assert_close(logits(ours), logits(model), atol=1e-5, rtol=0)


def test_weighted_concatenation_equals_pefts_cat(base, tmp_path):
    folders = [make_adapter(base, tmp_path / str(seed), seed=seed, r=4 + seed, lora_alpha=8) for seed in range(2)]
    model = peft_model(base, folders[0])
    model.load_adapter(folders[1], adapter_name="second")
    model.add_weighted_adapter(["default", "second"], [0.7, 0.4], "both", combination_type="cat")
    model.set_adapter("both")
    merged = speechmerge.merge(folders, method="cat", weights=[0.7, 0.4])
    merged.save(tmp_path / "merged")
    torch.testing.assert_close(logits(peft_model(base, tmp_path / "merged")), logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "method,params",
    [
        ("uniform", {}),
        ("cat", {}),
        ("weighted", {"lambda": 0.3}),
        ("task_vector", {"scale": 0.4}),
        ("task_vector", {"scale": 0}),
        ("ties", {}),
        ("dare", {"drop_rate": 0.5}),
        ("dare_ties", {}),
    ],
)
@pytest.mark.parametrize("rank", [None, 3])
def test_every_saved_adapter_loads_in_plain_peft(base, pair, tmp_path, method, params, rank):
    merged = speechmerge.merge(pair, method=method, **params)
    metadata = merged.save(tmp_path / "saved", as_="lora", rank=rank)
    found = merged_weights(base, tmp_path / "saved")
    lost = total = 0.0
    for name, delta in merged.deltas.items():
        dense = delta.dense()
        error = torch.linalg.vector_norm(found.get(name, torch.zeros_like(dense)) - dense).item()
        norm = torch.linalg.vector_norm(dense).item()
        assert error <= metadata["error"]["relative"][name] * norm + 2e-6 * (1 + norm), name
        lost, total = lost + error ** 2, total + norm ** 2
    expected = metadata["error"]["relative_total"]
    assert (lost / total) ** 0.5 == pytest.approx(expected, abs=1e-5) if total else expected == 0
    assert expected < 1e-5 if rank is None else metadata["rank"] <= 3


def test_adapters_of_different_ranks_and_targets_are_saved_with_patterns(base, tmp_path):
    first = make_adapter(base, tmp_path / "a", seed=1, rank_pattern={"fc1": 2, "encoder.layers.0.self_attn.q_proj": 1})
    second = make_adapter(base, tmp_path / "b", seed=2, target_modules=["q_proj", "fc1"], r=3)
    merged = speechmerge.merge([first, second], method="cat")
    assert {name.split(".")[-2] for name in merged.deltas} == {"q_proj", "fc1"}
    merged.save(tmp_path / "merged")
    config = read_json(tmp_path / "merged" / "adapter_config.json")
    ranks = {config["r"], *config["rank_pattern"].values()}
    assert ranks == {7, 5, 4} and config["alpha_pattern"] == config["rank_pattern"]
    found = merged_weights(base, tmp_path / "merged")
    for name, delta in merged.deltas.items():
        torch.testing.assert_close(found[name], delta.dense(), atol=2e-6, rtol=1e-5)


def test_kernels_are_saved_as_kernels(base, tmp_path):
    folder = make_adapter(base, tmp_path / "conv", target_modules=["conv1", "conv2"])
    speechmerge.merge([folder, folder]).save(tmp_path / "merged")
    found, expected = merged_weights(base, tmp_path / "merged"), merged_weights(base, folder)
    assert sorted(found) == ["model.encoder.conv1.weight", "model.encoder.conv2.weight"]
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["uniform", "ties"])
def test_full_and_delta_hold_the_same_as_the_vector(base, pair, tmp_path, method):
    from transformers import WhisperForConditionalGeneration

    merged, model = speechmerge.merge(pair, method=method), load_base(base)
    with merged.applied(model):
        expected = logits(model)
    merged.save(tmp_path / "full", as_="full")
    full = WhisperForConditionalGeneration.from_pretrained(tmp_path / "full").eval()
    torch.testing.assert_close(logits(full), expected, atol=1e-5, rtol=0)
    merged.save(tmp_path / "delta", as_="delta")
    again = read(tmp_path / "delta")
    for name, delta in merged.deltas.items():
        torch.testing.assert_close(again.deltas[name].dense(), delta.dense(), atol=1e-6, rtol=1e-6)
    assert again.base.source == merged.base.source and (tmp_path / "full" / "tokenizer.json").is_file()


def test_a_full_model_is_read_against_its_base(base, pair, tmp_path):
    merged = speechmerge.merge(pair)
    merged.save(tmp_path / "full", as_="full")
    vector = read(tmp_path / "full")  # its base stands in speechmerge.json
    changed = {name for name, delta in vector.deltas.items() if delta.norm() > 0}
    assert changed == set(merged.deltas)
    for name in changed:
        torch.testing.assert_close(vector.deltas[name].dense(), merged.deltas[name].dense(), atol=1e-6, rtol=1e-4)
    with pytest.raises(SpeechMergeError, match="cannot be held by a LoRA; save as full or as delta"):
        vector.save(tmp_path / "lora")
    half = speechmerge.merge([vector], method="task_vector", scale=0.5, base=base)
    half.save(tmp_path / "half", as_="full")
    back = read(tmp_path / "half", base)
    name = sorted(changed)[0]
    torch.testing.assert_close(back.deltas[name].dense(), vector.deltas[name].dense() / 2, atol=1e-6, rtol=1e-4)


def test_a_merge_can_be_merged_again(base, pair, tmp_path):
    speechmerge.merge(pair).save(tmp_path / "first")
    again = speechmerge.merge([tmp_path / "first", *pair], method="task_vector", scale=0.5)
    first, second = (read(folder) for folder in pair)
    name = sorted(again.deltas)[0]
    expected = 0.75 * (first.deltas[name].dense() + second.deltas[name].dense())
    torch.testing.assert_close(again.deltas[name].dense(), expected, atol=1e-5, rtol=1e-5)


def test_metadata_lets_anyone_do_it_again(base, pair, tmp_path):
    metadata = speechmerge.merge(pair, method="ties", k=30, names=["asr", "kws"], base=base).save(
        tmp_path / "m", rank=2
    )
    assert read_json(tmp_path / "m" / "merge_metadata.json") == json.loads(json.dumps(metadata))
    assert metadata["tag"] == "ties_k30_l1_asr-kws_r2"
    assert (metadata["params"]["k"], metadata["params"]["lambda"], metadata["params"]["trim"]) == (30.0, 1.0, "all")
    assert [(entry["name"], entry["path"], entry["rank"]) for entry in metadata["adapters"]] == \
        [("asr", str(pair[0]), [4]), ("kws", str(pair[1]), [6])]
    assert metadata["adapters"][1]["scaling"] == [pytest.approx(9 / 6 ** 0.5)]
    assert metadata["base"] == {"source": str(base), "fingerprint": model_fingerprint(base)}
    assert 0 < metadata["error"]["relative_total"] < 1 and "versions" in metadata["provenance"]
    notes = read_json(tmp_path / "m" / "speechmerge.json")
    assert notes["base"]["fingerprint"] == model_fingerprint(base)
    again(metadata).run().save(tmp_path / "again", rank=2)
    files = [(tmp_path / folder / "adapter_model.safetensors").read_bytes() for folder in ("m", "again")]
    assert files[0] == files[1]
    metadata["adapters"][0]["sha256"] = "0" * 64
    with pytest.raises(SpeechMergeError, match="has changed since it was merged"):
        again(metadata)


def test_the_same_inputs_give_the_same_bytes(pair, tmp_path):
    for method in ("dare", "uniform"):
        for as_, file in (
            ("lora", "adapter_model.safetensors"),
            ("delta", "delta.safetensors"),
            ("full", "model.safetensors"),
        ):
            contents = []
            for threads in (1, 2):
                before = torch.get_num_threads()
                torch.set_num_threads(threads)
                speechmerge.merge(pair, method=method).save(tmp_path / "again", as_=as_)
                torch.set_num_threads(before)
                contents.append((tmp_path / "again" / file).read_bytes())
            assert contents[0] == contents[1]


def test_fingerprints_see_content_and_nothing_else(base, tmp_path, monkeypatch):
    from transformers import WhisperForConditionalGeneration

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = WhisperForConditionalGeneration.from_pretrained(base)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert model_fingerprint(tmp_path / "sharded") == model_fingerprint(base)
    assert (tmp_path / "cache" / "speechmerge" / "fingerprints.json").is_file()
    model.model.encoder.conv1.bias.data[0] += 1e-3
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert model_fingerprint(tmp_path / "sharded") != model_fingerprint(base)
