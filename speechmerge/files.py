"""Files written so that a killed or failing command never leaves half of one: beside the target, synced, then renamed."""
import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from speechmerge.errors import SpeechMergeError


@contextlib.contextmanager
def atomic_file(path, mode="w"):
    """Yield an open file that becomes `path` when the block ends without an error, and vanishes when it does not.

    A link is followed, so that the file it points to is replaced and the link stays.
    """
    path = Path(path)
    target = path.resolve() if path.is_symlink() else path
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".part")
        try:
            os.fchmod(handle, 0o666 & ~_umask())
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "\n") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_dir(path):
    """Yield a fresh folder that becomes `path` when the block ends; an older `path` is replaced only then.

    A link is followed, so that the folder it points to is replaced and the link stays. What killed processes left of
    the same folder is removed.
    """
    path = Path(path)
    with disk_errors(path):
        with disk_errors(path, PLACES):
            target, beside, alive = _begin(path)
        try:
            yield beside
            with disk_errors(path, PLACES), lock(target):
                _replace_dir(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            if alive is not None:
                os.close(alive)


def _begin(path: Path):
    """(folder that is to be replaced, fresh folder beside it, descriptor whose lock says that it is in use)."""
    target = Path(os.path.realpath(path)) if path.is_symlink() or path.name in ("", "..") else path
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(target):
        _remove_stale(target)
        beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".part"))
        beside.chmod(0o777 & ~_umask())
        try:
            return target, beside, _flock(beside)
        except OSError:  # a file system without locks on folders
            return target, beside, None


def _remove_stale(target: Path):
    """Folders that were to become `target`, of processes that are gone: those that live hold a lock on theirs."""
    name = glob.escape(target.name[:100])
    for path in target.parent.glob(f".{name}.????????.part"):
        with contextlib.suppress(OSError):  # in use, or another's
            os.close(_flock(path, fcntl.LOCK_NB))
            shutil.rmtree(path)
    for path in target.parent.glob(f".{name}.????????.old") if target.exists() else ():
        shutil.rmtree(path, ignore_errors=True)


def _flock(folder: Path, more: int = 0) -> int:
    """A descriptor that holds a lock on a folder. OSError where another has it and `more` says not to wait."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | more)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _replace_dir(new: Path, path: Path):
    if not path.exists():
        os.rename(new, path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".old"))
    os.rename(path, old / path.name)
    os.rename(new, path)
    shutil.rmtree(old)


FULL = {errno.ENOSPC: "no space left on the device", errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied", errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "larger than a file may be"}
PLACES = {errno.ENOTDIR: "a part of the path is no folder", errno.EEXIST: "a part of the path is no folder",
          errno.ELOOP: "links that point to each other", errno.ENAMETOOLONG: "the name is too long",
          errno.EPERM: "not permitted", errno.EBUSY: "the folder is in use", errno.EINVAL: "no place for a folder"}


@contextlib.contextmanager
def disk_errors(path: Path, reasons=FULL):
    """A full or read-only disk is the user's to mend: name the path and the reason."""
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise SpeechMergeError(f"{path}: cannot be written ({reasons[error.errno]}); "
                               "nothing was changed, free space or choose another folder and run the same command again") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path, text: str):
    with atomic_file(path) as file:
        file.write(text)


def write_json(path, data):
    """Write `data` with sorted keys, so that equal results are equal files."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def read_json(path):
    """Raises SpeechMergeError where the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpeechMergeError(f"{path}: not there") from error
    except (ValueError, RecursionError) as error:  # JSON, UTF-8, numbers of too many digits
        raise SpeechMergeError(f"{path}: is not valid JSON ({error})") from error


def read_mapping(path) -> dict:
    """Raises SpeechMergeError where the file is missing or is not a JSON object."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise SpeechMergeError(f"{path}: found a {type(data).__name__}, expected a JSON object {{...}}")
    return data


@contextlib.contextmanager
def lock(path):
    """Hold an exclusive lock for `path`; other processes wait. The lock file stays behind, hidden and empty."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f".{path.name}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path):
    """The open file that holds the lock for `path` until it is closed or its process ends; None where another has it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path.parent / f".{path.name}.lock", "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def append_index(path, entry):
    """Append `entry` to a JSON list that several processes may write, always whole on disk."""
    with lock(path):
        entries = read_json(path) if Path(path).exists() else []
        write_json(path, entries + [entry])


def update_json(path, key: str, value):
    """Set one key of a JSON object that several processes may write."""
    with lock(path):
        data = read_json(path) if Path(path).exists() else {}
        write_json(path, {**data, key: value})


def sha256_file(path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(data) -> str:
    """sha256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
