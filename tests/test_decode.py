"""Decoding systems: cached by what went in, shards and killed runs add up, errors name the utterance."""
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_tones, tiny_whisper

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.decode import Decoder, Options, Parts
from speechmerge.errors import SpeechMergeError
from speechmerge.files import write_json
from speechmerge.models import load_model
from speechmerge.stages.decode import shares
from speechmerge.systems import System, find_systems, known_merges, register_adapter
from speechmerge.tasks import get_task

ROOT = Path(__file__).resolve().parent.parent
BASE = System("base", "base")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu", audio_context="dynamic", audio_context_min=0.5)


@pytest.fixture
def recipe(tmp_path, base):
    """data/kws/test, data/speaker_ver/test and an adapter made by a full model, so that it needs no training."""
    for task in ("kws", "speaker_ver"):
        tiny_tones(tmp_path / "data" / task / "test", task=task, n=9)
    shutil.copytree(tiny_whisper(tmp_path / "other", seed=5), tmp_path / "exp/kws/lora")
    register_adapter(tmp_path / "exp", "kws", tmp_path / "exp/kws/lora", "kws")
    return tmp_path


def decoder(model, recipe, task="kws", **options):
    data = DataDir.read(recipe / "data" / task / "test")
    return Decoder(model, get_task(task), data, "test", recipe / "exp", **options)


def tables(recipe, system="base", task="kws"):
    folder = recipe / "exp/decode/test" / system / task
    return {file.name: file.read_text() for file in folder.iterdir() if file.suffix != ".json"}


def test_files_of_a_label_task(model, recipe):
    assert decoder(model, recipe).decode(BASE) == "made"
    found = tables(recipe)
    assert sorted(found) == ["hyp", "hyp_labels"]
    ids = [line.split()[0] for line in found["hyp"].splitlines()]
    assert ids == sorted(ids) and len(ids) == 9
    assert {line.split(" ", 1)[1] for line in found["hyp_labels"].splitlines()} <= {"yes", "no", "stop"}
    record = json.loads((recipe / "exp/decode/test/base/kws/decode.json").read_text())
    assert record["n"] == 9 and record["system"]["kind"] == "base"
    assert record["model"]["fingerprint"] == model.fingerprint()
    assert 5 < record["audio_seconds"] < 20


def test_files_of_verification(model, recipe):
    decoder(model, recipe, "speaker_ver").decode(BASE)
    found = tables(recipe, task="speaker_ver")
    assert sorted(found) == ["hyp", "hyp_labels", "scores"]
    answers = dict(line.split() for line in found["hyp_labels"].splitlines())
    for line in found["scores"].splitlines():
        trial, score = line.split()
        assert (float(score) > 0) == (answers[trial] == "yes")


def test_kept_until_something_that_matters_changes(base, model, recipe):
    adapter = find_systems(["kws"], recipe / "exp")[0]
    for system in (BASE, adapter):
        assert decoder(model, recipe).decode(system) == "made"
        assert decoder(model, recipe, options=Options(batch_size=2)).decode(system) == "kept"
    before = tables(recipe)
    assert decoder(model, recipe).decode(BASE, force=True) == "made" and tables(recipe) == before
    assert decoder(model, recipe, options=Options(num_beams=2)).decode(BASE) == "made"
    other = load_model(base, device="cpu")
    assert decoder(other, recipe).decode(BASE) == "made"  # full context instead of dynamic
    weights = tiny_whisper(recipe / "third", seed=6) / "model.safetensors"
    shutil.copyfile(weights, recipe / "exp/kws/lora/model.safetensors")
    assert decoder(model, recipe).decode(adapter) == "made"
    text = recipe / "data/kws/test/utt2keyword"
    text.write_text(text.read_text().replace("yes", "no", 1))
    assert decoder(model, recipe).decode(adapter) == "made"
    (recipe / "exp/decode/test/kws/kws/hyp").unlink()
    assert decoder(model, recipe).decode(adapter) == "made"


def test_batch_size_does_not_change_results(model, recipe):
    results = []
    for size in (1, 4, 32):
        decoder(model, recipe, options=Options(batch_size=size)).decode(BASE, force=True)
        results.append(tables(recipe))
    assert results[0] == results[1] == results[2]


def test_shards_add_up(model, recipe):
    decoder(model, recipe).decode(BASE)
    whole = tables(recipe)
    shutil.rmtree(recipe / "exp/decode")
    options = Options(batch_size=2)
    results = [decoder(model, recipe, options=options, shard=(i, 3)).decode(BASE) for i in range(3)]
    assert results == ["part", "part", "made"]
    assert tables(recipe) == whole and not list((recipe / "exp/decode/test/base").glob(".*.parts"))
    assert decoder(model, recipe, options=options, shard=(0, 3)).decode(BASE) == "kept"
    assert shares(6, (0, 1)) == (range(0, 6, 1), (0, 1)) and shares(2, (1, 2)) == (range(2), (1, 2))
    assert sorted([*shares(9, (0, 2))[0], *shares(9, (1, 2))[0]]) == list(range(9))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_decode as t
