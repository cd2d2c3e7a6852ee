"""Packs load in plain PEFT and transformers, and their cards say where they come from."""
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import PeftModel
from tiny import tiny_tones, tiny_whisper
from transformers import WhisperForConditionalGeneration

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.files import read_json, write_json
from speechmerge.hashes import file_hash
from speechmerge.models import load_model
from speechmerge.tasks import get_task
from speechmerge.train.options import TrainOptions
from speechmerge.train.run import train


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Two adapters and a full model, trained for two steps, two merges, one decoded and scored."""
    root = tmp_path_factory.mktemp("recipe")
    base = tiny_whisper(root / "base")
    for task, name, tuning in (("kws", "kws", "lora"), ("intent", "intent", "lora"), ("kws", "whole", "full")):
        for split in ("train", "test"):
            tiny_tones(root / "data" / task / split, task=task, n=6)
        write_json(root / "data" / task / "prepare.json", {"corpus": "tones", "licence": "CC0 1.0", "homepage": "https://x.org"})
        model = load_model(base, device="cpu", audio_context="dynamic", audio_context_min=0.5)
        train(model, get_task(task), DataDir.read(root / "data" / task / "train"), None, root / "exp" / task / name,
              TrainOptions(tuning=tuning, max_steps=2, batch_size=6, learning_rate=1e-2), name=name, exp_dir=root / "exp")
    for as_ in ("lora", "delta"):
        folders = [str(root / "exp/kws/kws"), str(root / "exp/intent/intent")]
        assert main(["merge", "--adapters", *folders, "--method", "uniform", "--base", str(base), "--save", as_, "--exp-dir",
                     str(root / "exp"), "--output-dir", str(root / "merged" / as_)]) == 0
    assert main(["decode", "--model", str(base), "--systems", "kws", "--tasks", "kws", "--data", str(root / "data"), "--exp-dir",
                 str(root / "exp"), "--device", "cpu"]) == 0
    assert main(["score", "--exp-dir", str(root / "exp"), "--repetitions", "20"]) == 0
    return root


def pack(recipe, system, output, *more):
    return main(["pack", "--system", str(system), "--exp-dir", str(recipe / "exp"), "--output-dir", str(output), *more])


def front(folder):
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_an_adapter(recipe, tmp_path):
    assert pack(recipe, "kws", tmp_path / "kws") == 0
    base = WhisperForConditionalGeneration.from_pretrained(recipe / "base")
    packed = PeftModel.from_pretrained(base, tmp_path / "kws").merge_and_unload().state_dict()
    model = load_model(recipe / "base", device="cpu")
    with model.adapter(recipe / "exp/kws/kws"):
        assert all(torch.allclose(value, packed[name], atol=1e-6) for name, value in model.core.state_dict().items())
    assert sorted(file.name for file in (tmp_path / "kws").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "pack.json", "speechmerge.json"]
    record = read_json(tmp_path / "kws/pack.json")
    assert record["files"]["adapter_model.safetensors"] == file_hash(recipe / "exp/kws/kws/adapter_model.safetensors")


def test_its_card(recipe, tmp_path):
    assert pack(recipe, "kws", tmp_path / "kws", "--base", "openai/whisper-tiny") == 0
    meta, text = front(tmp_path / "kws")
    assert (meta["base_model"], meta["library_name"], meta["language"]) == ("openai/whisper-tiny", "peft", ["en"])
    assert read_json(tmp_path / "kws/adapter_config.json")["base_model_name_or_path"] == "openai/whisper-tiny"
    score = read_json(recipe / "exp/decode/test/kws/kws/score.json")
    assert meta["model-index"][0]["results"][0]["metrics"] == [
        {"type": "accuracy", "value": round(score["generation"]["value"], 4)}]
    low, high = (f"{100 * end:.1f}" for end in score["labels"]["ci"])
    assert f"| labels scored | accuracy | {100 * score['labels']['value']:.1f} % | {low} .. {high} (by {score['labels']['ci_unit']}) |" in text
    for words in ("from transformers import WhisperForConditionalGeneration", "- tones: CC0 1.0, https://x.org", "torch 2.",
                  "prompt `Which keyword is spoken?`", "A LoRA adapter for `openai/whisper-tiny`: kws, language `en`."):
        assert words in text


def test_the_card_is_what_the_hub_reads(recipe, tmp_path):
    from huggingface_hub import ModelCard

    assert pack(recipe, "kws", tmp_path / "kws", "--base", "openai/whisper-tiny") == 0
    found = ModelCard.load(tmp_path / "kws/README.md").data
    assert found.base_model == "openai/whisper-tiny" and len(found.eval_results) == 2
    assert {result.metric_type for result in found.eval_results} == {"accuracy"}


def test_a_merge_and_a_whole_model(recipe, tmp_path):
    assert pack(recipe, recipe / "merged/lora", tmp_path / "merged") == 0
    PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(recipe / "base"), tmp_path / "merged")
    meta, text = front(tmp_path / "merged")
    assert "base_model" not in meta and meta["tags"] == ["speech", "speechmerge", "kws", "intent", "merge"]
    assert "merged without training by `uniform`" in text and "Not evaluated." in text and "Merged:" in text
    assert pack(recipe, "whole", tmp_path / "whole") == 0
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "whole").state_dict()
    trained = WhisperForConditionalGeneration.from_pretrained(recipe / "exp/kws/whole").state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in loaded.items())
    assert front(tmp_path / "whole")[0]["library_name"] == "transformers"
    assert load_model(tmp_path / "whole", device="cpu").tokenizer.get_vocab()  # all that belongs to it


def test_what_cannot_be_packed(recipe, tmp_path, capsys):
    assert pack(recipe, recipe / "merged/delta", tmp_path / "x") == 1
    assert "saved as delta, which PEFT and transformers do not load; merge it again with --save lora" in capsys.readouterr().err
    assert pack(recipe, "base", tmp_path / "x") == 2 and "as it was published" in capsys.readouterr().err
    assert pack(recipe, "adapters", tmp_path / "x") == 2 and "names 3 systems" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    assert pack(recipe, "kws", tmp_path / "mine") == 1 and "no earlier pack" in capsys.readouterr().err
    assert (tmp_path / "mine/thesis.tex").read_text() == "years of work" and not (tmp_path / "x").exists()
    shutil.copytree(recipe / "exp/kws/kws", tmp_path / "broken")
    (tmp_path / "broken/adapter_model.safetensors").unlink()
    assert pack(recipe, tmp_path / "broken", tmp_path / "x") == 1 and "neither an adapter" in capsys.readouterr().err


def test_again(recipe, tmp_path):
    assert pack(recipe, "kws", tmp_path / "kws") == 0
    (tmp_path / "kws/stale").write_text("x")
    assert pack(recipe, "intent", tmp_path / "kws") == 0
    assert not (tmp_path / "kws/stale").exists() and read_json(tmp_path / "kws/pack.json")["system"]["name"] == "intent"


def test_push(recipe, tmp_path, monkeypatch, capsys):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert pack(recipe, "kws", tmp_path / "kws", "--push", "me/kws") == 1
    assert "no token of the Hugging Face hub; run `hf auth login` or set HF_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "kws").exists()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    for name in ("kws", "me/k ws"):
        assert pack(recipe, "kws", tmp_path / "kws", "--push", name) == 2
    calls = []
    api = SimpleNamespace(create_repo=lambda name, **more: calls.append((name, more)), upload_folder=lambda **more: calls.append(more))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert pack(recipe, "kws", tmp_path / "kws", "--push", "me/kws", "--private", "true") == 0
    assert calls[0] == ("me/kws", {"exist_ok": True, "private": True}) and calls[1]["folder_path"] == str(tmp_path / "kws")
    assert "https://huggingface.co/me/kws" in capsys.readouterr().out

    def refuse(*args, **more):
        raise OSError("connection reset")

    api.create_repo = refuse
    assert pack(recipe, "kws", tmp_path / "kws", "--push", "me/kws") == 1
    assert "the hub refused (connection reset); the pack is complete in" in capsys.readouterr().err
    assert json.loads((tmp_path / "kws/pack.json").read_text())
