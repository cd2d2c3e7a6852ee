"""The shared shell: option parsing, stages, dry runs, jobs. Everything runs as a user runs it, in processes."""
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "egs/mini/run.sh"
LOCAL = ROOT / "utils/local.sh"
STAGES = ["data", "format", "train", "merge", "route", "decode", "score", "analyze", "pack"]


def shell(*command, cwd=ROOT, timeout=60, **environment):
    return subprocess.run([str(word) for word in command], cwd=cwd, text=True, capture_output=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, env={**os.environ, **environment})


def dry(*options, run=RUN, **kwargs):
    """(stage names, command lines) of a dry run."""
    result = shell(run, "--dry-run", "true", *options, **kwargs)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    stages = [line.split(": ")[1] for line in lines if line.startswith("# Stage ")]
    return stages, [line for line in lines if not line.startswith("#")]


def refused(*options, run=RUN, **kwargs):
    """The one line with which a command line is refused."""
    result = shell(run, *options, **kwargs)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


@pytest.mark.parametrize("options, expected", [
    ([], STAGES[:7]),
    (["--stop-stage", "2"], STAGES[:2]),
    (["--stop_stage", "2"], STAGES[:2]),
    (["--stop-stage=format"], STAGES[:2]),
    (["--stage", "train", "--stop-stage", "5"], STAGES[2:5]),
    (["--stage", "03", "--stop_stage=route"], STAGES[2:5]),
    (["--stage", "prepare", "--stop-stage", "1"], STAGES[:1]),
    (["--stage", "2", "--stage", "7"], STAGES[6:7]),
    (["--stage", "8"], ["analyze"]),
    (["--stage", "pack"], ["pack"]),
])
def test_stages_by_number_and_name(options, expected):
    assert dry(*options)[0] == expected


def test_processes_of_a_training():
    """The GPUs of one training; on a cluster of each of its nodes, as many trainings at once as there are jobs."""
    train = ["--stage", "train", "--stop-stage", "train", "--nj", "4", "--train-ngpu", "2"]
    [found] = dry(*train, "--ngpu", "4")[1]
    assert found.startswith("local.sh --gpu 2 --max-jobs-run 2 ") and " torchrun.sh --processes 2 train --config " in found
    [found] = dry(*train, "--ngpu", "1", "--num-nodes", "3", cmd_backend="slurm")[1]
    assert found.startswith("slurm.sh --gpu 2 --max-jobs-run 4 --nodes 3 ") and " torchrun.sh --processes 2 train " in found
    [found] = dry(*train, "--ngpu", "0")[1]
    assert found.startswith("local.sh --max-jobs-run 4 TASK=") and " torchrun.sh --processes 2 train " in found
    assert "--num-nodes 3: needs a cluster" in refused(*train, "--num-nodes", "3", cmd_backend="local")


def test_routers_and_analyses_are_jobs():
    route = dry("--stage", "5", "--stop-stage", "5", "--routers", "linear", "--ngpu", "1", "--nj", "3", cmd_backend="slurm")[1]
    assert route[0].startswith("slurm.sh --gpu 1 --max-jobs-run 3 ROUTER=linear exp/log/route.ROUTER.log python -m speechmerge train-router ")
    found, *after = dry("--stage", "8", "--analyses", "weights spectra", "--ngpu", "0", "--nj", "3")[1]
    assert all("speechmerge report" in line for line in after)  # where there are scores already
    assert found.startswith("local.sh --max-jobs-run 1 ANALYSIS=weights,spectra exp/log/analyze.ANALYSIS.log python -m speechmerge analyze ")
    assert "conf/analyze/ANALYSIS.yaml" in found and found.endswith("--output-dir exp/analysis/ANALYSIS")


