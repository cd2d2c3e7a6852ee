"""Stable fine-tuning and what Speech-FT makes of it: who learns when, how fast, and the same after an interruption."""
import math

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from tiny import tiny_tones, tiny_whisper, watch
from tiny_upstream import tiny_upstream
from transformers import TrainerCallback

from speechmerge.cli import main, parse, verb_module
from speechmerge.config import merge_configs
from speechmerge.data.directory import DataDir
from speechmerge.errors import UsageError
from speechmerge.files import read_json
from speechmerge.models import load_model
from speechmerge.tasks import get_task
from speechmerge.train import run as train_run
from speechmerge.train import trainer as train_trainer
from speechmerge.train.lora import prepare
from speechmerge.train.options import TrainOptions
from speechmerge.train.schedule import Pull, share_of, stable_factor

STABLE = {"tuning": "full", "freeze_encoder_share": 0.1, "decay": "stable", "optimizer": "adam", "learning_rate": 1e-3,
          "max_steps": 20, "batch_size": 6, "head_size": 16, "eval_steps": 4, "logging_steps": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_upstream(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DataDir.read(tiny_tones(tmp_path_factory.mktemp("data"), n=12))


def run(base, data, folder, dev=False, **options):
    record = train_run.train(load_model(base, device="cpu"), get_task("kws"), data, data if dev else None, folder / "out",
                             TrainOptions(**{**STABLE, **options}), exp_dir=folder / "exp")
    return record, folder / "out"


class Watch(TrainerCallback):
    """What every optimizer step sees."""

    def __init__(self, trainer):
        self.trainer, self.gradients, self.rates, self.norms = trainer, [], [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        speech = self.trainer.speech
        named = {"conv": [], "encoder": [], "head": list(speech.head.parameters()) if speech.has_head else []}
        for name, parameter in speech.core.named_parameters():
            if name != "masked_spec_embed":
                named["conv" if name.startswith("feature_extractor") else "encoder"].append(parameter)
        self.gradients.append({part: [p.grad is not None for p in own] for part, own in named.items()})
        self.norms.append(math.sqrt(sum(float(p.grad.square().sum()) for own in named.values() for p in own
                                        if p.grad is not None)))
        self.rates.append(self.trainer.optimizer.param_groups[0]["lr"])


@pytest.fixture
def watched(monkeypatch):
    return watch(monkeypatch, Watch)


# --- who learns when ------------------------------------------------------------------------------------------------


def test_gradients_and_rates_of_every_step(base, data, tmp_path, watched):
    """N = 20: the encoder has no gradients at steps 0 and 1 and has them from step 2 on, the convolutions never."""
    run(base, data, tmp_path, max_grad_norm=1.0)
    [watch] = watched
    assert len(watch.gradients) == 20
    for step, found in enumerate(watch.gradients):
        assert not any(found["conv"]) and all(found["head"])
        assert all(found["encoder"]) if step >= 2 else not any(found["encoder"]), step
    warm, hold = [0, 0.5], [1.0] * 8
    expected = warm + hold + [(20 - step) / 10 for step in range(10, 20)]
    assert watch.rates == pytest.approx([1e-3 * factor for factor in expected])
    assert type(watch.trainer.optimizer.optimizer) is torch.optim.Adam
    assert max(watch.norms) <= 1.0 + 1e-4
    start, end = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert list(start) == list(end)
    for name in start:
        stays = name.startswith("feature_extractor") or name == "masked_spec_embed"
        assert torch.equal(start[name], end[name]) == stays, name


def test_front_end_learns_where_it_is_asked_to(base, data, tmp_path, watched):
    run(base, data, tmp_path, freeze_front_end=False, freeze_encoder_share=0.0, max_steps=2)
    assert all(all(found["conv"]) and all(found["encoder"]) for found in watched[0].gradients)


def test_frozen_upstream_costs_no_graph(base, data):
    """transformers makes a graph of the convolutions wherever it trains, frozen or not."""
    model = load_model(base, device="cpu")
    task = get_task("kws")
    model.build(task, task.examples(data), task.labels(data), TrainOptions(head_size=8))
    prepare(model, TrainOptions(tuning="full"))
    seen = []
    model.core.feature_extractor.register_forward_hook(lambda *args: seen.append(args[2].requires_grad))
    wave = torch.randn(1, 4000)
    model.module.train()(torch.tensor([4000]), waves=wave)
    assert seen == [False] and model.core.training
    for parameter in model.core.parameters():
        parameter.requires_grad = False
    output = model.module.train()(torch.tensor([4000]), waves=wave)
    assert not model.core.training and model.head.training  # a frozen upstream has no dropout
    assert output.scores.requires_grad


def test_schedule_by_hand():
    """The paper's N = 50000: warm-up to 5000, peak to 25000, then linear."""
    at = lambda step: stable_factor(step, warm=5000, hold_end=25000, steps=50000)  # noqa: E731
    assert [at(s) for s in (0, 2500, 4999, 5000, 24999, 25000, 37500, 49999, 50000)] == pytest.approx(
        [0, 0.5, 0.9998, 1, 1, 1, 0.5, 1 / 25000, 0])
    assert share_of(0.29, 100) == 29 and share_of(0.1, 19) == 1
    assert stable_factor(0, warm=0, hold_end=4, steps=8) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora", "head"])
@pytest.mark.parametrize("killed_at", [4, 15])
def test_resumed_in_both_phases(base, data, tmp_path, monkeypatch, tuning, killed_at):
    """Half of the steps are with a frozen encoder (of a LoRA too); stopped in the first and in the second half."""
    options = {"tuning": tuning, "freeze_encoder_share": 0.5 if tuning != "head" else 0.0, "eval_steps": 3}
    _, whole = run(base, data, tmp_path / "whole", **options)
    original, count = train_trainer.TaskTrainer.training_step, [0]

    def step(self, *args, **kwargs):
        count[0] += 1
        if count[0] == killed_at:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(train_trainer.TaskTrainer, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        run(base, data, tmp_path / "stopped", **options)
    monkeypatch.undo()
    _, stopped = run(base, data, tmp_path / "stopped", **options)
    log = (stopped / "train.log").read_text()
    assert f"going on from step {(killed_at - 1) // 3 * 3}" in log
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert "head.safetensors" in files and files == sorted(path.name for path in stopped.glob("*.safetensors"))
    for name in files:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name


# --- baselines ------------------------------------------------------------------------------------------------------


def test_pull_to_the_base(base, data, tmp_path, monkeypatch):
    """The gradient of the first step after one of size 1 in every weight is 2 lambda; a strong pull keeps the weights."""
    weights = [torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.zeros(3), requires_grad=False)]
    pull = Pull(weights)
    assert pull().item() == 0
    weights[0].data += torch.tensor([0.5, 3.0])
    assert pull().item() == pytest.approx(0.25 + 9)
    (2.0 * pull()).backward()
    assert weights[0].grad.tolist() == pytest.approx([2.0, 12.0])
    start, moved = load_file(base / "model.safetensors"), {}
    for name, value in (("free", 0.0), ("pulled", 10.0)):
        _, folder = run(base, data, tmp_path / name, weight_decay_to_base=value, freeze_encoder_share=0.0, warmup=0.0,
                        accumulation=2, batch_size=3)
        end = load_file(folder / "model.safetensors")
        moved[name] = math.sqrt(sum(float((end[key] - start[key]).square().sum()) for key in start))
    assert moved["pulled"] < 0.5 * moved["free"]
    with pytest.raises(UsageError, match="--tuning full"):
        TrainOptions(weight_decay_to_base=0.1)


def test_early_copies_are_models(base, data, tmp_path):
    record, folder = run(base, data, tmp_path, save_at=(0.25, 0.5))
    assert sorted(path.name for path in folder.glob("at_*")) == ["at_10", "at_5"]
    early, late = (transformers.HubertModel.from_pretrained(folder / name).state_dict() for name in ("at_5", "at_10"))
    final = load_file(folder / "model.safetensors")
    key = "encoder.layers.0.attention.q_proj.weight"
    assert not torch.equal(early[key], late[key]) and not torch.equal(late[key], final[key])
    notes = read_json(folder / "at_5" / "speechmerge.json")
    assert notes["step"] == 5 and notes["base"] == record["base"] and (folder / "at_5" / "head.json").is_file()
    _, short = run(base, data, tmp_path / "short", save_at=(0.25,), eval_steps=5)
    assert (short / "at_5" / "model.safetensors").read_bytes() == (folder / "at_5" / "model.safetensors").read_bytes()


def test_a_lora_of_a_frozen_start_and_its_dora(base, data, tmp_path):
    _, folder = run(base, data, tmp_path, tuning="lora", rank=2, use_dora=True)
    assert any("magnitude" in name and tensor.any() for name, tensor in load_file(folder / "adapter_model.safetensors").items())


def test_masks_are_off_unless_asked(base, data, tmp_path):
    """HuBERT's config.json has mask_time_prob 0.05 and layerdrop 0.1; the copy that is saved says so again."""
    model = load_model(base, device="cpu")
    assert model.core.config.layerdrop == 0 and model.core.config.apply_spec_augment is False
    _, folder = run(base, data, tmp_path / "off", max_steps=2)
    start, end = read_json(base / "config.json"), read_json(folder / "config.json")
    assert all(start.get(key) == end.get(key) for key in ("layerdrop", "apply_spec_augment", "mask_time_prob"))
    _, folder = run(base, data, tmp_path / "on", mask_time_prob=0.3, max_steps=8)
    name = "masked_spec_embed"
    assert not torch.equal(load_file(folder / "model.safetensors")[name], load_file(base / "model.safetensors")[name])


def test_what_a_family_cannot_do(base, data, tmp_path):
    whisper = load_model(tiny_whisper(tmp_path / "whisper"), device="cpu")
    for options, words in (({"tuning": "head"}, "--tuning head"), ({"freeze_encoder_share": 0.1}, "no head"),
                           ({"head": "mean"}, "--head"), ({"mask_time_prob": 0.1}, "--mask-time-prob")):
        with pytest.raises(UsageError, match=words):
            train_run.train(whisper, get_task("kws"), data, None, tmp_path / "out", TrainOptions(**options),
                            exp_dir=tmp_path / "exp")
    for options, words in (({"time_masks": 1}, "hear waves"), ({"tuning": "head", "mask_time_prob": 0.1}, "--mask-time-prob")):
        with pytest.raises(UsageError, match=words):
            run(base, data, tmp_path / "no", **options)
    for options in ({"hold": 1.5}, {"save_at": (2.0,)}, {"optimizer": "sgd"}, {"features": "first"}, {"head_size": 0}):
        with pytest.raises(UsageError):
            TrainOptions(**options)


def test_keys_of_earlier_runs_stay():
    """What was trained before there were heads is not trained again."""
    known = {"hold", "optimizer", "features", "head", "freeze_front_end", "save_at"}
    assert not known & TrainOptions().deciding().keys()
    assert TrainOptions(optimizer="adam").deciding()["optimizer"] == "adam"


def test_shared_config_is_the_papers():
    known = vars(parse("train", verb_module("train"), ["--task", "asr", "--data", "d"]))
    values = merge_configs(["conf/stable_ft.yaml"], known)
    paper = {"tuning": "full", "freeze_encoder_share": 0.1, "freeze_front_end": True, "optimizer": "adam", "warmup": 0.1,
             "hold": 0.4, "decay": "stable", "learning_rate": 1e-4, "max_grad_norm": 1.0, "features": "last",
             "max_steps": 50000, "batch_size": 32}
    assert {key: values[key] for key in paper} == paper


# --- from end to end ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """Two tasks fine-tuned with stable fine-tuning by the command line: {"data", "exp", task: folder}."""
    root = tmp_path_factory.mktemp("tuned")
    config = root / "stable.yaml"
    shared = yaml.safe_load(open("conf/stable_ft.yaml", encoding="utf-8"))
    config.write_text(yaml.safe_dump({**shared, "max_steps": 24, "batch_size": 6, "eval_steps": 12, "head_size": 24,
                                      "learning_rate": 5e-3}))
    for task in ("kws", "emotion"):
        for split, seed in (("train", 0), ("dev", 1)):
            tiny_tones(root / "data" / task / split, task, n=12, seed=seed)
        assert main(["train", "--config", str(config), "--task", task, "--model", str(base), "--device", "cpu",
                     "--data", str(root / "data" / task / "train"), "--dev", str(root / "data" / task / "dev"),
                     "--exp-dir", str(root / "exp"), "--report-to"]) == 0
    return {"data": root / "data", "exp": root / "exp", "kws": root / "exp/kws/kws", "emotion": root / "exp/emotion/emotion"}


def speech_ft_config(path, tuned, out, alpha, tasks=("kws",), **more):
    path.write_text(yaml.safe_dump({"merge_method": "linear", "alpha": alpha, "base_model_name": "hubert_base_ls960",
                                    "finetune_model_paths": [str(tuned[task]) for task in tasks], "output_dir": str(out), **more}))
    return str(path)


@pytest.mark.parametrize("alpha, tasks", [(0.0, ("kws",)), (1.0, ("kws",)), (0.25, ("kws",)), (0.5, ("kws", "emotion"))])
def test_configs_of_speech_ft_merge_upstreams(base, tuned, tmp_path, capsys, alpha, tasks):
    """0 is the base bit for bit, 1 the fine-tuned model but for rounding; in between the formula; heads are no part of it."""
    with pytest.warns(DeprecationWarning, match="finetune_model_paths"):
        config = speech_ft_config(tmp_path / "hubert.yaml", tuned, tmp_path / "merged", alpha, tasks)
        assert main(["merge", "--config", config, "--exp-dir", str(tuned["exp"])]) == 0
    assert "method: interpolate" in capsys.readouterr().err
    start = load_file(base / "model.safetensors")
    ends = [load_file(tuned[task] / "model.safetensors") for task in tasks]
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == start.keys() and any("original0" in name for name in merged)
    for name, tensor in merged.items():
        expected = start[name] + alpha * sum(end[name] - start[name] for end in ends) / len(ends)
        assert torch.equal(tensor, start[name]) if alpha == 0 else torch.allclose(tensor, expected, atol=1e-7), name
    assert not (tmp_path / "merged" / "head.safetensors").exists()
    plain = transformers.AutoModel.from_pretrained(tmp_path / "merged").eval()
    assert type(plain) is transformers.HubertModel
    assert all(torch.equal(tensor, merged[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_s3prl_loads_what_was_merged(tuned, tmp_path):
    s3prl_nn = pytest.importorskip("s3prl.nn")
    config = speech_ft_config(tmp_path / "hubert.yaml", tuned, tmp_path / "merged", 0.25)
    assert main(["merge", "--config", config, "--exp-dir", str(tuned["exp"])]) == 0
    loaded = s3prl_nn.S3PRLUpstream("hf_hubert_custom", str(tmp_path / "merged")).eval()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    found = {name.removeprefix("upstream.model."): tensor for name, tensor in loaded.state_dict().items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in merged.items())


@pytest.mark.parametrize("change, words", [({"merge_method": "ties"}, "expected 'linear'"),
                                           ({"method": "ties"}, "keep one of them"),
                                           ({"base_model_name": "/nowhere"}, "/nowhere")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_configs_of_speech_ft_that_say_something_else(tuned, tmp_path, capsys, change, words):
    config = speech_ft_config(tmp_path / "hubert.yaml", tuned, tmp_path / "merged", 0.25, **change)
    assert main(["merge", "--config", config, "--exp-dir", str(tuned["exp"])]) != 0
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_curve_over_alpha_is_decoded_with_each_tasks_own_head(base, tuned, tmp_path):
    """A sweep over alpha of two fine-tuned models, then base, models and merge decoded and scored by the verbs."""
    words = ["--exp-dir", str(tuned["exp"]), "--data", str(tuned["data"])]
    assert main(["merge-sweep", "--config", "conf/merge/interpolate_sweep.yaml", "--adapters", "kws", "emotion",
                 "--grid", "alpha=0,0.5,1", "--split", "validation", "--device", "cpu", "--keep-points", "true", *words]) == 0
    assert main(["merge", "--config", "conf/merge/interpolate.yaml", "--adapters", "kws", "--save", "full", "--output-dir",
                 str(tmp_path / "quarter"), "--exp-dir", str(tuned["exp"])]) == 0
    assert main(["decode", "--tasks", "kws", "emotion", "--split", "dev", "--device", "cpu", "--systems", "base", "kws",
                 str(tmp_path / "quarter"), *words]) == 0
    folder = tuned["exp"] / "decode" / "dev"
    hyps = {path.parent.name + "/" + path.name: len((path / "hyp").read_text().splitlines())
            for path in sorted(folder.glob("*/*")) if (path / "hyp").is_file()}
    assert set(hyps.values()) == {12} and {"base/kws", "base/emotion", "kws/kws", "kws/emotion"} <= hyps.keys()
    right = {line.split()[0]: line.split()[1] for line in (tuned["data"] / "kws/dev/utt2keyword").read_text().splitlines()}
    read = dict(line.split() for line in (folder / "kws" / "kws" / "hyp").read_text().splitlines())
    assert np.mean([right[id] == word for id, word in read.items()]) >= 0.9
    assert read_json(tuned["kws"] / "speechmerge.json")["dev"]["accuracy"] >= 0.9
