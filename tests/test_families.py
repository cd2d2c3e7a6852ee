"""One recipe, every family of models: the commands that egs/mini/run.sh prints for a --model, run one after the other."""
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from tiny import tiny_tones, tiny_whisper

from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.files import read_json

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "egs/mini"
TASKS = ("kws", "emotion")
SYSTEMS = {"base", "kws", "emotion", "uniform_l1_kws-emotion", "ties_k20_l1_kws-emotion"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def make_whisper(folder):
    return tiny_whisper(folder)


def make_upstream(folder):
    from tiny_upstream import tiny_upstream

    return tiny_upstream(folder)


def make_qwen2_audio(folder):
    from tiny_qwen import tiny_qwen2_audio

    return tiny_qwen2_audio(folder)


def make_qwen2_5_omni(folder):
    from tiny_qwen import tiny_omni

    return tiny_omni(folder)


def make_owsm(folder):
    pytest.importorskip("espnet2", reason="ESPnet is not installed; tools/install_espnet.sh installs it")
    from tiny_owsm import tiny_owsm

    return tiny_owsm(folder)


FAMILIES = {"whisper": make_whisper, "s3prl": make_upstream, "qwen2_audio": make_qwen2_audio, "qwen2_5_omni": make_qwen2_5_omni,
            "owsm": make_owsm}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tones as keywords and emotions; decoding of the last utterances is what is scored."""
    root = tmp_path_factory.mktemp("data")
    for task in TASKS:
        for split, n, seed in (("train", 12, 1), ("dev", 4, 2), ("test", 6, 3)):
            tiny_tones(root / task / split, task=task, n=n, seed=seed)
    return root


def commands(*options) -> list[list[str]]:
    """What the recipe would run, job by job: the words after `python -m speechmerge`."""
    done = subprocess.run([RECIPE / "run.sh", "--dry-run", "true", *map(str, options)], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = []
    for line in done.stdout.splitlines():
        if line.startswith("#"):
            continue
        words = shlex.split(line)
        first = words.index("python")
        lists = dict(word.split("=", 1) for word in words[:first] if "=" in word)
        for row in zip(*(jobs_of(value) for value in lists.values())) if lists else [()]:
            job = words[first + 3 :]
            for name, value in zip(lists, row):
                job = [word.replace(name, value) for word in job]
            found.append(job)
    return found


def jobs_of(value: str) -> list[str]:
    """`1:3` or `a,b`, as local.sh takes them."""
    first, colon, last = value.partition(":")
    return [str(number) for number in range(int(first), int(last) + 1)] if colon else value.split(",")


@pytest.mark.parametrize("family", FAMILIES)
def test_one_recipe_for_every_family(family, data, tmp_path, monkeypatch, capsys):
    model = FAMILIES[family](tmp_path / "model")
    monkeypatch.chdir(RECIPE)
    train = "--epochs 1 --max-steps 3 --batch-size 4 --eval-batch-size 4 --rank 4 --report-to"
    jobs = commands("--model", model, "--tasks", " ".join(TASKS), "--data-dir", data, "--exp-dir", tmp_path / "exp", "--splits", "test",
                    "--merges", "uniform ties", "--stage", "train", "--stop-stage", "score", "--nj", "2", "--ngpu", "0",
                    "--train-args", train)
    assert [job[0] for job in jobs] == ["train", "train", "merge", "merge", "decode", "decode", "score", "report"]
    for job in jobs:
        assert main(job) == 0, capsys.readouterr().err
    for task in TASKS:
        assert (tmp_path / f"exp/{task}/lora/adapter_model.safetensors").is_file()
        for system in SYSTEMS:
            lines = (tmp_path / f"exp/decode/test/{system}/{task}/hyp").read_text().splitlines()
            assert [line.split()[0] for line in lines] == sorted(DataDir.read(data / task / "test").utterances)
    words = ["train-router", "--tasks", *TASKS, "--data", data, "--exp-dir", tmp_path / "exp", "--model", model, "--output-dir",
             tmp_path / "exp/router/tones", "--epochs", "2", "--seconds", "1", "--crop-seconds", "0.5", "1", "--strategies", "{hard: {}, soft: {}}"]
    assert main([*map(str, words)]) == 0, capsys.readouterr().err
    words = ["decode", "--tasks", *TASKS, "--data", data, "--exp-dir", tmp_path / "exp", "--model", model, "--systems", "routed"]
    assert main([*map(str, words)]) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "exp/decode/test").glob("tones-*/*/hyp"))) == 4
    words = ["statistics", "--kind", "gram", "--adapters", "kws", "emotion", "--data", data, "--exp-dir", tmp_path / "exp", "--max-examples", "2"]
    assert main([*map(str, words)]) == 0, capsys.readouterr().err
    learn = "{type: %s, params: {steps: 2, batch_size: 3, variant: %s}}"
    for kind, variant in (("supermerge", "layer_wise"), ("adamerging", "task_wise")):
        words = ["merge", "--adapters", "kws", "emotion", "--method", "weighted_delta_n", "--optimizer", learn % (kind, variant), "--data", data,
                 "--exp-dir", tmp_path / "exp", "--output-dir", tmp_path / kind]
        assert main([*map(str, words)]) == 0, capsys.readouterr().err
        assert (tmp_path / kind / "adapter_model.safetensors").is_file()
    table = {entry["name"]: entry["scores"] for entry in read_json(tmp_path / "exp/scores_test.json")["systems"]}
    assert set(table) == SYSTEMS
    assert all(0 <= scores[task]["labels"] <= 1 for scores in table.values() for task in TASKS)
