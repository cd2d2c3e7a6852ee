"""The most memory that a stretch of work took, and when the C library gives memory back.

    peak = PeakMemory(device)
    ...
    peak.read()        # {"peak_mb": 812.4} and on a GPU {"peak_gpu_mb": ...}
"""
import contextlib
import ctypes
import resource
import sys
from pathlib import Path

MB = 1e6
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of mallopt(3)
LARGE = 1 << 20  # bytes: an activation of a few seconds of speech is larger
USUAL = 32 << 20  # the most that glibc lets its own threshold rise to
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in


class PeakMemory:
    """Of this process (resident memory) and of a CUDA device, from here on.

    Where the system cannot begin anew (no Linux, or /proc/self/clear_refs is closed), the peak is that since the process
    began.
    """

    def __init__(self, device=None):
        self.cuda = device if str(device).startswith("cuda") else None
        try:
            CLEAR.write_text("5")  # resets the peak of resident memory, see proc(5)
        except OSError:
            pass
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self.cuda)

    def read(self) -> dict[str, float]:
        """In MB of 10^6 bytes."""
        found = {"peak_mb": round(resident_peak() / MB, 1)}
        if self.cuda:
            import torch

            found["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated(self.cuda) / MB, 1)
        return found


def resident_peak() -> int:
    """Bytes."""
    if STATUS.is_file():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def set_thresholds(mapped: int, trimmed: int | None = None) -> bool:
    """Bytes from which an allocation is mapped by itself, and of free memory from which it is given back; process-wide.
    False where the C library has no such thing (it is glibc's)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    mallopt(MMAP_THRESHOLD, mapped)
    if trimmed is not None:
        mallopt(TRIM_THRESHOLD, trimmed)
    return True


def keep_memory():
    """Have the C library keep freed memory for the next blocks instead of giving it back and asking for it again, page
    by page. For a process that merges and ends."""
    set_thresholds(1 << 25, 1 << 30)


@contextlib.contextmanager
def returned_at_once(size: int = LARGE):
    """Within the block glibc maps every allocation above `size` bytes by itself. Activations of many sizes, made and freed
    again in another order, leave gaps in its heap: a fifth of what a learner of coefficients holds. Elsewhere nothing changes.
    """
    changed = set_thresholds(size)
    try:
        yield
    finally:
        if changed:
            set_thresholds(USUAL, 2 * USUAL)
