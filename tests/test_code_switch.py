"""Speech that switches: how it is made, what is measured on timelines, and routing per frame from end to end."""
import itertools
import json
import math

import numpy as np
import pytest
import torch
from routes import make_recipe, train

from speechmerge.cli import main
from speechmerge.data.audio import audio_info, read_audio
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError
from speechmerge.route.smoothing import smoothed
from speechmerge.route.switch_metrics import agreement, interest_errors, latency, switch_report
from speechmerge.route.timeline import Segment, parse_segments, segments_of, stretched, switches


def timeline(text: str) -> list[Segment]:
    return parse_segments(text, "test")


TRUE = timeline("0-2=hi 2-4=it 4-6=hi")


@pytest.mark.parametrize("found, first, second", [
    ("0-2=hi 2-4=it 4-6=hi", 0, 0),  # as it is
    ("0-2.3=hi 2.3-4.5=it 4.5-6=hi", 0.3, 0.5),  # late
    ("0-1.5=hi 1.5-3.5=it 3.5-6=hi", 0, 0),  # early counts as no delay
    ("0-2.3=hi 2.3-2.4=it 2.4-2.9=hi 2.9-4=it 4-6=hi", 0.9, 0),  # 0.1 s are not held for 0.2 s
    ("0-4=hi 4-6=it", None, None),  # the switch back is never made
    ("0-6=hi", None, 0),
    ("0-2=hi 2-5.95=it 5.95-6=hi", 0, 1.95),  # held until the end
])
def test_latency(found, first, second):
    for index, expected in enumerate((first, second)):
        assert latency(TRUE, index, timeline(found)) == (None if expected is None else pytest.approx(expected))


def test_a_switch_is_missed_after_two_seconds():
    true = timeline("0-2=hi 2-8=it")
    assert latency(true, 0, timeline("0-3.9=hi 3.9-8=it")) == pytest.approx(1.9)
    assert latency(true, 0, timeline("0-4.1=hi 4.1-8=it")) is None


def test_report_by_hand():
    """Two utterances of 6 s; three true switches, of which one is found 0.3 s late and one at its time."""
    true = [TRUE, timeline("0-3=it 3-6=hi")]
    found = [timeline("0-2.3=hi 2.3-4=it 4-6=hi"), timeline("0-1=it 1-1.5=hi 1.5-6=it")]
    report = switch_report(true, found, look_ahead=0.5)
    assert report["switches"] == 3
    assert report["miss_rate"] == pytest.approx(1 / 3)
    assert report["latency_median"] == pytest.approx(0.15 + 0.5)
    assert report["latency_p90"] == pytest.approx(0.27 + 0.5)
    assert report["f1_0.25s"] == pytest.approx(2 * 1 / (3 + 4))
    assert report["f1_0.5s"] == pytest.approx(2 * 2 / (3 + 4))
    assert report["false_per_minute"] == pytest.approx(2 / 0.2)
    # within 2 s the switch to hi at 3 s also matches the one found at 1 s
    assert report["boundary_error_median"] == pytest.approx(0.3)
    assert report["frame_accuracy"] == pytest.approx((5.7 + 2.5) / 12)


def test_nothing_to_follow():
    report = switch_report([timeline("0-2=hi")], [timeline("0-2=hi")])
    assert (report["switches"], report["miss_rate"], report["latency_median"], report["f1_0.5s"]) == (0, None, None, None)
    assert report["frame_accuracy"] == 1.0 and report["false_per_minute"] == 0


def test_agreement_in_seconds():
    assert agreement(TRUE, timeline("0-6=hi")) == pytest.approx(4)
    assert agreement(TRUE, timeline("0-6=te")) == 0


def test_segments_and_back():
    found = segments_of([0, 0, 1, 1, 1, 0], ["hi", "it"], 3.0)
    assert found == timeline("0-1=hi 1-2.5=it 2.5-3=hi")
    assert switches(found) == [(1.0, "it"), (2.5, "hi")]
    assert timeline(" ".join(map(str, found))) == found


@pytest.mark.parametrize("text", ["0-1", "a-b=hi", "1-0=hi", "0-2=hi 1-3=it", "0-1="])
def test_segments_that_are_none(text):
    with pytest.raises(SpeechMergeError, match="utt1: found"):
        parse_segments(text, "utt1")


def test_rows_beyond_the_audio_keep_the_mean():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = stretched(rows, 2, 10)
    assert found[:6].tolist() == rows.repeat_interleave(2, 0).tolist()
    torch.testing.assert_close(found.mean(0), rows.mean(0))
    assert stretched(rows, 4, 10).shape == (10, 2)


# Smoothing


def test_median_removes_a_single_frame():
    rows = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.0, 1.0], [0.9, 0.1], [0.9, 0.1]])
    torch.testing.assert_close(smoothed(rows, "median", 3), torch.tensor([[0.9, 0.1]] * 5))
    assert torch.equal(smoothed(rows, "none", 3), rows)


def test_exponential_is_its_recursion():
    """A step from 0 to 1 reaches 1 - (1 - a)^n after n frames, and nothing is seen before it happens."""
    rows = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 5)
    found = smoothed(rows, "exponential", 4)[:, 1]
    assert found[:3].tolist() == [0, 0, 0]
    torch.testing.assert_close(found[3:], torch.tensor([1 - 0.75 ** n for n in range(1, 6)]))


