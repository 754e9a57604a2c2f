"""What all figures share: settings, data, clocks that take turns, and what a figure gives back."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

# Between two runs: the threads of OpenMP keep a core busy for milliseconds after their last task
_PAUSE = 0.05


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes
    ----------
    quick : bool
        Whether to measure next to nothing, to see that all works.
    data : str or None
        Directory of MNIST's files; None takes the sample that ships with the package.
    repeats : int
        Runs of each side.
    """

    quick: bool
    data: str | None
    repeats: int

    @property
    def seconds(self) -> float:
        """Time after which a figure starts no further repeat, where a busy machine is too slow."""
        return 4 if self.quick else 40

    def amount(self, n: int) -> int:
        """Give `n`, or for a quick run a tenth of it."""
        return n // 10 if self.quick else n


@dataclass
class Result:
    """What a figure gives back.

    Attributes
    ----------
    value : float or None
        The figure; None where it could not be measured.
    ours_ms, rival_ms : float or None
        The two times that it compares, where it does.
    ours_runs, rival_runs : list of float
        Those times run by run.
    ours_cores, rival_cores, free_cores : float or None
        Cores that each side kept busy, and that two threads of nothing but arithmetic got, in
        turns with them: where that is below 2, something else was running.
    note : str
    text : str
        Printed below the table.
    """

    value: float | None = None
    ours_ms: float | None = None
    rival_ms: float | None = None
    ours_runs: list[float] = field(default_factory=list)
    rival_runs: list[float] = field(default_factory=list)
    ours_cores: float | None = None
    rival_cores: float | None = None
    free_cores: float | None = None
    note: str = ""
    text: str = ""


@dataclass
class Side:
    """The runs of one of the things compared."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(
        self, action: Callable[[], Any], cpu_clock: Callable[[], float] = time.process_time
    ) -> None:
        """Run an action under the clocks."""
        cpu, wall = cpu_clock(), time.perf_counter()
        action()
        wall, cpu = time.perf_counter() - wall, cpu_clock() - cpu
        self.seconds.append(wall)
        self.cpu.append(cpu)

    @property
    def median(self) -> float:
        """Wall time of a run."""
        return median(self.seconds)

    @property
    def total(self) -> float:
        """Wall time of all runs."""
        return sum(self.seconds)

    @property
    def cores(self) -> float:
        """Cores kept busy."""
        return median(cpu / wall for cpu, wall in zip(self.cpu, self.seconds, strict=True))


def alternate(
    settings: Settings,
    *actions: Callable[[], Any],
    cpu_clock: Callable[[], float] = time.process_time,
) -> list[Side]:
    """Time actions in turns, A B A B, so that a change of the machine's speed hits all alike.

    Each is called once before the clock runs.
    """
    sides = [Side() for _ in actions]
    for action in actions:
        action()
    deadline = time.perf_counter() + settings.seconds
    for repeat in range(settings.repeats):
        if repeat and time.perf_counter() > deadline:
            break
        for action, side in zip(actions, sides, strict=True):
            time.sleep(_PAUSE)
            side.time(action, cpu_clock)
    return sides


def compare(
    settings: Settings,
    ours: Callable[[], Any],
    rival: Callable[[], Any],
    *,
    per: float = 1,
    threads: int = 1,
    cpu_clock: Callable[[], float] = time.process_time,
    note: str = "",
) -> Result:
    """Compute the rival's time over ours, as the median of the ratios of runs side by side.

    On one thread that is CPU time, which others on the machine disturb the least; on more, time on
    the clock. The times shown are those of a run divided by `per`.
    """
    actions = [ours, rival, multiply_on_two_threads] if threads > 1 else [ours, rival]
    side, other, *free = alternate(settings, *actions, cpu_clock=cpu_clock)
    if len(side.seconds) < settings.repeats:
        note = "; ".join(filter(None, [note, f"only {len(side.seconds)} repeats"]))
    ours_runs, rival_runs = (
        [1e3 * seconds / per for seconds in (of.seconds if threads > 1 else of.cpu)]
        for of in (side, other)
    )
    return Result(
        value=median(b / a for a, b in zip(ours_runs, rival_runs, strict=True)),
        ours_ms=median(ours_runs),
        rival_ms=median(rival_runs),
        ours_runs=ours_runs,
        rival_runs=rival_runs,
        ours_cores=side.cores if free else None,
        rival_cores=other.cores if free else None,
        free_cores=free[0].cores if free else None,
        note=note,
    )


def multiply_on_two_threads() -> None:
    """Keep two cores busy for a quarter of a second: do they get two?"""
    matrix = np.ones((512, 512), np.float32)
    end = time.perf_counter() + 0.25

    def work(_: int) -> None:
        while time.perf_counter() < end:
            np.matmul(matrix, matrix)

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))


def cpu_with_children() -> float:
    """Read the CPU time of this process and of all its living descendants."""
    import psutil

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def data_directory(argument: str | None) -> str | None:
    """Find the directory of MNIST's files, if there is one."""
    return argument or os.environ.get("SKLEARN_LENET_DATA") or None


def load(settings: Settings, subset: str) -> tuple[np.ndarray, np.ndarray]:
    """Load MNIST, or the sample that ships with the package."""
    from sklearn_lenet.datasets import load_mnist, load_mnist_sample

    if settings.data is None:
        return load_mnist_sample(subset=subset, return_X_y=True)
    return load_mnist(settings.data, subset=subset, return_X_y=True)


def digits(settings: Settings, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Give `n` training images as bytes, over and over where there are fewer, and their labels."""
    X, y = load(settings, "train")
    rows = np.arange(n) % len(X)
    return X[rows], y[rows]


def scaled_digits(settings: Settings, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Give `n` training images as float32, standardized, and their labels."""
    X, y = digits(settings, n)
    return standardized(X), y


def colour_noise(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` images of 3 x 32 x 32 normal float32, and labels for them."""
    generator = np.random.default_rng(0)
    return standardized(generator.standard_normal((n, 3, 32, 32))), generator.integers(0, 10, n)


def standardized(X: np.ndarray) -> np.ndarray:
    """Shift and scale images to mean 0 and standard deviation 1, as float32."""
    return ((X - X.mean()) / X.std()).astype(np.float32)
