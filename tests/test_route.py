"""Routers: classifiers on encoder states, their calibration and reports, what is kept and what is refused."""
import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import soundfile
import torch
from adapters import load_base
from routes import SETS, make_recipe, train
from tiny import tiny_whisper

from speechmerge.cli import main
from speechmerge.data.audio import change_speed, read_audio, write_wav
from speechmerge.data.batching import FeatureCache
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.models import load_model
from speechmerge.route import CLASSIFIERS
from speechmerge.route.calibration import calibration_error, temperature
from speechmerge.route.evaluation import report
from speechmerge.route.fitting import FitOptions, fit, logits_of, sampling_shares
from speechmerge.route.hearing import Hearing, averaged, hear
from speechmerge.route.router import Router, listening_task
from speechmerge.route.train import Recipe, crops, read_split, some
from speechmerge.tasks import get_task


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = make_recipe(tmp_path_factory.mktemp("route"))
    assert train(folder) == 0
    return folder


def toy(count: int, seed: int):
    """Sequences of 3 to 9 states whose mean tells one of three labels."""
    draw = torch.Generator().manual_seed(seed)
    targets = [i % 3 for i in range(count)]
    centres = torch.eye(3, 8) * 4
    lengths = torch.randint(3, 10, (count,), generator=draw).tolist()
    return [centres[label] + torch.randn(length, 8, generator=draw) for label, length in zip(targets, lengths)], targets


@pytest.mark.parametrize("name", ["linear", "statistics", "cnn", "lstm", "attention"])
def test_classifiers_learn_what_is_separable(name):
    (states, targets), (dev, dev_targets) = toy(60, 0), toy(30, 1)
    torch.manual_seed(0)
    classifier = CLASSIFIERS.get(name)(8, 3, **({"hidden": [16]} if name in ("linear", "statistics") else {}))
    history = fit(classifier, states, targets, dev, dev_targets, FitOptions(epochs=25, learning_rate=1e-2, patience=5))
    logits = logits_of(classifier, dev)
    assert logits.argmax(-1).tolist() == dev_targets
    assert history[-1]["dev_loss"] < 0.3 * history[0]["dev_loss"]
    alone = torch.cat([logits_of(classifier, [rows]) for rows in dev])
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-5)  # the others of a batch change nothing


def test_statistics_hear_what_a_mean_does_not():
    """Two labels with one mean: their states vary by 1 and by 3."""
    draw, targets = torch.Generator().manual_seed(0), [0, 1] * 40
    states = [torch.randn(12, 4, generator=draw) * (1 + 2 * label) for label in targets]
    right = {}
    for name in ("linear", "statistics"):
        torch.manual_seed(0)
        classifier = CLASSIFIERS.get(name)(4, 2)
        fit(classifier, states[:60], targets[:60], states[60:], targets[60:], FitOptions(epochs=40, learning_rate=3e-2, patience=40))
        right[name] = (logits_of(classifier, states[60:]).argmax(-1) == torch.tensor(targets[60:])).float().mean().item()
    assert right["statistics"] == 1.0 and right["linear"] < 0.8
    assert torch.isfinite(logits_of(classifier, [states[0][:1]])).all()  # a single state


def test_training_is_the_same_for_the_same_seed():
    (states, targets), dev = toy(30, 0), toy(12, 1)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        classifier = CLASSIFIERS.get("cnn")(8, 3, channels=4)
        fit(classifier, states, targets, *dev, FitOptions(epochs=3))
        found.append(logits_of(classifier, dev[0]))
    assert torch.equal(*found)


def test_early_stopping_keeps_the_best_weights():
    (states, targets), dev = toy(30, 0), toy(12, 1)
    torch.manual_seed(0)
    classifier = CLASSIFIERS.get("linear")(8, 3)
    history = fit(classifier, states, targets, *dev, FitOptions(epochs=40, patience=2, learning_rate=3.0))
    assert len(history) < 40
    loss = torch.nn.functional.cross_entropy(logits_of(classifier, dev[0]), torch.tensor(dev[1]))
    assert loss.item() == pytest.approx(min(row["dev_loss"] for row in history), rel=1e-5)


def test_balanced_sampling_gives_labels_equal_shares():
    shares = sampling_shares([0, 0, 0, 1], True)
    assert shares[:3].sum() == pytest.approx(shares[3].item())
    assert sampling_shares([0, 0, 0, 1], False).tolist() == [1, 1, 1, 1]


