"""What the machine offers: memory, cores, threads of the linear algebra library, CUDA devices."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

import joblib
import numpy as np
from threadpoolctl import ThreadpoolController

from ._interrupts import interruptible

# A vector register of AVX-512, and a line of the cache
_ALIGNMENT = 64

# Where the package's files are
_HERE = str(Path(__file__).parent)


def zeros(xp: ModuleType, shape: tuple[int, ...], dtype: Any) -> Any:
    """Make an array of zeros that begins at a multiple of 64 bytes.

    NumPy's own begin at one of 16: vectors then straddle two cache lines, and a training step takes
    a tenth longer.
    """
    if xp is not np:
        return xp.zeros(shape, dtype)
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def total_memory() -> int:
    """Count the bytes of memory that this process may use, at most; 8 GiB where none can tell."""
    limits = [8 * 2**30]
    if hasattr(os, "sysconf"):
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


@cache
def _blas() -> list[tuple[Callable[[], int], Callable[[int], Any]]]:
    """Give, for each BLAS, the functions that read and set its number of threads."""
    controller = ThreadpoolController().select(user_api="blas")
    return [_thread_functions(library) for library in controller.lib_controllers]


def _thread_functions(library: Any) -> tuple[Callable[[], int], Callable[[int], Any]]:
    """Give OpenBLAS' own functions, and threadpoolctl's for any other BLAS.

    threadpoolctl looks each of them up at every call, which takes longer than a small product, and
    from 3.8 on lets one thread alone set them: the first to do so, which need not be the last.
    """
    if library.internal_api == "openblas" and library.threading_layer != "openmp":
        for prefix, suffix in product(("", "scipy_"), ("", "64_", "_64")):
            with suppress(AttributeError):
                get, set_ = (
                    getattr(library.dynlib, f"{prefix}openblas_{verb}_num_threads{suffix}")
                    for verb in ("get", "set")
                )
                return get, set_
    return library.get_num_threads, library.set_num_threads


def available_cores() -> int:
    """Count the cores that this process may use.

    The least of CPU affinity, cgroup quota and `LOKY_MAX_CPU_COUNT` (as joblib reads them) and of
    the threads that BLAS would use, which follow `OMP_NUM_THREADS`, joblib's share for each of its
    workers, and threadpoolctl's limits.
    """
    return max(1, min([joblib.cpu_count(), *_single_threaded.n_threads()]))


class _SingleThreadedBLAS:
    """Hold BLAS at one thread while there are users; the last restores what the first found.

    Each step may be followed by another user's entering and leaving in the same thread, whom a
    signal's handler or a destructor calls, and in the child of a fork it may be the last one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._n_users = 0
        self._mine = threading.local()
        self._original: list[int] | None = None  # while it is held

    def n_threads(self) -> list[int]:
        """Give each library's number of threads, while it is held the one that it will have."""
        with self._lock:
            return self._read() if self._original is None else self._original

    def __enter__(self) -> None:
        with self._lock:
            found = self._read()
            self._mine.n = getattr(self._mine, "n", 0) + 1
            self._n_users += 1
            if self._original is None:
                self._original = found
            if any(n != 1 for n in found):
                self._set([1] * len(found))

    def __exit__(self, *exception: Any) -> None:
        with self._lock:
            self._mine.n -= 1
            self._n_users -= 1
            self._restore()

    def forked(self) -> None:
        """Forget, in a child process, the users and the lock of threads that it has not got."""
        self._lock = threading.RLock()
        self._n_users = getattr(self._mine, "n", 0)
        self._restore()

    def _restore(self) -> None:
        original = self._original
        if self._n_users == 0 and original is not None:
            self._set(original)
            self._original = None

    @staticmethod
    def _read() -> list[int]:
        return [read() for read, _ in _blas()]

    @staticmethod
    def _set(numbers: list[int]) -> None:
        for (_, set_), number in zip(_blas(), numbers, strict=True):
            set_(number)


_single_threaded = _SingleThreadedBLAS()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_single_threaded.forked)


def single_threaded_blas() -> _SingleThreadedBLAS:
    """Hold BLAS at one thread: its own threads wait for each other longer than they compute."""
    return _single_threaded


