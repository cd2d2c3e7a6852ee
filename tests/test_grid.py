"""Grids: what a file becomes, what is refused, what is run again; the shell around it, with a stand-in for Slurm."""
import csv
import json
import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from speechmerge.cli import main, parse, verb_module
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import lock
from speechmerge.grid import cells as state_of
from speechmerge.grid.cells import run_planned, write_plan
from speechmerge.grid.expand import cells
from speechmerge.grid.file import in_order, read_grid
from speechmerge.grid.queue import queue, queued
from speechmerge.grid.slurm_options import main as slurm_options
from speechmerge.report.aggregate import aggregate, csv_text, markdown, pick

ROOT = Path(__file__).resolve().parents[1]
GRIDS = sorted(ROOT.glob("egs/*/conf/grid/*.yaml"))


def grid_file(folder: Path, phases: dict, **more) -> Path:
    path = folder / "g.yaml"
    path.write_text(yaml.safe_dump({"exp_dir": str(folder / "exp"), "phases": phases, **more}, sort_keys=False))
    return path


def phase(folder: Path, **keys):
    return read_grid(grid_file(folder, {"p": {"commands": [["true"]], **keys}}))["p"]


# ---- what a file becomes

def test_cells_are_numbered_with_the_last_axis_fastest(tmp_path):
    made = cells(phase(tmp_path, axes={"model": ["s", "m"], "language": ["hi", "it"], "rank": [8, 16]},
                       exclude=[{"model": "m", "rank": 8}]))
    assert [(cell.number, cell.name) for cell in made] == [
        (1, "s_hi_rank8"), (2, "s_hi_rank16"), (3, "s_it_rank8"), (4, "s_it_rank16"), (5, "m_hi_rank16"),
                                                           (6, "m_it_rank16")]
    assert made[0].axes == {"model": "s", "language": "hi", "rank": 8}


def test_values_are_words_and_never_shell_text(tmp_path):
    hostile = "$(touch evil); 'x' \"y\" {Rank} *"
    made = phase(tmp_path, axes={"model": [{"name": "s", "path": hostile, "layers": ["q", "k v"]}], "rank": [1e-4],
                                 "flag": [True]},
                 values={"out": "exp/{model}_r{rank}", "list": ["{model}", 3], "again": "{list}"}, cell="{model}",
                 commands=[["tool", "--x={model.path}", "{model.layers}", "{flag}", "{out}/a", "{again}", "{k: 20}",
                            "{device}", "{exp_dir}"]])
    [cell] = cells(made)
    assert cell.commands == [["tool", f"--x={hostile}", "q", "k v", "true", "exp/s_r0.0001/a", "s", "3", "{k: 20}",
                              "cpu", str(tmp_path / "exp")]]
    [other] = cells(made, gpus=2)
    assert other.commands[0][-2] == "cuda" and other.key == cell.key  # done is done, on whatever device


def test_pairs_and_rows_of_the_table(tmp_path):
    made = cells(phase(tmp_path, axes={"source": ["a", "b", "c"], "target": ["a", "b", "c"]},
                       exclude=[{"target": "{source}"}],
                       each={"system": [{"name": "own", "key": "{language}"}, {"name": "base", "key": "base"}],
                             "language": ["hi", "it"]},
                       results={"wer": ["s_{source}.json", "{system.key}", "{language}"]}))
    assert [cell.name for cell in made] == ["a_b", "a_c", "b_a", "b_c", "c_a", "c_b"]
    assert made[0].rows[:3] == [({"system": "own", "language": "hi"}, {"wer": ["s_a.json", "hi", "hi"]}),
                                ({"system": "own", "language": "it"}, {"wer": ["s_a.json", "it", "it"]}),
                                ({"system": "base", "language": "hi"}, {"wer": ["s_a.json", "base", "hi"]})]


