"""Decoding by processes that torchrun starts: the bytes of one process, and what a killed process leaves behind."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_tones, tiny_whisper

from speechmerge.cli import main
from speechmerge.distributed import World
from speechmerge.errors import UsageError
from speechmerge.systems import register_adapter

ROOT = Path(__file__).resolve().parent.parent
KILLED = """
import os, signal, sys
from speechmerge import decode
from speechmerge.cli import main
decode.SAVE_EVERY = 0
if os.environ["RANK"] == "1":
    add = decode.Parts.add
    def last(parts, found):
        add(parts, found)
        os.kill(os.getpid(), signal.SIGKILL)
    decode.Parts.add = last
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Three systems (the base and two full models) on two sets."""
    root = tmp_path_factory.mktemp("recipe")
    tiny_whisper(root / "base")
    for task in ("kws", "speaker_ver"):
        tiny_tones(root / "data" / task / "test", task=task, n=12)
        shutil.copytree(tiny_whisper(root / "other", seed=len(task)), root / "exp" / task / "lora")
        register_adapter(root / "exp", task, root / "exp" / task / "lora", task)
    return root


def words(recipe, exp="exp", *more):
    return ["decode", "--model", str(recipe / "base"), "--systems", "all", "--tasks", "kws", "speaker_ver", "--batch-size", "2",
            "--data", str(recipe / "data"), "--exp-dir", str(recipe / exp), "--device", "cpu", *more]


def torchrun(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d",
                           "--rdzv-endpoint=localhost:0", *map(str, command)], capture_output=True, text=True,
                          env=environment, timeout=200)


def results(recipe, exp):
    return {str(path.relative_to(recipe / exp)): path.read_bytes() for path in (recipe / exp / "decode").rglob("*")
            if path.is_file() and path.suffix != ".json" and not path.name.startswith(".")}


def experiment(recipe, name):
    """Another experiment folder with the same adapters and no results."""
    shutil.rmtree(recipe / name, ignore_errors=True)
    (recipe / name).mkdir()
    for task in ("kws", "speaker_ver"):
        register_adapter(recipe / name, task, recipe / "exp" / task / "lora", task)


@pytest.fixture(scope="module")
def by_one(recipe):
    assert main(words(recipe)) == 0
    found = results(recipe, "exp")
    assert len(found) == 3 * (2 + 3)  # hyp, hyp_labels; of trials scores too
    return found


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(recipe, by_one):
    experiment(recipe, "two")
    done = torchrun("-m", "speechmerge", *words(recipe, "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("6 results by 2 processes") == 1
    assert results(recipe, "two") == by_one
    assert not list((recipe / "two/decode").rglob("*.parts"))


@pytest.mark.slow
def test_a_killed_process_costs_only_what_it_had_not_done(recipe, by_one, tmp_path, caplog):
    caplog.set_level("INFO", "speechmerge.decode")
    experiment(recipe, "three")
    (tmp_path / "killed.py").write_text(KILLED)
    done = torchrun(tmp_path / "killed.py", *words(recipe, "three"))
    assert done.returncode != 0 and len(results(recipe, "three")) < len(by_one)
    parts = list((recipe / "three/decode/test/base").glob(".kws.parts/*.json"))
    assert parts  # the killed one saved its first batch
    assert main(words(recipe, "three")) == 0
    assert results(recipe, "three") == by_one
    assert any("going on after" in record.getMessage() for record in caplog.records)


def test_the_place_of_a_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert World.of_environment() == World(0, 1, 0) and World().device("auto") == "auto"
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    world = World.of_environment()
    assert world == World(3, 4, 1) and world.device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert world.device("auto") == "cuda:1" and world.device("cuda:0") == "cuda:0"
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU of its own, there are 2"):
        World(2, 4, 2).device("auto")
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UsageError, match="RANK 4 of WORLD_SIZE 4"):
        World.of_environment()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(UsageError, match="expected numbers; start with torchrun"):
        World.of_environment()


def test_shards_and_torchrun_exclude_each_other(recipe, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words(recipe, "exp", "--shard", "1/2")) == 2 and "use one of them" in capsys.readouterr().err
