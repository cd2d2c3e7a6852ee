"""Training: learns, saves what plain PEFT loads, chooses by the decoded metric, goes on after kill -9 as if without."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import tiny_tones, tiny_whisper
from transformers import WhisperForConditionalGeneration

from speechmerge.data.directory import DataDir
from speechmerge.decode import hypotheses
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from speechmerge.models import load_model
from speechmerge.tasks import get_task
from speechmerge.train import run as train_run
from speechmerge.train import trainer as train_trainer
from speechmerge.train.options import TrainOptions
from speechmerge.train.run import train

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = {"device": "cpu", "audio_context": "dynamic", "audio_context_min": 0.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return DataDir.read(tiny_tones(tmp_path_factory.mktemp("data"), n=12))


def run(base, data, folder, dev=True, task="kws", context="dynamic", **options):
    defaults = {"rank": 16, "batch_size": 6, "learning_rate": 1e-2, "epochs": 2, "precision": "fp32"}
    model = load_model(base, **{**CONTEXT, "audio_context": context})
    record = train(model, get_task(task), data, data if dev else None, folder / "exp" / task / "lora",
                   TrainOptions(**{**defaults, **options}), exp_dir=folder / "exp")
    return record, folder / "exp" / task / "lora"


def texts(model, data, task="kws"):
    task = get_task(task)
    return {h.id: h.text for found in hypotheses(model, task, task.examples(data)) for h in found}


def test_overfits_and_plain_peft_loads_the_result(base, data, tmp_path):
    record, folder = run(base, data, tmp_path, epochs=50, eval_steps=50)
    assert record["dev"]["accuracy"] == 1.0 and record["base"]["fingerprint"] == load_model(base).fingerprint()
    assert not (folder / "checkpoints").exists() and (folder / "train.log").read_text().count("utterances/s") > 2
    assert read_json(tmp_path / "exp/adapters.json") == {"kws": {"path": str(folder), "task": "kws"}}
    model = load_model(base, **CONTEXT)
    with model.adapter(folder):
        ours = texts(model, data)
    assert ours == {utterance.id: utterance.labels["keyword"] for utterance in data.utterances.values()}
    assert texts(model, data) != ours
    plain = PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), folder).eval()
    task, full = get_task("kws"), load_model(base, device="cpu")
    for example in task.examples(data)[:3]:
        features = full.mel.pad(full.features(example.audio), full.mel.full)[None]
        prefix = torch.tensor([full.prefix(task, example.language)])
        with full.adapter(folder), torch.no_grad():
            expected = full.core(features, decoder_input_ids=prefix).logits
        with torch.no_grad():
            assert torch.allclose(plain(input_features=features, decoder_input_ids=prefix).logits, expected, atol=1e-4)


def test_done_is_not_done_again_and_options_matter(base, data, tmp_path):
    _, folder = run(base, data, tmp_path)
    before = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    run(base, data, tmp_path, logging_steps=3)  # does not change the result
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == before
    run(base, data, tmp_path, seed=1)
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns != before


def test_same_seed_same_adapter(base, data, tmp_path):
    files = [run(base, data, tmp_path / name, dropout=0.1)[1] / "adapter_model.safetensors" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_accumulation_equals_a_bigger_batch(base, data, tmp_path, monkeypatch):
    """Two batches of 3 have loss and gradients of one batch of the same 6 utterances (texts of unequal length)."""
    def in_order(self):
        size = self.batch_size
        return iter([list(range(i, i + size)) for i in range(0, len(self.lengths), size)])

    histories = []
    monkeypatch.setattr(train_trainer.BucketBatchSampler, "__iter__", in_order)
    monkeypatch.setattr(train_run, "make_record", lambda *args: histories.append(args[3].state.log_history))
    for size, accumulation in ((6, 1), (3, 2)):
        run(base, data, tmp_path / str(size), dev=False, context="full", batch_size=size, accumulation=accumulation,
            epochs=3, logging_steps=1)
    big, small = ([(row["loss"], row["grad_norm"]) for row in history if "loss" in row] for history in histories)
    assert len(big) == 6 and torch.allclose(torch.tensor(big), torch.tensor(small), rtol=1e-3)


def scripted_metric(monkeypatch, values):
    """The dev set's decoded metric follows a script, the loss always improves."""
    values, losses = iter(values), iter(range(100, 0, -1))
    monkeypatch.setattr(train_trainer.TaskTrainer, "_dev_scores", lambda self: {"value": next(values)})
    monkeypatch.setattr(train_trainer.TaskTrainer, "_dev_loss", lambda self: float(next(losses)))


