"""The verb merge: where its results go, that they are used again, and what happens to them in accidents."""
import errno
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from adapters import make_adapter, make_base, merged_weights

import speechmerge
from speechmerge.cli import main
from speechmerge.errors import SpeechMergeError
from speechmerge.files import read_json, write_json
from speechmerge.merge import save

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verb")
    base = make_base(folder / "base")
    for seed, name in enumerate(("asr", "emotion", "kws")):
        make_adapter(base, folder / "exp" / name / "lora", seed=seed)
        write_json(folder / "exp" / name / "lora" / "speechmerge.json", {"task": name, "language": "en", "base": {}})
    return folder


@pytest.fixture
def recipe(made, tmp_path, monkeypatch):
    """A recipe's folder with three registered adapters; the working directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    write_json(
        "exp/adapters.json", {name: {"path": f"exp/{name}/lora", "task": name} for name in ("asr", "emotion", "kws")}
    )
    return tmp_path


def runs(method="weighted", combo="asr_emotion"):
    return sorted(Path("exp/merged", method, combo, "runs").glob("run_*"))


def merge(*words):
    return main(["merge", *words])


def test_registered_names_and_lambda(recipe, made, capsys):
    assert merge("--adapters", "asr", "emotion", "--method", "weighted", "--lambda", "0.5") == 0
    [run] = runs()
    metadata = read_json(run / "merge_metadata.json")
    assert metadata["tag"] == "weighted_l0.5_asr-emotion" in capsys.readouterr().out
    assert [(entry["name"], entry["task"], entry["path"]) for entry in metadata["adapters"]] == \
        [("asr", "asr", "exp/asr/lora"), ("emotion", "emotion", "exp/emotion/lora")]
    found, first, second = (
        merged_weights(made / "base", folder) for folder in (run, "exp/asr/lora", "exp/emotion/lora")
    )
    name = sorted(found)[0]
    assert (found[name] - (first[name] + second[name]) / 2).abs().max() < 2e-6


def test_a_finished_merge_is_used_again(recipe, capsys):
    words = ("--adapters", "asr,emotion", "--method", "weighted", "--lambda")
    assert merge(*words, "0.5") == merge(*words, "0.5") == 0
    assert "already merged" in capsys.readouterr().out and len(runs()) == 1
    assert merge(*words, "0.6") == 0 and len(runs()) == 2
    assert merge(*words, "0.5", "--force", "true") == 0 and len(runs()) == 3
    make_adapter(recipe / "base", "exp/asr/lora", seed=8)
    assert merge(*words, "0.5") == 0 and len(runs()) == 4
    (runs()[-1] / "adapter_model.safetensors").write_bytes(b"")
    assert merge(*words, "0.5") == 0 and len(runs()) == 5


def test_a_config_file_under_options(recipe):
    Path("my.yaml").write_text("method: ties\nadapters: [asr, kws]\nmethod_params: {k: 30, lambda: 0.7}\nrank: 4\n")
    assert merge("--config", "my.yaml", "--param", "k=50") == 0
    metadata = read_json(runs("ties", "asr_kws")[0] / "merge_metadata.json")
    assert (metadata["params"]["k"], metadata["params"]["lambda"], metadata["requested_rank"]) == (50.0, 0.7, 4)


def test_folders_that_share_a_name(recipe):
    assert merge("--adapters", "exp/asr/lora", "exp/kws/lora", "--output-dir", "out") == 0
    assert [entry["name"] for entry in read_json("out/merge_metadata.json")["adapters"]] == ["asr", "kws"]


@pytest.mark.parametrize(
    "words,status,message",
    [
        (("--adapters", "asr", "emotino"), 1, "emotion"),
        (("--adapters", "asr", "emotion", "--method", "tise"), 2, "did you mean 'ties'"),
        (
            ("--adapters", "asr", "emotion", "--method", "ties", "--param", "densty=0.2"),
            2,
            "unknown parameter 'densty'",
        ),
        (("--adapters", "asr", "emotion", "--method-params", "3"), 2, "expected a mapping"),
        (("--adapters", "asr", "emotion", "--rank", "4", "--save", "full"), 2, "--rank"),
        (("--adapters", "asr", "emotion", "--rank", "0"), 2, "--rank"),
        (
            ("--adapters", "asr", "emotion", "--method", "weighted", "--param", "coefficients=[1,2,3]"),
            2,
            "has 3 numbers, expected 2",
        ),
        (("--adapters", "base"), 2, "the base changes nothing"),
        (("--adapters", "asr", "emotion", "--output-dir", "exp"), 1, "exists and is no merge"),
    ],
)
def test_wrong_usage_is_one_line(recipe, capsys, words, status, message):
    assert merge(*words) == status
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
    assert (recipe / "exp" / "adapters.json").is_file()


def test_an_older_merge_stays_when_the_disk_is_full(recipe, monkeypatch):
    vector = speechmerge.merge(["exp/asr/lora", "exp/kws/lora"])
    vector.save("out")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(save, "write_json", full_disk)
    with pytest.raises(SpeechMergeError, match="out.*no space left"):
        (2 * vector).save("out")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert not [path for path in Path(".").glob(".out*") if path.is_dir()]


def test_kill_and_the_same_command_again(recipe):
    """Killed after the weights were written: nothing appears; the second try gives an undisturbed merge's files."""
    words = ["merge", "--adapters", "asr", "kws", "--method", "ties", "--rank", "4"]
    code = "import os, signal, sys; from speechmerge.merge import save; from speechmerge.cli import main\n" \
           "save.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nmain(sys.argv[1:])"
    killed = subprocess.run([sys.executable, "-c", code, *words], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    folder = Path("exp/merged/ties/asr_kws/runs")
    assert not runs("ties", "asr_kws") and list(folder.glob(".run_*.part"))
    assert main(words) == 0
    [run] = runs("ties", "asr_kws")
    assert not list(folder.glob(".run_*.part"))
    speechmerge.merge(["exp/asr/lora", "exp/kws/lora"], "ties", names=["asr", "kws"]).save("undisturbed", rank=4)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run / name).read_bytes() == Path("undisturbed", name).read_bytes()


