"""Training steps by two CUDA kernels of our own, replayed as a graph; predictions by a third."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from .._backend import to_device
from .._engine import batch_weights
from .._optimizers import SGD, Adam, WeightAverage
from .engine import DeviceEngine
from .source import (
    PIXEL_TYPES,
    Source,
    convolution_parameters,
    prediction_source,
    row_lengths,
    training_source,
    update_blocks,
    wide_type,
)

# Of the compiler
OPTIONS = ("-std=c++17",)

# Steps in a graph: enough to hide the time of its launch, few enough to capture it in no time
_STEPS_IN_GRAPH = 16

# Clusters that have their own part of the convolutions' gradients, at most. Larger mini-batches
# have each of them take several samples.
_GROUPS = 256

# Larger networks are bound by arithmetic, which cuBLAS does better
_MOST_PARAMETERS = 2**18

# Bytes that the samples of a mini-batch may leave for the sums over them
_MOST_BYTES = 2**28

# Rows that one launch predicts: it is over before anybody would take it for hung
_ROWS_AT_ONCE = 2**17


class CudaEngine(DeviceEngine):
    """Train and predict with one network on a CUDA device, with few launches.

    What bounds a step of a small network is the number of kernels that are launched, not their
    arithmetic. Here a step is two kernels (`training.cu`), and several steps are captured once, as
    a CUDA graph, which is then replayed. A prediction is one kernel (`prediction.cu`).

    What the kernels do not cover is left to `DeviceEngine`: float64, augmentation, data that do not
    fit in the device's memory, and large networks and images. So it is, with a warning, where the
    kernels cannot be compiled. Where no graph can be captured, the kernels are launched one by one,
    with the same bits. The parameters are those of `DeviceEngine`.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # The mean and the scale of the pixels are no part of the source
        self._geometry = replace(self.layout, mean=0.0, scale=1.0)
        self._steps: Steps | None = None
        self._works = True

    def _parameters_on_device(self) -> Any:
        # The dense layers' weights begin at a multiple of 16 bytes: four are loaded at once
        n_before = -convolution_parameters(self.architecture)[0] % 4
        parameters = self.xp.zeros(n_before + len(self._host_parameters), self.dtype)[n_before:]
        self.xp.copyto(parameters, super()._parameters_on_device())
        return parameters

    def _release(self) -> None:
        super()._release()
        self._steps = None

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
        batch_size = min(batch_size, len(order))
        steps = self._make_steps(X, y, weights, len(order), batch_size, optimizer)
        if steps is None:
            return super().train_epoch(
                X, y, weights, order, batch_size, optimizer, rates, generator
            )
        return steps.run(order, rates)

    def _make_steps(
        self,
        X: Any,
        y: np.ndarray,
        weights: np.ndarray,
        n_rows: int,
        batch_size: int,
        optimizer: Any,
    ) -> "Steps | None":
        """Give the steps of an epoch; None if kernels do not cover them."""
        inner = optimizer.optimizer if isinstance(optimizer, WeightAverage) else optimizer
        if (
            self.objective.augment is not None
            or not isinstance(inner, SGD | Adam)
            or 4 * batch_size * sum(row_lengths(self.architecture)) > _MOST_BYTES
        ):
            return None
        X = self._covered(X)
        if X is None:
            return None
        epoch = X, y, weights, n_rows, batch_size, optimizer
        if self._steps is None or not self._steps.serve(*epoch):
            device = self.xp.cuda.Device(self.device)
            source = training_source(
                self.architecture,
                self._geometry,
                X.dtype.name,
                *_describe(optimizer),
                _cuts(batch_size, device),
                device.attributes["MaxSharedMemoryPerBlockOptin"],
            )
            kernels = self._compile(source)
            if kernels is None:
                return None
            self._steps = Steps(self, kernels, *epoch)
        return self._steps

    def predict_log_proba(self, X: Any, rows: np.ndarray | None = None) -> Any:
        """Compute the logarithms of the class probabilities.

        The parameters and the result are those of `DeviceEngine.predict_log_proba`.
        """
        on_device = self._covered(X)
        kernels = None
        if on_device is not None:
            text = prediction_source(self.architecture, self._geometry, on_device.dtype.name)
            kernels = self._compile(text)
        if kernels is None:
            return super().predict_log_proba(X, rows)
        xp, n_rows = self.xp, len(X) if rows is None else len(rows)
        taken = None if rows is None else to_device(xp, rows.astype(np.int32))
        log_proba = xp.empty((n_rows, self.architecture.n_classes), np.float32)
        n_blocks = 4 * xp.cuda.Device(self.device).attributes["MultiProcessorCount"]
        for begin in range(0, n_rows, _ROWS_AT_ONCE):
            part = slice(begin, min(begin + _ROWS_AT_ONCE, n_rows))
            # a null pointer stands for all rows
            source = (on_device[part], np.uintp(0)) if taken is None else (on_device, taken[part])
            kernels.launch(
                "predict",
                (min(part.stop - begin, n_blocks),),
                *source,
                np.int32(part.stop - begin),
                *_scaling(self.layout, on_device),
                self.parameters,
                log_proba[part],
            )
        return log_proba

    def _covered(self, X: Any) -> Any:
        """Give `X` on the device, if the kernels can work on it; otherwise None."""
        covers = (
            self._works
            and self.dtype == np.float32
            and X.dtype.name in PIXEL_TYPES
            and self.architecture.n_parameters <= _MOST_PARAMETERS
            and len(X) < 2**31
        )
        on_device = self._on_device(X) if covers else None
        return on_device if on_device is not None and on_device.flags.c_contiguous else None

    def _compile(self, source: Source | None) -> "Kernels | None":
        """Compile kernels; None if a block's memory does not suffice, or with a warning."""
        xp = self.xp
        most = xp.cuda.Device(self.device).attributes["MaxSharedMemoryPerBlockOptin"]
        if source is None or max(source.shared_bytes.values()) > most:
            return None
        try:
            return Kernels(xp, source)
        # The errors of CuPy, the driver and the compiler, not our own
        except (RuntimeError, xp.cuda.compiler.CompileException) as error:
            self._works = False
            warnings.warn(
                f"Compiling kernels failed: CuPy's operations take over, more slowly. ({error})",
                stacklevel=2,
            )
            return None