@pytest.mark.parametrize("options, message", [
    (["--stage", "abc"], "option --stage: expected a stage: 1-9 or data format train merge route decode score analyze pack, found 'abc'"),
    (["--stage", "1.5"], "found '1.5'"),
    (["--stage", "0"], "found '0'"),
    (["--stage", "10"], "found '10'"),
    (["--stage="], "found ''"),
    (["--stage", "@"], "found '@'"),
    (["--stage", "-1"], "found '-1'"),
    (["--stage", "3", "--stop-stage", "2"], "--stage 3 (train) comes after --stop-stage 2 (format): nothing would run"),
    (["--stage"], "--stage needs a value: a stage: 1-9"),
    (["--exp-dir"], "--exp-dir needs a value: a path"),
    (["--exp-dir", "--stage", "2"], "--exp-dir needs a value (a path), found the option --stage"),
    (["--train-args", "--stage", "2"], "--train-args needs a value (a string of arguments), found the option --stage"),
    (["--exp-dir", ""], "option --exp-dir: expected a path, found ''"),
    (["--expdir", "x"], "unknown option --expdir: did you mean --exp-dir?"),
    (["--stopstage", "5"], "unknown option --stopstage: did you mean --stop-stage?"),
    (["--stpo-stage=5"], "unknown option --stpo-stage: did you mean --stop-stage?"),
    (["--frobnicate", "5"], "unknown option --frobnicate (all: --help)"),
    (["--PATH", "/x"], "unknown option --PATH"),
    (["--HOME", "/x"], "unknown option --HOME"),
    (["--root", "/x"], "unknown option --root"),
    (["--task-list", "x"], "unknown option --task-list"),
    (["--@", "3"], "unknown option --@"),
    (["--*", "3"], "unknown option --*"),
    (["--=3"], "unknown option --"),
    (["--x[$(touch evil)]", "3"], "unknown option --x[$(touch evil)]"),
    (["--force", "yes"], "option --force: expected true or false, found 'yes'"),
    (["--force", "True"], "expected true or false, found 'True'"),
    (["--force"], "--force needs a value: true or false"),
    (["--nj", "0"], "option --nj: expected a whole number from 1, found '0'"),
    (["--nj", "two"], "expected a whole number from 1, found 'two'"),
    (["--nj", "a[$(touch evil)]"], "expected a whole number from 1"),
    (["--seed", "1e3"], "option --seed: expected a whole number, found '1e3'"),
    (["--train-split", "two words"], "option --train-split: expected one word, found 'two words'"),
    (["foo"], "stray argument 'foo': options are written --name value"),
    (["foo", "--stage", "2"], "stray argument 'foo'"),
    (["--stage", "2", ""], "stray argument ''"),
    (["--stage", "2", "3"], "stray argument '3'"),
    (["-stage", "2"], "stray argument '-stage'"),
    (["--"], "stray argument '--'"),
    (["--tasks", ""], "--tasks is empty"),
    (["--splits="], "--splits is empty"),
    (["--merges", "no_such_merge"], "--merges: there is no conf/merge/no_such_merge.yaml"),
    (["--routers", "x"], "--routers: there is no conf/route/x.yaml; there is: attention"),
])
def test_wrong_usage(options, message, tmp_path):
    line = refused(*options)
    assert line.startswith("run.sh: ") and message in line
    assert not (RUN.parent / "evil").exists() and not (ROOT / "evil").exists()


def test_unknown_job_back_end():
    assert "cmd_backend=pbs: no such job back end, there is: local slurm" in refused("--dry-run", "true", cmd_backend="pbs")
    assert "cmd_backend=pbs: no such job back end" in refused("--dry-run", "true", SPEECHMERGE_CMD="pbs")


def test_a_cluster_has_gpus_of_its_own():
    _, commands = dry("--stage", "train", "--ngpu", "1", "--nj", "6", cmd_backend="slurm")
    assert commands[0].startswith("slurm.sh --gpu 1 --max-jobs-run 6 TASK=")


def test_help_shows_stages_options_and_the_recipes_values():
    result = shell(RUN, "--help")
    assert result.returncode == 0 and result.stderr == ""
    for number, name in enumerate(STAGES, 1):
        assert f"  {number} {name} " in result.stdout
    assert "--stop-stage" in result.stdout and "[mini]" in result.stdout
    assert result.stdout == shell(RUN, "-h").stdout
    assert "[elsewhere]" in shell(RUN, "--exp-dir", "elsewhere", "--help").stdout


def test_options_change_everything_derived():
    _, commands = dry("--tasks", "asr,kws", "--exp-dir", "exp2", "--data-dir", "d", "--seed", "007", "--nj", "3", "--model", "m",
                      "--force", "true", "--splits", "dev test", "--train-args", "--rank 4 --epochs 1", "--decode-args=--batch-size 8")
    text = "\n".join(commands)
    assert "TASK=asr,kws " in text and "exp2/log/train.TASK.log" in text and "--rank 4 --epochs 1" in text
    assert "d/asr/train d/asr/dev d/asr/test d/kws/train" in text
    assert "--seed 7 " in text and "--force true" in text and "--force false" not in text
    assert "--shard JOB/3" in text and "--batch-size 8" in text and "--split dev" in text and "--split test" in text
    assert "--data-dir" not in text and "intent" not in text and " exp " not in text