def test_temperature_has_a_closed_form_for_two_labels():
    """With logits (a, 0) of which a share p is right, the best T makes the confidence p: T = a / log(p / (1 - p))."""
    logits = torch.tensor([[4.0, 0.0]]).expand(10, 2)
    found = temperature(logits, torch.tensor([0] * 8 + [1] * 2))
    assert found == pytest.approx(4 / math.log(0.8 / 0.2), rel=1e-4)
    assert temperature(logits, torch.zeros(10, dtype=torch.long)) == pytest.approx(1.0, abs=1e-6)  # all right: not sharpened


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.6, 0.4]])
    found = calibration_error(probabilities, torch.tensor([0, 0, 0, 1]), bins=10)
    assert found == pytest.approx((2 * 0.05 + 2 * 0.1) / 4)


def test_report_counts():
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    found = report(probabilities, torch.tensor([0, 0, 1, 1]), [1.5, 3.0, 2.5, 0.5], ["a", "b"])
    assert found["accuracy"] == 0.75 and found["accuracy_over_2s"] == 0.5
    assert found["confusion"] == [[1, 1], [0, 2]]
    assert found["by_label"] == {"a": 0.5, "b": 1.0}
    assert found["by_duration"]["2-5 s"] == {"n": 2, "accuracy": 0.5}
    assert found["by_duration"]["over 5 s"] == {"n": 0, "accuracy": None}


def test_states_of_a_layer_are_those_of_transformers(recipe):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    plain = load_base(recipe / "base").model.encoder
    assert type(plain) is WhisperEncoder
    features = torch.randn(2, 80, 200, generator=torch.Generator().manual_seed(0))
    batch = {"input_features": features, "positions": torch.tensor([100, 40])}
    with torch.no_grad():
        expected = plain(features, output_hidden_states=True)
    model = load_model(recipe / "base", device="cpu")
    for layer, states in ((0, expected.hidden_states[0]), (1, expected.hidden_states[1]), (-1, expected.last_hidden_state)):
        found, lengths = model.encoder_states(batch, layer)
        torch.testing.assert_close(found, states)
        assert lengths.tolist() == [100, 40]
    for layers in ([1], [0, 2, 1], [-1, 2, 0]):  # in one pass
        together = list(model.layer_states(batch, layers))
        assert [layer for layer, _, _ in together] == layers
        assert all(torch.equal(states, model.encoder_states(batch, layer)[0]) for layer, states, _ in together)
    for wrong in (lambda: model.encoder_states(batch, 3), lambda: list(model.layer_states(batch, [0, 3]))):
        with pytest.raises(SpeechMergeError, match="layer 3 of an encoder of 2"):
            wrong()


def test_averages_leave_silence_out():
    states = torch.arange(10.0).reshape(1, 10, 1)
    assert averaged(states, torch.tensor([6]), 4)[0, :, 0].tolist() == [1.5, 4.5, 0.0]


def heard_of(recipe, split: str = "train"):
    return read_split({name: recipe / "data" / name / split for name in SETS}, "set")


def test_some_utterances_of_every_label(recipe):
    everything = heard_of(recipe)
    found = {seed: some(everything, Recipe(utterances=3, fit=FitOptions(seed=seed))) for seed in (1, 2)}
    for own in found.values():
        assert Counter(own.labels) == {"low": 3, "high": 3}
        assert all(id.startswith(label) for id, label in zip(own.ids, own.labels))
    assert found[1].ids == some(everything, Recipe(utterances=3, fit=FitOptions(seed=1))).ids != found[2].ids
    assert some(everything, Recipe(utterances=0)).ids == some(everything, Recipe(utterances=99)).ids == everything.ids


def test_stretches_at_another_speed_are_those_of_audio_at_that_speed(recipe, tmp_path):
    model = load_model(recipe / "base", device="cpu")
    examples = heard_of(recipe).examples[:4]
    own = crops(model, examples, Recipe(crops=5, crop_seconds=(0.3, 0.8), speeds=(0.8, 1.25)))
    assert {stretch.example.audio[0].speed for stretch in own} == {0.8, 1.25}
    faster = []
    for number, stretch in enumerate(own):
        sound = stretch.example.audio[0]
        path = tmp_path / f"{number}.wav"
        write_wav(path, change_speed(read_audio(sound.path), sound.speed))
        seconds = soundfile.info(path).duration
        assert stretch.start + stretch.seconds <= seconds + 1e-6
        faster.append(replace(stretch, example=replace(stretch.example, audio=(str(path),), duration=seconds)))
    states = [hear(model, listening_task(), part, Hearing(), FeatureCache()) for part in (own, faster)]
    for a, b in zip(*states):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)  # 16 bits of the file


def test_speeds_make_another_router(recipe, capsys):
    assert train(recipe, "--speeds", "0.9", "1.1", name="speeds") == 0
    weights = [(recipe / "exp/router" / name / "router.safetensors").read_bytes() for name in ("pitch", "speeds")]
    assert weights[0] != weights[1]
    assert train(recipe, "--speeds", "0.9", "1.1", name="speeds") == 0 and "kept" in capsys.readouterr().out


