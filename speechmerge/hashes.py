"""Hashes of large files, computed once: remembered by path, size, inode and times, and computed in the background."""
import hashlib
import json
import os
import queue
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
    """compute(), unless the same was computed of the same, unchanged files before; who asks meanwhile waits."""
    stats = [(path.resolve(), path.stat()) for path in map(Path, paths)]
    facts = [[str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in stats]
    key = hashlib.sha256(json.dumps([kind, facts]).encode()).hexdigest()
    with _guard:
        own = _locks.setdefault(key, threading.Lock())
    with own:
        if key not in _known:
            _known[key] = _recall(key) or _remember(key, compute())
        return _known[key]


_guard, _locks, _known = threading.Lock(), {}, {}  # of this process


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


class Later:
    """What a function returns, computed in the background after `start()`; `value()` waits and raises what it raised.

    The background is one thread less than there are cores, so that an import or a merge beside it is not slowed down.
    Its threads end with the process.
    """

    _tasks, _threads = queue.SimpleQueue(), []

    def __init__(self, function):
        self._function, self._lock, self._done = function, threading.Lock(), threading.Event()
        self._started, self._value, self._error = False, None, None

    def start(self):
        with self._lock:
            if self._started:
                return
            self._started = True
        with _guard:
            if len(self._threads) < max(1, len(os.sched_getaffinity(0)) - 1):
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()
        self._tasks.put(self)

    @classmethod
    def _work(cls):
        while True:
            cls._tasks.get()._run()

    def _run(self):
        try:
            self._value = self._function()
        except (OSError, SpeechMergeError) as error:
            self._error = error
        finally:
            self._done.set()

    def value(self):
        self.start()
        self._done.wait()
        if isinstance(self._error, OSError):
            raise SpeechMergeError(f"{self._error.filename}: cannot be read ({self._error.strerror})") from self._error
        if self._error is not None:
            raise self._error
        return self._value


class ContentHash(Later):
    """sha256 of one file, or of the digests of several."""

    def __init__(self, paths):
        self.paths = [Path(path) for path in paths]
        super().__init__(self._digest)

    def _digest(self) -> str:
        digests = [file_hash(path) for path in self.paths]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