def test_two_merges_into_one_folder_leave_one_whole_merge(recipe):
    vectors = [
        speechmerge.merge(["exp/asr/lora", "exp/kws/lora"], method="task_vector", scale=scale) for scale in (0.25, 0.5)
    ]
    for vector, name in zip(vectors, ("one", "two")):
        vector.save(name)
    whole = [Path(name, "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: vectors[index % 2].save("both"), range(12)))
    content = Path("both", "adapter_model.safetensors").read_bytes()
    assert content in whole
    assert read_json("both/merge_metadata.json")["params"]["scale"] == (0.25, 0.5)[whole.index(content)]


def test_evaluate_calls_evaluate_merged(recipe, monkeypatch):
    from speechmerge.stages import evaluate_merged

    seen = {}
    monkeypatch.setattr(evaluate_merged, "run", lambda args: seen.update(vars(args)))
    assert (
        merge(
            "--adapters",
            "asr",
            "emotion",
            "--method",
            "weighted",
            "--lambda",
            "0.5",
            "--evaluate",
            "--eval-split",
            "test",
            "--eval-options",
            "{data: there, audio_context: dynamic}",
        )
        == 0
    )
    assert (seen["adapter_path"], seen["split"], seen["data"], seen["audio_context"]) == (
        str(runs()[0]),
        "test",
        "there",
        "dynamic",
    )
    assert Path(seen["model"]).is_dir()


def test_help_needs_no_torch():
    code = "import sys\nfrom speechmerge.cli import main\ntry: main(['merge', '--help'])\n" \
           "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        ).returncode
        == 0
    )
