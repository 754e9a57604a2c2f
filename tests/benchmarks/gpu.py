"""The figures of a GPU, and what decides how to build for one: ``--device cuda``.

All sides have MNIST on the device, float32 without TensorFloat-32, plain SGD with momentum, a new
order in every epoch, and no loss to read. An epoch is what a longer fit takes more than a shorter.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sklearn_lenet._backend import find_device

from . import rivals
from .measuring import Settings, digits, standardized
from .ours import classifier, untrained

# JAX would take most of the device's memory at once
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# What is wanted on an H200: milliseconds, and times faster than each rival
_EPOCH_MS = 50
_AT_LEAST = {
    "PyTorch": 8,
    "PyTorch, whole step as a CUDA graph": 2,
    "torch.compile, reduce-overhead": 2.5,
    "JAX, jit and scan": 2,
}

_EMPTY = r"""
extern "C" __global__ void link(float* x) { if (threadIdx.x == 0) x[0] += 1.0f; }
"""


def main(quick: bool, data: Any, output: Path) -> None:
    """Measure everything, and print it; what fails leaves its error in the place of a figure."""
    try:
        find_device("cuda")
    except RuntimeError as error:
        sys.exit(f"There is nothing to measure: {error}")
    settings = Settings(quick=quick, data=str(data) if data else None, repeats=2 if quick else 5)
    results: dict[str, Any] = {}
    _print("machine", _machine(), results)
    for name, measure in (
        ("graph", graphs),
        ("host", host_times),
        ("kernels", kernel_times),
        ("epoch", epochs),
        ("predict", predictions),
        ("memory", memory),
    ):
        try:
            figures = measure(settings)
        except Exception:
            figures = {"failed": traceback.format_exc()}
        _print(name, figures, results)
    output.write_text(json.dumps(results, indent=2))
    print(f"written: {output}")


def _print(name: str, figures: dict[str, Any], results: dict[str, Any]) -> None:
    results[name] = figures
    print(f"\n{name}")
    for what, value in figures.items():
        print(f"  {what:60} {f'{value:.3f}' if isinstance(value, float) else value}", flush=True)


def _machine() -> dict[str, Any]:
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    found = {
        "device": properties["name"].decode(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
    }
    for name in ("torch", "jax"):
        found[name] = __import__(name).__version__ if find_spec(name) else "not installed"
    return found


# --------------------------------------------------------------------------------------------------
# What decides how to build


def _microseconds(stream: Any, action: Callable[[], Any], repeats: int) -> float:
    """Time an action on the device, called many times in a row."""
    import cupy

    action()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    stream.synchronize()
    begin.record(stream)
    for _ in range(repeats):
        action()
    end.record(stream)
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) * 1000 / repeats


def _capture(stream: Any, action: Callable[[], Any]) -> Any:
    action()
    stream.synchronize()
    stream.begin_capture()
    try:
        action()
    finally:
        graph = stream.end_capture()
    graph.upload(stream)
    return graph


def _repeated(action: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        action()


def graphs(settings: Settings) -> dict[str, Any]:
    """Time chains of tiny kernels, launched and replayed; products by cuBLAS within a graph."""
    import cupy

    found: dict[str, Any] = {}
    repeats = settings.amount(1000)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x = cupy.zeros(1, np.float32)
        kernel = cupy.RawModule(code=_EMPTY).get_function("link")
        link = partial(kernel, (1,), (32,), (x,))
        for length in (30, 10, 3):
            chain = partial(_repeated, link, length)
            graph = _capture(stream, chain)
            replay = _microseconds(stream, graph.launch, repeats)
            found[f"us per kernel, chain of {length} replayed"] = replay / length
            launched = _microseconds(stream, chain, repeats)
            found[f"us per kernel, chain of {length} launched"] = launched / length
        for name, test in (("cuBLAS by ctypes", _cublas), ("cupy.random.default_rng", _random)):
            try:
                found[f"{name}, 10 calls in a graph: us a call"] = test(stream, repeats)
            except Exception as error:
                found[f"{name} in a graph"] = f"{type(error).__name__}: {error}"
        stream.synchronize()
    return found


def _cublas(stream: Any, repeats: int) -> float:
    """Capture 10 products of 120 x 400 by 400 x 64 through a handle of our own."""
    import ctypes

    import cupy
    from cuda import pathfinder

    library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)

    def call(name: str, *arguments: Any) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} returned {status}")

    handle, workspace = ctypes.c_void_p(), cupy.empty(32 * 2**20, np.uint8)
    a, b, c = (cupy.ones(shape, np.float32) for shape in ((120, 400), (400, 64), (120, 64)))
    pointers = [ctypes.c_void_p(array.data.ptr) for array in (b, a, c)]
    one, zero = (ctypes.byref(ctypes.c_float(value)) for value in (1, 0))
    call("cublasCreate_v2", ctypes.byref(handle))
    call("cublasSetStream_v2", handle, ctypes.c_void_p(stream.ptr))
    size = ctypes.c_size_t(workspace.nbytes)
    call("cublasSetWorkspace_v2", handle, ctypes.c_void_p(workspace.data.ptr), size)
    sizes, (right, left, product) = (0, 0, 64, 120, 400), pointers

    def multiply() -> None:
        arguments = one, right, 64, left, 400, zero, product, 64
        call("cublasSgemm_v2", handle, *sizes, *arguments)

    graph = _capture(stream, partial(_repeated, multiply, 10))
    time_of_replay = _microseconds(stream, graph.launch, repeats)
    stream.synchronize()
    if not (c == 400).all().item():
        raise RuntimeError("the product is wrong")
    call("cublasDestroy_v2", handle)
    return time_of_replay / 10


def _random(stream: Any, repeats: int) -> float:
    """Capture 10 draws, and see that a replay draws other numbers."""
    import cupy

    generator, out = cupy.random.default_rng(0), cupy.empty(1024, np.float32)
    draw = partial(generator.random, 1024, dtype=np.float32, out=out)
    graph = _capture(stream, partial(_repeated, draw, 10))
    time_of_replay = _microseconds(stream, graph.launch, repeats)
    first = out.get()
    graph.launch()
    if (out.get() == first).all():
        raise RuntimeError("each replay draws the same numbers")
    return time_of_replay / 10


def host_times(settings: Settings) -> dict[str, Any]:
    """Time what Python spends on a call of CuPy, and NumPy on an epoch's order."""
    import cupy

    found, repeats = {}, settings.amount(2000)
    small = cupy.zeros((64, 64), np.float32)
    generator, weights = np.random.default_rng(0), np.ones(60_000)
    for name, action, times in (
        ("us per ufunc", lambda: cupy.add(small, small, out=small), repeats),
        ("us per matmul", lambda: cupy.matmul(small, small, out=small), repeats),
        ("us per sum", lambda: cupy.sum(small, axis=0), repeats),
        ("us per permutation of 60,000, by NumPy", lambda: generator.permutation(60_000), 20),
        ("us per gathering of 60,000 weights", lambda: weights[np.arange(60_000)], 20),
    ):
        action()
        cupy.cuda.get_current_stream().synchronize()
        begin = time.perf_counter()
        _repeated(action, times)
        found[name] = (time.perf_counter() - begin) / times * 1e6
        cupy.cuda.get_current_stream().synchronize()
    return found


