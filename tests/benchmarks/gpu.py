"""The figures of a GPU, and what decides how to build for one: ``--device cuda``.

All sides have MNIST on the device, float32 without TensorFloat-32, plain SGD with momentum, a new
order in every epoch, and no loss to read. An epoch is what a longer fit takes more than a shorter.

A part yields each figure as soon as it is known, and it is printed and written then: an assertion
on the device leaves it unusable to this process, and may end it. So the rivals come last.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sklearn_lenet._backend import find_device

from . import rivals
from .figures import ROOT
from .measuring import Settings, digits, standardized
from .ours import classifier, untrained

# JAX would take most of the device's memory at once
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

Figures = Iterator[tuple[str, Any]]

# What is wanted on an H200 of the best rival at a larger size, in times ours
_BEST_AT_LEAST = 1.3

_EMPTY = r"""
extern "C" __global__ void link(float* x) { if (threadIdx.x == 0) x[0] += 1.0f; }
"""

# What a process does that predicts by a model from a file
_FIRST_PREDICT = """
import pickle, sys, time
import sklearn_lenet
with open(sys.argv[1], "rb") as file:
    model, X = pickle.load(file)
begin = time.perf_counter()
import cupy
imported = time.perf_counter()
model.predict(X)
print(imported - begin, time.perf_counter() - imported)
"""


def main(quick: bool, data: Any, output: Path, only: Sequence[str] = ()) -> None:
    """Measure all parts, or some; what fails leaves its error in the place of a figure."""
    try:
        find_device("cuda")
    except RuntimeError as error:
        sys.exit(f"There is nothing to measure: {error}")
    settings = Settings(quick=quick, data=str(data) if data else None, repeats=2 if quick else 3)
    results: dict[str, dict[str, Any]] = {}
    for name in only or PARTS:
        print(f"\n{name}")
        results[name] = {}
        begin = time.perf_counter()
        for what, value in _figures(PARTS[name], settings):
            shown = f"{value:.3f}" if isinstance(value, float) else value
            print(f"  {what:60} {shown}", flush=True)
            results[name][what] = value
            output.write_text(json.dumps(results, indent=2))
        print(f"  ({time.perf_counter() - begin:.0f} s)", flush=True)
    print(f"written: {output}")


def _figures(part: Callable[[Settings], Figures], settings: Settings) -> Figures:
    """Yield a part's figures, and, where it fails, how."""
    try:
        yield from part(settings)
    except Exception:
        yield "failed", traceback.format_exc()


def machine(settings: Settings) -> Figures:
    """Name the device and the libraries."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    yield "device", properties["name"].decode()
    yield "driver", cupy.cuda.runtime.driverGetVersion()
    yield "runtime", cupy.cuda.runtime.runtimeGetVersion()
    yield "cupy", cupy.__version__
    for name in ("torch", "jax"):
        yield name, version(name) if find_spec(name) else "not installed"


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


def graphs(settings: Settings) -> Figures:
    """Time chains of tiny kernels, launched and replayed; products by cuBLAS within a graph."""
    import cupy

    repeats = settings.amount(1000)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x = cupy.zeros(1, np.float32)
        kernel = cupy.RawModule(code=_EMPTY).get_function("link")
        link = partial(kernel, (1,), (32,), (x,))
        for length in (30, 10, 3):
            chain = partial(_repeated, link, length)
            graph = _capture(stream, chain)
            replay = _microseconds(stream, graph.launch, repeats)
            yield f"us per kernel, chain of {length} replayed", replay / length
            launched = _microseconds(stream, chain, repeats)
            yield f"us per kernel, chain of {length} launched", launched / length
        for name, test in (("cuBLAS by ctypes", _cublas), ("cupy.random.default_rng", _random)):
            try:
                yield f"{name}, 10 calls in a graph: us a call", test(stream, repeats)
            except Exception as error:
                yield f"{name} in a graph", _in_words(error)
        stream.synchronize()


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


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


def host_times(settings: Settings) -> Figures:
    """Time what Python spends on a call of CuPy, and NumPy on an epoch's order."""
    import cupy

    repeats = settings.amount(2000)
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
        yield name, (time.perf_counter() - begin) / times * 1e6
        cupy.cuda.get_current_stream().synchronize()


def kernel_times(settings: Settings) -> Figures:
    """Time each kernel of a step by itself, and the whole step, all of them replayed."""
    import cupy

    X, y = digits(settings, 60_000)
    images, longest = cupy.asarray(X), 0.0
    for size in (64, 1024, 8192):
        times = _times_of_step(images, y, size)
        for name, microseconds in times.items():
            yield f"batch {size}: us per {name}", microseconds
        longest = max([longest, *(times[name] for name in times if name != "step")])
    yield "the longest kernel, in ms, at most 100", longest / 1000


