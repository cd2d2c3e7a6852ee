"""Gradual unfreezing: which blocks have gradients and change at every step, in all families, and after a restart."""
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_tones, tiny_whisper, watch
from tiny_qwen import tiny_qwen2_audio
from tiny_upstream import tiny_upstream
from transformers import TrainerCallback

from speechmerge.blocks import block_of
from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.errors import UsageError
from speechmerge.files import read_json
from speechmerge.models import load_model
from speechmerge.tasks import get_task
from speechmerge.train import run as train_run
from speechmerge.train import trainer as train_trainer
from speechmerge.train.lora import prepare
from speechmerge.train.options import TrainOptions
from speechmerge.train.unfreeze import Unfreezing, stages, steps_of

FAST = {"rank": 2, "batch_size": 6, "learning_rate": 1e-2, "max_steps": 10, "warmup": 0.0, "eval_steps": 3,
        "unfreeze_every": 2}
ORDER = ["decoder.1", "decoder.0", "encoder.1", "encoder.0"]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    return tiny_upstream(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DataDir.read(tiny_tones(tmp_path_factory.mktemp("data"), n=12))


def run(base, data, folder, **options):
    record = train_run.train(load_model(base, device="cpu"), get_task("kws"), data, None, folder / "out",
                             TrainOptions(**{**FAST, **options}), exp_dir=folder / "exp")
    return record, folder / "out"


def place(name: str) -> str:
    block = block_of(name)
    return f"{block[0]}.{block[1]}" if block else "outside"


class Watch(TrainerCallback):
    """By step: the blocks in which something has a gradient, and those in which something has changed."""

    def __init__(self, trainer):
        self.speech, self.gradients, self.changed = trainer.speech, [], []
        self.start = {name: parameter.detach().clone() for name, parameter in self.speech.core.named_parameters()}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients.append({place(name) for name, p in self.speech.core.named_parameters()
                               if p.grad is not None and p.grad.any()})

    def on_step_end(self, args, state, control, **kwargs):
        self.changed.append({place(name) for name, p in self.speech.core.named_parameters()
                             if not torch.equal(p, self.start[name])})


@pytest.fixture
def watched(monkeypatch):
    return watch(monkeypatch, Watch)


def names_of(model, options=None) -> list[str]:
    """The stages of a model that was prepared to be trained with these options (None: all of its weights)."""
    if options:
        prepare(model, options)
    return [name for name, _ in stages([(name, p) for name, p in model.core.named_parameters() if p.requires_grad],
                                       model.block_of)]


# --- the order ------------------------------------------------------------------------------------------------------


def test_the_order_goes_from_the_output_to_the_input(whisper, upstream, tmp_path):
    lora = TrainOptions(rank=2)
    assert names_of(load_model(whisper, device="cpu"), lora) == ORDER
    assert names_of(load_model(whisper, device="cpu"), TrainOptions(rank=2, targets=("encoder",))) == ORDER[2:]
    assert names_of(load_model(whisper, device="cpu"), TrainOptions(tuning="full")) == [*ORDER, "outside"]
    assert names_of(load_model(upstream, device="cpu"), lora) == ["encoder.1", "encoder.0", "outside"]  # a projection
    qwen = load_model(tiny_qwen2_audio(tmp_path / "qwen"), device="cpu")
    found = [name for name, _ in stages(qwen.core.named_parameters(), qwen.block_of)]
    assert list(dict.fromkeys(name.split(".")[0] for name in found)) == ["decoder", "audio_tower", "outside"]
    numbers = [int(name.split(".")[1]) for name in found if name.startswith("decoder")]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == qwen.core.config.text_config.num_hidden_layers


@pytest.mark.slow
def test_the_order_of_owsm(tmp_path):
    pytest.importorskip("espnet2", reason="ESPnet is not installed (tools/install_espnet.sh)")
    from tiny_owsm import tiny_owsm

    found = names_of(load_model(tiny_owsm(tmp_path / "owsm"), device="cpu"), TrainOptions(rank=2))
    assert found == [*ORDER, "outside"]  # the linear layer behind the convolutions


def test_every_parameter_is_in_one_stage(whisper):
    model = load_model(whisper, device="cpu")
    found = [id(p) for _, own in stages(model.core.named_parameters(), model.block_of) for p in own]
    assert sorted(found) == sorted(id(p) for p in model.core.parameters())


# --- who learns when ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"accumulation": 2, "batch_size": 3}, {"gradient_checkpointing": True},
                                  {"unfreeze_every": 0.2}])
