"""Several processes that torchrun has started, `torchrun --nproc_per_node=2 -m speechmerge decode ...`.

    world = World.of_environment()            # rank 0 of 1 where nobody has started several
    with world.together("decode"):            # everybody leaves this block at the same time, or with an error
        everything = [part for share in gathered(mine) for part in share]

Each process takes its share (rank of size) and its own GPU. What is decoded meets in files, what is trained in gradients;
the first process (rank 0) alone writes what is one for all.
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

    @property
    def first(self) -> bool:
        return self.rank == 0

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
    def together(self, verb: str, device: str = "cpu"):
        """At the end of the block everybody waits for the others. SpeechMergeError where one of them is gone.

        device: of this process; tensors on GPUs are exchanged by NCCL, everything else by gloo.
        """
        if self.size == 1:
            yield
            return
        import torch
        import torch.distributed as group

        if group.is_initialized():  # within another such block
            yield
            return
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        group.init_process_group(backend, rank=self.rank, world_size=self.size, timeout=LONGEST)
        try:
            yield
            group.barrier()
        except RuntimeError as error:
            lost = isinstance(error, group.DistError) or "gloo" in str(error) or "onnection" in str(error)
            if not lost:
                raise
            raise SpeechMergeError(f"{verb}: another process has ended before its share was done; run the same command "
                                   "again, only what is missing is done") from error
        finally:
            group.destroy_process_group()


def gathered(value) -> list:
    """`value` of every process, by rank; in one process [value]. All of them must call it."""
    import torch.distributed as group

    if not group.is_available() or not group.is_initialized():
        return [value]
    found = [None] * group.get_world_size()
    group.all_gather_object(found, value)
    return found