def kernel_times(settings: Settings) -> dict[str, Any]:
    """Time each kernel of a step, launched many times in a row, and the whole step's replay."""
    import cupy

    from sklearn_lenet import _cuda

    found: dict[str, Any] = {}
    X, y = digits(settings, 60_000)
    launch = _cuda.Kernels.launch

    def record(self: Any, name: str, grid: Any, *arguments: Any) -> None:
        calls[name] = partial(launch, self, name, grid, *arguments)
        launch(self, name, grid, *arguments)

    def measure(self: Any, *arguments: Any) -> float:
        loss = run(self, *arguments)
        stream = self.engine.stream
        if self.graph is not None:
            # The last steps of the epoch again: its counter goes no further than its end
            def replay() -> None:
                self.step.fill(0)
                self.graph.launch()

            time_of_replay = _microseconds(stream, replay, 50)
            found[f"batch {size}: us per step, replayed"] = time_of_replay / _cuda._STEPS_IN_GRAPH
        for name, call in calls.items():
            self.step.fill(1)
            if name == "dense_gradients":  # counts steps
                continue
            found[f"batch {size}: us per {name}"] = _microseconds(stream, call, 50)
        return loss

    run = _cuda.Steps.run
    for size in (64, 1024, 8192):
        calls: dict[str, Any] = {}
        _cuda.Kernels.launch, _cuda.Steps.run = record, measure  # type: ignore[method-assign]
        try:
            whole = len(X) // size * size
            model = classifier(batch_size=size, max_iter=1, device="cuda")
            model.fit(cupy.asarray(X[:whole]), y[:whole])
        finally:
            _cuda.Kernels.launch, _cuda.Steps.run = launch, run  # type: ignore[method-assign]
    slowest = max(value for name, value in found.items() if "step" not in name)
    found["the longest, in ms, at most 100"] = slowest / 1000
    return found