from speechmerge import decode
decode.SAVE_EVERY = 0.0
model = t.load_model({base!r}, device="cpu", audio_context="dynamic", audio_context_min=0.5)
generate, calls = model.generate, []
def dying(*args, **kwargs):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(*args, **kwargs)
model.generate = dying
t.decoder(model, Path({recipe!r}), options=t.Options(batch_size=1)).decode(t.BASE)
"""


def test_goes_on_after_kill_9(base, model, recipe, monkeypatch):
    code = KILLED.format(tests=str(ROOT / "tests"), base=str(base), recipe=str(recipe))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    assert not (recipe / "exp/decode/test/base/kws").exists()
    calls = []
    original = model.generate
    monkeypatch.setattr(model, "generate", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    assert decoder(model, recipe, options=Options(batch_size=1)).decode(BASE) == "made"
    assert len(calls) == 9 - 3
    resumed = tables(recipe)
    decoder(model, recipe).decode(BASE, force=True)
    assert tables(recipe) == resumed


def test_parts_of_another_key_do_not_count(tmp_path):
    first = Parts(tmp_path / "kws", "a" * 64, shared=True)
    first.unsaved = []
    write_json(first.folder / f"{'b' * 16}-1-1.json", {"seconds": 1.0, "rows": [["u1", "text", None]]})
    assert first.read() == {} and first.seconds() == 0.0


def test_missing_audio_names_the_utterance(model, recipe):
    work = decoder(model, recipe)
    (recipe / "data/kws/test/wav/s0-003.wav").unlink()
    with pytest.raises(SpeechMergeError, match="s0-003"):
        work.decode(BASE)
    with pytest.raises(SpeechMergeError, match="s0-003"):
        decoder(model, recipe)
    assert not (recipe / "exp/decode/test/base/kws").exists()


def write_merge(exp, method, combination, run, tag):
    folder = exp / "merged" / method / combination / "runs" / run
    write_json(folder / "merge_metadata.json", {"tag": tag, "method": method, "params": {"k": 20}})
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_systems(recipe):
    exp = recipe / "exp"
    assert [system.name for system in find_systems(["all"], exp)] == ["base", "kws"]
    write_merge(exp, "ties", "a_b", "run_1", "ties_k20")
    latest = write_merge(exp, "ties", "a_b", "run_2", "ties_k20")
    assert known_merges(exp)["ties_k20"].path == str(latest)
    write_merge(exp, "ties", "a_c", "run_1", "ties_k20")
    assert sorted(known_merges(exp)) == ["ties_k20@a_b", "ties_k20@a_c"]
    names = [system.name for system in find_systems(["merged", "base", "base"], exp)]
    assert names == ["ties_k20@a_b", "ties_k20@a_c", "base"]
    assert find_systems([str(latest)], exp)[0].name == "ties_k20@a_b"
    assert find_systems([str(exp / "kws/lora")], exp)[0] == find_systems(["kws"], exp)[0]
    with pytest.raises(SpeechMergeError, match="did you mean 'kws'"):
        find_systems(["kwss"], exp)


def test_from_the_command_line(base, recipe, monkeypatch, capsys):
    monkeypatch.chdir(recipe)
    words = ["--model", str(base), "--device", "cpu", "--audio-context", "dynamic", "--data", "data"]
    assert main(["decode", *words, "--tasks", "kws,speaker_ver", "--systems", "all"]) == 0
    assert "4 decoded, 0 kept" in capsys.readouterr().out
    assert main(["decode", *words, "--tasks", "kws", "--shard", "2/1"]) == 2
    assert "1 <= I <= N" in capsys.readouterr().err
    assert main(["evaluate", *words, "--task", "kws", "--adapter", "kws", "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert "kws on kws" in out and "accuracy" in out and "[labels]" in out
    assert json.loads((recipe / "exp/decode/test/kws/kws/score.json").read_text())["generation"]["n"] == 9


def test_sets_of_one_task(base, recipe, monkeypatch, capsys):
    """Languages: data/<set>/<split>; the task is given, or known from the adapter of that name."""
    monkeypatch.chdir(recipe)
    shutil.copytree("data/kws", "data/it")
    words = ["decode", "--model", str(base), "--device", "cpu", "--tasks", "it", "--systems", "base"]
    assert main(words) == 2 and "unknown task 'it'" in capsys.readouterr().err
    assert main([*words, "--task", "kws"]) == 0
    register_adapter("exp", "it", "exp/kws/lora", "kws")
    assert main(words) == 0 and "1 kept" in capsys.readouterr().out
    assert json.loads(Path("exp/decode/test/base/it/decode.json").read_text())["task"] == "kws"
