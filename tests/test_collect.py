"""Adapters of other recipes by name."""
import json

import pytest
import torch
from safetensors.torch import save_file

from speechmerge import cli


def adapter(path, task, base="a" * 64):
    path.mkdir(parents=True)
    stem = "base_model.model.model.encoder.layers.0.fc1"
    save_file({f"{stem}.lora_A.weight": torch.ones(2, 8), f"{stem}.lora_B.weight": torch.ones(8, 2)}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc1"], "base_model_name_or_path": "base"}))
    (path / "speechmerge.json").write_text(json.dumps({"task": task, "base": {"source": "base", "fingerprint": base}}))
    return str(path)


def collect(tmp_path, *words):
    return cli.main(["collect", "--exp-dir", str(tmp_path / "exp"), "--adapters", *words])


def test_names_and_repetition(tmp_path):
    folders = [adapter(tmp_path / "a/asr/it", "asr"), adapter(tmp_path / "a/asr/es", "asr"), adapter(tmp_path / "b/kws/lora", "kws")]
    assert collect(tmp_path, *folders) == 0 and collect(tmp_path, *folders) == 0
    found = json.loads((tmp_path / "exp/adapters.json").read_text())
    assert found == {"it": {"path": folders[0], "task": "asr"}, "es": {"path": folders[1], "task": "asr"},
                     "kws": {"path": folders[2], "task": "kws"}}


@pytest.mark.parametrize("change, status, message", [
    ({"names": ["one"]}, 2, "--names: found 1, expected 2"),
    ({"names": ["x", "x"]}, 2, "two adapters would be called 'x'"),
    ({"base": "b" * 64}, 1, "base"),
    ({"first": "other"}, 1, "'kws' is"),
])
def test_what_cannot_be_collected(tmp_path, capsys, change, status, message):
    if "first" in change:
        assert collect(tmp_path, adapter(tmp_path / "first", "kws")) == 0
    folders = [adapter(tmp_path / "a", "asr"), adapter(tmp_path / "b", "kws", base=change.get("base", "a" * 64))]
    names = ["--names", *change["names"]] if "names" in change else []
    capsys.readouterr()
    assert collect(tmp_path, *folders, *names) == status
    assert message in capsys.readouterr().err
    assert "asr" not in ((tmp_path / "exp/adapters.json").read_text() if (tmp_path / "exp/adapters.json").exists() else "")
