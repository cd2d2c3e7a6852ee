"""The benchmarks of models run on tiny ones and say what they should; no times are asserted."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import LANGUAGES, tiny_tones, tiny_whisper

from speechmerge.files import read_json, write_json

BENCH = Path(__file__).parents[1] / "tools" / "bench"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and three data sets. Its generation config knows languages and writes neither those nor times."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bench")
    base, words = tiny_whisper(folder / "base"), AutoTokenizer.from_pretrained(folder / "base").get_vocab()
    told = {"lang_to_id": {f"<|{name}|>": words[f"<|{name}|>"] for name in LANGUAGES}, "is_multilingual": True,
            "task_to_id": {"transcribe": words["<|transcribe|>"]}, "no_timestamps_token_id": words["<|notimestamps|>"],
            "suppress_tokens": list(range(words["<|notimestamps|>"], len(words))), "max_length": 64}
    config = read_json(base / "generation_config.json")
    config.pop("_from_model_config")  # else transformers makes it anew from config.json
    write_json(base / "generation_config.json", {**config, **told})
    tiny_tones(folder / "data" / "en" / "test", task="asr", n=10)
    return folder


def run(name, *words):
    result = subprocess.run([sys.executable, str(BENCH / name), *map(str, words)], capture_output=True, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_ours_beside_plain_scripts(made, tmp_path):
    run("models.py", "--model", made / "base", "--data", made / "data" / "en" / "test", "--work", tmp_path / "work",
        "--results", tmp_path, "--runs", "1", "--steps", "1", "--utterances", "8")
    rows = json.loads((tmp_path / "models.json").read_text())["rows"]
    assert len(rows) == 6 and {row["unit"] for row in rows.values()} == {"step of 8", "utterance, of 8"}
    for name, row in rows.items():  # equal texts, and equal losses of the first step, where both hear the same
        assert row["difference"] == (None if "dynamic" in name else ""), (name, row["difference"])
        assert min(row["ours"] + row["plain"]) > 0


@pytest.mark.slow
def test_contexts(made, tmp_path):
    run("models_context.py", "--model", made / "base", "--data", made / "data", "--sets", "en", "--contexts", "full", "2/1",
        "--results", tmp_path)
    lines = (tmp_path / "context.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["context", "full", "2/1 s"]
