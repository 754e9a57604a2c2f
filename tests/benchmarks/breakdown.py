"""Where a training step's time goes: NumPy's functions and the layers' methods under a clock.

The package carries no clocks: its modules are given stand-ins while an estimator trains. Names of
the package's internals that are not found here any more end up under "rest".
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from .measuring import Result, Settings, scaled_digits
from .ours import classifier, partial_fit

# The arithmetic that the textbook has as well, by what it fills; other products are overhead
_PRODUCTS = {
    "maps": "GEMM forward",
    "output": "GEMM forward",
    "kernels_grads": "GEMM weight gradient",
    "weight_grad": "GEMM weight gradient",
    "input_grad": "GEMM input gradient",
}


class Clock:
    """Sum times up by column (a layer, or "other") and step, for one thread.

    Attributes
    ----------
    times : dict of (column, step) to seconds
    operations : dict of (column, step) to numbers
        Multiplications and additions of the matrix products.
    total : float
        Seconds of the epochs.
    """

    def __init__(self) -> None:
        self.times: dict[tuple[str, str], float] = defaultdict(float)
        self.operations: dict[tuple[str, str], float] = defaultdict(float)
        self.total = 0.0
        self._layer: Any = None  # the one at work, if any
        self._column, self._direction = "other", ""
        self._n_calls = 0
        self._steps: dict[tuple[str, type, str, int], str] = {}
        self._is_running = False

    def whole(self, step: str, function: Callable) -> Callable:
        """Wrap a function that is timed as a whole, with all that it calls."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_running:
                return function(*args, **kwargs)
            self._is_running, begin = True, time.perf_counter()
            result = function(*args, **kwargs)
            self.times[self._column, step] += time.perf_counter() - begin
            self._is_running = False
            return result

        return timed

    def watch(self, layer: Any, column: str, methods: tuple[str, str]) -> None:
        """Put what a layer's method for each direction calls into a column."""
        for method in methods:
            setattr(layer, method, self._entered(layer, column, method))

    def _entered(self, layer: Any, column: str, name: str) -> Callable[[], None]:
        method, direction = getattr(layer, name), name.split("_")[0]

        def entered() -> None:
            self._layer, self._column, self._direction = layer, column, direction
            self._n_calls = 0
            method()
            self._layer, self._column = None, "other"

        return entered

    def numpy(self, name: str, function: Callable) -> Callable:
        """Wrap one of NumPy's functions, which is timed where no function around it is."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_running:
                return function(*args, **kwargs)
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            seconds = time.perf_counter() - begin
            step = self._step(name, args, kwargs)
            self.times[self._column, step] += seconds
            if name == "matmul":
                self.operations[self._column, step] += 2 * result.size * args[0].shape[-1]
            return result

        return timed

    def _step(self, name: str, args: Any, kwargs: Any) -> str:
        """Name what a function was called for; a layer's calls are the same every time."""
        if self._layer is None:
            return f"engine {name}"
        self._n_calls += 1
        key = self._column, type(self._layer), self._direction, self._n_calls
        if key not in self._steps:
            self._steps[key] = self._new_step(name, kwargs["out"] if "out" in kwargs else args[0])
        return self._steps[key]

    def _new_step(self, name: str, target: Any) -> str:
        """Name a layer's call by what it wrote to."""
        owned = vars(self._layer) | vars(getattr(self._layer, "pool", self))
        owned |= vars(getattr(self._layer, "kernels", self))
        attributes = [key for key, value in owned.items() if value is target][:1]
        if name == "matmul" and not attributes:  # a block's: the only product into part of an array
            return "GEMM input gradient"
        if name == "matmul" and attributes[0] in _PRODUCTS:
            return _PRODUCTS[attributes[0]]
        return " ".join([self._direction, name, *attributes])


