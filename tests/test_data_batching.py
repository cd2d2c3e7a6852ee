"""Batches by seconds and augmentation: full batches, the same after an interruption, drawn anew in each epoch."""
import random
import signal

import numpy as np
import pytest
import torch
from test_train import base, data, run, run_killed  # noqa: F401 (fixtures)

from speechmerge.cli import main
from speechmerge.data.audio import Sound
from speechmerge.data.augment import TIME_SHARE, Augmentation
from speechmerge.data.batching import DurationBatchSampler, FeatureCache
from speechmerge.errors import UsageError
from speechmerge.files import read_json
from speechmerge.models import load_model
from speechmerge.tasks import get_task
from speechmerge.tasks.base import Example
from speechmerge.train.options import TrainOptions
from speechmerge.train.trainer import TrainingSet


def durations(n=500, seed=0):
    draw = random.Random(seed)
    return [draw.uniform(0.5, 20.0) for _ in range(n)]


def batches(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("limit", [20.0, 60.0, 300.0])
def test_batches_hold_the_seconds(limit):
    seconds = durations()
    sampler = DurationBatchSampler(seconds, limit, seed=1)
    for epoch in range(4):
        found = batches(sampler, epoch)
        assert sorted(index for batch in found for index in batch) == list(range(500)) and len(found) == len(sampler)
        padded = [len(batch) * max(seconds[index] for index in batch) for batch in found]
        assert max(padded) <= limit
    assert sum(padded) / sum(seconds) < 1.2
    if limit == 60.0:
        assert len(found) <= 1.25 * sum(seconds) / limit


def test_one_longer_than_a_batch_is_alone():
    found = batches(DurationBatchSampler([1.0, 1.0, 9.0], 4.0), 0)
    assert sorted(map(len, found)) == [1, 2] and [2] in found


def test_order_and_members_follow_from_seed_and_epoch():
    seconds = durations()
    first = batches(DurationBatchSampler(seconds, 60.0, seed=1), 3)
    assert first == batches(DurationBatchSampler(seconds, 60.0, seed=1), 3)
    others = [batches(DurationBatchSampler(seconds, 60.0, seed=seed), epoch) for seed, epoch in ((1, 4), (2, 3))]
    sets = [{frozenset(batch) for batch in found} for found in (first, *others)]
    assert sets[0] != sets[1] and sets[0] != sets[2]


# Augmentation


def example(id="u"):
    return Example(id, (f"{id}.wav",), "yes", "en", "s", 2.0)


def draws(augmentation, epoch):
    return [augmentation.at_speed(example(str(i)), epoch, 2.0, 30.0).audio[0] for i in range(600)]


def test_speeds_are_drawn_anew_and_repeat():
    augmentation = Augmentation(speeds=(0.9, 1.0, 1.1), seed=1)
    drawn = draws(augmentation, 0)
    speeds = [sound.speed if isinstance(sound, Sound) else 1.0 for sound in drawn]
    assert all(150 < speeds.count(speed) < 250 for speed in (0.9, 1.0, 1.1))
    assert drawn == draws(augmentation, 0) != draws(augmentation, 1)
    assert drawn != draws(Augmentation((0.9, 1.0, 1.1), seed=2), 0)


def test_durations_follow_the_speed_and_nothing_outgrows_the_model():
    slow = Augmentation(speeds=(0.8,)).at_speed(example(), 0, 2.0, 4.0)
    assert slow.duration == pytest.approx(2.5) and slow.audio == (Sound("u.wav", speed=0.8),)
    assert Augmentation(speeds=(0.8,)).at_speed(example(), 0, 2.0, 2.4) == example()


def test_masks_have_the_mean_and_leave_the_original():
    features = torch.randn(80, 400)
    before = features.clone()
    masked = Augmentation(time_masks=1, time_mask_frames=60).mask(features, example(), 0)
    assert torch.equal(features, before)
    changed = (masked != features).any(0)
    assert 0 < int(changed.sum()) <= 60 and torch.all(masked[:, changed] == features.mean())
    where = changed.nonzero()[:, 0]
    assert len(where) == where[-1] - where[0] + 1 and (masked != features)[:, changed].all()
    masked = Augmentation(frequency_masks=1, frequency_mask_bins=27).mask(features, example(), 0)
    rows = (masked != features).any(1)
    assert 0 < int(rows.sum()) <= 27 and (masked != features)[rows].all()


def test_masks_widths_are_uniform_and_short_utterances_survive():
    wide = Augmentation(time_masks=1, time_mask_frames=60)
    features = torch.arange(80 * 400.0).view(80, 400)
    widths = [int((wide.mask(features, example(str(i)), 0) != features).any(0).sum()) for i in range(300)]
    assert max(widths) == 60 and np.mean(widths) == pytest.approx(30, abs=4)
    short = torch.randn(80, 50)
    assert max(int((wide.mask(short, example(str(i)), 0) != short).any(0).sum()) for i in range(50)) <= TIME_SHARE * 50


def test_the_cache_freezes_nothing(base, data):  # noqa: F811
    """Each epoch another speed and other masks, twice the same epoch the same; the features themselves are kept."""
    model, task = load_model(base, device="cpu", audio_context="dynamic"), get_task("kws")
    examples, cache = task.examples(data), FeatureCache()
    augmentation = Augmentation((0.9, 1.0, 1.1), time_masks=1, frequency_masks=1, seed=1)
    dataset = TrainingSet(model, examples, cache, augmentation)
    dataset.sampler = DurationBatchSampler(dataset.padded_seconds(), 10.0)

    def epoch(number):
        dataset.sampler.set_epoch(number)
        return [dataset[index].features for index in range(len(dataset))]

    one, two, again = epoch(0), epoch(1), epoch(0)
    assert all(torch.equal(a, b) for a, b in zip(one, again))
    assert sum(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(one, two)) >= 10
    plain = TrainingSet(model, examples, cache)
    assert all(torch.equal(plain[i].features, model.features(examples[i].audio)) for i in range(len(examples)))


def test_items_have_the_length_of_what_is_heard(base, data):  # noqa: F811
    model, task = load_model(base, device="cpu", audio_context="dynamic"), get_task("kws")
    dataset = TrainingSet(model, task.examples(data), FeatureCache(), Augmentation(speeds=(0.5,)))
    for index, item in enumerate(dataset):
        if index == len(dataset) - 1:
            break
        assert item.seconds == pytest.approx(2 * dataset.seconds[index], abs=1e-3)
        assert item.features.shape[1] >= item.seconds * 50  # the tiny model's hop: 20 ms
        assert item.seconds <= dataset.padded_seconds()[index] + 1e-6


AUGMENTED = {"batch_seconds": 6.0, "speeds": (0.9, 1.0, 1.1), "time_masks": 1, "frequency_masks": 1}


def test_killed_in_an_epoch_goes_on_with_the_same_batches_and_draws(base, data, tmp_path):  # noqa: F811
    record, whole = run(base, data, tmp_path / "whole", epochs=3, dropout=0.1, eval_steps=2, **AUGMENTED)
    assert record["steps"] > 6 and record["options"]["speeds"] == (0.9, 1.0, 1.1)
    result = run_killed(base, data, tmp_path / "killed", "step", 6, {"eval_steps": 2, **AUGMENTED})
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    _, killed = run(base, data, tmp_path / "killed", epochs=3, dropout=0.1, eval_steps=2, **AUGMENTED)
    assert "going on from step" in (killed / "train.log").read_text()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    _, plain = run(base, data, tmp_path / "plain", epochs=3, dropout=0.1, eval_steps=2, batch_seconds=6.0)
    assert (whole / "adapter_model.safetensors").read_bytes() != (plain / "adapter_model.safetensors").read_bytes()


def test_train_verb_takes_the_options(base, data, tmp_path):  # noqa: F811
    (tmp_path / "train.yaml").write_text("speeds: [0.9, 1.0, 1.1]\nbatch_seconds: 6\nfrequency_masks: 2\n")
    words = ["--task", "kws", "--model", str(base), "--data", str(data.path), "--exp-dir", str(tmp_path / "exp")]
    assert main(["train", *words, "--config", str(tmp_path / "train.yaml"), "--max-steps", "1", "--device", "cpu"]) == 0
    options = read_json(tmp_path / "exp" / "kws" / "kws" / "speechmerge.json")["options"]
    assert (options["speeds"], options["batch_seconds"], options["frequency_masks"]) == ([0.9, 1.0, 1.1], 6.0, 2)


def test_options_that_are_not_used_change_no_key():
    plain = TrainOptions()
    assert not {"batch_seconds", "speeds", "time_masks", "frequency_masks"} & plain.deciding().keys()
    assert TrainOptions(time_mask_frames=7).deciding() == plain.deciding()
    assert TrainOptions(speeds=(0.9, 1.1)).deciding()["speeds"] == (0.9, 1.1)
    assert "batch_size" not in TrainOptions(batch_seconds=9.0).deciding()


@pytest.mark.parametrize("options, message", [
    ({"speeds": (3.0,)}, "--speeds: found 3"), ({"speeds": (0.999,)}, "--speeds"), ({"time_masks": -1}, "--time-masks"),
    ({"batch_seconds": -1.0}, "--batch-seconds")])
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        TrainOptions(**options)
