"""Files name an audio LLM's weights as published, adapters as its network does: merges and decoding know both."""
import pytest
import torch
from test_models_qwen import FAMILIES, items_of
from test_models_qwen_train import STEPS
from tiny import tiny_tones
from tiny_qwen import tiny_omni

import speechmerge
from speechmerge.bank import AdapterBank
from speechmerge.data.directory import DataDir
from speechmerge.models import load_model
from speechmerge.storage.checkpoint import Checkpoint
from speechmerge.tasks import get_task
from speechmerge.train.options import TrainOptions
from speechmerge.train.run import train

BASES = {**{name: make for name, (make, _) in FAMILIES.items()}, "whole omni": lambda dir: tiny_omni(dir, full=True)}
TUNINGS = {"lora": {}, "dora": {"use_dora": True}, "full": {"tuning": "full", "learning_rate": 1e-3}}


@pytest.fixture(scope="module", params=list(BASES))
def tuned(request, tmp_path_factory):
    """(base, folder of each tuning, model, what gives the logits of a network)."""
    folder = tmp_path_factory.mktemp("exp")
    base, data = BASES[request.param](folder / "base"), DataDir.read(tiny_tones(folder / "data", n=3))
    for name, options in TUNINGS.items():
        train(load_model(base, device="cpu"), get_task("kws"), data, None, folder / name,
              TrainOptions(**{**STEPS, "rank": 4, "max_steps": 3, "eval_steps": 0, **options}), exp_dir=folder)
    model, task = load_model(base, device="cpu"), get_task("kws")
    task.adapt(model)
    batch = model.collate(items_of(model, task.examples(data)), task)
    inputs = {name: value for name, value in batch.items() if name != "recordings"}

    def logits(network):
        with torch.no_grad():
            return network(**inputs).logits[inputs["attention_mask"].bool()]

    return base, folder, model, logits


def test_files_are_read_by_the_networks_names(tuned):
    base, _, model, _ = tuned
    found = Checkpoint(base).entries
    others = {name for name in found if name.startswith(("talker.", "token2wav."))}
    assert found.keys() - others == dict(model.core.named_parameters()).keys()
    assert any(entry.name != name for name, entry in found.items())


def test_an_adapter_becomes_a_model_in_the_format_of_its_base(tuned, tmp_path):
    base, folder, model, logits = tuned
    speechmerge.merge([folder / "lora"]).save(tmp_path / "merged", as_="full", base=base)
    with model.adapter(folder / "lora"):
        expected = logits(model.core)
    assert torch.allclose(logits(load_model(tmp_path / "merged", device="cpu").core), expected, atol=1e-4)
    names = [{entry.name for entry in Checkpoint(path).entries.values()} for path in (base, tmp_path / "merged")]
    assert names[0] == names[1]


def test_dora_reads_its_base(tuned):
    base, folder, model, logits = tuned
    with model.adapter(folder / "dora"):
        expected = logits(model.core)
    bank = AdapterBank(model.core, [folder / "dora"], ["dora"], base=base)
    with bank.using(bank.one("dora")):
        assert torch.allclose(logits(model.core), expected, atol=1e-3)
    bank.remove()


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_tuned_models_merge(tuned, tmp_path, kind):
    base, folder, model, logits = tuned
    if any(name.startswith("talker.") for name in Checkpoint(base).entries):
        pytest.skip("a thinker merges with thinkers: its talker is not tuned")
    speechmerge.merge([folder / "full"], base=base).save(tmp_path / kind, as_=kind, base=base)
    with model.adapter(folder / "full"):
        expected = logits(model.core)
    with model.adapter(tmp_path / kind):
        assert torch.allclose(logits(model.core), expected, atol=1e-4)
