"""Mini-batches through the network on a CUDA device, by CuPy: gradients, steps and predictions."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import ceil
from typing import Any

import numpy as np

from .._augmentation import Augmentation, call_augment
from .._backend import import_cupy, is_cupy, to_device
from .._engine import Objective, batch_weights
from .._images import ImageLayout, ImageLoader
from .._layers import even_slices
from .._loss import log_softmax, softmax_cross_entropy
from .._network import Architecture, Network

# Share of the free device memory that X may take. A larger one is sent piece by piece.
_SHARE_FOR_X = 0.7

# Bytes of X that are sent in one piece, from pinned memory
_PIECE = 32 * 2**20

# What a network's buffers may take: as many samples go through it at once. Also the most samples.
_BUFFERS, _MOST_SAMPLES = 256 * 2**20, 2048


class DeviceEngine:
    """Train and predict with one network on a CUDA device.

    The same layers, loss and optimizers as on the CPU, with CuPy's arrays; and the same methods as
    `Engine`. Use as a context manager: entering takes the device, a stream and a memory pool of
    its own, leaving gives the memory back. Arrays that are to outlive the block have to be copied.

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

    def __init__(
        self,
        architecture: Architecture,
        layout: ImageLayout,
        parameters: np.ndarray,
        device: int,
        objective: Objective,
    ) -> None:
        self.xp: Any = import_cupy()
        self.objective = objective
        self.architecture, self.layout, self.device = architecture, layout, device
        self.dtype = parameters.dtype
        self.n_samples = _samples_at_once(architecture, self.dtype)
        self._host_parameters = parameters

    def __enter__(self) -> "DeviceEngine":
        cuda = self.xp.cuda
        with ExitStack() as resources:
            resources.enter_context(cuda.Device(self.device))
            # What was queued before may still be writing the caller's arrays
            cuda.get_current_stream().synchronize()
            pool = cuda.MemoryPool()
            resources.callback(pool.free_all_blocks)
            resources.enter_context(cuda.using_allocator(pool.malloc))
            self.stream = resources.enter_context(cuda.Stream(non_blocking=True))
            resources.callback(self._release)
            self.parameters = self._parameters_on_device()
            self._gradient = self._sum_of_parts = None
            self._networks: dict[tuple[int, bool], tuple[ImageLoader, Network]] = {}
            self._resident: list[tuple[Any, Any]] = []
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._resources.close()

    def _parameters_on_device(self) -> Any:
        return to_device(self.xp, self._host_parameters)

    def _release(self) -> None:
        """Wait for the device, and let go of all memory on it."""
        self.stream.synchronize()
        for name in ("parameters", "_gradient", "_sum_of_parts", "_networks", "_resident"):
            self.__dict__.pop(name, None)

    def train_epoch(
        self,
        X: Any,
        y: np.ndarray,
        weights: np.ndarray,
        order: np.ndarray,
        batch_size: int,
        optimizer: Any,
        rates: np.ndarray,
        generator: np.random.Generator,
    ) -> Callable[[], float]:
        """Go once through rows of `X`, with a step of the optimizer after each mini-batch.

        The parameters and the result are those of `Engine.train_epoch`. `X` may also be CuPy's.
        """
        xp, alpha = self.xp, self.objective.alpha
        totals, shares = batch_weights(weights[order], batch_size)
        labels, shares = to_device(xp, y[order]), to_device(xp, shares.astype(self.dtype))
        losses = xp.zeros(len(totals), self.dtype)
        network_weights = self.parameters[: self.architecture.n_weights]
        for batch, features in enumerate(self._batches(X, order, batch_size, generator)):
            part = slice(batch * batch_size, (batch + 1) * batch_size)
            loss = losses[batch : batch + 1]
            gradient = self._compute_gradient(features, labels[part], shares[part], loss, generator)
            if alpha > 0:
                penalty = float(alpha / totals[batch])
                gradient[: len(network_weights)] += penalty * network_weights
                loss += penalty / 2 * (network_weights @ network_weights)
            optimizer.step(gradient, float(rates[batch]))
        return lambda: float(totals @ losses.get() / totals.sum())

    def _batches(
        self, X: Any, order: np.ndarray, batch_size: int, generator: np.random.Generator
    ) -> Iterator[Any]:
        """Yield the features of each mini-batch; where a callable augments, as it left them."""
        augment = self.objective.augment
        if augment is None or isinstance(augment, Augmentation):
            yield from self._rows(X, order, batch_size)
            return
        # A callable gets the kind of array that X is
        rows = to_device(self.xp, order) if is_cupy(X) else order
        for begin in range(0, len(order), batch_size):
            batch = X[rows[begin : begin + batch_size]]
            batch = call_augment(augment, self.layout.image_shape, batch, generator)
            yield batch if is_cupy(batch) else to_device(self.xp, batch)

    def _compute_gradient(
        self, features: Any, labels: Any, shares: Any, loss: Any, generator: np.random.Generator
    ) -> Any:
        """Compute the gradient of the weighted sum of the samples' losses; `loss` += that sum."""
        xp, n_samples = self.xp, len(features)
        augment, draws = self.objective.augment, None
        if isinstance(augment, Augmentation):
            draws = xp.asarray(augment.draw(generator, n_samples, self.dtype))
        if self._gradient is None:
            self._gradient = xp.empty_like(self.parameters)
            self._sum_of_parts = xp.empty_like(self.parameters)
        parts = even_slices(n_samples, ceil(n_samples / self.n_samples))
        for n, part in enumerate(parts):
            loader, network = self._network(part.stop - part.start, trains=True)
            loader.load(features[part], None if draws is None else draws[part])
            network.forward()
            loss += softmax_cross_entropy(
                xp, network.logits, labels[part], shares[part], self.objective.label_smoothing
            )
            network.backward()
            if len(parts) == 1:
                return self._gradient
            if n == 0:
                xp.copyto(self._sum_of_parts, self._gradient)
            else:
                xp.add(self._sum_of_parts, self._gradient, out=self._sum_of_parts)
        return self._sum_of_parts

    def predict_log_proba(self, X: Any, rows: np.ndarray | None = None) -> Any:
        """Compute the logarithms of the class probabilities.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            NumPy's or CuPy's.
        rows : integer ndarray of shape (n_rows,), default=None
            Rows of `X` to take; None takes all.

        Returns
        -------
        log_proba : cupy.ndarray of shape (n_rows, n_classes)
        """
        if rows is None:
            rows = np.arange(len(X))
        log_proba = self.xp.empty((len(rows), self.architecture.n_classes), self.dtype)
        for n, features in enumerate(self._rows(X, rows, self.n_samples)):
            loader, network = self._network(len(features), trains=False)
            loader.load(features)
            network.forward()
            log_softmax(self.xp, network.logits)
            begin = n * self.n_samples
            self.xp.copyto(log_proba[begin : begin + len(features)], network.logits.T)
        return log_proba

    def _rows(self, X: Any, rows: np.ndarray, size: int) -> Iterator[Any]:
        """Yield rows of `X` on the device, `size` of them at a time."""
        xp, on_device = self.xp, self._on_device(X)
        if on_device is not None:
            rows = to_device(xp, rows)
            for begin in range(0, len(rows), size):
                yield xp.take(on_device, rows[begin : begin + size], axis=0)
            return
        for piece in self._pieces(X, rows, size):
            for begin in range(0, len(piece), size):
                yield piece[begin : begin + size]

    def _on_device(self, X: Any) -> Any:
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

    def _network(self, n_samples: int, trains: bool) -> tuple[ImageLoader, Network]:
        """Return the network for `n_samples` samples, made when first wanted."""
        key = n_samples, trains
        if key not in self._networks:
            gradient = self._gradient if trains else None
            network = Network(self.xp, self.architecture, self.parameters, gradient, n_samples)
            augment = self.objective.augment if trains else None
            augmentation = augment if isinstance(augment, Augmentation) else None
            loader = ImageLoader(self.xp, self.layout, network.images, augmentation)
            self._networks[key] = loader, network
        return self._networks[key]


def _samples_at_once(architecture: Architecture, dtype: np.dtype) -> int:
    """Tell how many samples' buffers, roughly, fit into what they may take."""
    n_numbers = 0
    for shape in architecture.convolutions():
        pixels = (shape.height + 2 * shape.padding) * (shape.width + 2 * shape.padding)
        n_numbers += 2 * pixels * shape.in_channels * (shape.kernel_size + 1)
        n_numbers += 3 * pixels * shape.out_channels
    return max(1, min(_MOST_SAMPLES, _BUFFERS // (n_numbers * dtype.itemsize)))