# --------------------------------------------------------------------------------------------------
# Against others


def epochs(settings: Settings) -> dict[str, Any]:
    """Time an epoch of 60,000 images, of ours and of the others, in turns."""
    import cupy

    found: dict[str, Any] = {}
    X, y = digits(settings, settings.amount(60_000))
    images = cupy.asarray(X)
    for batch_size in (64, 1024):
        parameters = {"batch_size": batch_size, "shuffle": True, "device": "cuda"}
        begin = time.perf_counter()
        classifier(max_iter=1, **parameters).fit(images, y)
        found[f"batch {batch_size}: ours, first fit of one epoch, ms"] = _since(begin)
        ours, fits = [], []
        for _ in range(settings.repeats):
            times = []
            for n_epochs in (1, 11):
                model = classifier(max_iter=n_epochs, **parameters)
                begin = time.perf_counter()
                model.fit(images, y)
                times.append(_since(begin))
            fits.append(times[0])
            ours.append((times[1] - times[0]) / 10)
        found[f"batch {batch_size}: ours, fit of one epoch, warm, ms"] = median(fits)
        found[f"batch {batch_size}: ours, ms"] = mine = median(ours)
        if batch_size == 64:
            found[f"batch {batch_size}: ours, wanted at most"] = _EPOCH_MS
        with _eager():
            times = []
            for n_epochs in (1, 3):
                begin = time.perf_counter()
                classifier(max_iter=n_epochs, **parameters).fit(images, y)
                times.append(_since(begin))
            found[f"batch {batch_size}: ours, by CuPy's operations, ms"] = (times[1] - times[0]) / 2
        theirs = _rival_epochs(settings, X, y, batch_size)
        for name, figures in theirs.items():
            if isinstance(figures, str):
                found[f"batch {batch_size}: {name}"] = figures
                continue
            first, warm = figures
            found[f"batch {batch_size}: {name}, first, ms"] = first
            found[f"batch {batch_size}: {name}, ms"] = warm
            wanted = f", wanted {_AT_LEAST[name]}" if batch_size == 64 else ""
            found[f"batch {batch_size}: {name}, times ours{wanted}"] = warm / mine
        measured = [figures[1] for figures in theirs.values() if not isinstance(figures, str)]
        if batch_size > 64 and measured:
            found[f"batch {batch_size}: the best of them, times ours, wanted 1.3"] = (
                min(measured) / mine
            )
    return found


def _since(begin: float) -> float:
    """Give the milliseconds since then."""
    return (time.perf_counter() - begin) * 1000


@contextmanager
def _eager() -> Iterator[None]:
    """Leave training to CuPy's operations."""
    from sklearn_lenet import _cuda

    covered = _cuda.are_covered
    _cuda.are_covered = lambda *arguments: False
    try:
        yield
    finally:
        _cuda.are_covered = covered


def _rival_epochs(
    settings: Settings, X: np.ndarray, y: np.ndarray, batch_size: int
) -> dict[str, Any]:
    """Time the first epoch, and the median of others, of each rival; or say why not."""
    found: dict[str, Any] = {}
    X, model = standardized(X), untrained(standardized(X[:64]))
    makers = {
        "PyTorch": ("torch", torch_epoch),
        "PyTorch, whole step as a CUDA graph": ("torch", torch_graph_epoch),
        "torch.compile, reduce-overhead": ("torch", partial(torch_epoch, compiles=True)),
        "JAX, jit and scan": ("jax", jax_scan_epoch),
    }
    for name, (module, make) in makers.items():
        if find_spec(module) is None:
            found[name] = "not installed"
            continue
        try:
            begin = time.perf_counter()
            epoch = make(model, X, y, batch_size)
            epoch()
            first, times = _since(begin), []
            for _ in range(settings.repeats):
                begin = time.perf_counter()
                epoch()
                times.append(_since(begin))
            found[name] = first, median(times)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _torch_side(model: Any, X: np.ndarray, y: np.ndarray, device: str) -> tuple[Any, Any, Any, Any]:
    """Put network, optimizer and data on the device."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network = rivals.torch_network(model).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=rivals.LR, momentum=rivals.MOMENTUM, fused=True
    )
    images = rivals.torch_images(X).to(device)
    return network, optimizer, images, torch.from_numpy(y).long().to(device)


def torch_epoch(
    model: Any,
    X: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    compiles: bool = False,
    device: str = "cuda",
) -> Callable[[], None]:
    """Train by PyTorch's plainest loop, compiled or not."""
    import torch

    network, optimizer, images, labels = _torch_side(model, X, y, device)
    forward = torch.compile(network, mode="reduce-overhead") if compiles else network

    def epoch() -> None:
        order = torch.randperm(len(X), device=device)
        rivals.torch_epoch(forward, optimizer, images, labels, order, batch_size)
        if device == "cuda":
            torch.cuda.synchronize()

    return epoch


