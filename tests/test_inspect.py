"""`speechmerge inspect`: the tokens that training sees, against transformers' own tokenizer and the model's loss."""
import pytest
import torch
from tiny import tiny_tones, tiny_whisper
from tiny_qwen import tiny_qwen2_audio

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.inspection import lines, seen, shortened, tokens
from speechmerge.models import load_model
from speechmerge.models.base import Item
from speechmerge.plain_files import read_json_lines
from speechmerge.tasks import get_task


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_tones(tmp_path_factory.mktemp("data") / "kws", task="kws", n=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"whisper": tiny_whisper(root / "whisper"), "qwen": tiny_qwen2_audio(root / "qwen")}


@pytest.mark.parametrize("family", ["whisper", "qwen"])
def test_the_tokens_with_loss_are_the_answer(models, data, family):
    model, task, data = load_model(models[family], device="cpu"), get_task("kws"), DataDir.read(data)
    task.adapt(model)
    for example in task.examples(data):
        row = seen(model, task, data, example)
        learnt = [id for id, _, loss in row["tokens"] if loss]
        assert model.tokenizer.decode(learnt, skip_special_tokens=True).strip() == example.target == row["target"]
        assert [loss for *_, loss in row["tokens"]] == [False] * (len(row["tokens"]) - len(learnt)) + [True] * len(learnt)
        assert row["audio_seconds"] == pytest.approx(example.duration, abs=1e-3) and row["left_out"] is None
        assert row["item"]["keyword"] == example.target and row["text"].startswith(row["tokens"][0][1])
        item = Item(example, model.features(example.audio), model.seconds(example))
        batch = model.collate([item], task, training=True)
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model.module(**batch).logits[0].float().log_softmax(-1)
        ids = [id for id, *_ in row["tokens"]]
        ours = -sum(logits[place - 1, ids[place]] for place, (*_, loss) in enumerate(row["tokens"]) if loss) / len(learnt)
        with torch.no_grad():
            assert float(ours) == pytest.approx(float(model.loss(model.module(**batch), labels)), rel=1e-4)


def test_labels_that_follow_no_tokens():
    batch = {"input_values": torch.zeros(1, 9), "labels": torch.tensor([[4, 2, -100]])}
    assert tokens(batch) == [(4, True), (2, True)]


def test_the_verb(models, data, tmp_path, capsys):
    words = ["inspect", "--task", "kws", "--model", str(models["qwen"]), "--data", str(data), "--device", "cpu"]
    assert main([*words, "--num-samples", "2", "--save-path", str(tmp_path / "seen.jsonl")]) == 0
    out = capsys.readouterr().out
    assert out.count("tokens with loss (") == 2 and "--- 2 of 4: " in out and "<|AUDIO|>[x" in out
    assert "prompt: 'Which keyword is spoken? Answer with one of: no, stop, yes.'" in out
    assert len(list(read_json_lines(tmp_path / "seen.jsonl"))) == 2
    assert main([*words, "--num-samples", "0", "--save-path", str(tmp_path / "seen.jsonl"), "--mix", "text=1", "audio=0.5"]) == 0
    rows = [row for _, row in read_json_lines(tmp_path / "seen.jsonl")]
    assert len(rows) == 3 + 2 and sum(row["audio_seconds"] == 0 for row in rows) == 3
    read = next(row for row in rows if row["id"].endswith("@text"))
    assert f"Transcript: {read['item']['text']}" in read["text"] and "<|AUDIO|>" not in read["text"]
    assert "input_features" not in read["inputs"]
    capsys.readouterr()
    assert main([*words, "--num-samples", "-1"]) == 2 and "expected a number of examples, or 0" in capsys.readouterr().err


def test_repeated_tokens_are_counted():
    assert shortened(["a", "b", "b", "b", "b", "\n", "a"]) == "ab[x4]\\na"
    row = {"id": "u", "item": {}, "prompt": None, "target": "t", "audio_seconds": 31.0, "left_out": "too long",
           "inputs": {}, "tokens": [[1, "t", True]]}
    assert lines(row, 1, 1)[0] == "--- 1 of 1: u, 31 s of audio; left out of training: too long"
