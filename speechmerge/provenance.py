"""Where a result comes from: the command, versions, commit and machine, stored beside every result."""
import datetime
import functools
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

PACKAGES = ("torch", "torchaudio", "transformers", "peft", "safetensors", "numpy")


def provenance(**extra) -> dict:
    """What anyone needs to make the result again. `extra` adds the seed, the config or the split."""
    from speechmerge import __version__

    return {
        "command": command(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "speechmerge": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        **extra,
    }


def command() -> str:
    """The command line as it can be pasted into a terminal."""
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "speechmerge"] if name in ("__main__.py", "speechmerge") else [name]
    return shlex.join(program + sys.argv[1:])


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.lru_cache(maxsize=1)
def commit() -> str:
    """The git commit of the code, with '+' where tracked files differ from it; 'unknown' outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*words):
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        if head.returncode:
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return head.stdout.strip() + ("+" if changed else "")
