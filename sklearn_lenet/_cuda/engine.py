"""What CuPy's operations need to train and predict on a CUDA device: memory, a stream, the data."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from .._backend import import_cupy, is_cupy, to_device
from .._engine import Engine, Objective
from .._images import ImageLayout
from .._network import Architecture

# Share of the free device memory that X may take. A larger one is sent piece by piece.
_SHARE_FOR_X = 0.7

# Bytes of X that are sent in one piece, from pinned memory
_PIECE = 32 * 2**20

# What a network's buffers may take: as many samples go through it at once. Also the most samples.
_BUFFERS, _MOST_SAMPLES = 256 * 2**20, 2048


class DeviceEngine(Engine):
    """Train and predict with one network on a CUDA device.

    The same loop, layers, loss and optimizers as on the CPU, with CuPy's arrays. Use as a context
    manager: entering takes the device, a stream and a memory pool of its own, leaving gives the
    memory back. Arrays that are to outlive the block have to be copied.

    Work is queued: a training epoch waits for the device once, to read its loss. A mini-batch goes
    through the network whole, or in parts of equal size where its buffers would grow too large.

    Parameters
    ----------
    architecture : Architecture
    layout : ImageLayout
    parameters : ndarray of shape (n_parameters,)
        On the host; only read.
    device : int
        Number of the device.
    objective : Objective

    Attributes
    ----------
    xp : module
        cupy.
    parameters : cupy.ndarray of shape (n_parameters,)
        Within the block: changed in place by an optimizer that is bound to it.
    stream : cupy.cuda.Stream
        Likewise.
    """

    shards_at_once = 1

    def __init__(
        self,
        architecture: Architecture,
        layout: ImageLayout,
        parameters: np.ndarray,
        device: int,
        objective: Objective,
    ) -> None:
        super().__init__(architecture, layout, parameters, n_workers=1, objective=objective)
        self.xp, self.device = import_cupy(), device
        self.samples_at_once = self.rows_at_once = _samples_at_once(architecture, parameters.dtype)
        self._host_parameters = parameters
        self._resident: list[tuple[Any, Any]] = []

    def _take(self, resources: ExitStack) -> None:
        cuda = self.xp.cuda
        resources.enter_context(cuda.Device(self.device))
        # What was queued before may still be writing the caller's arrays
        cuda.get_current_stream().synchronize()
        pool = cuda.MemoryPool()
        resources.callback(pool.free_all_blocks)
        resources.enter_context(cuda.using_allocator(pool.malloc))
        self.stream = resources.enter_context(cuda.Stream(non_blocking=True))
        resources.callback(self._release)
        self.parameters = self._parameters_on_device()

    def _parameters_on_device(self) -> Any:
        return to_device(self.xp, self._host_parameters)

    def _release(self) -> None:
        """Wait for the device, and let go of all memory on it."""
        self.stream.synchronize()
        self.parameters = self._host_parameters
        for held in (self._networks, self._gradients, self._resident):
            held.clear()

    def _shard_size(self, n_samples: int) -> int:
        return self.samples_at_once

    def _rows(self, X: Any, rows: np.ndarray | None, size: int) -> Iterator[Any]:
        on_device = self.on_device(X)
        if on_device is not None:
            if rows is not None:
                rows = to_device(self.xp, rows)
            for batch in super()._rows(on_device, rows, size):
                yield batch[:]  # gathered at once, where rows are chosen
            return
        for piece in self._pieces(X, np.arange(len(X)) if rows is None else rows, size):
            for begin in range(0, len(piece), size):
                yield piece[begin : begin + size]

    def on_device(self, X: Any) -> Any:
        """Give `X` on the device, in C order, copied when first asked for.

        Where there is no room for a copy: None, or CuPy's array as it is.
        """
        if is_cupy(X) and X.flags.c_contiguous:
            return X
        for known, on_device in self._resident:
            if known is X:
                return on_device
        free, _ = self.xp.cuda.runtime.memGetInfo()
        if X.nbytes > _SHARE_FOR_X * free:
            return X if is_cupy(X) else None
        on_device = self.xp.ascontiguousarray(X) if is_cupy(X) else to_device(self.xp, X)
        self._resident.append((X, on_device))
        return on_device

    def _pieces(self, X: np.ndarray, rows: np.ndarray, size: int) -> Iterator[Any]:
        """Yield rows of `X` in pieces: while the device has one, the host gathers the next.

        Each piece but the last has a multiple of `size` rows, and is overwritten by the next.
        """
        from cupyx import empty_pinned

        cuda, native = self.xp.cuda, X.dtype.newbyteorder("=")
        n_rows = size * max(1, _PIECE // (size * X.shape[1] * X.itemsize))
        pinned = [empty_pinned((n_rows, X.shape[1]), native) for _ in range(2)]
        sent = [cuda.Event() for _ in range(2)]  # nothing to wait for, as yet
        on_device = self.xp.empty((n_rows, X.shape[1]), native)
        try:
            for n, begin in enumerate(range(0, len(rows), n_rows)):
                taken = rows[begin : begin + n_rows]
                host = pinned[n % 2][: len(taken)]
                sent[n % 2].synchronize()
                np.take(X, taken, axis=0, out=host, mode="clip")
                piece = on_device[: len(taken)]
                piece.set(host, stream=self.stream)
                sent[n % 2].record(self.stream)
                yield piece
        finally:
            # Whoever comes next gets the pinned memory
            for event in sent:
                event.synchronize()


def _samples_at_once(architecture: Architecture, dtype: np.dtype) -> int:
    """Tell how many samples' buffers, roughly, fit into what they may take."""
    n_numbers = 0
    for shape in architecture.convolutions():
        pixels = (shape.height + 2 * shape.padding) * (shape.width + 2 * shape.padding)
        n_numbers += 2 * pixels * shape.in_channels * (shape.kernel_size + 1)
        n_numbers += 3 * pixels * shape.out_channels
    return max(1, min(_MOST_SAMPLES, _BUFFERS // (n_numbers * dtype.itemsize)))
