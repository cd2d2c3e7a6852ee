"""The leading eigenvectors of a symmetric matrix, several times faster than all of them, on several threads at once.

LAPACK's syevr computes a few eigenvectors for a quarter of the price of all. torch does not offer it, and scipy's
`eigh(subset_by_index=...)` holds Python's global lock while it computes, so that two threads are no faster than one.
scipy does publish the addresses of its LAPACK routines (`scipy.linalg.cython_lapack`), and a call through ctypes leaves
the lock. On other devices than the CPU, and where that address is not there, all eigenvectors are computed by torch.
"""
import ctypes
import functools

import torch

SIGNATURE = ["c", "c", "c", "i", "t", "i", "t", "t", "i", "i", "t", "i", "t", "t", "i", "i", "t", "i", "i", "i", "i"]
ROUTINES = {torch.float32: "ssyevr", torch.float64: "dsyevr"}
FEW = 6  # for more than a sixth of the vectors all of them are as fast
REAL = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


def leading(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest eigenvalues [count], descending, and vectors [n, count] of a symmetric matrix [n, n]."""
    routine = _routine(matrix.dtype) if matrix.device.type == "cpu" and 0 < count <= len(matrix) // FEW else None
    found = _call(routine, matrix, count) if routine else None
    if found is None:
        values, vectors = torch.linalg.eigh(matrix)
        found = values[len(matrix) - count:], vectors[:, len(matrix) - count:]
    return found[0].flip(0), found[1].flip(1)


def _call(routine, matrix, count: int):
    """Ascending, as LAPACK gives them; None where it does not converge."""
    n, real = len(matrix), REAL[matrix.dtype]
    copied = matrix.clone(memory_format=torch.contiguous_format)  # destroyed; rows or columns first is the same here
    values, vectors = matrix.new_empty(n), matrix.new_empty(count, n)
    support = torch.empty(2 * count, dtype=torch.int32)
    work, integers = matrix.new_empty(70 * n), torch.empty(10 * n, dtype=torch.int32)
    found, info = ctypes.c_int(), ctypes.c_int()
    routine(
        b"V", b"I", b"L", _int(n), _at(copied), _int(n), _zero(real), _zero(real), _int(n - count + 1), _int(n),
        _zero(real), ctypes.byref(found), _at(values), _at(vectors), _int(n), _at(support), _at(work),
        _int(len(work)), _at(integers), _int(len(integers)), ctypes.byref(info),
    )
    return (values[:count], vectors.T) if info.value == 0 and found.value == count else None


def _int(value: int):
    return ctypes.byref(ctypes.c_int(value))


def _zero(real):
    return ctypes.byref(real(0))


def _at(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@functools.cache
def _routine(dtype):
    """LAPACK's routine as a function of addresses, or None where scipy's has other arguments (64-bit integers)."""
    from scipy.linalg import cython_lapack

    capsule = cython_lapack.__pyx_capi__.get(ROUTINES[dtype])
    if capsule is None:
        return None
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = name(capsule)
    if _kinds(signature.decode()) != SIGNATURE:
        return None
    _one_thread()
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(SIGNATURE))(pointer(capsule, signature))


def _kinds(signature: str) -> list[str]:
    """'void (char *, int *, double *)' -> c, i, t: characters, 32-bit integers, numbers of the routine's type."""
    arguments = signature[signature.index("(") + 1:signature.rindex(")")].split(",")
    kinds = {"char *": "c", "int *": "i"}
    return [kinds.get(argument.strip(), "t") for argument in arguments]


@functools.cache
def _one_thread():
    """scipy's BLAS with one thread from now on: with more it computes other last digits and slows down calls from
    several threads. `torch.set_num_threads` does not reach it, and it is not set back after a call, because that costs
    more than a call."""
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    others = [library for library in libraries if "numpy" not in library.filepath]  # numpy's wheels bring their own
    for library in others or libraries:
        library.set_num_threads(1)
