"""What the machine offers: memory, cores, threads of the linear algebra library, CUDA devices."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import numpy as np
from threadpoolctl import ThreadpoolController

# A vector register of AVX-512, and a line of the cache
_ALIGNMENT = 64


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
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def available_cores() -> int:
    """Count the cores that this process may use.

    The least of CPU affinity, cgroup quota and `LOKY_MAX_CPU_COUNT` (as joblib reads them) and of
    the threads that BLAS would use, which follow `OMP_NUM_THREADS`, joblib's share for each of its
    workers, and threadpoolctl's limits.
    """
    return max(1, min([joblib.cpu_count(), *_single_threaded.n_threads()]))


def _give_up_control() -> None:
    """Let any thread set the number of BLAS' threads."""
    for library in _blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


class _SingleThreadedBLAS:
    """Count the users, so that the last to leave restores what the first found."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0

    def n_threads(self) -> list[int]:
        """Give each library's number of threads, while it is held the one that it will have."""
        with self._lock:
            return self._n_threads if self._n_users else self._read()

    @staticmethod
    def _read() -> list[int]:
        return [library["num_threads"] for library in _blas().info()]

    def enter(self) -> None:
        with self._lock:
            if self._n_users == 0:
                self._n_threads = self._read()
                self._limit = _blas().limit(limits=1)
            self._n_users += 1

    def leave(self) -> None:
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                # threadpoolctl >= 3.8 lets one thread alone set OpenBLAS' number: the first to
                # enter, which need not be the last to leave
                _give_up_control()
                self._limit.restore_original_limits()
                _give_up_control()


_single_threaded = _SingleThreadedBLAS()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS at one thread: its own threads wait for each other longer than they compute."""
    _single_threaded.enter()
    try:
        yield
    finally:
        _single_threaded.leave()


def call_of_user(name: str, function: Callable, *arguments: Any) -> Any:
    """Call a function that a user gave as the parameter `name`.

    Raises
    ------
    TypeError
        If it does not take the arguments; its own errors come as they are.
    """
    try:
        return function(*arguments)
    except TypeError as error:
        # The frame of the function, if it was entered, is behind this one
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        raise TypeError(
            f"{name!r} must be a callable of {len(arguments)} argument"
            f"{'s' if len(arguments) > 1 else ''}: {error}"
        ) from error


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


@contextmanager
def current_device(number: int | None) -> Iterator[None]:
    """Make a CUDA device the current one: CuPy computes there. None, the CPU, leaves it."""
    with nullcontext() if number is None else import_cupy().cuda.Device(number):
        yield


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
