"""Which cells a Slurm cluster has in its queue: submissions lie in <log folder>/.slurm/<name>/, see utils/slurm.sh."""
import getpass
import shutil
import subprocess
import time
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.grid.cells import PENDING, RUNNING
from speechmerge.grid.file import Phase

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
ATTEMPTS = 3
KEPT = 600  # seconds that what is known of a submission stays after its last job, for a slurm.sh that still reads it


def submissions(phase: Phase) -> dict[str, dict[str, str]]:
    """{job id: {number within the array: cell}} of what was submitted for a phase."""
    found = {}
    for path in sorted((phase.folder / "log" / ".slurm").glob("*/job_id")):
        jobs = {}
        for job in path.parent.glob("*.job"):
            log = job.read_bytes().split(b"\0", 1)[0].decode()
            jobs[job.stem] = Path(log).name.removesuffix(".log")
        found[path.read_text().strip()] = jobs
    return found


def queue(phases) -> dict[str, dict[str, str]]:
    """{job id: {number within the array: state}} of this user's jobs.

    The cluster is not asked where nothing of these phases was submitted. SpeechMergeError where it does not
    answer.
    """
    if not any(submissions(phase) for phase in phases):
        return {}
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%F %K %T"]
    for _ in range(ATTEMPTS):
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise SpeechMergeError(
                f"{phases[0].folder}: jobs were submitted to a cluster, and there is no squeue here: run this where "
                "it is, or remove log/.slurm if they have ended") from error
        if result.returncode == 0:
            break
    else:
        raise SpeechMergeError(
            f"squeue does not answer ({result.stderr.strip()[-200:]}): what runs is not known, nothing was submitted")
    found: dict[str, dict[str, str]] = {}
    for line in result.stdout.splitlines():
        job, number, state = line.split()
        found.setdefault(job, {})[number] = state
    return found


def queued(phase: Phase, now: dict) -> tuple[dict[str, str], list[str]]:
    """({cell: running or pending}, job ids that are in the queue) of a phase. now: as `queue` found it."""
    mine, cells = submissions(phase), {}
    for job, names in mine.items():
        for number, state in now.get(job, {}).items():
            if number in names:
                cells[names[number]] = PENDING if state in WAITING else RUNNING
    return cells, [job for job in mine if job in now]


def forget_ended(phase: Phase, now: dict):
    """Removes what is known of submissions that ended: a new cluster would give their job ids to others."""
    for path in (phase.folder / "log" / ".slurm").glob("*/job_id"):
        last = max(file.stat().st_mtime for file in path.parent.iterdir())
        if path.read_text().strip() not in now and time.time() - last > KEPT:
            shutil.rmtree(path.parent)