class TimedNumPy:
    """NumPy, its functions under a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if callable(value) and not isinstance(value, type):
            value = self._clock.numpy(name, value)
        setattr(self, name, value)
        return value


class TimedRows:
    """Training data whose indexing is under a clock."""

    def __init__(self, X: np.ndarray, clock: Clock) -> None:
        self._take = clock.whole("gather rows", X.__getitem__)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._take(rows)


def breakdown(settings: Settings) -> Result:
    """Train on one thread, batch 64, with and without clocks in all places."""
    n = settings.amount(6400)
    X, y = scaled_digits(settings, n)
    model = classifier(n_jobs=1, nesterovs_momentum=True)
    train = partial_fit(model, X, y)
    train()
    plain = min(_seconds(train) for _ in range(settings.repeats))
    clock = Clock()
    with ExitStack() as stack:
        for target, replacement in _replacements(clock).items():
            stack.enter_context(patch(target, replacement))
        for _ in range(settings.repeats):
            train()
    per_step = 64 / (n * settings.repeats)
    return Result(value=1e3 * plain * 64 / n, text=_table(clock, per_step, plain * 64 / n))


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _replacements(clock: Clock) -> dict[str, Any]:
    """Make the stand-ins of the package's names."""
    from sklearn_lenet._engine import Engine, ImageLoader, Network, softmax_cross_entropy
    from sklearn_lenet._optimizers import SGD

    train_epoch, numpy = Engine.train_epoch, TimedNumPy(clock)

    def timed_network(xp: Any, *args: Any) -> Network:
        network = Network(numpy, *args)
        names: Counter[str] = Counter()
        for layer in network.layers:
            name = type(layer).__name__
            names[name] += 1
            clock.watch(layer, f"{name} {names[name]}", ("forward", "backward"))
        return network

    def timed_epoch(engine: Engine, data: Any, *args: Any) -> Any:
        begin = time.perf_counter()
        loss = train_epoch(engine, replace(data, X=TimedRows(data.X, clock)), *args)
        clock.total += time.perf_counter() - begin
        return loss

    return {
        "sklearn_lenet._engine.np": numpy,
        "sklearn_lenet._engine.Network": clock.whole("make buffers", timed_network),
        "sklearn_lenet._engine.Engine.train_epoch": timed_epoch,
        "sklearn_lenet._engine.softmax_cross_entropy": clock.whole("loss", softmax_cross_entropy),
        "sklearn_lenet._engine.ImageLoader.load": clock.whole("scale, transpose", ImageLoader.load),
        "sklearn_lenet._optimizers.SGD.step": clock.whole("optimizer", SGD.step),
    }


def _table(clock: Clock, per_step: float, plain: float) -> str:
    """Write down the microseconds of a step: a line for what is done, a column for each layer."""
    times = {key: 1e6 * seconds * per_step for key, seconds in clock.times.items()}
    total = 1e6 * clock.total * per_step
    columns = [*sorted({column for column, _ in times} - {"other"}), "other"]
    sums: dict[str, float] = defaultdict(float)
    for (_, step), microseconds in times.items():
        sums[step] += microseconds
    products = {step: us for step, us in sums.items() if step.startswith("GEMM")}
    others = {step: us for step, us in sums.items() if step not in products}

    def line(step: str, whole: float) -> str:
        cells = [times.get((column, step)) for column in columns]
        numbers = "".join(" " * 11 if cell is None else f"{cell:11.0f}" for cell in cells)
        return f"{step:34}{numbers}{whole:9.0f}{whole / total:7.1%}"

    def lines(steps: dict[str, float]) -> list[str]:
        ordered = sorted(steps.items(), key=lambda pair: -pair[1])
        return [line(step, microseconds) for step, microseconds in ordered if microseconds >= 0.5]

    return "\n".join(
        [
            f"us of a step, one thread, batch 64; {1e6 * plain:.0f} us without these clocks",
            " " * 34 + "".join(f"{column:>11}" for column in columns) + f"{'all':>9}{'share':>7}",
            *lines(products),
            line("all products", sum(products.values())),
            *lines(others),
            line("rest: Python, clocks", total - sum(sums.values())),
            line("all but products", total - sum(products.values())),
            "",
            "GFLOP/s of the products",
            *_speeds(clock, columns, list(products)),
        ]
    )


def _speeds(clock: Clock, columns: list[str], steps: list[str]) -> list[str]:
    """Write down how fast the matrix products ran."""
    lines = []
    for step in steps:
        cells = [
            f"{clock.operations[column, step] / clock.times[column, step] / 1e9:11.0f}"
            if (column, step) in clock.times
            else " " * 11
            for column in columns
        ]
        lines.append(f"{step:34}{''.join(cells)}".rstrip())
    return lines
