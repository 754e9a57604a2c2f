"""Training steps by a few CUDA kernels of our own, replayed as a graph; predictions by them."""

import warnings
from math import ceil
from typing import Any

import numpy as np

from ._device_engine import DeviceEngine
from ._engine import batch_weights
from ._kernels import (
    PIXEL_TYPES,
    THREADS,
    convolution_parameters,
    entry_points,
    kernel_source,
    shared_memory,
    wide_type,
)
from ._network import Architecture
from ._optimizers import SGD, Adam, WeightAverage

# Of the compiler
OPTIONS = ("-std=c++17",)

# Steps in a graph: enough to hide the time of its launch, few enough to capture it in no time
_STEPS_IN_GRAPH = 16

# Groups of samples that have their own part of the convolutions' gradients, at most
_GROUPS = 128

# Kernels stay within the shared memory that every device gives a block, in numbers. Larger
# networks, of more parameters or larger mini-batches, are bound by arithmetic: cuBLAS is faster.
_MOST_SHARED, _MOST_PARAMETERS, _MOST_SAMPLES = 48 * 1024 // 4, 2**18, 8192

# From so many rows on, predicting is worth the compilation of kernels
_MANY_ROWS = 2**16


class CudaEngine(DeviceEngine):
    """Train and predict with one network on a CUDA device, with few launches.

    What bounds a step of a small network is the number of kernels that are launched, not their
    arithmetic. Here a step is two or three kernels for each convolution, and three more
    (`_kernels.cu`); and several steps are captured once, as a CUDA graph, which is then replayed.

    What the kernels do not cover is left to `DeviceEngine`: float64, augmentation, data that do not
    fit in the device's memory, and large networks, mini-batches and images. So it is, with a
    warning, where the kernels cannot be compiled. Where no graph can be captured, the kernels are
    launched one by one, with the same bits. The parameters are those of `DeviceEngine`.
    """

    def __enter__(self) -> "CudaEngine":
        super().__enter__()
        self._kernels: dict[tuple, Kernels] = {}
        self._steps: Steps | None = None
        self._works = True
        return self

    def _release(self) -> None:
        super()._release()
        for name in ("_kernels", "_steps"):
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
    ) -> float:
        """Go once through rows of `X`, with a step of the optimizer after each mini-batch.

        The parameters and the result are those of `Engine.train_epoch`. `X` may also be CuPy's.
        """
        batch_size = min(batch_size, len(order))
        steps = self._make_steps(X, len(order), batch_size, optimizer)
        if steps is None:
            return super().train_epoch(
                X, y, weights, order, batch_size, optimizer, rates, generator
            )
        return steps.run(order, y[order], weights[order], rates)

    def _make_steps(self, X: Any, n_rows: int, batch_size: int, optimizer: Any) -> "Steps | None":
        """Give the steps of an epoch; None if kernels do not cover them."""
        inner = optimizer.optimizer if isinstance(optimizer, WeightAverage) else optimizer
        if self.objective.augment is not None or not isinstance(inner, SGD | Adam):
            return None
        kernels, on_device = self._kernels_for(X, batch_size, optimizer)
        if kernels is None:
            return None
        if self._steps is None or not self._steps.serve(on_device, n_rows, batch_size, optimizer):
            self._steps = Steps(self, kernels, on_device, n_rows, batch_size, optimizer)
        return self._steps

    def predict_log_proba(self, X: Any, rows: np.ndarray | None = None) -> Any:
        """Compute the logarithms of the class probabilities.

        The parameters and the result are those of `DeviceEngine.predict_log_proba`.
        """
        n_rows = len(X) if rows is None else len(rows)
        kernels = on_device = None
        if self._kernels or n_rows >= _MANY_ROWS:
            kernels, on_device = self._kernels_for(X, min(n_rows, _MOST_SAMPLES))
        if kernels is None:
            return super().predict_log_proba(X, rows)
        return kernels.predict(on_device, np.arange(n_rows) if rows is None else rows)

    def _kernels_for(
        self, X: Any, n_samples: int, optimizer: Any = None
    ) -> tuple["Kernels | None", Any]:
        """Give kernels for `n_samples` rows of `X` at once, and `X` on the device."""
        is_covered = self.dtype == np.float32 and X.dtype.name in PIXEL_TYPES
        if not (self._works and is_covered and are_covered(self.architecture, n_samples)):
            return None, None
        on_device = self._on_device(X)
        if on_device is None or not on_device.flags.c_contiguous:
            return None, None
        key = X.dtype.name, *_describe(optimizer)
        if optimizer is None:  # any that are there will do
            key = next((known for known in self._kernels if known[0] == key[0]), key)
        if key not in self._kernels:
            try:
                self._kernels[key] = Kernels(self, *key, n_samples)
            except Exception as error:
                self._works = False
                warnings.warn(
                    f"Compiling kernels failed: training goes on without, more slowly. ({error})",
                    stacklevel=2,
                )
                return None, None
        return self._kernels[key], on_device


