"""Training steps by two CUDA kernels of our own, replayed as a graph; predictions by a third."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from .._backend import to_device
from .._engine import Data, MiniBatches, batch_weights
from .._optimizers import Optimizer
from .._warnings import warn
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

# What changes from step to step: the members of `Schedule` in `training.cu`
COLUMNS = ("total", "penalty", "rate", "epsilon", "keep", "average_rate")

# Rows that one launch predicts: it is over before anybody would take it for hung
_ROWS_AT_ONCE = 2**17


class CudaEngine(DeviceEngine):
    """Train and predict with one network on a CUDA device, with few launches.

    What bounds a step of a small network is the number of kernels that are launched, not their
    arithmetic. Here a step is two kernels (`training.cu`), and several steps are captured once, as
    a CUDA graph, which is then replayed. The logits are one kernel (`prediction.cu`).

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
        parameters = self.xp.zeros(n_before + len(self._host_parameters), self.parameters.dtype)[
            n_before:
        ]
        self.xp.copyto(parameters, super()._parameters_on_device())
        return parameters

    def _release(self) -> None:
        super()._release()
        self._steps = None

    def train_epoch(
        self,
        data: Data,
        batches: MiniBatches,
        optimizer: Optimizer,
        generator: np.random.Generator,
    ) -> Callable[[], float]:
        """Go once through rows of the data: by kernels, where they cover what is asked for."""
        steps = self._make_steps(data, batches, optimizer)
        if steps is None:
            return super().train_epoch(data, batches, optimizer, generator)
        self.n_samples_seen += len(batches.order)
        return steps.run(batches)

    def _make_steps(self, data: Data, batches: MiniBatches, optimizer: Optimizer) -> "Steps | None":
        """Give the steps of an epoch; None if kernels do not cover them."""
        augmentation = self.objective.augmentation
        if (
            augmentation.replaces
            or augmentation.distorts
            or 4 * batches.size * sum(row_lengths(self.architecture)) > _MOST_BYTES
        ):
            return None
        X = self._covered(data.X)
        if X is None:
            return None
        if self._steps is None or not self._steps.serve(data, batches, optimizer):
            device = self.xp.cuda.Device(self.device)
            source = training_source(
                self.architecture,
                self._geometry,
                X.dtype.name,
                optimizer.rule,
                optimizer.average is not None,
                _cuts(batches.size, device),
                device.attributes["MaxSharedMemoryPerBlockOptin"],
            )
            kernels = self._compile(source)
            if kernels is None:
                return None
            self._steps = Steps(self, kernels, data, batches, optimizer)
        return self._steps

    def predict_logits(self, X: Any, rows: np.ndarray | None = None) -> Any:
        """Compute the logits: by a kernel, where it covers what is asked for."""
        on_device = self._covered(X)
        kernels = None
        if on_device is not None:
            text = prediction_source(self.architecture, self._geometry, on_device.dtype.name)
            kernels = self._compile(text)
        if kernels is None:
            return super().predict_logits(X, rows)
        xp, n_rows = self.xp, len(X) if rows is None else len(rows)
        taken = None if rows is None else to_device(xp, rows.astype(np.int32))
        logits = xp.empty((n_rows, self.architecture.n_classes), np.float32)
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
                logits[part],
            )
        return logits

    def _covered(self, X: Any) -> Any:
        """Give `X` on the device, if the kernels can work on it; otherwise None."""
        covers = (
            self._works
            and self.parameters.dtype == np.float32
            and X.dtype.name in PIXEL_TYPES
            and self.architecture.n_parameters <= _MOST_PARAMETERS
            and len(X) < 2**31
            and not self.layout.is_extreme
        )
        on_device = self.on_device(X) if covers else None
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
            warn(f"Compiling kernels failed: CuPy's operations take over, more slowly. ({error})")
            return None


def _cuts(batch_size: int, device: Any) -> tuple[tuple[int, int], ...]:
    """Choose threads of a block, and blocks that take a sample together, the best choice first."""
    n_multiprocessors = device.attributes["MultiProcessorCount"]
    alone = [(512, 1), (256, 1)] if batch_size <= n_multiprocessors else [(256, 1), (512, 1)]
    if int(device.compute_capability) < 90:
        return tuple(alone)
    together = [(512, 2)]
    return tuple(together + alone if 2 * batch_size <= n_multiprocessors else alone + together)


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
    data : Data
    batches : MiniBatches
        Of which the order and the rates may be others in each epoch.
    optimizer : Optimizer
    """

    def __init__(
        self,
        engine: CudaEngine,
        kernels: Kernels,
        data: Data,
        batches: MiniBatches,
        optimizer: Optimizer,
    ) -> None:
        xp, architecture = engine.xp, engine.architecture
        self.engine, self.kernels = engine, kernels
        self.data, self.X, self.optimizer = data, engine.on_device(data.X), optimizer
        self.n_rows, self.batch_size = n_rows, batch_size = len(batches.order), batches.size
        self.graph: Any = None
        self.has_run = False
        self.ranks = kernels.source.ranks

        # The samples' labels, an epoch's order, and what changes from step to step
        self.labels = to_device(xp, data.y.astype(np.int32))
        self.rows, self.shares = xp.empty(n_rows, np.int32), xp.empty(n_rows, np.float32)
        self.schedule = xp.empty((ceil(n_rows / batch_size), len(COLUMNS)), np.float32)
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

    def serve(self, data: Data, batches: MiniBatches, optimizer: Optimizer) -> bool:
        """Tell whether these steps are those of such an epoch."""
        return (
            self.data is data
            and self.optimizer is optimizer
            and (self.n_rows, self.batch_size) == (len(batches.order), batches.size)
        )

    def run(self, batches: MiniBatches) -> Callable[[], float]:
        """Queue all steps of an epoch.

        Parameters
        ----------
        batches : MiniBatches

        Returns
        -------
        loss : callable
            Waits for them, and gives the epoch's loss.
        """
        totals, shares = batch_weights(self.data.weights[batches.order], self.batch_size)
        uploads = [
            (self.rows, batches.order.astype(np.int32)),
            (self.shares, shares.astype(np.float32)),
            (self.schedule, self._make_schedule(totals, batches.rates)),
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
        columns = {
            "total": totals / totals.max(),  # which suits float32 whatever the weights' scale
            "penalty": self.engine.objective.alpha / totals,
            **self.optimizer.count_steps(rates),
        }
        schedule = np.zeros((len(totals), len(COLUMNS)), np.float32)
        for name, values in columns.items():
            schedule[:, COLUMNS.index(name)] = values
        return schedule

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
            warn(f"Capturing a CUDA graph failed: training goes on without, more slowly. ({error})")
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
        optimizer, null = self.optimizer, np.uintp(0)
        moments = [*optimizer.moments, null][:2]
        return (
            np.float32(optimizer.momentum),
            np.float64(optimizer.beta_1),
            np.float64(optimizer.beta_2),
            self.engine.parameters,
            *moments,
            null if optimizer.average is None else optimizer.average,
        )