def _cuts(batch_size: int, device: Any) -> tuple[tuple[int, int], ...]:
    """Choose threads of a block, and blocks that take a sample together, the best choice first."""
    n_multiprocessors = device.attributes["MultiProcessorCount"]
    alone = [(512, 1), (256, 1)] if batch_size <= n_multiprocessors else [(256, 1), (512, 1)]
    if int(device.compute_capability) < 90:
        return tuple(alone)
    together = [(512, 2)]
    return tuple(together + alone if 2 * batch_size <= n_multiprocessors else alone + together)


def _describe(optimizer: Any) -> tuple[str, bool]:
    """Name an optimizer as the kernels do, and tell whether it averages."""
    averages = isinstance(optimizer, WeightAverage)
    inner = optimizer.optimizer if averages else optimizer
    if isinstance(inner, Adam):
        return "ADAM", averages
    return "NESTEROV" if inner.nesterov else "SGD", averages


def _scaling(layout: Any, X: Any) -> tuple[Any, Any]:
    """Give mean and scale of the pixels in the kernels' types."""
    wide = np.float64 if wide_type(X.dtype.name) == "double" else np.float32
    return wide(layout.mean), np.float32(layout.scale)


class Kernels:
    """Kernels of one source, compiled.

    Parameters
    ----------
    xp : module
        cupy.
    source : Source
    """

    def __init__(self, xp: Any, source: Source) -> None:
        module = xp.RawModule(code=source.text, options=OPTIONS)
        module.compile()
        self.source, self._functions = source, {}
        for name, shared_bytes in source.shared_bytes.items():
            self._functions[name] = module.get_function(name)
            self._functions[name].max_dynamic_shared_size_bytes = shared_bytes

    def launch(self, name: str, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch a kernel with blocks in this grid."""
        self._functions[name](
            grid,
            (self.source.threads[name],),
            arguments,
            shared_mem=self.source.shared_bytes[name],
        )


class Steps:
    """The training steps of an epoch, on buffers of their own, and the graph of some of them.

    Parameters
    ----------
    engine : CudaEngine
    kernels : Kernels
    X : cupy.ndarray of shape (n_samples, n_features)
    y : integer ndarray of shape (n_samples,)
    weights : ndarray of shape (n_samples,)
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
        y: np.ndarray,
        weights: np.ndarray,
        n_rows: int,
        batch_size: int,
        optimizer: Any,
    ) -> None:
        xp, architecture = engine.xp, engine.architecture
        self.engine, self.kernels = engine, kernels
        self.X, self.y, self.weights = X, y, weights
        self.n_rows, self.batch_size, self.optimizer = n_rows, batch_size, optimizer
        self.graph: Any = None
        self.has_run = False
        self.ranks = kernels.source.ranks

        # The samples' labels, an epoch's order, and what changes from step to step
        self.labels = to_device(xp, y.astype(np.int32))
        self.rows, self.shares = xp.empty(n_rows, np.int32), xp.empty(n_rows, np.float32)
        self.schedule = xp.empty((ceil(n_rows / batch_size), 6), np.float32)
        self.counters = xp.zeros(2, np.int32)

        # What the samples leave for the sums over them
        self.states, self.grads = (
            xp.zeros((batch_size, n), np.float32) for n in row_lengths(architecture)
        )
        n_groups, self.n_blocks = min(batch_size, _GROUPS), update_blocks(architecture)
        n_partials = sum(convolution_parameters(architecture))
        self.partials = xp.empty((n_groups, n_partials), np.float32)
        # Each cluster's sum of losses, then each block's sum of squared weights
        self.sums = xp.empty(n_groups + self.n_blocks, np.float64)
        self.losses, self.squares = self.sums[:n_groups], self.sums[n_groups:]

    def serve(
        self,
        X: Any,
        y: np.ndarray,
        weights: np.ndarray,
        n_rows: int,
        batch_size: int,
        optimizer: Any,
    ) -> bool:
        """Tell whether these steps are those of such an epoch."""
        return (
            self.X is X
            and self.y is y
            and self.weights is weights
            and self.optimizer is optimizer
            and (self.n_rows, self.batch_size) == (n_rows, batch_size)
        )

    def run(self, order: np.ndarray, rates: np.ndarray) -> Callable[[], float]:
        """Queue all steps of an epoch.

        Parameters
        ----------
        order : integer ndarray of shape (n_rows,)
            The epoch's rows of `X`.
        rates : ndarray of shape (n_batches,)

        Returns
        -------
        loss : callable
            Waits for them, and gives the epoch's loss.
        """
        totals, shares = batch_weights(self.weights[order], self.batch_size)
        uploads = [
            (self.rows, order.astype(np.int32)),
            (self.shares, shares.astype(np.float32)),
            (self.schedule, self._make_schedule(totals, rates)),
        ]
        # The device may take the values later than `set` returns
        self.uploaded = [values for _, values in uploads]
        for array, values in uploads:
            array.set(values)
        self.counters.fill(0)
        self.sums.fill(0)
        n_whole, rest = divmod(self.n_rows, self.batch_size)
        self._take_whole_steps(n_whole)
        if rest:
            self._take_step(rest)
        # An error keeps the function below: it keeps none of the data
        pending, n_losses, alpha = [self.sums], len(self.losses), self.engine.objective.alpha

        def loss() -> float:
            losses, squares = np.split(pending.pop().get(), [n_losses])
            data_loss = losses.sum() / (totals / totals.max()).sum()
            return float(data_loss + alpha / 2 * squares.sum() / totals.sum())

        return loss

    def _make_schedule(self, totals: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """Work out what changes from step to step, and count the optimizer's steps."""
        schedule = np.zeros((len(totals), 6))
        schedule[:, 0] = totals / totals.max()  # which suits float32 whatever the weights' scale
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
            try:
                stream.begin_capture()
                for _ in range(_STEPS_IN_GRAPH):
                    self._take_step(self.batch_size)
            finally:
                graph = stream.end_capture() if stream.is_capturing() else None
        except RuntimeError as error:
            warnings.warn(
                f"Capturing a CUDA graph failed: training goes on without, more slowly. ({error})",
                stacklevel=2,
            )
            return None
        return graph

    def _take_step(self, n_samples: int) -> None:
        """Launch the kernels of one step."""
        engine, n_groups = self.engine, min(n_samples, _GROUPS)
        of_samples = self.states, self.grads, self.partials
        self.kernels.launch(
            "gradients",
            (n_groups * self.ranks,),
            self.X,
            self.labels,
            self.rows,
            self.shares,
            self.schedule,
            self.counters,
            np.int32(self.batch_size),
            *_scaling(engine.layout, self.X),
            np.int32(n_samples),
            np.float32(engine.objective.label_smoothing),
            engine.parameters,
            *of_samples,
            self.losses,
        )
        self.kernels.launch(
            "update",
            (self.n_blocks,),
            self.schedule,
            self.counters,
            np.int32(n_samples),
            np.int32(n_groups),
            *of_samples,
            *self._optimizer_arguments(),
            self.squares,
        )

    def _optimizer_arguments(self) -> tuple[Any, ...]:
        """Give the optimizer's constants, the parameters, and its arrays."""
        optimizer: Any = self.optimizer
        average = np.uintp(0)  # a null pointer
        if isinstance(optimizer, WeightAverage):
            optimizer, average = optimizer.optimizer, optimizer.average
        momentum, betas = 0.0, (0.0, 0.0)
        if isinstance(optimizer, Adam):
            betas = optimizer.beta_1, optimizer.beta_2
            moments = optimizer.mean, optimizer.mean_square
        else:
            momentum = optimizer.momentum
            moments = optimizer.velocity, np.uintp(0)
        return (
            np.float32(momentum),
            *map(np.float64, betas),
            self.engine.parameters,
            *moments,
            average,
        )
