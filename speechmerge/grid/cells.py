"""Running a cell, and what the disk says of it.

<exp_dir>/grid/<grid>/<phase>/cells/<cell>/plan.json  what was asked for when it was submitted
                                           cell.json  what was run, when, for how long
                                           done.json  last: it is finished
                              log/<cell>.log          of the job back end
"""
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from speechmerge.done import is_done, mark_done
from speechmerge.errors import SpeechMergeError
from speechmerge.files import lock, read_mapping, try_lock, write_json
from speechmerge.grid.expand import Cell

DONE, RUNNING, PENDING, FAILED, MISSING = STATES = ("done", "running", "pending", "failed", "missing")
ENDED = re.compile(r"# Ended \(code (\d+)\)")


def write_plan(cell: Cell):
    write_json(cell.folder / "plan.json", {"key": cell.key, "commands": cell.commands, "outputs": cell.outputs,
                                           "axes": cell.axes, "cell": cell.name, "phase": cell.phase.name})


def forget(cell: Cell):
    (cell.folder / "done.json").unlink(missing_ok=True)


def run_planned(folder):
    """Run the commands of a cell's plan.json one after the other, unless that was done. SpeechMergeError names the one
    that failed, or what they should have made. A second process that has the same cell waits for the first."""
    folder = Path(folder)
    with lock(folder / "cell"):
        plan = read_mapping(folder / "plan.json")
        if finished(folder, plan["key"], plan["outputs"]):
            print(f"{plan['cell']}: done before")
            return
        start, record = time.time(), {**plan, "host": socket.gethostname(), "date": time.strftime("%Y-%m-%dT%H:%M:%S")}
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            record["job"] = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        for command in plan["commands"]:
            run_command(command, plan["cell"])
        if missing := [path for path in plan["outputs"] if not Path(path).exists()]:
            raise SpeechMergeError(f"cell {plan['cell']}: its commands ended well, but {missing[0]} is not there")
        write_json(folder / "cell.json", {**record, "seconds": round(time.time() - start, 1)})
        mark_done(folder, plan["key"], ["cell.json"])
        print(f"{plan['cell']}: done in {time.time() - start:.0f} s")


def run_command(command: list[str], name: str):
    print("+", shlex.join(command), flush=True)
    try:
        status = subprocess.run(program(command)).returncode
    except (FileNotFoundError, PermissionError) as error:
        raise SpeechMergeError(f"cell {name}: {command[0]}: cannot be started ({error.strerror})") from error
    if status:
        raise SpeechMergeError(
            f"cell {name}: `{shlex.join(command)[:200]}` failed with status {status}, its reason stands above")


def program(command: list[str]) -> list[str]:
    """`speechmerge` and `python` are those of this process."""
    first = {
        "speechmerge": [sys.executable, "-m", "speechmerge"],
        "python": [sys.executable]
    }.get(command[0], [command[0]])
    return [*first, *command[1:]]


def finished(folder: Path, key: str, outputs) -> bool:
    return is_done(folder, key) and all(Path(path).exists() for path in outputs)


def state(cell: Cell, queued: dict[str, str]) -> tuple[str, str]:
    """(state, remark). queued: cell -> running or pending, of a cluster's queue."""
    if finished(cell.folder, cell.key, cell.outputs):
        return DONE, ""
    if cell.name in queued:
        return queued[cell.name], ""
    if cell.folder.is_dir() and is_held(cell.folder):
        return RUNNING, ""
    if (cell.folder / "done.json").is_file():
        return MISSING, "its command or its outputs have changed"
    if not cell.log.is_file():
        return MISSING, ""
    codes = ENDED.findall(cell.log.read_text(encoding="utf-8", errors="replace"))
    return FAILED, f"status {codes[-1]}" if codes else "killed"


def is_held(folder: Path) -> bool:
    """Is a process of this machine, or of one with the same file system's locks, at work on it?"""
    held = try_lock(folder / "cell")
    if held is None:
        return True
    held.close()
    return False
