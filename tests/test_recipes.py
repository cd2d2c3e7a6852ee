"""Every recipe with --mini true, as a user types it: stages 1 and 2 of all, 1 to 7 of some."""
import json
import os
import subprocess
from pathlib import Path

import pytest

from speechmerge.data.directory import DataDir

ROOT = Path(__file__).resolve().parents[1]
TO_THE_END = {"librispeech": ("asr", "lower"), "speech_commands": ("kws", "higher")}
DATA_ONLY = ["covost2", "spoken_squad", "iemocap", "tedlium", "slurp", "fleurs", "voxceleb", "ai4bharat"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(recipe: str, folder: Path, *words) -> str:
    places = ["--corpus-dir", folder / "corpus", "--data-dir", folder / "data", "--exp-dir", folder / "exp"]
    command = [ROOT / "egs" / recipe / "run.sh", "--mini", "true", *places, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def data_directories(folder: Path) -> list[DataDir]:
    return [DataDir.read(path.parent, formatted=True) for path in sorted(folder.glob("data/*/*/stats.json"))]


@pytest.mark.parametrize("recipe", DATA_ONLY)
def test_data_and_format(recipe, tmp_path):
    run(recipe, tmp_path, "--stage", "data", "--stop-stage", "format")
    found = data_directories(tmp_path)
    assert {data.path.name for data in found} >= {"train", "dev", "test"}
    assert all(u.duration and u.duration <= 4.01 for data in found for u in data.utterances.values())


@pytest.mark.parametrize("recipe", TO_THE_END)
def test_all_stages(recipe, tmp_path):
    """An adapter, hypotheses, the official score; and it has learned something."""
    task, better = TO_THE_END[recipe]
    run(recipe, tmp_path, "--stop-stage", "7", "--splits", "test", "--nj", "1")
    assert (tmp_path / "exp" / task / "lora/adapter_model.safetensors").is_file()
    assert (tmp_path / "exp/report/index.html").is_file()
    scores = {entry["name"]: entry["scores"][task]["generation"]
              for entry in json.loads((tmp_path / "exp/scores_test.json").read_text())["systems"]}
    gain = scores[task] - scores["base"]
    assert gain > 0.1 if better == "higher" else gain < -0.1
