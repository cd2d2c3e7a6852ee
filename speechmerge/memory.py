"""The most memory that a stretch of work took.

    peak = PeakMemory(device)
    ...
    peak.read()        # {"peak_mb": 812.4} and on a GPU {"peak_gpu_mb": ...}
"""
import resource
import sys
from pathlib import Path

MB = 1e6
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
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
