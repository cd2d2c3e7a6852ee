"""utils/slurm.sh and utils/grid.sh on a real Slurm of two nodes, both this machine, which tools/slurm_local.sh starts.

Skipped only where Slurm is not installed and cannot be. The commands are cheap: what they would train is tested
elsewhere.
"""
import contextlib
import csv
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from tiny import tiny_tones, tiny_whisper

from speechmerge.files import read_json

ROOT = Path(__file__).resolve().parents[1]
TOOL, SLURM = ROOT / "tools/slurm_local.sh", ROOT / "utils/slurm.sh"


def free_ports() -> int:
    """The first of three ports in a row that nobody uses."""
    for _ in range(50):
        with contextlib.ExitStack() as stack:
            one, *others = (stack.enter_context(socket.socket()) for _ in range(3))
            one.bind(("127.0.0.1", 0))
            try:
                for number, other in enumerate(others, one.getsockname()[1] + 1):
                    other.bind(("127.0.0.1", number))
            except (OSError, OverflowError):
                continue
            return one.getsockname()[1]
    raise AssertionError("no three free ports in a row")


@pytest.fixture(scope="module")
def cluster():
    """The environment of a shell that submits."""
    installed = shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin")
    if not installed and (os.getuid() or not shutil.which("apt-get")):
        pytest.skip("Slurm is not installed (apt-get install slurm-wlm munge), and only root could do it now")
    state = tempfile.mkdtemp(prefix="slurm", dir="/tmp")  # short: the path of a socket has at most 107 bytes
    os.chmod(state, 0o755)
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin", "SPEECHMERGE_SLURM": state,
                   "SPEECHMERGE_SLURM_CPUS": "4", "SPEECHMERGE_SLURM_NODES": "2",
                   "SPEECHMERGE_SLURM_PORT": str(free_ports()), "SLURM_CONF": f"{state}/slurm.conf",
                   "OMP_NUM_THREADS": "1"}
    try:
        started = subprocess.run([TOOL, "start"], env=environment, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        pytest.skip("Slurm could not be installed and started within 4 minutes")
    if not shutil.which("slurmctld", path=environment["PATH"]):
        pytest.skip(f"Slurm cannot be installed: {started.stderr.strip()[-300:]}")
    try:
        assert started.returncode == 0, started.stderr
        yield environment
    finally:
        subprocess.run([TOOL, "stop"], env=environment, timeout=60)
        shutil.rmtree(state, ignore_errors=True)
        Path(f"{state}.lock").unlink(missing_ok=True)


class Shell:
    """Commands in one folder on one cluster."""

    def __init__(self, folder: Path, environment: dict):
        self.folder, self.environment = folder, environment
        (folder / "conf").mkdir()
        (folder / "conf/slurm.yaml").write_text("cpu: {mem: 10M, time: '5:00'}\n")

    def run(self, *command, timeout=60):
        return subprocess.run([str(word) for word in command], cwd=self.folder, env=self.environment,
                              capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, timeout=timeout)

    def start(self, *command):
        return subprocess.Popen([str(word) for word in command], cwd=self.folder, env=self.environment,
                                stderr=subprocess.PIPE, text=True,
                                start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def jobs(self) -> list[str]:
        return self.run("squeue", "-h", "-r", "-o", "%F_%K %T").stdout.splitlines()

    def text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def shell(cluster, tmp_path):
    shell = Shell(tmp_path, cluster)
    yield shell
    shell.run("scancel", "--me")


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_an_array_keeps_the_contract_of_the_local_back_end(shell):
    """One log per job, the last lines of the one that fails; --max-jobs-run 1: never two at once."""
    script = 'mkdir busy || exit 9; sleep 0.3; rmdir busy; echo "TASK $1 $OMP_NUM_THREADS"; [ TASK != kws ] || exit 7'
    words = ["TASK=asr,kws,slu", "CONFIG=1,2,3", "log/TASK.log", "sh", "-c", script, "-", "CONFIG $(id) 'q\" *"]
    result = shell.run(SLURM, "--max-jobs-run", "1", "--num-threads", "2", *words)
    local = shell.run(ROOT / "utils/local.sh", "--max-jobs-run", "1", "--num-threads", "2",
                      *[word.replace("log/", "here/") for word in words])
    assert (result.returncode, result.stdout) == (local.returncode, local.stdout) == (1, "")
    expected = local.stderr.replace("here/", "log/").replace("local.sh", "slurm.sh")
    assert sorted(result.stderr.splitlines()) == sorted(expected.splitlines())
    assert "asr 1 $(id) 'q\" * 2" in result.stderr

    def timeless(name):
        return [line for line in shell.text(name).splitlines() if not line.startswith("# ") or line.startswith("# sh ")]

    assert timeless("log/slu.log") == timeless("here/slu.log") and len(timeless("log/slu.log")) == 2
    assert "# Ended (code 7) at " in shell.text("log/kws.log")
    assert not list((shell.folder / "log").glob(".slurm"))


def test_a_dependency_waits_and_mails_are_sent(shell):
    (shell.folder / "conf/slurm.yaml").write_text("all: {mail_user: me@example.org, mail_type: [END, FAIL]}\n")
    first = shell.run(SLURM, "--no-wait", "JOB=1:2", "first.JOB.log", "sh", "-c",
                      "sleep 1; date +%s%N >>first").stdout.strip()
    assert first.isdigit()
    second = shell.run(SLURM, "--depend", first, "second.log", "sh", "-c", "date +%s%N >second")
    assert second.returncode == 0, second.stderr
    assert max(int(line) for line in shell.text("first").split()) < int(shell.text("second"))
    mail = Path(shell.environment["SPEECHMERGE_SLURM"]) / "log/mail.log"
    wait_for(lambda: mail.exists() and "me@example.org" in mail.read_text())
    broken = shell.run(SLURM, "--no-wait", "broken.log", "false").stdout.strip()
    result = shell.run(SLURM, "--depend", broken, "never.log", "touch", "never")
    assert result.returncode == 1 and "job failed with status 143 (CANCELLED, Dependency" in result.stderr
    assert not (shell.folder / "never").exists() and "slurm.sh: 1 / 1 failed" in result.stderr
    wait_for(lambda: "Failed" in mail.read_text())


COUNT = """i=$(cat steps.JOB 2>/dev/null || echo 0)
while [ "$i" -lt 4 ]; do
    i=$((i + 1)); echo "step $i"; echo $i >next.JOB; mv next.JOB steps.JOB; sleep 0.5
done"""


def test_a_requeued_job_goes_on_where_it_was(shell):
    process = shell.start(SLURM, "JOB=1:2", "x.JOB.log", "sh", "-c", COUNT)
    wait_for(lambda: shell.text("steps.2").strip() == "2")
    [job] = [line.split("_")[0] for line in shell.jobs() if line.split()[0].endswith("_2")]
    assert shell.run("scontrol", "requeue", f"{job}_2").returncode == 0  # what preemption and the loss of a node do
    assert process.wait(timeout=60) == 0, process.stderr.read()
    log = shell.text("x.2.log")
    assert log.count("# Started at") == 2 and log.count("step 1\n") == 1 and log.count("step 4\n") == 1
    assert "# Interrupted by Slurm" in log and log.splitlines()[-1].startswith("# Ended (code 0)")
    assert shell.text("x.1.log").count("# Started at") == 1


def test_interrupts_and_scancel_end_the_jobs(shell):
    process = shell.start(SLURM, "JOB=1:2", "x.JOB.log", "sh", "-c", "echo $$; sleep 300")
    wait_for(lambda: len(shell.text("x.2.log").splitlines()) > 2 and len(shell.text("x.1.log").splitlines()) > 2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert shell.jobs() == []
    pid = shell.text("x.1.log").splitlines()[2]
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    process = shell.start(SLURM, "y.log", "sleep", "300")
    wait_for(lambda: any("RUNNING" in line for line in shell.jobs()))
    shell.run("scancel", shell.jobs()[0].split("_")[0])
    assert process.wait(timeout=30) == 1
    message = process.stderr.read()
    assert "job failed with status 143" in message and "slurm.sh: 1 / 1 failed, logs: y.log" in message


def test_what_slurm_refuses_is_said(shell):
    result = shell.run(SLURM, "--partition", "nowhere", "x.log", "true")
    assert result.returncode == 1 and "invalid partition" in result.stderr
    assert result.stderr.splitlines()[-1] == "slurm.sh: sbatch refused the jobs, its reason stands above"
    assert not shell.jobs()


ASKED = """
all: {comment: study, nice: 10, exclude: node2, nodelist: node1, mail_user: me@example.org, partition: main, qos: normal,
      account: lab, array_limit: 3, extra: [--exclusive]}
cpu: {mem: 100M, time: "0:30"}
"""


def test_slurm_understands_every_option(shell):
    """What can only be had on other clusters is refused by its name, not as an option that there is none of."""
    (shell.folder / "asked.yaml").write_text(ASKED)
    words = shell.run("python", "-m", "speechmerge.grid.slurm_options", "asked.yaml", "--num-threads", "2", "--requeue")
    limit, *options = words.stdout.splitlines()
    assert limit == "3" and len(options) == 13
    found = shell.run("sbatch", "--test-only", f"--array=1-9%{limit}", *options, "--wrap", "true")
    assert found.returncode == 0 and "using 4 processors on nodes node1 in partition main" in found.stderr
    found = shell.run("sbatch", "--test-only", "--nodes=2", "--ntasks-per-node=1", "--wrap", "true")
    assert found.returncode == 0 and "on nodes node[1-2]" in found.stderr
    for option, reason in (("constraint: a100", "Invalid feature"), ("reservation: mine", "reservation is invalid"),
                           ("gres: 'gpu:a100:1'", "Invalid generic resource")):
        (shell.folder / "asked.yaml").write_text(f"gpu: {{gres: '', {option}, mem: 10M, time: '1:00'}}")
        found = shell.run(SLURM, "--gpu", "1", "--config", "asked.yaml", "x.log", "true")
        assert found.returncode == 1 and reason in found.stderr, found.stderr


TRAINING = """
phases:
  train:
    axes: {language: [it]}
    commands:
      - [torchrun.sh, --processes, "{processes}", train, --task, kws, --name, "{language}", --model, base, --data, data,
         --audio-context, dynamic, --audio-context-min, 0.5, --rank, 2, --batch-size, 6, --max-steps, 2, --report-to,
         --exp-dir, "{exp_dir}", --output-dir, "{exp_dir}/{language}", --device, "{device}"]
    outputs: ["{exp_dir}/{language}/done.json"]
    resources: {mem: 10M, nodes: 2, processes: 1}
"""


@pytest.mark.slow
def test_two_nodes_train_one_adapter(shell):
    tiny_whisper(shell.folder / "base")
    tiny_tones(shell.folder / "data", n=6)
    (shell.folder / "grid.yaml").write_text(TRAINING)
    result = shell.run(ROOT / "utils/grid.sh", "grid.yaml", "--backend", "slurm", timeout=280)
    log = shell.text("exp/grid/grid/train/log/it.log")
    assert result.returncode == 0, result.stderr + log
    assert "2 processes share each batch of 6 utterances" in log and log.count("it: 6 utterances, step 2 of 2") == 1
    assert read_json(shell.folder / "exp/it/speechmerge.json")["batch"]["processes"] == 2
    assert "train --task kws" in shell.run(ROOT / "utils/grid.sh", "grid.yaml", "--dry-run", "true").stdout
    assert "nothing to run" in grid(shell).stderr


GRID = """
phases:
  train:
    axes: {model: [a, b], language: [hi, it], rank: [4]}
    values: {out: "out/{model}_{language}"}
    commands:
      - - sh
        - -c
        - 'mkdir -p "$0"; echo run >>"$0/runs"; while [ {model} = b ] && [ -e hold ]; do sleep 0.1; done; test "$0" != "$(cat broken)"'
        - "{out}"
      - - python
        - -c
        - 'import json, sys; json.dump({"dev": {"wer": len(sys.argv[1]) / 100}}, open(sys.argv[1] + "/r.json", "w"))'
        - "{out}"
    outputs: ["{out}/r.json"]
    results: {wer: ["{out}/r.json", dev, wer]}
    resources: {mem: 10M, max_jobs: 2}
  merge:
    needs: [train]
    axes: {method: [ties]}
    commands: [[sh, -c, "cat out/*/runs >merged.{method}"]]
    outputs: ["merged.{method}"]
"""
CELLS = [f"out/{model}_{language}" for model in "ab" for language in ("hi", "it")]


def grid(shell, *options):
    return shell.run(ROOT / "utils/grid.sh", "grid.yaml", "--backend", "slurm", *options)


def finished_cells(shell) -> dict:
    """When each of them was done, as its file says and as the disk does."""
    return {path.parent.name: (path.stat().st_mtime_ns, path.read_bytes())
            for path in shell.folder.glob("exp/grid/grid/*/cells/*/done.json")}


def runs(shell) -> list[int]:
    return [len(shell.text(f"{cell}/runs").split()) for cell in CELLS]


def test_a_grid_repeats_only_what_failed(shell):
    (shell.folder / "grid.yaml").write_text(GRID)
    (shell.folder / "broken").write_text("out/b_hi")
    result = grid(shell)
    assert result.returncode == 1
    assert "log is in exp/grid/grid/train/log/b_hi_rank4.log" in result.stderr
    assert "slurm.sh: 1 / 4 failed" in result.stderr
    assert runs(shell) == [1, 1, 1, 1] and not (shell.folder / "merged.ties").exists()
    state = shell.run(ROOT / "utils/jobs.sh", "grid.yaml").stdout
    assert "grid train: 3 done, 1 failed of 4" in state and "b_hi_rank4: failed (status 1)" in state
    assert "grid merge: 1 missing of 1" in state
    (shell.folder / "broken").write_text("")
    result = grid(shell)
    assert result.returncode == 0, result.stderr
    assert runs(shell) == [1, 1, 2, 1] and len(shell.text("merged.ties").split()) == 5
    rows = list(csv.DictReader((shell.folder / "exp/grid/grid/results.csv").open()))
    assert [row["wer"] for row in rows] == ["0.08", "0.08", "0.08", "0.08",
                                            ""] and {row["state"] for row in rows} == {"done"}
    assert "nothing to run" in grid(shell).stderr and runs(shell) == [1, 1, 2, 1]


def test_a_grid_goes_on_after_scancel_in_the_middle(shell):
    (shell.folder / "grid.yaml").write_text(GRID)
    (shell.folder / "broken").write_text("")
    (shell.folder / "hold").write_text("")  # as long as it is there, the jobs of model b do not end
    submitted = grid(shell, "--wait", "false").stdout.split()
    assert len(submitted) == 2 and all(job.isdigit() for job in submitted)
    state = shell.run(ROOT / "utils/jobs.sh", "grid.yaml").stdout
    assert f"jobs {submitted[0]}" in state and "pending" in state
    assert "nothing to run, jobs" in grid(shell, "--wait", "false").stderr  # not submitted twice
    wait_for(lambda: runs(shell) == [1, 1, 1, 1] and len(finished_cells(shell)) == 2)
    shell.run("scancel", submitted[0])
    wait_for(lambda: not shell.jobs())  # what waited for it (DependencyNeverSatisfied) is gone, too
    kept = finished_cells(shell)
    assert set(kept) == {"a_hi_rank4", "a_it_rank4"} and not (shell.folder / "merged.ties").exists()
    state = shell.run(ROOT / "utils/jobs.sh", "grid.yaml").stdout
    assert "grid train: 2 done, 2 failed of 4" in state and "grid merge: 1 missing of 1" in state
    table = shell.run("python", "-m", "speechmerge", "report", "--aggregate", "grid.yaml")
    assert table.returncode == 0, table.stderr
    rows = list(csv.DictReader((shell.folder / "exp/grid/grid/results.csv").open()))
    assert [row["wer"] for row in rows] == ["0.08", "0.08", "", "", ""]
    (shell.folder / "hold").unlink()
    result = grid(shell)
    assert result.returncode == 0, result.stderr
    assert kept.items() <= finished_cells(shell).items() and len(finished_cells(shell)) == 5
    assert runs(shell) == [1, 1, 2, 2] and len(shell.text("merged.ties").split()) == 6
