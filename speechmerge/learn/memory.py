"""Large tensors go back to the system as soon as they are freed."""
import contextlib
import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of mallopt(3)
LARGE = 1 << 20  # bytes: an activation of a few seconds of speech is larger
USUAL = 32 << 20  # the most that glibc lets its own threshold rise to


@contextlib.contextmanager
def returned_at_once(size: int = LARGE):
    """Within the block glibc maps every allocation above `size` bytes by itself. Activations of many sizes, made and freed
    again in another order, leave gaps in its heap: a fifth of what a learner of coefficients holds. Elsewhere nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(MMAP_THRESHOLD, size)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, USUAL)
        mallopt(TRIM_THRESHOLD, 2 * USUAL)