@pytest.mark.parametrize("keys, message", [
    ({"axes": {"language": ["hi", False]}}, "axes: language: expected values of one type"),
    ({"axes": {"language": ["hi", None]}}, "expected values of one type"),
    ({"axes": {"language": []}}, "axes: language: expected a [list] of values"),
    ({"axes": {"model": [{"path": "x"}]}}, "axes: model: expected a name and the same keys"),
    ({"axes": {"model": [{"name": "a", "x": 1}, {"name": "b"}]}}, "the same keys in each"),
    ({"axes": {"device": ["cpu"]}}, "'device' is reserved"),
    ({"axes": {"a b": [1]}}, "'a b' is no name for a axis"),
    ({"axes": {"rank": [1]}, "values": {"rank": 2}}, "'rank' is an axis"),
    ({"axes": {"rank": [1]}, "exclude": [{"rnak": 1}]}, "there is no axis 'rnak'; did you mean 'rank'?"),
    ({"axes": {"rank": [1]}, "exclude": [{"rank": 1}]}, "exclude leaves no cell"),
    ({"axes": {"rank": [1, 2]}, "cell": "x"}, "two cells are called x"),
    ({"axes": {"name": ["../up"]}}, "is no name for a cell"),
    ({"axes": {"rank": [8]}, "commands": [["x", {"rank": None}]]}, 'found {rank} without quotes, expected "{rank}"'),
    ({"commands": ["train --rank 8"]}, "commands: 1: expected a [list] of words"),
    ({"commands": []}, "commands: expected a list of [lists, of, words]"),
    ({"axes": {"rank": [8]}, "commands": [["x", "{rnak}"]]}, "there is no {rnak}; did you mean 'rank'?"),
    ({"values": {"l": ["a", "b"]}, "commands": [["--x={l}"]]}, "{l} is a list and can only be a word of its own"),
    ({"command": [["x"]]}, "unknown key 'command'; did you mean 'commands'?"),
    ({"needs": ["train"]}, "needs: there is no phase 'train'"),
    ({"needs": ["p"]}, "needs itself"),
    ({"resources": {"time": 86400}}, 'resources: time: expected one word in quotes, as "24:00:00", found 86400'),
    ({"resources": {"gpu": 1}}, "resources: unknown key 'gpu'; did you mean 'gpus'?"),
    ({"resources": {"mem": "64 G"}}, "resources: mem: expected one word, found '64 G'"),
    ({"results": {"wer": ["x.json"]}}, "results: wer: expected [file.json, key, ...]"),
])
def test_wrong_files(keys, message, tmp_path):
    path = grid_file(tmp_path, {"p": {"commands": [["true"]], **keys}})
    with pytest.raises(UsageError) as error:
        for one in in_order(path):
            cells(one)
    assert message in str(error.value) and "g.yaml" in str(error.value)


