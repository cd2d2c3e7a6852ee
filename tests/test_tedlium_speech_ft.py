"""The Speech-FT recipe as a user types it, on a tiny upstream and a few tones: train, merge, decode, score."""
import json
import os
import subprocess
from pathlib import Path

import pytest

from tiny import tiny_tones
from tiny_upstream import tiny_upstream

ROOT = Path(__file__).resolve().parents[1]
FT_ARGS = "--max-steps 4 --eval-steps 0 --batch-size 4 --save-at 0.5 --head-size 16 --learning-rate 0.05"
HEADS = "{max_steps: 3, eval_steps: 3, batch_size: 8, head_size: 16, head: mean}"


def recipe(*words) -> subprocess.CompletedProcess:
    command = [ROOT / "egs/tedlium/speech_ft.sh", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech_ft")
    model = tiny_upstream(folder / "base")
    for split, count in (("train", 12), ("dev", 6), ("test", 9)):
        tiny_tones(folder / "data/asr" / split, task="asr", n=count, seed=count)
        tiny_tones(folder / "kws" / split, task="kws", n=count, seed=count)
        tiny_tones(folder / "ver" / split, task="speaker_ver", n=count, seed=count)
    words = ["--mini", "true", "--stage", "train", "--model", model, "--data-dir", folder / "data",
             "--exp-dir", folder / "exp", "--alphas", "0 0.25 1", "--baselines", "early",
             "--superb-tasks", "kws speaker_ver", "--superb-data", f"kws={folder}/kws speaker_ver={folder}/ver",
             "--train-args", FT_ARGS, "--head-options", HEADS, "--nj", "2"]
    done = recipe(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, words, done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_stages(finished):
    folder, _, done = finished
    results = json.loads((folder / "exp/superb/superb.json").read_text())
    assert list(results["upstreams"]) == ["alpha0", "alpha0.25", "alpha1", "early_2", "fbank"]
    assert all(0 <= cell["kws"]["values"]["accuracy"] <= 1 and cell["kws"]["n"] == 9 for cell in results["cells"].values())
    assert all(0 <= cell["speaker_ver"]["values"]["eer"] <= 1 for cell in results["cells"].values())
    assert results["anchored"]["low"] == "fbank" and (folder / "exp/superb/superb.png").is_file()
    assert "| alpha0.25 |" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_upstreams_lie_on_the_line_and_are_plain_models(finished):
    from transformers import HubertModel

    folder = finished[0]
    base, quarter, tuned, trained = (HubertModel.from_pretrained(folder / name).state_dict() for name in (
        "base", "exp/upstreams/alpha0.25", "exp/upstreams/alpha1", "exp/asr/stable"))
    moved = [name for name in base if not base[name].equal(tuned[name])]
    assert moved and not any(name.startswith("feature_extractor.") for name in moved)
    for name in base:
        assert tuned[name].allclose(trained[name], atol=1e-6)
        assert quarter[name].allclose(base[name] + 0.25 * (trained[name] - base[name]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_call_keeps_every_cell(finished):
    folder, words, _ = finished
    cells = sorted(folder.glob("exp/superb/*/kws/scores.json"))
    before = [path.stat().st_mtime_ns for path in cells]
    (folder / "exp/superb/fbank/kws/scores.json").unlink()  # as if killed before the last cell
    done = recipe(*words[:2], "--stage", "decode", *words[4:])
    assert done.returncode == 0, done.stderr[-3000:]
    after = [path.stat().st_mtime_ns for path in cells]
    assert len(cells) == 5 and [new == old for new, old in zip(after, before)] == [True] * 4 + [False]


def test_commands_of_the_first_stages(tmp_path):
    done = recipe("--mini", "true", "--dry-run", "true", "--stop-stage", "merge", "--superb-tasks", "phones kws slu",
                  "--data-dir", tmp_path / "data", "--exp-dir", tmp_path / "exp", "--baselines", "l2 dora")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for corpus in ("tedlium", "librispeech", "slurp", "mini"):
        assert f"prepare --corpus {corpus} " in text
    assert "NAME=stable,l2,dora" in text and "train_l2.yaml" in text
    assert text.count("merge --config") == 5 and f"{tmp_path}/exp/upstreams/alpha0.25" in text  # four alphas and dora
    assert "alpha=0 " not in text  # the pre-trained upstream is not written again


@pytest.mark.parametrize("words, message", [
    (("--alphas", "0 x"), "--alphas: expected numbers"), (("--baselines", "soup"), "--baselines: expected some of early"),
    (("--superb-data", "kws"), "--superb-data: expected TASK=DIR"), (("--superb-tasks", ""), "--superb-tasks is empty")])
def test_wrong_options(words, message):
    done = recipe(*words)
    assert done.returncode == 2 and message in done.stderr