def _describe(optimizer: Any) -> tuple[str, bool]:
    """Name an optimizer as the kernels do, and tell whether it averages."""
    averages = isinstance(optimizer, WeightAverage)
    inner = optimizer.optimizer if averages else optimizer
    if isinstance(inner, Adam):
        return "ADAM", averages
    return "NESTEROV" if inner is not None and inner.nesterov else "SGD", averages


class Kernels:
    """The kernels of one network, compiled; and predictions by them.

    Parameters
    ----------
    engine : CudaEngine
    pixels : str
        Name of the type of `X`.
    solver : {"SGD", "NESTEROV", "ADAM"}
    averages : bool
    n_samples : int
        Size of the mini-batches, for the better choice.
    """

    def __init__(
        self, engine: CudaEngine, pixels: str, solver: str, averages: bool, n_samples: int
    ) -> None:
        self.engine, self.shapes = engine, engine.architecture.convolutions()
        # With few blocks, one for each sample; with many, weights that are read once for several
        self.samples = 4 if n_samples >= 512 else 1
        source = kernel_source(
            engine.architecture, engine.layout, pixels, solver, averages, self.samples
        )
        module = engine.xp.RawModule(code=source, options=OPTIONS)
        module.compile()
        self.functions = {
            name: module.get_function(name) for name in entry_points(engine.architecture, "")
        }
        self.shared = shared_memory(engine.architecture, self.samples)
        wide = np.float64 if wide_type(pixels) == "double" else np.float32
        self.scaling = wide(engine.layout.mean), np.float32(engine.layout.scale)

    def launch(self, name: str, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch a kernel with blocks in this grid."""
        self.functions[name](grid, (THREADS,), arguments, shared_mem=4 * self.shared.get(name, 0))

    def forward(
        self, X: tuple[Any, ...], maps: list[Any], outputs: list[Any], n_samples: int
    ) -> None:
        """Launch the convolutions; `X` are the arguments that say which rows they read."""
        for i, shape in enumerate(self.shapes):
            n_outputs = shape.out_channels * shape.out_height * shape.out_width
            source = X if i == 0 else outputs[i - 1 : i]
            grid = n_samples, ceil(n_outputs / THREADS)
            self.launch(
                f"conv{i}_forward", grid, *source, self.engine.parameters, maps[i], outputs[i]
            )

    def predict(self, X: Any, rows: np.ndarray) -> Any:
        """Compute the logarithms of the class probabilities, of shape (n_rows, n_classes)."""
        xp, n_rows = self.engine.xp, len(rows)
        n_at_once = min(n_rows, _MOST_SAMPLES)
        outputs = [
            xp.empty((n_at_once, s.out_channels, s.out_height, s.out_width), np.float32)
            for s in self.shapes
        ]
        no_maps = [np.uintp(0)] * len(outputs)
        rows, no_step = xp.asarray(rows.astype(np.int32)), xp.zeros(1, np.int32)
        log_proba = xp.empty((n_rows, self.engine.architecture.n_classes), np.float32)
        for begin in range(0, n_rows, n_at_once):
            part = log_proba[begin : begin + n_at_once]
            source = X, rows, no_step, np.int64(begin), np.int32(0), *self.scaling
            self.forward(source, no_maps, outputs, len(part))
            self.launch(
                "dense_predict",
                (ceil(len(part) / self.samples),),
                self.engine.parameters,
                outputs[-1],
                np.int32(len(part)),
                part,
            )
        return log_proba


class Steps:
    """The training steps of an epoch, on buffers of their own, and the graph of some of them.

    Parameters
    ----------
    engine : CudaEngine
    kernels : Kernels
    X : cupy.ndarray of shape (n_samples, n_features)
    n_rows : int
        Rows of `X` in an epoch.
    batch_size : int
    optimizer : SGD, Adam or WeightAverage
    """

    def __init__(
        self,
        engine: CudaEngine,
        kernels: Kernels,
        X: Any,
        n_rows: int,
        batch_size: int,
        optimizer: Any,
    ) -> None:
        xp, architecture = engine.xp, engine.architecture
        self.engine, self.kernels, self.X = engine, kernels, X
        self.n_rows, self.batch_size, self.optimizer = n_rows, batch_size, optimizer
        self.graph: Any = None
        self.has_run = False

        # An epoch's samples in its order, and what changes from step to step
        self.rows, self.labels = (xp.empty(n_rows, np.int32) for _ in range(2))
        self.shares = xp.empty(n_rows, np.float32)
        self.schedule = xp.empty((ceil(n_rows / batch_size), 6), np.float32)
        self.step = xp.zeros(1, np.int32)

        def buffer(*sizes: int) -> Any:
            return xp.empty((batch_size, *sizes), np.float32)

        self.maps, self.outputs, self.output_grads = [], [], []
        for shape in kernels.shapes:
            p, sizes = shape.pool_size, (shape.out_height, shape.out_width)
            self.maps.append(buffer(shape.out_channels, *(p * size for size in sizes)))
            self.outputs.append(buffer(shape.out_channels, *sizes))
            self.output_grads.append(buffer(shape.out_channels, *sizes))
        hidden = sum(architecture.hidden_layer_sizes)
        self.states = buffer(max(hidden, 1))
        self.grads = buffer(hidden + architecture.n_classes)
        self.gradient = xp.empty(architecture.n_parameters, np.float32)
        self.partials = xp.empty(
            (min(batch_size, _GROUPS), sum(convolution_parameters(architecture))), np.float32
        )
        # Each block's sum of losses, then each block's sum of squared weights
        n_loss_blocks = ceil(batch_size / kernels.samples)
        self.n_parameter_blocks = ceil(architecture.n_parameters / THREADS)
        self.sums = xp.empty(n_loss_blocks + self.n_parameter_blocks, np.float64)
        self.losses, self.squares = self.sums[:n_loss_blocks], self.sums[n_loss_blocks:]

    def serve(self, X: Any, n_rows: int, batch_size: int, optimizer: Any) -> bool:
        """Tell whether these steps are those of such an epoch."""
        return (
            self.X is X
            and self.optimizer is optimizer
            and (self.n_rows, self.batch_size) == (n_rows, batch_size)
        )

    def run(
        self, order: np.ndarray, labels: np.ndarray, weights: np.ndarray, rates: np.ndarray
    ) -> float:
        """Take all steps of an epoch, and compute its loss.

        Parameters
        ----------
        order, labels : integer ndarrays of shape (n_rows,)
            The epoch's rows of `X`, and their labels.
        weights : ndarray of shape (n_rows,)
            Their weights.
        rates : ndarray of shape (n_batches,)

        Returns
        -------
        loss : float
        """
        totals, shares = batch_weights(weights, self.batch_size)
        self.rows.set(order.astype(np.int32))
        self.labels.set(labels.astype(np.int32))
        self.shares.set(shares.astype(np.float32))
        self.schedule.set(self._make_schedule(totals, rates))
        self.step.fill(0)
        self.sums.fill(0)
        n_whole, rest = divmod(self.n_rows, self.batch_size)
        self._take_whole_steps(n_whole)
        if rest:
            self._take_step(rest)
        sums = self.sums.get()
        losses, squares = np.split(sums, [len(self.losses)])
        return float(
            (losses.sum() + self.engine.objective.alpha / 2 * squares.sum()) / totals.sum()
        )

    def _make_schedule(self, totals: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """Work out what changes from step to step, and count the optimizer's steps."""
        schedule = np.zeros((len(totals), 6))
        schedule[:, 0] = totals
        schedule[:, 1] = self.engine.objective.alpha / totals
        optimizer, numbers = self.optimizer, np.arange(1, len(totals) + 1)
        if isinstance(optimizer, WeightAverage):
            t = optimizer.n_steps + numbers
            schedule[:, 5] = 1 - np.minimum(optimizer.decay, t / (t + 9))
            optimizer.n_steps += len(totals)
            optimizer = optimizer.optimizer
        schedule[:, 2] = rates
        if isinstance(optimizer, Adam):
            t = optimizer.n_steps + numbers
            root_correction = np.sqrt(1 - optimizer.beta_2**t)
            schedule[:, 2] *= root_correction / (1 - optimizer.beta_1**t)
            schedule[:, 3] = optimizer.epsilon * root_correction
            schedule[:, 4] = 1 - rates * optimizer.decay
            optimizer.n_steps += len(totals)
        return schedule.astype(np.float32)

    def _take_whole_steps(self, n_steps: int) -> None:
        """Take steps of a whole mini-batch: the first by itself, many of the others by a graph."""
        if n_steps and not self.has_run:
            self._take_step(self.batch_size)  # loads the kernels, which no capture may
            n_steps -= 1
            self.has_run = True
            if n_steps >= _STEPS_IN_GRAPH:
                self.graph = self._capture()
        if self.graph is not None:
            for _ in range(n_steps // _STEPS_IN_GRAPH):
                self.graph.launch()
            n_steps %= _STEPS_IN_GRAPH
        for _ in range(n_steps):
            self._take_step(self.batch_size)

    def _capture(self) -> Any:
        """Capture steps as a graph; None, with a warning, if that fails."""
        stream = self.engine.stream
        try:
            stream.begin_capture()
            try:
                for _ in range(_STEPS_IN_GRAPH):
                    self._take_step(self.batch_size)
            finally:
                graph = stream.end_capture()
        except Exception as error:
            warnings.warn(
                f"Capturing a CUDA graph failed: training goes on without, more slowly. ({error})",
                stacklevel=2,
            )
            return None
        return graph

    def _take_step(self, n_samples: int) -> None:
        """Launch the kernels of one step."""
        kernels, parameters, n = self.kernels, self.engine.parameters, np.int32(n_samples)
        launch, last = kernels.launch, len(kernels.shapes) - 1
        batch_size, begin = np.int32(self.batch_size), np.int64(0)
        X = self.X, self.rows, self.step, begin, batch_size, *kernels.scaling
        kernels.forward(X, self.maps, self.outputs, n_samples)
        launch(
            "dense",
            (ceil(n_samples / kernels.samples),),
            parameters,
            self.outputs[-1],
            self.labels,
            self.shares,
            self.schedule,
            self.step,
            batch_size,
            n,
            np.float32(self.engine.objective.label_smoothing),
            self.states,
            self.grads,
            self.output_grads[-1],
            self.losses,
        )
        n_groups = min(n_samples, _GROUPS)
        for i in range(last, -1, -1):
            shape = kernels.shapes[i]
            if i > 0:
                n_inputs = shape.in_channels * shape.height * shape.width
                launch(
                    f"conv{i}_input_gradient",
                    (n_samples, ceil(n_inputs / THREADS)),
                    parameters,
                    self.maps[i],
                    self.output_grads[i],
                    self.output_grads[i - 1],
                )
            source = X if i == 0 else self.outputs[i - 1 : i]
            launch(
                f"conv{i}_weight_gradient",
                (n_groups, shape.out_channels),
                *source,
                self.maps[i],
                self.output_grads[i],
                n,
                self.partials,
            )
        n_dense = len(self.gradient) - sum(convolution_parameters(self.engine.architecture))
        launch(
            "dense_gradients",
            (ceil(n_dense / THREADS),),
            self.outputs[-1],
            self.states,
            self.grads,
            n,
            self.gradient,
            self.step,
        )
        launch("optimize", (self.n_parameter_blocks,), *self._optimizer_arguments(n_groups))

    def _optimizer_arguments(self, n_groups: int) -> tuple[Any, ...]:
        optimizer: Any = self.optimizer
        average = np.uintp(0)  # a null pointer
        if isinstance(optimizer, WeightAverage):
            optimizer, average = optimizer.optimizer, optimizer.average
        if isinstance(optimizer, Adam):
            momentum, moments = 0.0, (optimizer.mean, optimizer.mean_square)
        else:
            momentum, moments = optimizer.momentum, (optimizer.velocity, np.uintp(0))
        return (
            self.schedule,
            self.step,
            np.float32(momentum),
            self.partials,
            np.int32(n_groups),
            self.gradient,
            self.engine.parameters,
            *moments,
            average,
            self.squares,
        )


def are_covered(architecture: Architecture, n_samples: int) -> bool:
    """Tell whether there are kernels for a network, and for so many samples at once."""
    return (
        n_samples <= _MOST_SAMPLES
        and architecture.n_parameters <= _MOST_PARAMETERS
        and max(shared_memory(architecture, samples=4).values()) <= _MOST_SHARED
    )