def test_gradients_and_changes_of_a_lora(whisper, data, tmp_path, watched, more):
    _, folder = run(whisper, data, tmp_path, **more)
    [watch] = watched
    expected = [set(ORDER[: 1 + step // 2]) for step in range(10)]
    assert watch.gradients == expected and watch.changed == expected
    log = (folder / "train.log").read_text()
    assert [line.split("learning down to ")[1] for line in log.splitlines() if "learning down" in line] == [
        f"{name}, stage {i} of 4" for i, name in enumerate(ORDER, 1)]


def test_weights_of_full_tuning_rest_until_their_turn(upstream, data, tmp_path, watched):
    """Weight decay leaves them alone, too; the head learns from the start; the convolutions never do."""
    run(upstream, data, tmp_path, tuning="full", head_size=8, weight_decay=0.1, max_steps=8, unfreeze_every=3)
    [watch] = watched
    top, both = {"encoder.1"}, {"encoder.1", "encoder.0"}
    assert watch.gradients == [top] * 3 + [both] * 3 + [both | {"outside"}] * 2
    assert watch.changed == watch.gradients
    end = watch.speech.core.state_dict()
    front = [name for name in watch.start if name.startswith("feature_extractor")]
    assert front and all(torch.equal(end[name], watch.start[name]) for name in front)
    assert any(parameter.grad is not None or parameter.requires_grad for parameter in watch.speech.head.parameters())


def test_the_same_after_an_interruption(whisper, data, tmp_path, monkeypatch):
    """Stopped at step 7 of 10, in the third stage; steps 4 to 6 are made again from the checkpoint in the second."""
    _, whole = run(whisper, data, tmp_path / "whole")
    original, count = train_trainer.TaskTrainer.training_step, [0]

    def step(self, *args, **kwargs):
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(train_trainer.TaskTrainer, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        run(whisper, data, tmp_path / "stopped")
    monkeypatch.undo()
    _, stopped = run(whisper, data, tmp_path / "stopped")
    log = (stopped / "train.log").read_text()
    assert "going on from step 3" in log and log.count("stage 2 of 4") == 2
    names = ("adapter_model.safetensors",)
    assert all((whole / name).read_bytes() == (stopped / name).read_bytes() for name in names)


def test_from_the_adapter_of_another_training(whisper, data, tmp_path):
    """As few-shot transfer uses it: what has not learned yet is as it was in that adapter."""
    _, first = run(whisper, data, tmp_path / "first", unfreeze_every=0)
    words = ["train", "--task", "kws", "--model", whisper, "--data", data.path, "--exp-dir", tmp_path / "exp"]
    options = ["--device", "cpu", "--rank", 2, "--batch-size", 6, "--max-steps", 4, "--unfreeze-every", 1.0,
               "--init-adapter", first, "--save-at", 0.5, "--warmup", 0, "--report-to"]
    assert main(list(map(str, [*words, *options]))) == 0
    folder = tmp_path / "exp/kws/kws"
    start, early = load_file(first / "adapter_model.safetensors"), load_file(folder / "at_2/adapter_model.safetensors")
    assert {place(name) for name in start if not torch.equal(start[name], early[name])} == {"decoder.1", "decoder.0"}
    assert read_json(folder / "speechmerge.json")["options"]["unfreeze_every"] == 1.0


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, words", [
    ({"unfreeze_every": -0.1}, "--unfreeze-every: found -0.1"),
    ({"unfreeze_every": 0.1, "freeze_encoder_share": 0.1}, "with --freeze-encoder-share"),
    ({"unfreeze_every": 0.1, "tuning": "head"}, "with --tuning head")])
def test_contradictions_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        TrainOptions(**options)


def test_a_stage_that_never_begins_is_refused(whisper, data, tmp_path):
    with pytest.raises(UsageError, match="encoder.0, the last of 4 stages, would learn from step 12 on.* only 10"):
        run(whisper, data, tmp_path, unfreeze_every=4)
    run(whisper, data, tmp_path, unfreeze_every=3)


def test_length_of_a_stage_and_keys_of_earlier_runs():
    assert [steps_of(every, 100) for every in (0.29, 0.001, 1, 7)] == [29, 1, 1, 7]
    assert "unfreeze_every" not in TrainOptions().deciding()
    assert TrainOptions(unfreeze_every=0.1).deciding()["unfreeze_every"] == 0.1


def test_what_never_learns_does_not_begin_to(whisper):
    model = load_model(whisper, device="cpu")
    prepare(model, TrainOptions(rank=2, targets=("encoder",)))
    assert [name for name, _ in Unfreezing(model, 0.1).stages] == ORDER[2:]