def _times_of_step(images: Any, y: np.ndarray, size: int) -> dict[str, float]:
    """Time the step of a fit, where it has a graph, and each of its kernels: in microseconds."""
    from sklearn_lenet._cuda import steps as cuda_steps

    found: dict[str, float] = {}
    calls: dict[str, Callable[[], None]] = {}
    n_steps = len(images) // size
    launch, run = cuda_steps.Kernels.launch, cuda_steps.Steps.run

    def record(self: Any, name: str, grid: Any, *arguments: Any) -> None:
        calls[name] = partial(launch, self, name, grid, *arguments)
        launch(self, name, grid, *arguments)

    def measure(self: Any, *arguments: Any) -> Callable[[], float]:
        loss = run(self, *arguments)()
        stream = self.engine.stream
        if self.graph is not None:
            n_graphs = n_steps // cuda_steps._STEPS_IN_GRAPH

            def replay() -> None:
                self.counters.fill(0)  # they go no further than the epoch's steps
                _repeated(self.graph.launch, n_graphs)

            steps = n_graphs * cuda_steps._STEPS_IN_GRAPH
            found["step"] = _microseconds(stream, replay, 5) / steps
        for name, call in calls.items():
            self.counters.fill(0)  # each kernel moves the other's only
            graph = _capture(stream, partial(_repeated, call, 50))
            found[name] = _microseconds(stream, graph.launch, 5) / 50
        return lambda: loss

    cuda_steps.Kernels.launch, cuda_steps.Steps.run = record, measure  # type: ignore[method-assign]
    try:
        whole = n_steps * size
        classifier(batch_size=size, max_iter=1, device="cuda").fit(images[:whole], y[:whole])
    finally:
        cuda_steps.Kernels.launch, cuda_steps.Steps.run = launch, run  # type: ignore[method-assign]
    return found


# --------------------------------------------------------------------------------------------------
# Ours


def epochs(settings: Settings) -> Figures:
    """Time an epoch of 60,000 images, and what the host adds to the steps."""
    import cupy

    X, y = digits(settings, settings.amount(60_000))
    images = cupy.asarray(X)
    for size, wanted in ((64, ", wanted at most 30 (goal 15)"), (1024, "")):
        yield f"batch {size}: first fit of one epoch, ms", _fit(images, y, size, 1)
        fits = [_fit(images, y, size, 1) for _ in range(settings.repeats)]
        yield f"batch {size}: fit of one epoch, warm, ms", median(fits)
        epoch = median(_epoch(images, y, size) for _ in range(settings.repeats))
        yield f"batch {size}: an epoch, ms{wanted}", epoch
        step = _times_of_step(images, y, size).get("step")
        if step is not None:
            share = epoch - ceil(len(images) / size) * step / 1000
            yield f"batch {size}: the host's share of it, ms", share
        with _eager():
            by_operations = _epoch(images, y, size, 1)
        yield f"batch {size}: an epoch by CuPy's operations, ms", by_operations


def _fit(images: Any, y: np.ndarray, size: int, n_epochs: int) -> float:
    """Fit, and give the milliseconds that it took."""
    model = classifier(batch_size=size, max_iter=n_epochs, shuffle=True, device="cuda")
    begin = time.perf_counter()
    model.fit(images, y)
    return _since(begin)


def _epoch(images: Any, y: np.ndarray, size: int, n_epochs: int = 10) -> float:
    """Give the milliseconds of an epoch: what so many more make a fit of one epoch longer."""
    shorter, longer = (_fit(images, y, size, n) for n in (1, 1 + n_epochs))
    return (longer - shorter) / n_epochs


def _since(begin: float) -> float:
    """Give the milliseconds since then."""
    return (time.perf_counter() - begin) * 1000


@contextmanager
def _eager() -> Iterator[None]:
    """Leave training to CuPy's operations."""
    from sklearn_lenet._cuda import steps as cuda_steps

    covered, cuda_steps.PIXEL_TYPES = cuda_steps.PIXEL_TYPES, {}
    try:
        yield
    finally:
        cuda_steps.PIXEL_TYPES = covered


def predictions(settings: Settings) -> Figures:
    """Predict a million images that lie on the device, and as many that do not."""
    import cupy

    n = settings.amount(1_000_000)
    X, y = digits(settings, min(n, 60_000))
    model = classifier(max_iter=1, device="cuda").fit(cupy.asarray(X), y)
    X = X[np.arange(n) % len(X)]
    sides = {"on the device, wanted 20": cupy.asarray(X), "on the host": X}
    for name, of_side in sides.items():
        times = []
        for _ in range(settings.repeats + 1):
            begin = time.perf_counter()
            model.predict(of_side)
            cupy.cuda.Device().synchronize()
            times.append(time.perf_counter() - begin)
        yield f"million images a second, {name}", n / median(times[1:]) / 1e6


