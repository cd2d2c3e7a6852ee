"""Training by two processes that torchrun starts: it learns what one learns, ends as one, and goes on after a kill."""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_tones, tiny_whisper
from tiny_upstream import tiny_upstream

from speechmerge import launch
from speechmerge.cli import main, parse
from speechmerge.data.batching import FeatureCache
from speechmerge.data.directory import DataDir
from speechmerge.distributed import World
from speechmerge.errors import UsageError
from speechmerge.files import read_json, write_json
from speechmerge.models import load_model
from speechmerge.stages import train as train_verb
from speechmerge.tasks import get_task
from speechmerge.train.trainer import TrainingSet, in_turn

ROOT = Path(__file__).resolve().parent.parent
# several trainings in one start of torchrun: that takes longer than they do
BROKEN = """
import json, os, signal, sys
from speechmerge.cli import main
from speechmerge.distributed import World
from speechmerge.errors import SpeechMergeError
from speechmerge.train.trainer import TaskTrainer
how, at, commands = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
step, left = TaskTrainer.training_step, len(commands)
def broken(self, *args, **kwargs):
    if not left and self.state.global_step == at and how == "error" and self.world.rank == 1:
        raise SpeechMergeError("utterance s0-003: nothing to be heard")
    if not left and self.state.global_step == at and how == "terminate" and self.world.first:
        os.kill(os.getppid(), signal.SIGTERM)
    return step(self, *args, **kwargs)
TaskTrainer.training_step = broken
with World.of_environment().together("tests"):
    for words in commands:
        left -= 1
        if status := main(words):
            sys.exit(status)
"""
# 11 utterances in batches of 5, 5 and 1: of the last one the second process has nothing
LORA = ["--batch-size", "5", "--accumulation", "2", "--rank", "4", "--learning-rate", "1e-2", "--epochs", "3", "--logging-steps", "1",
        "--audio-context", "dynamic", "--audio-context-min", "0.5", "--audio-context-step", "0.2", "--speeds", "0.9", "1.1",
        "--time-masks", "1", "--save-at", "0.5", "--sample-steps", "2"]
# without gradients at first, without gradients ever (the embedding of masked frames), and with a pull on all of them
FULL = ["--tuning", "full", "--head-size", "16", "--batch-seconds", "4", "--max-steps", "6", "--eval-steps", "3", "--learning-rate",
        "1e-3", "--freeze-encoder-share", "0.4", "--weight-decay-to-base", "0.5", "--weight-decay", "0.01"]
BLOCKS = [*LORA, "--unfreeze-every", "1", "--gradient-checkpointing", "true"]
DROPOUT = [*LORA, "--dropout", "0.2"]
TRAININGS = {"lora": LORA, "full": FULL, "blocks": BLOCKS}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("distributed")
    tiny_whisper(root / "whisper")
    hubert = tiny_upstream(root / "hubert", large=True)  # no norm over time: padding changes nothing
    config = read_json(hubert / "config.json")
    write_json(hubert / "config.json", {**config, **{name: 0.0 for name in config if name.endswith("dropout")}})
    tiny_tones(root / "data", n=11)
    return root


def words(place, name, model, exp, *options):
    return [str(word) for word in ("train", "--task", "kws", "--name", name, "--model", place / model, "--data", place / "data",
                                   "--dev", place / "data", "--exp-dir", place / exp, "--device", "cpu", "--report-to",
                                   *options)]


def all_trainings(place, exp):
    return [words(place, name, "hubert" if name == "full" else "whisper", exp, *options) for name, options in TRAININGS.items()]