def test_viterbi_is_the_best_of_all_paths():
    rows = torch.rand(7, 3, generator=torch.Generator().manual_seed(4))
    rows = rows / rows.sum(-1, keepdim=True)

    def score(path):
        moves = [math.log(0.8) if a == b else math.log(0.2 / 2) for a, b in zip(path, path[1:])]
        return sum(moves) + sum(math.log(rows[t, label]) for t, label in enumerate(path))

    best = max(itertools.product(range(3), repeat=7), key=score)
    assert smoothed(rows, "viterbi", 5).argmax(-1).tolist() == list(best)
    assert smoothed(rows, "viterbi", 5).sum(-1).tolist() == [1] * 7


# Errors on switched words


@pytest.mark.parametrize("hypothesis, expected", [
    ("ich will ein meeting machen", 0),
    ("ich will ein treffen machen", 1),  # substituted
    ("ich will ein machen", 1),  # deleted
    ("ich kann ein meeting machen", 0),  # an error, but on no switched word
    ("ich will ein meeting room machen", 1),  # inserted behind it
    ("ich will so ein meeting machen", 0),
    ("", 1),
])
def test_errors_on_switched_words(hypothesis, expected):
    words = "ich will ein Meeting machen".split()
    assert interest_errors(words, [False, False, False, True, False], hypothesis) == (expected, 1)


def test_normalised_words_keep_their_label():
    assert interest_errors(["Co-Working,", "heute"], [True, False], "co heute") == (1, 2)
    assert interest_errors(["...", "heute"], [True, False], "heute") == (0, 0)


# Sets


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = make_recipe(tmp_path_factory.mktemp("route"))
    assert train(folder, "--layer", "0", "--stride", "2", "--epochs", "40", "--learning-rate", "0.01") == 0
    return folder


def make(recipe, kind: str, name: str, *words) -> DataDir:
    places = ["--data", recipe / "data", "--output-dir", recipe / "data" / name / "test"]
    options = ["--tasks", "low", "high", "--kind", kind, "--count", "3", "--max-seconds", "4", *words]
    assert main(list(map(str, ["code-switch", *places, *options]))) == 0
    return DataDir.read(recipe / "data" / name / "test")


@pytest.mark.parametrize("kind, pieces", [("inter", (2, 3)), ("intra", (3, 3))])
def test_made_sets(recipe, kind, pieces, tmp_path):
    data = make(recipe, kind, f"cs_{kind}")
    assert len(data.utterances) == 3
    for utterance in data.utterances.values():
        segments = timeline(utterance.labels["segments"])
        assert pieces[0] <= len(segments) <= pieces[1]
        assert all(a.label != b.label and a.end == pytest.approx(b.start) for a, b in zip(segments, segments[1:]))
        assert segments[-1].end == pytest.approx(utterance.duration, abs=1e-3) == pytest.approx(audio_info(utterance.audio)[0], abs=1e-3)
        assert len(utterance.labels["word_labels"].split()) == len(utterance.text.split())
        assert kind != "intra" or segments[0].label == segments[2].label
    again = make(recipe, kind, f"again_{kind}")
    assert [u.labels for u in again.utterances.values()] == [u.labels for u in data.utterances.values()]
    first = next(iter(data.utterances.values())), next(iter(again.utterances.values()))
    np.testing.assert_array_equal(*(read_audio(utterance.audio) for utterance in first))


def test_the_segments_are_where_the_sound_changes(recipe):
    """The tones of both sets differ in pitch: the spectrum of each stretch says which it is."""
    for utterance in make(recipe, "intra", "cs_pitch").utterances.values():
        wave = read_audio(utterance.audio)
        for segment in timeline(utterance.labels["segments"]):
            part = wave[round(segment.start * 16000) : round(segment.end * 16000)]
            loudest = np.abs(np.fft.rfft(part)).argmax() * 16000 / len(part)
            assert (loudest > 450) == (segment.label == "high")


def test_too_short_a_limit(recipe, capsys):
    words = ["code-switch", "--data", str(recipe / "data"), "--tasks", "low", "high", "--max-seconds", "1", "--output-dir", "x"]
    assert main(words) == 1
    assert "give more --max-seconds" in capsys.readouterr().err
    assert main(words[:4] + ["low", "--output-dir", "x"]) == 2
    assert "at least two sets" in capsys.readouterr().err


def test_from_end_to_end(recipe, capsys):
    """Frames follow the pitch; pictures and scores are written; systems per utterance have no latency."""
    make(recipe, "inter", "cs_end")
    strategies = ("{hard: {}, frames: {strategy: hard, level: frame, window: 0.3, smoothing: viterbi, smoothing_seconds: 1.0}}")
    words = ["--router", recipe / "exp/router/pitch", "--strategies", strategies, "--tasks", "cs_end", "--task", "asr", "--data",
             recipe / "data", "--exp-dir", recipe / "exp", "--model", recipe / "base", "--device", "cpu", "--plots", "1"]
    assert main(list(map(str, ["route", *words]))) == 0
    folders = [recipe / "exp/decode/test" / f"pitch-{name}" / "cs_end" for name in ("hard", "frames")]
    assert (folders[1] / "routes_cs-inter-0000.png").read_bytes()[:4] == b"\x89PNG"
    rows = (folders[1] / "routes_cs-inter-0000.csv").read_text().splitlines()
    assert rows[0] == "second,high,low" and len(rows) > 20
    capsys.readouterr()
    assert main(["code-switch", "--score", *map(str, folders)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ["system", "n", "WER"] and len(table) == 3
    hard, frames = (json.loads((folder / "code_switch.json").read_text()) for folder in folders)
    assert frames["timeline"]["frame_accuracy"] > 0.85 > hard["timeline"]["frame_accuracy"]
    assert frames["timeline"]["miss_rate"] < 0.5 and "miss_rate" not in hard["timeline"]
    assert frames["timeline"]["look_ahead"] == 0.15
    assert 0 < frames["switched_words"] and frames["wer"] > 0