def test_values_are_never_evaluated(tmp_path):
    hostile = f"$(touch {tmp_path}/evil) `touch {tmp_path}/evil` \"; touch {tmp_path}/evil; ' * a b"
    _, commands = dry("--exp-dir", hostile, "--train-args", f"$(touch {tmp_path}/evil) *", "--tasks", "asr *", cwd=tmp_path)
    assert not list(tmp_path.iterdir())
    decode = next(shlex.split(command) for command in commands if " decode " in command)
    assert decode[decode.index("--exp-dir") + 1] == hostile
    assert decode[decode.index("--tasks") + 1:][:2] == ["asr", "*"]
    train = next(shlex.split(command) for command in commands if " train " in command)
    assert train[-3:] == ["$(touch", f"{tmp_path}/evil)", "*"]


def test_environment_does_not_become_an_option():
    plain = dry()
    assert dry(tasks="x", model="y", stage="3", exp_dir="z", merges="none", force="true") == plain


def tree(tmp_path):
    """A copy of the shell and the recipes as in a fresh clone, without what they made."""
    clone = tmp_path / "a clone"
    ignore = shutil.ignore_patterns("exp", "data", "downloads", "__pycache__", "*.safetensors", ".venv", "work")
    for name in ("utils", "conf", "tools", "egs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=ignore)
    shutil.copy(ROOT / "setup.py", clone)
    return clone


def test_a_copied_recipe_works_from_anywhere(tmp_path):
    clone = tree(tmp_path)
    subprocess.run(["cp", "-r", "egs/mini", "egs/mine"], cwd=clone, check=True)
    subprocess.run(["cp", "-r", "egs/mini", "egs/deeper/asr1"], cwd=clone, check=(clone / "egs/deeper").mkdir() or True)
    original = dry()[1]
    for recipe in ("mine", "mini"):
        assert dry(run=clone / "egs" / recipe / "run.sh", cwd="/")[1] == original
        assert dry(run="./run.sh", cwd=clone / "egs" / recipe)[1] == original
        assert dry(run=f"egs/{recipe}/run.sh", cwd=clone, CDPATH=f"{tmp_path}:/")[1] == original
    assert len(dry(run=clone / "egs/deeper/asr1/run.sh", cwd="/")[1]) == len(original)
    stages, _ = dry("--stage", "3", "--stop-stage", "5", run=clone / "egs/mine/run.sh", cwd=tmp_path)
    assert stages == ["train", "merge", "route"]


@pytest.mark.parametrize("recipe", sorted(path.parent.name for path in ROOT.glob("egs/*/run.sh")))
def test_every_recipe_starts(recipe):
    path = ROOT / "egs" / recipe / "run.sh"
    stages, commands = dry("--stop-stage", "9", "--tasks", "a b", run=path, cwd="/")
    assert stages == STAGES and commands
    assert len(path.read_text().splitlines()) <= 40 and os.access(path, os.X_OK)


def recipe(tmp_path, defaults, verb="exit 0"):
    """A recipe of its own whose `python -m speechmerge` is a stand-in: prints its arguments, then does `verb`."""
    clone = tree(tmp_path)
    folder = clone / "egs/own"
    shutil.copytree(clone / "egs/mini", folder)
    text = (folder / "run.sh").read_text()
    head, tail = text[: text.index("defaults() {")], text[text.index("}\n\n. ") + 2:]
    (folder / "run.sh").write_text(head + "defaults() {\n" + defaults + "\n}\n" + tail)
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\necho "$@" >>"$CALLS"\nverb=$3\n{verb}\n')
    python.chmod(0o755)
    return folder / "run.sh", {"SPEECHMERGE_VENV": str(tmp_path / "venv"), "CALLS": str(tmp_path / "calls")}


@pytest.mark.parametrize("defaults, message", [
    ("corpus=mini; taks=asr", "defaults() sets 'taks', which is no option: did you mean tasks?"),
    ("tasks=asr; nj=many", "default of --nj: expected a whole number from 1, found 'many'"),
    ("corpus=mini", "--tasks is empty"),
])
def test_wrong_defaults_of_a_recipe(defaults, message, tmp_path):
    run, environment = recipe(tmp_path, defaults)
    assert message in refused(run=run, **environment)


def test_stages_run_in_order_and_say_where_results_are(tmp_path):
    run, environment = recipe(tmp_path, 'corpus=mini; tasks="a b"; nj=2')
    (run.parent / "conf/train_b.yaml").write_text("")
    result = shell(run, "--stop-stage", "9", cwd="/", **environment)
    assert result.returncode == 0, result.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    verbs = [call.split()[2] for call in calls]
    assert list(dict.fromkeys(verbs)) == ["prepare", "format", "train", *(["merge"] if "merge" in verbs else []), "decode", "score", "report"]
    assert sorted("--config conf/train_b.yaml" in call for call in calls if "train" in call.split()) == [False, True]
    assert {"--data data/a/train", "--data data/b/train"} == {f"--data data/{t}/train" for t in "ab" for c in calls if f"data/{t}/train --dev" in c}
    assert result.stderr.splitlines()[-1].endswith(f"Results: {run.parent}/exp")
    assert "Stage 5: route: no --routers" in result.stderr
    log = (run.parent / "exp/log/train.a.log").read_text()
    assert log.startswith("# python -m speechmerge train") and "# Ended (code 0)" in log


def test_a_failed_stage_says_how_to_go_on(tmp_path):
    run, environment = recipe(tmp_path, "corpus=mini; tasks=a", '[ "$verb" != decode ] || { echo "speechmerge: a/hyp: reason"; exit 1; }')
    result = shell(run, **environment)
    assert result.returncode == 1
    assert "speechmerge: a/hyp: reason" in result.stderr and "exp/log/decode.test.1.log" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("go on with: ./run.sh --stage 6 and the other options as before")
    assert "score" not in (tmp_path / "calls").read_text()


def test_own_data_script_and_no_corpus(tmp_path):
    run, environment = recipe(tmp_path, "tasks=a")
    assert "# no --corpus and no local/data.sh" in shell(run, "--dry-run", "true", "--stop-stage", "1", **environment).stdout
    script = run.parent / "local/data.sh"
    script.parent.mkdir(exist_ok=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert dry("--stop-stage", "1", run=run, **environment)[1][0].startswith("local/data.sh --data-dir data --nj ")


# ---- utils/merge.sh

def merge_recipe(tmp_path):
    clone = tree(tmp_path)
    script = clone / "egs/mini/merge.sh"
    script.write_text((clone / "egs/mini/run.sh").read_text().split("defaults()")[0] + '. "$root/utils/merge.sh"\n')
    script.chmod(0o755)
    return script


def test_merge_stages(tmp_path):
    script = merge_recipe(tmp_path)
    stages, commands = dry("--adapters", "../a/exp/asr/lora ../b/exp/kws/lora", "--tasks", "asr kws", "--data-dirs", "../a/data,../b/data", run=script)
    assert stages == ["collect", "baselines", "merge", "coefficients", "evaluate", "report"]
    baselines = next(command for command in commands if "baselines" in command)
    assert "TASK=asr,kws " in baselines and "--systems base adapters --tasks TASK --data exp/data " in baselines
    assert any(command.startswith("ln -sfn") and "/../b/data/kws" in command and command.endswith(" exp/data/kws") for command in commands)
    assert "--adapters is empty" in refused(run=script)
    assert "--data-dirs: found 3, expected 1 or 2" in refused("--adapters", "x", "--tasks", "a b", "--data-dirs", "1 2 3", run=script)
    (script.parent / "conf/sweep").mkdir()
    (script.parent / "conf/sweep/scale.yaml").write_text("")
    commands = dry("--adapters", "x", "--tasks", "a b", run=script)[1]
    assert any("SWEEP=scale " in command and "merge-sweep --config conf/sweep/SWEEP.yaml" in command for command in commands)
    assert "a stage: 1-6 or collect" in refused("--stage", "7", run=script)


def test_merge_of_other_recipes(tmp_path):
    script = merge_recipe(tmp_path)
    other = script.parent.parent / "iemocap"
    (other / "exp/mini/emotion/lora").mkdir(parents=True)
    (other / "exp/mini/emotion/lora/done.json").write_text("")
    commands = dry("--recipes", "iemocap:emotion slurp:intent", "--mini", "true", "--ngpu", "0", run=script)[1]
    assert any(command.startswith("../slurp/run.sh --tasks intent --stage 1 --stop-stage 3 ") and "--mini true" in command for command in commands)
    assert not any(command.startswith("../iemocap/run.sh") for command in commands)
    collect = next(command for command in commands if "speechmerge collect" in command)
    assert "--adapters ../iemocap/exp/mini/emotion/lora ../slurp/exp/mini/intent/lora --exp-dir exp/mini" in collect
    assert any("/../slurp/data/mini/intent" in command and command.endswith(" exp/mini/data/intent") for command in commands)
    assert "--recipes: found slurp, expected recipe:task" in refused("--recipes", "slurp", run=script)
    assert "--tasks: follows from --recipes" in refused("--recipes", "slurp:intent", "--tasks", "asr", run=script)


# ---- utils/local.sh

def test_jobs_have_their_number_and_their_log(tmp_path):
    result = shell(LOCAL, "--mem", "4G", "JOB=2:4", f"{tmp_path}/log/x.JOB.log", "sh", "-c", 'echo "job JOB of JOBS: $1"', "-", "$(id) 'q\" *")
    assert (result.returncode, result.stdout) == (0, "")
    assert sorted(result.stderr.splitlines()) == [f"local.sh: {tmp_path}/log/x.{job}.log: done: job {job} of JOBS: $(id) 'q\" *" for job in (2, 3, 4)]
    for job in (2, 3, 4):
        lines = (tmp_path / f"log/x.{job}.log").read_text().splitlines()
        assert f"job {job} of JOBS: $(id) 'q\" *" in lines
        assert lines[0].startswith("# sh -c ") and lines[-1].startswith("# Ended (code 0) at ")
    assert len(list((tmp_path / "log").iterdir())) == 3


def test_lists_go_together(tmp_path):
    result = shell(LOCAL, "TASK=asr,kws", "CONFIG=a.yaml,dir/b.yaml", f"{tmp_path}/TASK.log", "echo", "train_TASK --config=CONFIG TASKS TASK/TASK")
    assert result.returncode == 0
    assert "train_kws --config=dir/b.yaml TASKS kws/kws" in (tmp_path / "kws.log").read_text().splitlines()


def test_failed_job_shows_its_last_lines(tmp_path):
    script = 'for i in $(seq 40); do echo line $i; done; echo "job JOB" >&2; [ JOB != 2 ] || exit 7'
    result = shell(LOCAL, "JOB=1:3", f"{tmp_path}/x.JOB.log", "sh", "-c", script)
    assert result.returncode == 1 and result.stdout == ""
    assert f"job failed with status 7, log is in {tmp_path}/x.2.log" in result.stderr
    assert "    job 2\n" in result.stderr and "line 40" in result.stderr and "line 10\n" not in result.stderr
    assert result.stderr.splitlines()[-1] == f"local.sh: 1 / 3 failed, logs: {tmp_path}/x.*.log"
    assert "# Ended (code 0)" in (tmp_path / "x.3.log").read_text()


@pytest.mark.parametrize("arguments, message", [
    (["JOB=1:3", "x.log", "true"], "two jobs would write one log, x.log: put JOB into its name"),
    (["JOB=0:3", "x.JOB.log", "true"], "expected first:last with 1 <= first <= last"),
    (["JOB=3:1", "x.JOB.log", "true"], "expected first:last with 1 <= first <= last"),
    (["JOB=", "x.JOB.log", "true"], "no jobs"),
    (["A=a,b", "B=c", "x.A.log", "true"], "B=c has 1 values, A has 2"),
    (["--num-threads", "x", "x.log", "true"], "--num-threads: expected a whole number from 1, found 'x'"),
    (["--memory", "4G", "x.log", "true"], "unknown option --memory"),
    (["--gpu"], "--gpu needs a value"),
    (["x.log"], "usage: local.sh"),
])
def test_wrong_job_lines(arguments, message, tmp_path):
    result = shell(LOCAL, *arguments, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_jobs_share_cores_and_gpus(tmp_path):
    script = 'echo "$(ls running.* 2>/dev/null | wc -l) running, $OMP_NUM_THREADS threads, GPU $CUDA_VISIBLE_DEVICES"; touch running.JOB; sleep 0.3; rm running.JOB'
    result = shell(LOCAL, "--gpu", "1", "JOB=1:4", "JOB.log", "sh", "-c", script, cwd=tmp_path, OMP_NUM_THREADS="8", CUDA_VISIBLE_DEVICES="4,7")
    assert result.returncode == 0, result.stderr
    lines = [(tmp_path / f"{job}.log").read_text().splitlines()[2] for job in range(1, 5)]
    assert {line.split("GPU ")[1] for line in lines} == {"4", "7"}
    assert all("4 threads" in line and int(line[0]) < 2 for line in lines)
    assert "--gpu 1: 0 GPUs to be found" in shell(LOCAL, "--gpu", "1", "x.log", "true", cwd=tmp_path, CUDA_VISIBLE_DEVICES="").stderr


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_ends_all_jobs(number, status, tmp_path):
    command = [LOCAL, "--max-jobs-run", "2", "JOB=1:3", f"{tmp_path}/JOB.log", "sh", "-c", "sleep 300 & echo $! $$; wait"]
    process = terminal(command)
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    wait_for(lambda: all(log.exists() and len(log.read_text().splitlines()) > 2 for log in logs))
    pids = [int(pid) for log in logs for pid in log.read_text().splitlines()[2].split()]
    process.send_signal(number)
    assert process.wait(timeout=10) == status
    assert process.stderr.read() == ""
    wait_for(lambda: not any(alive(pid) for pid in pids))
    assert not (tmp_path / "3.log").exists()


@pytest.mark.parametrize("number, message", [(signal.SIGINT, "interrupted in stage 3 (train)"), (signal.SIGKILL, ""), (signal.SIGTERM, "")])
def test_jobs_end_with_their_recipe(number, message, tmp_path):
    run, environment = recipe(tmp_path, 'corpus=mini; tasks="a b"; nj=2', '[ "$verb" != train ] || { sleep 300 & echo $! $$; wait; }')
    process = terminal([run, "--stage", "train"], **environment)
    logs = [run.parent / f"exp/log/train.{task}.log" for task in "ab"]
    wait_for(lambda: all(log.exists() and len(log.read_text().splitlines()) > 2 for log in logs))
    pids = [int(pid) for log in logs for pid in log.read_text().splitlines()[2].split()]
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # Ctrl-C reaches all processes of the terminal
    process.wait(timeout=10)
    assert process.returncode != 0
    wait_for(lambda: not any(alive(pid) for pid in pids))
    assert message in process.stderr.read()


def terminal(command, **environment):
    """Started as from a terminal: a process group of its own, in which Ctrl-C is not ignored."""
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env={**os.environ, **environment}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):  # it may end between the two
        return False
    return state != "Z"  # a zombie that nobody reaps has ended


# ---- set-up and form

def test_setup_names_what_is_missing(tmp_path):
    result = shell(ROOT / "tools/setup.sh", PYTHON="/no/python", SPEECHMERGE_VENV=str(tmp_path / "venv"))
    assert result.returncode == 1 and "Python 3.10-3.13 is needed, none found as: /no/python" in result.stderr.splitlines()[-1]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/file").write_text("mine")
    result = shell(ROOT / "tools/setup.sh", PYTHON=sys.executable, SPEECHMERGE_VENV=str(tmp_path / "notes"))
    assert result.returncode == 1 and "exists and is no virtual environment" in result.stderr
    assert (tmp_path / "notes/file").read_text() == "mine"


def test_recipes_say_when_the_named_environment_is_missing(tmp_path):
    result = shell(RUN, "--stage", "7", SPEECHMERGE_VENV=str(tmp_path / "none"))
    assert result.returncode != 0 and f"there is no Python environment in {tmp_path}/none" in result.stderr


def scripts():
    found = [*ROOT.glob("utils/*.sh"), *ROOT.glob("tools/**/*.sh"), *ROOT.glob("tests/*.sh"), *ROOT.glob("egs/*/*.sh"),
             *ROOT.glob("egs/*/local/*.sh"), ROOT / ".ci/run"]
    return [path for path in found if ".venv" not in path.parts]  # the benchmarks' own environment


def test_no_eval_in_any_script():
    for path in scripts():
        code = [line.split("#")[0].split() for line in path.read_text().splitlines()]
        assert not any("eval" in line for line in code), path


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    result = shell("shellcheck", "-x", "-P", "SCRIPTDIR", *scripts())
    assert result.returncode == 0, result.stdout