def test_the_router_finds_the_sets(recipe):
    found = json.loads((recipe / "exp/router/pitch/report.json").read_text())
    assert found["splits"]["test"]["accuracy"] == 1.0
    assert found["splits"]["test"]["labels"] == ["high", "low"]
    assert sorted(found["splits"]) == ["dev", "test"]
    record = json.loads((recipe / "exp/router/pitch/router.json").read_text())
    assert record["languages"] == {"high": "de", "low": "it"}


def test_probabilities_do_not_depend_on_the_batch(recipe):
    model = load_model(recipe / "base", device="cpu")
    router = Router.load(recipe / "exp/router/pitch", model)
    examples = [e for name in SETS for e in get_task("asr").examples(DataDir.read(recipe / "data" / name / "test"))]
    together = router.probabilities(model, examples)
    alone = torch.cat([router.probabilities(model, [example]) for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert model.context.kind == "full"  # the decoder's own context is left alone


def test_done_is_kept_and_changes_are_made_again(recipe, capsys):
    weights = recipe / "exp/router/pitch/router.safetensors"
    before, states = weights.stat().st_mtime_ns, sorted((recipe / "exp/router/.states").iterdir())
    assert train(recipe) == 0 and "kept" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before
    content = weights.read_bytes()
    weights.unlink()  # as if it had been killed before the weights were there
    assert train(recipe) == 0 and "kept" not in capsys.readouterr().out
    assert weights.read_bytes() == content
    assert sorted((recipe / "exp/router/.states").iterdir()) == states  # what took long was not computed again
    assert train(recipe, "--seed", "5", name="other") == 0 and "kept" not in capsys.readouterr().out


def test_labels_may_be_a_column(recipe):
    assert train(recipe, "--labels-from", "language", "--adapters", "{it: low, de: high}", name="spoken") == 0
    record = json.loads((recipe / "exp/router/spoken/router.json").read_text())
    assert (record["labels"], record["labels_from"]) == (["de", "it"], "language")
    assert json.loads((recipe / "exp/routed.json").read_text())["spoken-hard"]["adapters"] == {"it": "low", "de": "high"}


def test_another_base_is_refused(recipe, tmp_path):
    other = load_model(tiny_whisper(tmp_path / "other", seed=7), device="cpu")
    with pytest.raises(SpeechMergeError, match="router of the base .* train it again"):
        Router.load(recipe / "exp/router/pitch", other)
    with pytest.raises(SpeechMergeError, match="no router here"):
        Router.load(tmp_path, other)


def test_files_that_do_not_belong_together(recipe, tmp_path):
    for name in ("router.json", "router.safetensors"):
        (tmp_path / name).write_bytes((recipe / "exp/router/pitch" / name).read_bytes())
    record = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**record, "labels": ["a", "b", "c"]}))
    with pytest.raises(SpeechMergeError, match="does not describe"):
        Router.load(tmp_path)


@pytest.mark.parametrize("words, message", [
    (["--classifier", "linaer"], "did you mean 'linear'"),
    (["--classifier-options", "{width: 3}"], "unknown option 'width'"),
    (["--strategies", "{hrad: {}}"], "did you mean 'hard'"),
    (["--strategies", "{threshold: {tau: 2}}"], "tau is 2, expected a probability"),
    (["--strategies", "{hierarchical: {tree: {a: [lwo]}}}"], "did you mean 'low'"),
    (["--base-labels", "lo"], "no label 'lo'; did you mean 'low'"),
    (["--labels-from", "dialect"], "utterance low-00 has no label for the router"),
    (["--crop-seconds", "3", "1"], "rising seconds"),
    (["--speeds", "3"], "--speeds: found 3"),
    (["--utterances", "-1"], "-1 utterances of each label"),
    (["--layer", "9"], "layer 9 of an encoder of 2"),
])
def test_wrong_options(recipe, capsys, words, message):
    assert train(recipe, *words, name="wrong") in (1, 2)
    assert message in capsys.readouterr().err


def test_labels_that_training_lacks(tmp_path, recipe, capsys):
    data = recipe / "data"
    places = ["--data", str(data), "--output-dir", str(tmp_path / "r"), "--exp-dir", str(tmp_path), "--model", str(recipe / "base")]
    assert main(["train-router", "--tasks", "low", *places]) == 1
    assert "the label low only" in capsys.readouterr().err


def test_hearing_is_checked():
    with pytest.raises(UsageError, match="stride 0"):
        Hearing(stride=0)