def torch_graph_epoch(
    model: Any, X: np.ndarray, y: np.ndarray, batch_size: int
) -> Callable[[], None]:
    """Train by PyTorch, each whole step being one CUDA graph; the last samples are left out."""
    import torch

    network, optimizer, images, labels = _torch_side(model, X, y, "cuda")
    rows = torch.arange(batch_size, device="cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _repeated(step, 3)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def epoch() -> None:
        order = torch.randperm(len(X), device="cuda")
        for begin in range(0, len(X) - batch_size + 1, batch_size):
            rows.copy_(order[begin : begin + batch_size])
            graph.replay()
        torch.cuda.synchronize()

    return epoch


def jax_scan_epoch(model: Any, X: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], None]:
    """Train by JAX, a whole epoch being one compiled scan; the last samples are left out."""
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    parameters, loss = rivals.jax_network(model)
    images, labels = jnp.asarray(X.reshape(-1, 28, 28, 1)), jnp.asarray(y)
    n_batches = len(X) // batch_size

    @jax.jit
    def run(state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(images))[: n_batches * batch_size]

        def step(state: Any, rows: Any) -> Any:
            return rivals.jax_update(loss, state, images[rows], labels[rows]), None

        return jax.lax.scan(step, state, order.reshape(n_batches, batch_size))[0]

    state = parameters, jax.tree.map(jnp.zeros_like, parameters)
    seeds = count()

    def epoch() -> None:
        nonlocal state
        state = jax.block_until_ready(run(state, jax.random.key(next(seeds))))

    return epoch


def predictions(settings: Settings) -> dict[str, Any]:
    """Predict a million images that lie on the device, and as many that do not."""
    import cupy

    n = settings.amount(1_000_000)
    X, y = digits(settings, min(n, 60_000))
    model = classifier(max_iter=1, device="cuda").fit(cupy.asarray(X), y)
    X = X[np.arange(n) % len(X)]
    images, found = cupy.asarray(X), {}
    sides = {"on the device, wanted 20": images, "on the host": X}
    for name, of_side in sides.items():
        times = []
        for _ in range(settings.repeats + 1):
            begin = time.perf_counter()
            model.predict(of_side)
            cupy.cuda.Device().synchronize()
            times.append(time.perf_counter() - begin)
        found[f"million images a second, {name}"] = n / median(times[1:]) / 1e6
    return found


def memory(settings: Settings) -> dict[str, Any]:
    """Watch what a fit takes beside its data; the CUDA context is not its own."""
    import cupy

    X, y = digits(settings, 60_000)
    images = cupy.asarray(X)
    classifier(max_iter=1, device="cuda").fit(images[:1000], y[:1000])
    cupy.cuda.Device().synchronize()
    free, _ = cupy.cuda.runtime.memGetInfo()
    resident, lows, highs, stopped = _resident_megabytes(), [free], [0.0], threading.Event()

    def watch() -> None:
        while not stopped.wait(0.002):
            lows.append(cupy.cuda.runtime.memGetInfo()[0])
            highs.append(_resident_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    classifier(max_iter=5, device="cuda").fit(images, y)
    stopped.set()
    watcher.join()
    return {
        "device, MB over the data, at most 300": (free - min(lows)) / 1e6,
        "host, MB over the data, at most 300": max(highs) - resident,
        "device, MB not given back": (free - cupy.cuda.runtime.memGetInfo()[0]) / 1e6,
    }


def _resident_megabytes() -> float:
    """Read what this process has in memory, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
