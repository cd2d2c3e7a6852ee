"""Where and on how many cores a merge is computed; results are the same for any number.

Each worker computes whole blocks or whole parameters with one BLAS thread, because BLAS and LAPACK sum in another order
with each number of threads; what is summed over blocks is summed in the order of the blocks.
"""
import contextlib
import os
import threading
from dataclasses import dataclass

UNIT = 32  # blocks of one parameter that a thread takes at once: factors of a LoRA are read once for all of them


@dataclass
class Compute:
    threads: int = 1
    device: str = "cpu"


_now = Compute()


def device() -> str:
    return _now.device


@contextlib.contextmanager
def computing(threads: int | None = None, device: str | None = None):
    """Within the block merges use `threads` threads (default: all cores) and `device` (cpu, cuda, cuda:1 ...)."""
    import torch

    global _now
    before, blas = _now, torch.get_num_threads()
    _now = Compute(threads or len(os.sched_getaffinity(0)), device or "cpu")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _now = before
        torch.set_num_threads(blas)


def one_thread():
    """In a process that is one of several workers: what it computes is not shared out again."""
    _now.threads = 1


def ordered(function, items, here: bool = False):
    """Yield function(item) for each item, in order, computed on all cores. `here`: the function changes what is in this
    process, or its results are large."""
    import torch

    from speechmerge.merge.workers import by_processes, by_threads

    if _now.threads == 1:
        return map(function, items)
    forks = not here and _now.device == "cpu" and hasattr(os, "fork") and not torch.cuda.is_initialized()
    return (by_processes if forks else by_threads)(function, items, _now.threads)


@dataclass(frozen=True)
class Block:
    """Rows start..stop of the leading dimension of parameter `name`, the `index`-th block of it; `shape` is the whole's."""

    name: str
    index: int
    start: int
    stop: int
    shape: tuple[int, ...]


def units(name: str, shape):
    """The blocks of one parameter in groups that one thread takes at once."""
    from speechmerge.merge.delta import blocks

    all_ = [Block(name, index, start, stop, tuple(shape)) for index, (start, stop) in enumerate(blocks(shape))]
    return [all_[first:first + UNIT] for first in range(0, len(all_), UNIT)]


class Tensors:
    """The deltas of all inputs, parameter by parameter, for methods that need to know something of all of them."""

    def __init__(self, deltas: dict[str, list]):
        """`deltas`: parameter -> one Delta per input, in the order of the inputs."""
        self._deltas = deltas
        self.names = sorted(deltas)
        self.count = len(next(iter(deltas.values())))

    def deltas(self, name: str) -> list:
        return self._deltas[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._deltas[name][0].shape

    def all(self):
        """Every delta of every input."""
        return (delta for deltas in self._deltas.values() for delta in deltas)

    def of(self, name: str) -> "Tensors":
        """One parameter alone."""
        return Tensors({name: self._deltas[name]})

    def map(self, function, names=None):
        """Yield function(name, deltas) for every parameter, in order."""
        return ordered(lambda name: function(name, self._deltas[name]), self.names if names is None else names)

    def map_blocks(self, function, names=None, inputs=None):
        """Yield function(block, [float32 block of each input]) for all blocks, in order; the tensors may be changed.

        `inputs`: the indices of those that are read, default all.
        """
        def compute(unit):
            deltas = self._deltas[unit[0].name]
            deltas = [deltas[index].loaded() for index in (range(self.count) if inputs is None else inputs)]
            return [function(block, read_block(deltas, block.start, block.stop)) for block in unit]

        work = (unit for name in (self.names if names is None else names) for unit in units(name, self.shape(name)))
        for results in ordered(compute, work):
            yield from results


def read_block(deltas, start: int, stop: int) -> list:
    """The same rows of several deltas; a base that they share is read once."""
    from speechmerge.merge.delta import Difference, floats

    tensors = []
    for delta in deltas:
        if isinstance(delta, Difference):
            tensors.append(floats(delta.tuned, start, stop).sub_(base_block(delta.base, start, stop)))
        else:
            tensors.append(delta.block(start, stop))
    return tensors


_last = threading.local()


def base_block(entry, start: int, stop: int):
    """Rows of the base's tensor, not to be changed: the last ones of each thread are kept, because each input's delta
    and then the sum need the same."""
    from speechmerge.merge.delta import floats

    key = (entry, start, stop, device())
    if getattr(_last, "key", None) != key:
        _last.key, _last.tensor = key, floats(entry, start, stop)
    return _last.tensor
