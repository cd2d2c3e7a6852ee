"""The benchmarks run, on models of a few layers, and say what they should; no times are asserted."""
import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCH = Path(__file__).parents[1] / "tools" / "bench"
SCRIPTS = sorted(BENCH.glob("*.py"))
PROGRAMS = [path for path in SCRIPTS if path.name not in ("measure.py", "reference.py")]


@pytest.fixture(scope="module", autouse=True)
def modules():
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("bench")
    run("make_models.py", "tiny", "--work", work)
    return work / "tiny"


def run(name, *words, status=0):
    result = subprocess.run([sys.executable, str(BENCH / name), *map(str, words)], capture_output=True, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def rows(results, name):
    return json.loads((results / f"{name}.json").read_text())["rows"]


@pytest.mark.parametrize("path", [*SCRIPTS, *sorted((BENCH / "agreement").glob("*.py"))], ids=lambda path: path.stem)
def test_scripts_parse_and_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help(path):
    assert "usage:" in run(path.name, "--help")


def test_installer_help():
    result = subprocess.run(["bash", str(BENCH / "install_peers.sh"), "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "tools/bench/install_peers.sh" in result.stdout
    assert subprocess.run(["bash", str(BENCH / "install_peers.sh"), "-x"], capture_output=True).returncode == 2


def test_models_load_and_are_the_same_again(made, tmp_path):
    from transformers import HubertModel, WhisperForConditionalGeneration

    for kind, folder in ((HubertModel, "hubert/bf16/asr"), (WhisperForConditionalGeneration, "whisper-tiny/base")):
        _, info = kind.from_pretrained(made / folder, output_loading_info=True)
        assert not any(info.values()), (folder, info)
    run("make_models.py", "tiny", "--work", tmp_path)
    for path in sorted(made.rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "tiny" / path.relative_to(made)).read_bytes(), path
    about = make_models().linear_modules("small")
    assert len(about) == 192 and about["model.decoder.layers.11.encoder_attn.v_proj"] == (768, 768)
    assert len(make_models().linear_modules("large-v3")) == 512


def make_models():
    return importlib.import_module("make_models")


@pytest.mark.slow
def test_full_models(made, tmp_path):
    words = ["--work", made, "--results", tmp_path, "--models", "hubert", "--dtypes", "fp32", "--runs", "2", "--cpus", "1",
             "--methods", "linear", "ties", "--contenders", "ours", "floor"]
    run("full_models.py", *words)
    found = rows(tmp_path, "full_models")
    assert list(found) == [f"hubert/fp32/1/{method}" for method in ("linear", "ties")]
    for name, row in found.items():
        for contender, record in row["contenders"].items():
            statuses = [sample["status"] for sample in record["samples"]]
            assert statuses == [0, 0], (name, contender, record)
    assert "ours, whole vector" in found["hubert/fp32/1/ties"]["contenders"]
    assert "private MB" in (tmp_path / "full_models.md").read_text()


def test_comparing_two_models(made):
    base, asr, emotion = (made / "hubert" / "fp32" / name for name in ("base", "asr", "emotion"))
    same = json.loads(run("compare_models.py", base, asr, asr))
    assert same["relative"] == same["differing"] == 0 and not same["lost_keys"]
    # independent parts of deviation 1, a common part of 0.4: |a - b| / |b| is the root of 2 / 1.16
    other = json.loads(run("compare_models.py", base, asr, emotion))
    assert other["relative"] == pytest.approx((2 / 1.16) ** 0.5, rel=0.1) and other["differing"] > other["elements"] / 2


@pytest.mark.slow
def test_lora(made, tmp_path):
    run("lora.py", "--work", made, "--size", "tiny", "--results", tmp_path, "--runs", "1", "--cpus", "1",
        "--groups", "svd", "linear", "ties")
    found = rows(tmp_path, "lora")
    svd = found["tiny/svd/1"]
    for name in ("ours", "peft svd"):  # both reach the error that no adapter of this rank can be below
        errors = svd[name]["errors"]
        assert errors["error"] == pytest.approx(errors["least"], rel=1e-4) and errors["error"] > 0.01
    linear = found["tiny/linear/1"]  # PEFT's linear is not the sum, and ours in its mode is what it is
    assert linear["peft linear"]["errors"]["error"] > 1
    same, theirs = (linear[name]["errors"]["error"] for name in ("ours, mode factors", "peft linear"))
    assert same == pytest.approx(theirs, rel=1e-3)
    ties = found["tiny/ties/1"]
    for name in ("ours", "ours, whole vector"):
        assert ties[name]["errors"]["error"] == pytest.approx(ties[name]["errors"]["least"], rel=1e-3), name


def test_reference_against_golden_values(tmp_path):
    """TIES of the published example: k 40 %, three task vectors of five values."""
    reference = importlib.import_module("reference")

    class Given:
        modules = ["m"]

        def __init__(self, row):
            self.row = np.array([row])

        def delta(self, module):
            return self.row

    given = [Given(row) for row in ([.9, -.1, .4, 0, -.5], [-.8, .2, .3, .6, -.4], [.2, -.7, .1, -.5, .05])]
    assert reference.ties(given, "m", 0.4).tolist() == [[.9, -.7, 0, .6, -.5]]
    assert reference.ties(given, "m", 0.4, reference.whole_thresholds(given, 0.4)).tolist() == [[.9, -.7, 0, .6, -.5]]
    matrix = np.diag([4.0, 2.0, 1.0])
    assert reference.best_error(matrix, 1) == pytest.approx(5) and reference.best_error(matrix, 3) == pytest.approx(0)


@pytest.mark.slow
def test_scale_goes_on_where_it_stopped(tmp_path):
    words = ["--work", tmp_path / "work", "--results", tmp_path, "--modules", "2", "--cpus", "1", "--numbers", "2", "3"]
    assert run("scale.py", *words, "--runs", "1").count("run 1/1") == 2
    assert run("scale.py", *words, "--runs", "1").count("run 1/1") == 0
    assert run("scale.py", *words, "--runs", "2").count("run 2/2") == 2
    assert {key: len(row["samples"]) for key, row in rows(tmp_path, "scale").items()} == \
        {"all/2/1/02": 2, "all/2/1/03": 2}
    assert (tmp_path / "scale.png").stat().st_size > 5000 and len((tmp_path / "scale.csv").read_text().splitlines()) == 5


def test_memory_and_failures_of_a_process(tmp_path):
    measure = importlib.import_module("measure")
    hungry = "import time; kept = bytearray(300_000_000); kept[::4096] = b'x' * len(kept[::4096]); time.sleep(0.3)"
    sample = measure.run(measure.Contender([sys.executable, "-c", hungry]), 1, tmp_path)
    assert sample.status == 0 and 300 <= sample.private <= 400 and sample.rss >= sample.private
    failing = measure.run(measure.Contender([sys.executable, "-c", "raise SystemExit('no luck')"]), 1, tmp_path)
    assert (failing.status, failing.error) == (1, "no luck")
    assert measure.run(measure.Contender(["/nowhere/peer"]), 1, tmp_path).error == "peer: not installed"


@pytest.mark.slow
def test_agreement_with_peft(tmp_path):
    said = run("agreement.py", "--peers", "peft", "--only", "cat", "--results", tmp_path)
    assert "differs as intended" in said and "| same " in said


def test_agreement_notices_what_nobody_explained():
    cases = importlib.import_module("agreement.cases")
    plain, reasoned = (cases.Row("a", "b", "c", because, None) for because in ("", "they add one"))
    assert plain.verdict(cases.Finding(1e-8)) == ("same", True) and not plain.verdict(cases.Finding(1e-3))[1]
    assert reasoned.verdict(cases.Finding(0.1, 1e-8))[1] and not reasoned.verdict(cases.Finding(0.1, 1e-3))[1]
    assert not reasoned.verdict(cases.Finding(1e-8, 1e-8))[1]  # a difference that is no longer there
    ones = {"w": torch.ones(2)}
    assert cases.difference({"v": torch.ones(2)}, ones) == float("inf")
    assert cases.difference({"w": torch.tensor([1.0, 1.5])}, ones) == 0.5


def test_one_benchmark_at_a_time(tmp_path):
    measure = importlib.import_module("measure")
    measure.alone(tmp_path)
    code = f"import measure; from pathlib import Path; measure.alone(Path({str(tmp_path)!r}))"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=BENCH)
    assert second.returncode == 1 and "another benchmark is running" in second.stderr
