"""Hashes of large files, computed once: remembered by path, size, inode and times, and computed in the background."""
import hashlib
import json
import os
import threading
from pathlib import Path

from speechmerge.errors import SpeechMergeError
from speechmerge.files import sha256_file, update_json

SMALL = 1 << 20  # bytes: below, hashing is quicker than remembering


def file_hash(path) -> str:
    """sha256 of a file."""
    path = Path(path)
    return sha256_file(path) if path.stat().st_size < SMALL else remembered([path], "file", lambda: sha256_file(path))


def remembered(paths, kind: str, compute) -> str:
    """compute(), unless the same was computed of the same, unchanged files before."""
    stats = [(path.resolve(), path.stat()) for path in map(Path, paths)]
    facts = [[str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in stats]
    key = hashlib.sha256(json.dumps([kind, facts]).encode()).hexdigest()
    return _recall(key) or _remember(key, compute())


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechmerge" / "fingerprints.json"


def _recall(key: str) -> str | None:
    try:
        return json.loads(_cache().read_text()).get(key)
    except (OSError, ValueError):
        return None  # no cache, or a damaged one: the hash is computed


def _remember(key: str, value: str) -> str:
    try:
        update_json(_cache(), key, value)
    except (OSError, SpeechMergeError):
        return value  # a home that cannot be written costs time, not correctness
    return value


class ContentHash:
    """sha256 of one file, or of the digests of several; `start()` computes it in the background, `value()` waits."""

    def __init__(self, paths):
        self.paths = [Path(path) for path in paths]
        self._lock = threading.Lock()
        self._thread = self._value = None

    def start(self):
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._compute, daemon=True)
                self._thread.start()

    def value(self) -> str:
        """Raises SpeechMergeError for a file that cannot be read."""
        self.start()
        self._thread.join()
        if isinstance(self._value, OSError):
            raise SpeechMergeError(f"{self.paths[0].parent}: cannot be read ({self._value.strerror})") from self._value
        return self._value

    def _compute(self):
        try:
            digests = [file_hash(path) for path in self.paths]
        except OSError as error:
            self._value = error
            return
        self._value = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