def test_yaml_reads_an_unquoted_time_as_a_number(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text("phases: {p: {commands: [[x]], resources: {time: 24:00:00}}}")
    with pytest.raises(UsageError, match="in quotes"):
        read_grid(path)


def test_phases_come_after_what_they_need_also_of_other_files(tmp_path):
    other = tmp_path / "first.yaml"
    other.write_text("exp_dir: x\n"
                     "phases: {b: {needs: [a], commands: [[x]]}, a: {commands: [[x]]}, c: {commands: [[x]]}}")
    path = grid_file(tmp_path, {"late": {"needs": ["first.yaml:b"], "commands": [["x"]]},
                                "all": {"needs": ["first.yaml"], "commands": [["x"]]}})
    assert [(one.grid, one.name) for one in in_order(path, only=["late"])] == [("first", "a"), ("first", "b"),
                                                                               ("g", "late")]
    assert [one.name for one in in_order(path)] == ["a", "b", "late", "c", "all"]
    assert {one.exp_dir for one in in_order(path, {"exp_dir": "y"})} == {"y"}
    with pytest.raises(UsageError, match="no value 'seeed' to change"):
        in_order(path, {"seeed": 1})


# ---- the shipped grids

def test_phase_one_is_the_grid_of_eighty():
    [train, *_] = in_order(ROOT / "egs/ai4bharat/conf/grid/phase1.yaml")
    made = cells(train)
    assert len(made) == 80 and train.resources["gpus"] == 1
    words = made[16 * 3 + 4 * 2 + 1].commands[0]  # the array's arithmetic: model, language, rank
    assert made[57].name == "owsm-small_pa_rank16"
    assert words[words.index("--rank") + 1] == "16" and words[words.index("--model") + 1] == "espnet/owsm_v4_small_370M"
    assert len(cells(in_order(ROOT / "egs/ai4bharat/conf/grid/phase3.yaml", only=["transfer"])[-1])) == 5 * 16


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_commands_of_shipped_grids_are_verbs_with_their_options(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    for one in in_order(path.relative_to(path.parents[2])):
        made = cells(one)
        for cell in {tuple(command[0] for command in cell.commands): cell for cell in made}.values():
            for command in cell.commands:
                if command[0] == "speechmerge":
                    parse(command[1], verb_module(command[1]), command[2:])
                else:
                    assert os.access(command[0], os.X_OK)


# ---- running, and running again

def test_a_cell_is_run_once_and_again_where_its_command_or_output_changed(tmp_path, capfd):
    out = tmp_path / "out.json"
    command = ["sh", "-c", 'echo run >>"$0.runs"; echo "{\\"wer\\": 0.$1}" >"$0"', str(out), "{rank}"]

    def cell(**keys):
        return cells(phase(tmp_path, axes={"rank": [8]}, commands=[command], outputs=[str(out)],
                           results={"wer": [str(out), "wer"], "none": [str(out), "cer"]}, **keys))[0]

    def runs():
        write_plan(cell())
        run_planned(cell().folder)
        return len((tmp_path / "out.json.runs").read_text().split())

    assert state_of.state(cell(), {}) == ("missing", "")
    assert (runs(), runs()) == (1, 1) and "rank8: done before" in capfd.readouterr().out
    assert state_of.state(cell(), {}) == ("done", "")
    out.unlink()
    assert state_of.state(cell(), {})[0] == "missing" and runs() == 2
    command[-1] = "9"
    assert state_of.state(cell(), {}) == ("missing", "its command or its outputs have changed") and runs() == 3
    [row] = aggregate([cell().phase])
    assert (row["wer"], row["state"], "none" in row) == (0.9, "done", False)


def test_failures_and_what_is_at_work(tmp_path):
    def cell(*command, **keys):
        made = cells(phase(tmp_path, commands=[list(command)], **keys))[0]
        write_plan(made)
        return made

    with pytest.raises(SpeechMergeError, match=r"cell p: `sh -c 'exit 3'` failed with status 3"):
        run_planned(cell("sh", "-c", "exit 3").folder)
    with pytest.raises(SpeechMergeError, match="cell p: no-such-program: cannot be started"):
        run_planned(cell("no-such-program").folder)
    with pytest.raises(SpeechMergeError, match="its commands ended well, but .*nothing is not there"):
        run_planned(cell("true", outputs=[str(tmp_path / "nothing")]).folder)
    made = cell("true")
    made.log.parent.mkdir(parents=True)
    made.log.write_text("# true\n# Started at\n")
    assert state_of.state(made, {}) == ("failed", "killed")
    made.log.write_text("# Started at\n# Ended (code 3) at\n")
    assert state_of.state(made, {}) == ("failed", "status 3")
    with lock(made.folder / "cell"):
        assert state_of.state(made, {}) == ("running", "")
    assert state_of.state(made, {"p": "pending"}) == ("pending", "")


def test_tables(tmp_path):
    rows = [{"grid": "g", "phase": "a", "cell": "x", "rank": 8, "wer": 0.123456, "state": "done", "remark": ""},
            {"grid": "g", "phase": "b", "cell": "y|z", "method": "ties", "state": "missing", "remark": ""}]
    assert list(csv.DictReader(csv_text(rows).splitlines()))[1] == {
        "grid": "g", "phase": "b", "cell": "y|z", "rank": "", "wer": "", "method": "ties", "state": "missing"}
    assert markdown(rows).splitlines()[2:] == ["| g | a | x | 8 | 0.1235 |  | done |",
                                               "| g | b | y\\|z |  |  | ties | missing |"]
    data = {"systems": [{"name": "base", "scores": [0.5, None]}]}
    assert pick(data, ["systems", "base", "scores", "0"], "f") == 0.5
    for keys, message in ((["systems", "ties"], "not among the 1"), (["x"], "not there"),
                          (["systems"], "expected one value")):
        with pytest.raises(SpeechMergeError, match=message):
            pick(data, keys, "f")


# ---- the shell, here

def shell(*command, cwd, path="", **environment):
    return subprocess.run([str(word) for word in command], cwd=cwd, text=True, capture_output=True, timeout=60,
                          stdin=subprocess.DEVNULL,
                          env={**os.environ, "OMP_NUM_THREADS": "2", "PATH": path + os.environ["PATH"], **environment})


def test_a_grid_on_this_machine(tmp_path):
    train = ["sh", "-c", "echo {rank} >>ran; test ! -e broken{rank}"]
    grid_file(tmp_path, {"train": {"axes": {"rank": [4, 8]}, "commands": [train]},
                         "merge": {"needs": ["train"], "commands": [["sh", "-c", "echo merge >>ran"]]}})
    (tmp_path / "broken8").touch()
    dry = shell(ROOT / "utils/grid.sh", "g.yaml", "--dry-run", "true", cwd=tmp_path)
    assert dry.returncode == 0 and "# 2 rank8: missing\nsh -c 'echo 8 >>ran; test ! -e broken8'" in dry.stdout
    assert not (tmp_path / "exp").exists()
    first = shell(ROOT / "utils/grid.sh", "g.yaml", "--max-jobs-run", "1", cwd=tmp_path)
    assert first.returncode == 1 and (tmp_path / "ran").read_text().split() == ["4", "8"]
    assert "train/log/rank8.log" in first.stderr and first.stderr.splitlines()[-1].startswith("grid.sh: train failed")
    (tmp_path / "broken8").unlink()
    second = shell(ROOT / "utils/grid.sh", "g.yaml", cwd=tmp_path)
    assert second.returncode == 0 and (tmp_path / "ran").read_text().split() == ["4", "8", "8", "merge"]
    assert second.stdout.strip().endswith("results.csv: 3 done of 3 cells, 3 rows")
    assert "g train: 2 done of 2\n" in shell(ROOT / "utils/jobs.sh", "g.yaml", cwd=tmp_path).stdout
    for words, message in ((["--wait", "false"], "only for --backend slurm"),
                           (["--backend", "pbs"], "expected one of local, slurm"),
                           (["--gpus", "x"], "expected a whole number")):
        refused = shell(ROOT / "utils/grid.sh", "g.yaml", *words, cwd=tmp_path)
        assert refused.returncode == 2 and message in refused.stderr


# ---- the shell, with a stand-in for Slurm

@pytest.fixture
def slurm(tmp_path):
    """Folder in front of PATH: its sbatch writes its words to `sbatch` and runs nothing, its squeue prints `squeue`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": f'printf "%s\\n" "$@" >>"{tmp_path}/sbatch"; echo "42;here"',
                       "squeue": f'cat "{tmp_path}/squeue"',
                       "scancel": "exit 0"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755 | stat.S_IXUSR)
    return f"{folder}:"


def test_what_is_asked_of_sbatch(slurm, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.yaml").write_text(
        'all: {account: acc, mail_user: me@x.org, extra: [--nodes=1]}\n'
        'gpu: {partition: gpu-a100, gres: "gpu:a100:{gpus}", time: "1-12:00:00"}\n')
    result = shell(ROOT / "utils/slurm.sh", "--gpu", "2", "--mem", "64GB", "--max-jobs-run", "3", "--num-threads", "4",
                   "--depend", "7,8", "--no-wait",
                   "JOB=1:9", "log 100%/x y.JOB.log", "echo", "a JOB", cwd=tmp_path, path=slurm)
    assert (result.returncode, result.stdout) == (0, "42\n"), result.stderr
    words = (tmp_path / "sbatch").read_text().splitlines()
    assert words[:4] == ["--parsable", "--array=1-9%3", "--job-name=x y", "--open-mode=append"]
    assert words[4].startswith(f"--output={tmp_path}/log 100%%/.slurm/") and words[4].endswith("/%a.out")
    assert words[5:-1] == ["--cpus-per-task=4", "--gres=gpu:a100:2", "--requeue", "--account=acc",
                           "--mail-type=END,FAIL", "--mail-user=me@x.org",
                           "--mem=64G", "--partition=gpu-a100", "--time=1-12:00:00", "--nodes=1",
                           "--dependency=afterok:7:8",
                           "--kill-on-invalid-dep=yes"]
    script = Path(words[-1])
    assert shlex.split(script.read_text().splitlines()[1])[1:] == [str(ROOT / "utils/slurm.sh"), "--run-job",
                                                                   str(script.parent)]
    job = shell("bash", script, cwd=tmp_path, SLURM_ARRAY_TASK_ID="5", SLURM_CPUS_PER_TASK="4", SPEECHMERGE_RUN="1",
                SPEECHMERGE_CMD="slurm")
    assert job.returncode == 0 and (script.parent / "5.status").read_text() == "0\n"
    assert "a 5" in (tmp_path / "log 100%/x y.5.log").read_text().splitlines()


@pytest.mark.parametrize("options, message", [
    (["--depend", "a"], "--depend: expected job ids, as 12 or 12,13, found 'a'"),
    (["--mem", "many"], "--mem: expected megabytes, or such as 64G, found 'many'"),
    (["--time", "soon"], "--time: expected minutes, h:mm:ss or days-hours, found 'soon'"),
    (["--gpu", "x"], "--gpu: expected a whole number"),
    (["--wait"], "unknown option --wait"),
    (["--config", "none.yaml"], "config none.yaml: not there"),
    (["JOB=1:2"], "two jobs would write one log, x.log"),
])
def test_wrong_job_lines(options, message, slurm, tmp_path):
    result = shell(ROOT / "utils/slurm.sh", *options, "x.log", "true", cwd=tmp_path, path=slurm)
    assert result.returncode == 2 and message in result.stderr and result.stderr.startswith("slurm.sh: ")
    assert not (tmp_path / "sbatch").exists()


@pytest.mark.parametrize("text, message", [
    ("gpu: {time: 24:00:00}", 'found the number 86400, which YAML makes of an unquoted 24:00:00; expected "24:00:00"'),
    ("gpus: {}", "unknown section 'gpus'; did you mean 'gpu'?"),
    ("all: {patrition: x}", "all: unknown key 'patrition'; did you mean 'partition'?"),
    ("all: {requeue: sometimes}", "all: requeue: expected true or false"),
    ("all: {extra: --nodes=1}", "all: extra: expected a list of words"),
    ("all: {array_limit: 0}", "all: array_limit: expected a whole number from 1"),
    ("all: [x]", "all: expected `key: value` lines"),
    ('all: {account: "a\\nb"}', "all: account: expected one line"),
])
def test_wrong_settings_of_the_cluster(text, message, tmp_path, capsys):
    (tmp_path / "slurm.yaml").write_text(text)
    assert slurm_options([str(tmp_path / "slurm.yaml")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("slurm.sh: ") and error.count("\n") == 1


def test_later_settings_win_and_mail_needs_an_address(tmp_path, capsys):
    for name, text in {"a": "all: {mail_type: [END], partition: x, requeue: true}\ncpu: {mem: 8G}",
                       "b": "cpu: {mem: 4G, array_limit: 5}\nall: {requeue: false}"}.items():
        (tmp_path / name).write_text(text)
    assert slurm_options([str(tmp_path / "a"), str(tmp_path / "b"), "--partition", "y"]) == 0
    assert capsys.readouterr().out.split() == ["5", "--cpus-per-task=1", "--no-requeue", "--mem=4G", "--partition=y"]


def test_what_is_in_the_queue_is_not_submitted_again(slurm, tmp_path, monkeypatch):
    path = grid_file(tmp_path, {"train": {"axes": {"rank": [4, 8, 16]}, "commands": [["true"]],
                                          "resources": {"gpus": 1, "max_jobs": 2}},
                                "merge": {"needs": ["train"], "commands": [["true"]]}})
    words = [ROOT / "utils/grid.sh", "g.yaml", "--backend", "slurm", "--wait", "false"]
    (tmp_path / "squeue").write_text("42 1 PENDING\n42 2 RUNNING\n7 3 RUNNING\n")
    first = shell(*words, "--phases", "train", cwd=tmp_path, path=slurm)
    assert first.stdout == "42\n" and "--array=1-3%2" in (tmp_path / "sbatch").read_text(), first.stderr
    monkeypatch.setenv("PATH", slurm + os.environ["PATH"])
    [train, _] = in_order(path)
    assert queued(train, queue([train])) == ({"rank4": "pending", "rank8": "running"}, ["42"])
    (tmp_path / "sbatch").unlink()
    assert shell(*words, cwd=tmp_path, path=slurm).returncode == 0
    asked = (tmp_path / "sbatch").read_text().split()
    assert "--array=1-1%2" in asked and "--job-name=g.train" in asked  # rank16 alone, which left the queue
    assert "--job-name=g.merge" in asked and "--dependency=afterok:42" in " ".join(asked)
    local = shell(ROOT / "utils/grid.sh", "g.yaml", "--gpus", "0", cwd=tmp_path, path=slurm)
    assert local.returncode == 2 and "train has jobs 42" in local.stderr


def test_a_cluster_that_does_not_answer_stops_the_grid(tmp_path, monkeypatch, slurm):
    path = grid_file(tmp_path, {"p": {"commands": [["true"]]}})
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\necho down >&2; exit 1\n")
    monkeypatch.setenv("PATH", slurm + os.environ["PATH"])
    [one] = in_order(path)
    assert queue([one]) == {}  # nothing was submitted, so nobody is asked
    folder = one.folder / "log/.slurm/abc"
    folder.mkdir(parents=True)
    (folder / "job_id").write_text("42\n")
    with pytest.raises(SpeechMergeError, match=r"squeue does not answer \(down\)"):
        queue([one])


def test_the_table_of_an_unfinished_grid(tmp_path, capsys):
    path = grid_file(tmp_path, {"p": {"axes": {"rank": [4, 8]}, "commands": [["true"]]}})
    assert main(["report", "--aggregate", str(path)]) == 0
    assert "2 missing of 2 cells, 2 rows" in capsys.readouterr().out
    assert (tmp_path / "exp/grid/g/results.md").read_text().count("missing") == 2
    assert json.loads(json.dumps(aggregate(in_order(path))))[0]["cell"] == "rank4"