def call_of_user(name: str, function: Callable, *arguments: Any) -> Any:
    """Call a function that a user gave as the parameter `name`.

    Raises
    ------
    TypeError
        If it does not take the arguments; its own errors come as they are.
    """
    try:
        return interruptible(function, *arguments)
    except TypeError as error:
        if _was_entered(error):
            raise
        raise TypeError(
            f"{name!r} must be a callable of {len(arguments)} argument"
            f"{'s' if len(arguments) > 1 else ''}: {error}"
        ) from error


def _was_entered(error: TypeError) -> bool:
    """Tell whether a function raised the error, and not the call that never got there."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    return not all(file.startswith(_HERE) for file in files)


def import_cupy() -> ModuleType:
    """Import CuPy: only where a CUDA device is asked for, since this takes a second."""
    import cupy

    return cupy


def find_device(device: str) -> int | None:
    """Find the number of the CUDA device that is asked for.

    Parameters
    ----------
    device : str
        "cpu", "cuda" (CuPy's current device), "cuda:N" or "auto" (as "cuda", if there is one).

    Returns
    -------
    number : int or None
        None is the CPU.

    Raises
    ------
    RuntimeError
        If there is no such device, or CuPy or a driver is missing. "auto" takes the CPU then.
    """
    if device == "cpu":
        return None
    try:
        return _find_cuda_device(device.partition(":")[2])
    except RuntimeError as error:
        if device == "auto":
            return None
        raise RuntimeError(f"device={device!r} cannot be used: {error}") from error


def _find_cuda_device(number: str) -> int:
    """Find the CUDA device of this number, or the current one if it is ""."""
    try:
        runtime = import_cupy().cuda.runtime
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise RuntimeError(f"importing CuPy failed: {error}.") from error
        raise RuntimeError(
            "CuPy is not installed. It comes with the extra 'gpu': python -m pip install '.[gpu]' "
            "in a clone of sklearn_lenet"
        ) from error
    except ImportError as error:
        raise RuntimeError(f"importing CuPy failed: {error}.") from error
    try:
        n_devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"CuPy finds no working NVIDIA driver or no NVIDIA GPU ({error})."
        ) from error
    if n_devices == 0:
        raise RuntimeError("CuPy finds no NVIDIA GPU.")
    if number and int(number) >= n_devices:
        names = ", ".join(f"'cuda:{n}'" for n in range(n_devices))
        raise RuntimeError(f"there is no such GPU. CuPy finds {names}.")
    return int(number) if number else int(runtime.getDevice())


def current_device(number: int | None) -> AbstractContextManager:
    """Make a CUDA device the current one: CuPy computes there. None, the CPU, leaves it."""
    return nullcontext() if number is None else import_cupy().cuda.Device(number)


def is_cupy(array: Any) -> bool:
    """Tell whether an array is CuPy's; does not import CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def namespace(array: Any) -> ModuleType:
    """Give the module, numpy or cupy, that an array belongs to."""
    return import_cupy() if is_cupy(array) else np


def to_device(xp: ModuleType, array: Any) -> Any:
    """Turn an array of NumPy's into one of `xp`: for CuPy a copy, on the current device.

    CuPy's own is left as it is.

    `cupy.asarray` would copy it by way of pinned memory, rounded up to a power of two, that stays
    pinned as long as the process lives.
    """
    if xp is np or is_cupy(array):
        return array
    # CuPy knows this machine's byte order only
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    on_device = xp.empty(array.shape, array.dtype)
    on_device.set(array)
    # `set` need not wait for the copy, and what it reads may be gone after this
    xp.cuda.get_current_stream().synchronize()
    return on_device


def rows_on_host(X: Any, rows: np.ndarray) -> np.ndarray:
    """Take some rows of `X`, NumPy's or CuPy's, as an array of NumPy's."""
    return np.asarray(to_host(X[to_device(namespace(X), rows)]))


def to_host(value: Any) -> Any:
    """Turn CuPy's arrays, also those in a dict, into NumPy's; leave anything else."""
    if isinstance(value, dict):
        return {key: to_host(item) for key, item in value.items()}
    if not is_cupy(value):
        return value
    with value.device:  # `get` would wait for the current device's stream
        return value.get()