def torchrun(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", *map(str, command)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process):
    """(status, stdout, stderr)"""
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def by_two(place):
    """What two processes make, the last of it with an error in one of them, and what they say: (stdout, stderr)."""
    (place / "broken.py").write_text(BROKEN)
    dropout = words(place, "dropout", "whisper", "two", *DROPOUT)
    failing = words(place, "failing", "whisper", "two", *LORA)
    status, out, err = ended(torchrun(place / "broken.py", "error", 3, json.dumps([*all_trainings(place, "two"), dropout, failing])))
    assert status == 1 and out.count("step 6 of 6") == 4, err[-3000:]
    return out, err


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_learn_what_one_learns(place, by_two, name):
    """The same batches, losses and decisions; sums of gradients differ in their last digits."""
    assert main(words(place, name, "hubert" if name == "full" else "whisper", "one", *TRAININGS[name])) == 0
    one, two = (place / exp / "kws" / name for exp in ("one", "two"))
    files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (one, two)]
    assert files[0] == files[1] and not any("rng_state" in file for file in files[1])
    for path in one.rglob("*.safetensors"):
        weights, others = load_file(path), load_file(two / path.relative_to(one))
        assert all(torch.allclose(weights[key], others[key], atol=2e-4) for key in weights)
    records = [read_json(folder / "speechmerge.json") for folder in (one, two)]
    assert [record["batch"].pop("processes") for record in records] == [1, 2] and records[0]["batch"] == records[1]["batch"]
    assert all(records[0][key] == records[1][key] for key in ("step", "steps", "utterances", "options"))
    assert records[0]["dev"] == pytest.approx(records[1]["dev"], abs=1e-4)
    assert read_json(one / "done.json")["key"] == read_json(two / "done.json")["key"]
    assert by_two[0].count(f"{two}: 11 utterances") == 1 and by_two[1].count("2 processes share each batch of 4 s") == 1


@pytest.mark.slow
def test_an_error_of_one_ends_all(place, by_two):
    assert by_two[1].count("speechmerge: utterance s0-003: nothing to be heard") == 1
    folder = place / "two/kws/failing"
    assert (folder / "checkpoints/checkpoint-2/complete").is_file() and not (folder / "done.json").exists()


@pytest.mark.slow
def test_a_terminated_training_goes_on(place, by_two):
    """Killed in the last of three epochs, of two steps each; torchrun began it, our own launcher ends it."""
    command = words(place, "dropout", "whisper", "three", *DROPOUT)
    folder = place / "three/kws/dropout"
    status, _, err = ended(torchrun(place / "broken.py", "terminate", 5, json.dumps([command])))
    assert status != 0 and (folder / "checkpoints/checkpoint-4/complete").is_file() and not (folder / "done.json").exists()
    done = subprocess.run([sys.executable, "-m", "speechmerge.launch", "--processes", "2", *command], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    log = (folder / "train.log").read_text()
    assert log.count("going on from step 4") == 1
    whole = place / "two/kws/dropout"
    assert (whole / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    assert read_json(whole / "speechmerge.json")["dev"] == read_json(folder / "speechmerge.json")["dev"]


def test_shares_are_the_batch(place):
    """Everybody is heard once; where there are more processes than examples, the others count nothing."""
    model, task = load_model(place / "whisper", device="cpu"), get_task("kws")
    examples = task.examples(DataDir.read(place / "data"))
    shares = [TrainingSet(model, examples, FeatureCache(), world=World(rank, 3, rank)).__getitems__([7, 2, 9, 4]) for rank in range(3)]
    heard = [[item.example.id for item in share.items] for share in shares]
    assert heard == [[examples[index].id for index in indices] for indices in ([7, 4], [2], [9])]
    longest = max(model.context_frames(model.seconds(examples[index])) for index in (7, 2, 9, 4))
    assert all((share.utterances, share.frames, share.idle) == (4, longest, False) for share in shares)
    idle = TrainingSet(model, examples, FeatureCache(), world=World(2, 3, 2)).__getitems__([5, 1])
    assert idle.idle and idle.utterances == 2 and len(idle.items) == 1
    assert in_turn([["a", "c"], ["b"], []]) == ["a", "b", "c"]


def test_what_the_launcher_is_told():
    def words_of(*options):
        parser = argparse.ArgumentParser()
        launch.add_arguments(parser)
        return launch.torchrun_words(parser.parse_args(["--processes", "2", *options]))

    assert words_of("train", "--task", "x") == ["--nproc-per-node=2", "--standalone", "-m", "speechmerge", "train", "--task", "x"]
    node = words_of("--nodes", "3", "--node", "1", "--master", "n1:1234", "train")
    assert node[1:5] == ["--nnodes=3", "--node-rank=1", "--master-addr=n1", "--master-port=1234"]
    for options, message in ((["--nodes", "2", "train"], "--master: found ''"), (["--node", "1", "train"], "--node 1"), ([], "no verb"),
                             (["--master", "n1", "train"], "found 'n1', expected HOST:PORT")):
        with pytest.raises(UsageError, match=message):
            words_of(*options)
    with pytest.raises(UsageError, match="--device-map"):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
                patch.setenv(name, value)
            arguments = ["--task", "kws", "--data", "x", "--device-map", "auto"]
            train_verb.run(parse("train", train_verb, arguments))