def test_best_checkpoint_is_chosen_by_the_decoded_metric(base, data, tmp_path, monkeypatch):
    scripted_metric(monkeypatch, [0.2, 0.7, 0.5, 0.4])
    record, folder = run(base, data, tmp_path / "best", epochs=4)
    assert (record["step"], record["steps"], record["dev"]["accuracy"]) == (4, 8, 0.7)
    monkeypatch.undo()
    kept = []
    original = train_trainer.TaskTrainer._save_checkpoint

    def remember(self, model, trial):
        original(self, model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        kept.append((folder / "adapter_model.safetensors").read_bytes())

    monkeypatch.setattr(train_trainer.TaskTrainer, "_save_checkpoint", remember)
    scripted_metric(monkeypatch, [0.2, 0.7, 0.5, 0.4])
    folder = run(base, data, tmp_path / "again", epochs=4)[1]
    assert (folder / "adapter_model.safetensors").read_bytes() == kept[1] != kept[3]


def test_lower_is_better_and_ties_go_to_the_lower_loss(base, tmp_path, monkeypatch):
    asr = DataDir.read(tiny_tones(tmp_path / "asr", task="asr", n=12))
    scripted_metric(monkeypatch, [0.9, 0.3, 0.3, 0.8])
    record, _ = run(base, asr, tmp_path, task="asr", epochs=4)
    assert record["step"] == 6 and record["dev"]["wer"] == 0.3


def test_early_stopping(base, data, tmp_path, monkeypatch):
    scripted_metric(monkeypatch, [0.5, 0.6, 0.4, 0.3, 0.9, 0.9])
    record, _ = run(base, data, tmp_path, epochs=6, patience=2)
    assert (record["step"], record["steps"]) == (4, 8)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_train import DataDir, run, train_trainer
when, at = {when!r}, {at}
original = train_trainer.TaskTrainer.training_step
count = 0
def step(self, *args, **kwargs):
    global count
    count += 1
    if when == "step" and count == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)
train_trainer.TaskTrainer.training_step = step
save = train_trainer.TaskTrainer._save_rng_state
def half(self, folder):
    if when == "save" and self.state.global_step == at:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder)
