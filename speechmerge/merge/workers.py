"""The same function for many items on several cores, results in order.

Merging is a chain of short tensor operations, and between them Python threads wait for each other: two were slower than
one. So the work is done by copies of this process (fork), which inherit everything that was prepared, and send back only
results. Where that cannot be (an accelerator in use, results that are kept in this process) threads do it.
"""
import collections
import io
import os
import pickle
import signal
import struct
from concurrent.futures import ThreadPoolExecutor

from speechmerge.errors import SpeechMergeError


def by_threads(function, items, count: int):
    """Yield function(item) in order; at most a few results wait in memory."""
    with ThreadPoolExecutor(count) as pool:
        waiting = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def by_processes(function, items, count: int):
    """The same; item i is computed by process i mod `count`. A process waits while its result is not taken."""
    items = list(items)
    workers = []
    try:
        for index in range(min(count, len(items))):
            workers.append(_start(function, items[index::count], [reader for _, reader in workers]))
        for place in range(len(items)):
            yield _receive(workers[place % count][1])
    finally:
        for process, reader in workers:
            reader.close()
            os.kill(process, signal.SIGKILL)  # those that are done are not yet waited for, so the number is still theirs
            os.waitpid(process, 0)


def _start(function, items, inherited):
    """(process id, file to read its results from)."""
    read, write = os.pipe()
    process = os.fork()
    if process:
        os.close(write)
        return process, open(read, "rb")
    status = 1
    try:
        os.close(read)
        for reader in inherited:
            os.close(reader.fileno())
        with open(write, "wb") as output:
            _work(function, items, output)
        status = 0
    except (BrokenPipeError, KeyboardInterrupt):
        status = 0  # nobody waits for the results any more
    finally:
        os._exit(status)  # without running what the parent has registered for its own end


def _work(function, items, output):
    from speechmerge.merge.compute import one_thread

    one_thread()
    for item in items:
        try:
            answer = (True, function(item))
        except Exception as error:  # is raised in the parent
            known = isinstance(error, (SpeechMergeError, OSError, MemoryError))
            answer = (False, error if known else RuntimeError(f"{type(error).__name__}: {error}"))
        data = io.BytesIO()
        _Pickler(data, protocol=5).dump(answer)
        output.write(struct.pack("<Q", data.tell()))
        output.write(data.getbuffer())
        output.flush()


def _receive(reader):
    head = reader.read(8)
    data = reader.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else b""
    if not data:
        raise SpeechMergeError("a process that merges was killed, likely for want of memory; run the same command again "
                               "with fewer --threads")
    good, value = pickle.loads(data)  # from a copy of ourselves
    if not good:
        raise value
    return value


class _Pickler(pickle.Pickler):
    """Tensors as arrays, which is ten times faster than their own way."""

    def reducer_override(self, value):
        import torch

        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented
