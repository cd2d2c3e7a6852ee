"""Many labels scored at once have the scores that each has alone."""
import numpy as np
import pytest
import torch
from tiny import tiny_tones, tiny_whisper

from speechmerge.data.directory import DataDir
from speechmerge.models import load_model
from speechmerge.models import whisper as whisper_module
from speechmerge.models.base import Item
from speechmerge.models.label_tree import chunks, label_tree
from speechmerge.tasks import get_task

LABELS = [f"id{i:03d}" for i in range(37)] + ["id", "i", "id01", "yes", "yes no", "no"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_whisper(tmp_path_factory.mktemp("base")), device="cpu", audio_context="dynamic")


def test_tree():
    """Three labels: 1 2 e, 1 3 e, 1 e. Nodes 1, 2, 3; edges end at each label's e."""
    tree = label_tree([[1, 2, 9], [1, 3, 9], [1, 9]])
    assert tree.tokens == [1, 2, 3] and tree.ancestors == [(0,), (0, 1), (0, 2)]
    assert tree.edges == [(-1, 1), (0, 2), (1, 9), (0, 3), (2, 9), (0, 9)]
    assert tree.paths == [[0, 1, 2], [0, 3, 4], [0, 5]]


def test_chunks_hold_every_label_once():
    targets = [[int(d) for d in f"{i:03d}"] + [99] for i in range(50)]
    found = list(chunks(targets, 10))
    assert sorted(i for chunk in found for i in chunk) == list(range(50)) and {len(chunk) for chunk in found} == {2}
    assert list(chunks([[1] * 20], 10)) == [[0]]


@pytest.mark.parametrize("most, memory", [(768, 1 << 28), (20, 1 << 28), (768, 1)])
def test_scores_are_those_of_each_label_alone(model, tmp_path, monkeypatch, most, memory):
    monkeypatch.setattr(whisper_module, "TREE_TOKENS", most)
    monkeypatch.setattr(whisper_module, "CACHE_BYTES", memory)
    task = get_task("kws")
    examples = task.examples(DataDir.read(tiny_tones(tmp_path, n=3)))
    items = [Item(example, model.features(example.audio), model.seconds(example)) for example in examples]
    batch = model.collate(items, task, frames=100)
    found = model.score_labels(dict(batch), LABELS)
    for row in range(len(items)):
        prefix = batch["decoder_input_ids"][row].tolist()
        for column in range(0, len(LABELS), 4):
            target = model.target_ids(LABELS[column])
            with torch.no_grad():
                logits = model.core(batch["input_features"][row, None],
                                    decoder_input_ids=torch.tensor([prefix + target[:-1]])).logits
            steps = logits[0, len(prefix) - 1:].log_softmax(-1)
            expected = np.mean([float(steps[i, token]) for i, token in enumerate(target)])
            assert float(found[row, column]) == pytest.approx(expected, abs=1e-4), LABELS[column]


def test_both_ways_of_scoring_agree(model, tmp_path, monkeypatch):
    task = get_task("kws")
    example = task.examples(DataDir.read(tiny_tones(tmp_path, n=1, task="kws")))[0]
    batch = model.collate([Item(example, model.features(example.audio), model.seconds(example))], task)
    tree = model.score_labels(dict(batch), LABELS)
    monkeypatch.setattr(whisper_module, "FEW_LABELS", 1000)
    assert torch.allclose(model.score_labels(dict(batch), LABELS), tree, atol=1e-4)