train_trainer.TaskTrainer._save_rng_state = half
run({base!r}, DataDir.read({data!r}), Path({folder!r}), epochs=3, dropout=0.1, **{options!r})
"""


def run_killed(base, data, folder, when, at, options):
    code = KILLED.format(tests=str(ROOT / "tests"), when=when, at=at, base=str(base), data=str(data.path),
                         folder=str(folder), options=options)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("when, at, options", [("step", 5, {}), ("save", 4, {}),
                                               ("step", 5, {"eval_steps": 3, "batch_size": 5})])
def test_goes_on_after_kill_9_with_the_same_result(base, data, tmp_path, when, at, options):
    """Killed within an epoch, and while a checkpoint is half written; 2 or 3 steps per epoch, 3 epochs."""
    _, whole = run(base, data, tmp_path / "whole", epochs=3, dropout=0.1, **options)
    result = run_killed(base, data, tmp_path / "killed", when, at, options)
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    folder = tmp_path / "killed" / "exp" / "kws" / "lora"
    assert not (folder / "adapter_model.safetensors").exists() and list((folder / "checkpoints").glob("checkpoint-*"))
    _, killed = run(base, data, tmp_path / "killed", epochs=3, dropout=0.1, **options)
    assert "going on from step" in (folder / "train.log").read_text()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    one, two = (read_json(folder / "speechmerge.json") for folder in (whole, killed))
    assert all(one[key] == two[key] for key in ("dev", "step", "steps", "utterances", "base"))


def test_killed_after_early_stopping_does_not_train_on(base, data, tmp_path, monkeypatch):
    scripted_metric(monkeypatch, [0.5, 0.4])
    monkeypatch.setattr(train_run, "finish", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(base, data, tmp_path, epochs=6, patience=1)
    monkeypatch.undo()
    record, _ = run(base, data, tmp_path, epochs=6, patience=1)
    assert (record["step"], record["steps"], record["dev"]["accuracy"]) == (2, 4, 0.5)


def test_full_tuning_writes_a_model(base, data, tmp_path):
    record, folder = run(base, data, tmp_path, tuning="full", learning_rate=1e-3)
    model = load_model(base, **CONTEXT)
    full = load_model(folder, **CONTEXT)
    with model.adapter(folder):
        assert texts(model, data) == texts(full, data)
    positions = "model.encoder.embed_positions.weight"
    assert torch.equal(full.core.state_dict()[positions], model.core.state_dict()[positions])


@pytest.mark.parametrize("options", [
    {"gradient_checkpointing": True}, {"precision": "bf16"}, {"use_dora": True}, {"use_rslora": True},
    {"targets": ("decoder",)}, {"decay": "cosine", "warmup": 2.0}, {"decay": "constant"},
    {"max_steps": 3, "eval_steps": 2}])
def test_options_train(base, data, tmp_path, options):
    record, folder = run(base, data, tmp_path, epochs=4, **options)
    losses = [float(part.split()[0]) for part in (folder / "train.log").read_text().split("dev loss")[1:]]
    assert losses[-1] < losses[0] and record["steps"] == options.get("max_steps", 8)


def test_base_in_bfloat16(base, data, tmp_path):
    model = load_model(base, dtype="bfloat16", **CONTEXT)
    options = TrainOptions(rank=4, batch_size=6, learning_rate=1e-2, epochs=6)
    train(model, get_task("kws"), data, data, tmp_path / "exp/kws/lora", options, exp_dir=tmp_path / "exp")
    losses = [float(part.split()[0]) for part in (tmp_path / "exp/kws/lora/train.log").read_text().split("dev loss")[1:]]
    assert losses[-1] < losses[0] - 0.3
    fresh = load_model(base, dtype="bfloat16", **CONTEXT)
    with fresh.adapter(tmp_path / "exp/kws/lora"):
        assert texts(fresh, data) != {} and fresh.dtype == torch.bfloat16


def test_gradient_checkpointing_changes_nothing(base, data, tmp_path):
    plain, saving = (run(base, data, tmp_path / str(on), gradient_checkpointing=on)[1] for on in (False, True))
    from safetensors.torch import load_file

    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (plain, saving))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_utterances_that_do_not_fit_are_left_out(base, tmp_path, caplog):
    folder = tiny_tones(tmp_path / "asr", task="asr", n=6)
    first = (folder / "text").read_text().splitlines()[0].split()[0]
    long = (folder / "text").read_text().replace(f"{first} ", f"{first} {'very ' * 20}", 1)
    (folder / "text").write_text(long)
    record, _ = run(base, DataDir.read(folder), tmp_path, task="asr", epochs=1)
    assert record["utterances"] == 5 and f"utterance {first} is left out" in caplog.text


def test_wrong_options(base, data, tmp_path):
    for options, message in (({"rank": 0}, "--rank: found 0"), ({"decay": "step"}, "--decay"),
                             ({"learning_rate": -1}, "--learning-rate"), ({"precision": "fp16"}, "needs a GPU"),
                             ({"targets": ("nothing",)}, "no such layer")):
        with pytest.raises(UsageError, match=message):
            run(base, data, tmp_path, **options)


def test_missing_audio_names_the_utterance(base, tmp_path):
    folder = tiny_tones(tmp_path / "kws", n=6)
    data = DataDir.read(folder)
    (folder / "wav" / "s0-003.wav").write_bytes(b"")
    with pytest.raises(SpeechMergeError, match="s0-003"):
        run(base, data, tmp_path, epochs=1)


def test_full_disk_is_said_and_the_same_command_goes_on(base, data, tmp_path, monkeypatch):
    def full(self, folder):
        if self.state.global_step == 4:
            raise OSError(28, "No space left on device")
        original(self, folder)

    original = train_trainer.TaskTrainer._save_rng_state
    monkeypatch.setattr(train_trainer.TaskTrainer, "_save_rng_state", full)
    with pytest.raises(SpeechMergeError, match="checkpoint-4: no space left"):
        run(base, data, tmp_path / "full", epochs=3)
    monkeypatch.undo()
    folders = [run(base, data, tmp_path / name, epochs=3)[1] for name in ("full", "plain")]
    assert "going on from step 2" in (folders[0] / "train.log").read_text()
    one, two = ((folder / "adapter_model.safetensors").read_bytes() for folder in folders)
    assert one == two