def first_predictions(settings: Settings) -> Figures:
    """Predict in fresh processes, of which only the second finds compiled kernels."""
    X, _ = digits(settings, 10_000)
    model = untrained(X).set_params(device="cuda")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.pickle")
        path.write_bytes(pickle.dumps((model, X)))
        command = [sys.executable, "-c", _FIRST_PREDICT, str(path)]
        environment = os.environ | {"CUPY_CACHE_DIR": str(Path(directory, "cache"))}
        for cache, wanted in (("empty", ", wanted at most 2"), ("warm", "")):
            output = subprocess.run(
                command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            importing, predicting = map(float, output.split())
            yield f"{cache} cache: import of cupy, s", importing
            yield f"{cache} cache: predict of 10,000 images, s", predicting
            yield f"{cache} cache: both, s{wanted}", importing + predicting


def memory(settings: Settings) -> Figures:
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
    yield "device, MB over the data, at most 300", (free - min(lows)) / 1e6
    yield "host, MB over the data, at most 300", max(highs) - resident
    yield "device, MB not given back", (free - cupy.cuda.runtime.memGetInfo()[0]) / 1e6


def _resident_megabytes() -> float:
    """Read what this process has in memory, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# --------------------------------------------------------------------------------------------------
# Against others


def against_rivals(settings: Settings) -> Figures:
    """Time an epoch of 60,000 images, of ours and of the others, in turns."""
    import cupy

    X, y = digits(settings, settings.amount(60_000))
    images, X = cupy.asarray(X), standardized(X)
    model = untrained(X[:64])
    for size in (64, 1024):
        sides: dict[str, Callable[[], float]] = {"ours": partial(_epoch, images, y, size)}
        sides["ours"]()
        for name, (make, _) in _RIVALS.items():
            try:
                begin = time.perf_counter()
                epoch = make(model, X, y, size)
                epoch()
                yield f"batch {size}: {name}, first, ms", _since(begin)
                # Of a fast one, several epochs take their turn together, as of ours
                second = _time(epoch, 1)
                yield f"batch {size}: {name}, second, ms", second
                sides[name] = partial(_time, epoch, min(10, ceil(500 / second)))
            except Exception as error:
                yield f"batch {size}: {name}", _in_words(error)
        turns: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(settings.repeats):
            for name in list(sides):
                try:
                    turns[name].append(sides[name]())
                except Exception as error:
                    del sides[name]
                    yield f"batch {size}: {name}", _in_words(error)
        medians = {name: median(times) for name, times in turns.items() if times}
        ours = medians.pop("ours")
        yield f"batch {size}: ours, ms", ours
        for name, theirs in medians.items():
            yield f"batch {size}: {name}, ms", theirs
            wanted = f", wanted {_RIVALS[name][1]}" if size == 64 else ""
            yield f"batch {size}: {name}, times ours{wanted}", theirs / ours
        if size > 64 and medians:
            best = min(medians.values()) / ours
            yield f"batch {size}: the best of them, times ours, wanted {_BEST_AT_LEAST}", best


def _time(action: Callable[[], Any], times: int) -> float:
    """Give the milliseconds of an action, called so many times in a row."""
    begin = time.perf_counter()
    _repeated(action, times)
    return _since(begin) / times


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
    """Train by PyTorch's plainest loop, or compiled: then the last samples are left out."""
    import torch

    network, optimizer, images, labels = _torch_side(model, X, y, device)
    forward, n_samples = network, len(X)
    if compiles:  # for one size of mini-batch
        forward = torch.compile(network, mode="reduce-overhead", dynamic=False)
        n_samples -= n_samples % batch_size

    def epoch() -> None:
        order = torch.randperm(len(X), device=device)[:n_samples]
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

    # The graph has addresses, no references: what it reads and writes has to live as long
    def epoch(kept: Any = (network, optimizer, images, labels)) -> None:
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

    if jax.default_backend() != "gpu":
        raise RuntimeError("JAX finds no GPU: install the extra bench-gpu")
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


# How to make each, and what is wanted of it on an H200 with mini-batches of 64, in times ours
_RIVALS: dict[str, tuple[Callable[..., Callable[[], None]], float]] = {
    "PyTorch": (torch_epoch, 8),
    "PyTorch, whole step as a CUDA graph": (torch_graph_epoch, 2),
    "torch.compile, reduce-overhead": (partial(torch_epoch, compiles=True), 2.5),
    "JAX, jit and scan": (jax_scan_epoch, 2),
}

PARTS: dict[str, Callable[[Settings], Figures]] = {
    "machine": machine,
    "graph": graphs,
    "host": host_times,
    "kernels": kernel_times,
    "epoch": epochs,
    "predict": predictions,
    "first": first_predictions,
    "memory": memory,
    "rivals": against_rivals,
}
