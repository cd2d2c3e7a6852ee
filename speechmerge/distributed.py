"""Several processes that torchrun has started, `torchrun --nproc_per_node=2 -m speechmerge decode ...`.

    world = World.of_environment()            # rank 0 of 1 where nobody has started several
    with world.together("decode"):            # everybody leaves this block at the same time, or with an error
        ...

Each process takes its share (rank of size) and its own GPU. Results meet in files; the processes only wait for each other.
"""
import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta

from speechmerge.errors import SpeechMergeError, UsageError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
LONGEST = timedelta(days=7)  # that a process may be ahead of the slowest; one that has died is noticed at once


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local: int = 0  # rank on this machine

    @classmethod
    def of_environment(cls) -> "World":
        """Raises UsageError where torchrun's variables are there but make no sense."""
        found = [os.environ.get(name) for name in VARIABLES]
        if found[1] is None or found[0] is None:
            return cls()
        try:
            rank, size, local = (int(value) for value in (*found[:2], found[2] or "0"))
        except ValueError as error:
            raise UsageError(f"RANK, WORLD_SIZE, LOCAL_RANK: found {found}, expected numbers; start with torchrun") from error
        if not 0 <= rank < size or local < 0:
            raise UsageError(f"RANK {rank} of WORLD_SIZE {size}: expected a rank below the size; start with torchrun")
        return cls(rank, size, local)

    def device(self, given: str) -> str:
        """The process's own GPU, where one of them is asked for without a number."""
        import torch

        if self.size == 1 or given not in ("auto", "cuda") or not torch.cuda.is_available():
            return given
        if self.local >= torch.cuda.device_count():
            raise UsageError(f"--device {given}: process {self.local} of this machine has no GPU of its own, there are "
                             f"{torch.cuda.device_count()}; start as many with --nproc_per_node, or give --device cpu")
        return f"cuda:{self.local}"

    @contextlib.contextmanager
    def together(self, verb: str):
        """At the end of the block everybody waits for the others. SpeechMergeError where one of them is gone."""
        if self.size == 1:
            yield
            return
        import torch.distributed as group

        group.init_process_group("gloo", rank=self.rank, world_size=self.size, timeout=LONGEST)
        try:
            yield
            group.barrier()
        except RuntimeError as error:
            if "gloo" not in str(error) and "onnection" not in str(error):
                raise
            raise SpeechMergeError(f"{verb}: another process has ended before its share was done; run the same command "
                                   "again, only what is missing is done") from error
        finally:
            group.destroy_process_group()


def alone(verb: str, instead: str):
    """Raises UsageError where torchrun has started several processes for a verb that runs in one."""
    world = World.of_environment()
    if world.size > 1:
        raise UsageError(f"{verb}: runs in one process, found WORLD_SIZE {world.size}; {instead}")
