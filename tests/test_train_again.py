"""A training that is there is kept before torch is imported; anything that decides its result is noticed."""
import subprocess
import sys

import pytest
from tiny import tiny_tones, tiny_whisper

from speechmerge.cli import main
from speechmerge.errors import SpeechMergeError

LIGHT = """
import sys
from speechmerge.cli import main
status = main(sys.argv[1:])
heavy = [name for name in ("torch", "transformers", "peft") if name in sys.modules]
sys.exit(f"imported: {heavy}" if heavy else status)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("again")
    tiny_whisper(folder / "base")
    tiny_tones(folder / "kws" / "train", n=6)
    words = ["train", "--task", "kws", "--model", folder / "base", "--data", folder / "kws" / "train", "--device", "cpu",
             "--exp-dir", folder / "exp", "--max-steps", "1", "--batch-size", "2", "--rank", "2", "--report-to",
             "--audio-context", "dynamic", "--audio-context-min", "1"]
    words = [str(word) for word in words]
    assert main(words) == 0
    return folder, words


def test_kept_without_torch(trained):
    folder, words = trained
    before = (folder / "exp" / "kws" / "kws" / "adapter_model.safetensors").stat().st_mtime_ns
    (folder / "exp" / "adapters.json").unlink()
    result = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "already trained with the same data and options" in result.stdout
    assert (folder / "exp" / "kws" / "kws" / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert "kws" in (folder / "exp" / "adapters.json").read_text()


@pytest.fixture
def loading(monkeypatch):
    """Which models were asked for; none is loaded."""
    asked = []

    def refuse(args, records=()):
        asked.append(args.model)
        raise SpeechMergeError("not loaded in this test")

    monkeypatch.setattr("speechmerge.models.options.model_from", refuse)
    return asked


@pytest.mark.parametrize("change", [["--rank", "3"], ["--audio-context-min", "2"], ["--prompt", "what is it?"],
                                    ["--dtype", "bfloat16"], ["--force", "true"], ["--dev", "train"]])
def test_other_options_are_noticed(trained, change, loading):
    folder, words = trained
    assert main(words) == 0 and not loading
    assert main([*words, *(str(folder / "kws" / "train") if word == "train" else word for word in change)]) == 1
    assert len(loading) == 1


def test_other_inputs_and_lost_outputs_are_noticed(trained, loading):
    folder, words = trained
    for path in (folder / "kws" / "train" / "text", folder / "exp" / "kws" / "kws" / "adapter_model.safetensors"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-5] + (b"no\n" if path.name == "text" else b""))
        assert main(words) == 1
        path.write_bytes(whole)
    assert len(loading) == 2 and main(words) == 0
