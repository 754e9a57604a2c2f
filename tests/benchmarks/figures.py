"""The figures: what is measured against what, and what is in the clock.

Each figure runs in a process of its own, which makes both sides' runs in turns. So no figure's
threads, caches or settings reach another.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from . import rivals
from .accuracy import time_to_accuracy, time_to_accuracy_by_tutorial
from .breakdown import breakdown
from .measuring import (
    Result,
    Settings,
    alternate,
    colour_noise,
    compare,
    cpu_with_children,
    digits,
    scaled_digits,
    standardized,
)
from .ours import classifier, partial_fit, untrained

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes
    ----------
    measure : callable
        From settings to a Result.
    what : str
    at_least, at_most : float or None
        What is wanted, if anything.
    unit : {"x", "%", "MB", "ms", ""}
        "" is a yes or a no.
    needs : tuple of str
        Modules that a rival or a tool has to be installed for.
    """

    measure: Callable[[Settings], Result]
    what: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"
    needs: tuple[str, ...] = ()


def torch_training(
    settings: Settings,
    threads: int,
    batch_size: int = 64,
    colour: bool = False,
    compiled: bool = False,
    **network_parameters: Any,
) -> Result:
    """Train a network of the same sizes and weights on the same batches with PyTorch and ours."""
    import torch

    torch.set_num_threads(threads)
    n = settings.amount(6400 if network_parameters.get("conv_channels") is None else 1280)
    X, y = colour_noise(n) if colour else scaled_digits(settings, n)
    images, labels = rivals.torch_images(X), torch.from_numpy(y)
    parameters = {"batch_size": batch_size, "n_jobs": threads, **network_parameters}
    network = rivals.torch_network(untrained(X, **parameters))
    optimizer, order, note = rivals.torch_sgd(network), torch.arange(n), ""
    forward = torch.compile(network) if compiled else network
    if compiled:
        begin = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(forward(images[:batch_size]), labels[:batch_size])
        loss.backward()
        note = f"compiled in {time.perf_counter() - begin:.0f} s; "
    note += _same_network(X, y, parameters)
    return compare(
        settings,
        partial_fit(classifier(**parameters), X, y),
        lambda: rivals.torch_epoch(forward, optimizer, images, labels, order, batch_size),
        per=n / batch_size,
        threads=threads,
        note=note,
    )


def _same_network(X: np.ndarray, y: np.ndarray, parameters: dict[str, Any]) -> str:
    """Take two steps on both sides, and tell how far apart the weights are: rounding errors."""
    import torch

    batch_size = parameters["batch_size"]
    X, y = standardized(X[: 2 * batch_size]), y[: 2 * batch_size]
    model = classifier(**parameters)
    partial_fit(model, X, y)()
    network = rivals.torch_network(untrained(X, **parameters))
    optimizer, order = rivals.torch_sgd(network), torch.arange(len(X))
    images, labels = rivals.torch_images(X), torch.from_numpy(y)
    rivals.torch_epoch(network, optimizer, images, labels, order, batch_size)
    weights = [p.detach().numpy() for p in network.parameters() if p.ndim > 1]
    pairs = zip(model.coefs_, weights, strict=True)
    distance = max(abs(ours - theirs).max() for ours, theirs in pairs)
    return f"weights {distance:.0e} apart after 2 steps"


def skorch(settings: Settings) -> Result:
    """Compare whole fits, of two epochs, on two threads each; skorch brings its data loader."""
    import torch

    torch.set_num_threads(2)
    n, epochs = settings.amount(6400), 2
    X, y = scaled_digits(settings, n)
    model = classifier(max_iter=epochs, shuffle=True, n_jobs=2)
    net = rivals.skorch_classifier(
        rivals.torch_network(untrained(X)),
        epochs,
        torch.optim.SGD,
        optimizer__momentum=rivals.MOMENTUM,
        lr=rivals.LR,
    )
    return compare(
        settings,
        lambda: model.fit(X, y),
        lambda: net.fit(X.reshape(-1, 1, 28, 28), y),
        threads=2,
    )


def floor(settings: Settings) -> Result:
    """Compare our step with its arithmetic alone, at the speed of a large matrix product."""
    n, batch_size, size = settings.amount(6400), 64, 2048
    X, y = scaled_digits(settings, n)
    train = partial_fit(classifier(batch_size=batch_size, n_jobs=1), X, y)
    matrix = np.ones((size, size), np.float32)
    product = np.empty_like(matrix)
    with threadpool_limits(1, "blas"):
        step, matmul = alternate(settings, train, lambda: np.matmul(matrix, matrix, out=product))
    speed = 2 * size**3 / matmul.median
    ours = step.median / (n / batch_size)
    floor = operations_per_sample() * batch_size / speed
    return Result(
        value=ours / floor,
        ours_ms=1e3 * ours,
        rival_ms=1e3 * floor,
        ours_runs=[1e3 * seconds * batch_size / n for seconds in step.seconds],
        rival_runs=[1e3 * floor * seconds / matmul.median for seconds in matmul.seconds],
        note=f"sgemm at {speed / 1e9:.0f} GFLOP/s, whose median run gives the floor",
    )


def operations_per_sample() -> int:
    """Count a training step's multiplications and additions, as the textbook's LeNet-5 has them."""
    first, second = 28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25
    dense = 400 * 120 + 120 * 84 + 84 * 10
    # forward, gradient of the weights, gradient of the input, which the first layer goes without
    return 2 * (3 * (first + second + dense) - first)


def workers(settings: Settings) -> Result:
    """Compare our epoch on one thread with that on two."""
    n = settings.amount(6400)
    X, y = scaled_digits(settings, n)
    one, two = (partial_fit(classifier(n_jobs=n_jobs), X, y) for n_jobs in (1, 2))
    return compare(settings, two, one, per=n / 64, threads=2)


def torch_prediction(settings: Settings) -> Result:
    """Predict with PyTorch, one thread, in batches of the size that it is fastest with."""
    import torch

    torch.set_num_threads(1)
    X, y = scaled_digits(settings, settings.amount(10_000))
    model = classifier(max_iter=1, n_jobs=1).fit(X, y)
    predict = partial(rivals.torch_predict, rivals.torch_network(model), rivals.torch_images(X))
    return _prediction(settings, model, X, predict)


def onnx_prediction(settings: Settings) -> Result:
    """Predict with onnxruntime, one thread, in batches of the size that it is fastest with."""
    X, y = scaled_digits(settings, settings.amount(10_000))
    model = classifier(max_iter=1, n_jobs=1).fit(X, y)
    return _prediction(settings, model, X, partial(rivals.onnx_predict(model, threads=1), X))


def _prediction(
    settings: Settings, model: Any, X: np.ndarray, predict: Callable[[int], Any]
) -> Result:
    sizes = [32, 64, 256, 1000]
    sides = alternate(replace(settings, repeats=2), *(partial(predict, size) for size in sizes))
    best = min(zip(sides, sizes, strict=True), key=lambda pair: pair[0].median)[1]
    same = np.mean(np.asarray(predict(best)) == model.predict(X))
    note = f"its best batch size is {best}; {same:.2%} of the predictions are the same"
    return compare(settings, lambda: model.predict(X), lambda: predict(best), note=note)


def latency(settings: Settings, rival: str, n_rows: int) -> Result:
    """Compare `predict_proba` of few rows, from array to array, one thread."""
    X, y = scaled_digits(settings, 1000)
    model, rows = classifier(max_iter=1, n_jobs=1).fit(X, y), np.ascontiguousarray(X[:n_rows])
    predict = _PREDICTORS[rival](model, X, y)
    apart = np.abs(predict(rows) - model.predict_proba(rows)).max()
    n_calls = settings.amount(max(50, 2000 // n_rows))

    def often(function: Callable[[np.ndarray], Any]) -> Callable[[], Any]:
        return lambda: [function(rows) for _ in range(n_calls)]

    note = "" if rival == "mlp" else f"probabilities {apart:.0e} apart"
    return compare(settings, often(model.predict_proba), often(predict), per=n_calls, note=note)


Predict = Callable[[np.ndarray], np.ndarray]


def _mlp_predictor(model: Any, X: np.ndarray, y: np.ndarray) -> Predict:
    from sklearn.neural_network import MLPClassifier

    dense = MLPClassifier((120, 84), solver="sgd")
    return dense.partial_fit(X, y, classes=np.arange(10)).predict_proba


def _torch_predictor(model: Any, X: np.ndarray, y: np.ndarray) -> Predict:
    import torch

    torch.set_num_threads(1)
    return partial(rivals.torch_proba, rivals.torch_network(model))


def _skorch_predictor(model: Any, X: np.ndarray, y: np.ndarray) -> Predict:
    import torch

    torch.set_num_threads(1)
    network = torch.nn.Sequential(rivals.torch_network(model), torch.nn.Softmax(1))
    net = rivals.skorch_classifier(network, 1, torch.optim.SGD, predict_nonlinearity=None)
    net.initialize()
    return lambda rows: net.predict_proba(rows.reshape(-1, 1, 28, 28))


def _onnx_predictor(model: Any, X: np.ndarray, y: np.ndarray) -> Predict:
    from scipy.special import softmax

    session = rivals.onnx_session(model, threads=1)
    return lambda rows: softmax(session.run(None, {"x0": rows.reshape(-1, 1, 28, 28)})[0], axis=1)


_PREDICTORS = {
    "mlp": _mlp_predictor,
    "torch": _torch_predictor,
    "skorch": _skorch_predictor,
    "onnx": _onnx_predictor,
}


def small_fit(settings: Settings) -> Result:
    """Compare fits of 50 images by 100 epochs with skorch's."""
    import torch

    torch.set_num_threads(1)
    X, y = scaled_digits(settings, 64)
    network, n_epochs = rivals.torch_network(untrained(X)), settings.amount(100)
    net = rivals.skorch_classifier(network, n_epochs, torch.optim.SGD, lr=rivals.LR)
    X, y = X[:50], y[:50]
    model, images = classifier(max_iter=n_epochs, n_jobs=1), X.reshape(-1, 1, 28, 28)
    return compare(settings, lambda: model.fit(X, y), lambda: net.fit(images, y), per=n_epochs)


def small_partial_fit(settings: Settings) -> Result:
    """Compare calls of `partial_fit` with 64 rows with skorch's."""
    import torch

    torch.set_num_threads(1)
    X, y = scaled_digits(settings, 64)
    net = rivals.skorch_classifier(
        rivals.torch_network(untrained(X)), 1, torch.optim.SGD, lr=rivals.LR
    )
    images, n_calls = X.reshape(-1, 1, 28, 28), settings.amount(50)
    ours = partial_fit(classifier(n_jobs=1), X, y)
    return compare(
        settings,
        lambda: [ours() for _ in range(n_calls)],
        lambda: [net.partial_fit(images, y) for _ in range(n_calls)],
        per=n_calls,
    )


_FIT_AND_READ_MEMORY = """
import sys
import numpy as np
import sklearn_lenet

def kilobytes(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

X, y = np.load(sys.argv[1]), np.load(sys.argv[2])
before = kilobytes("VmRSS")
sklearn_lenet.LeNetClassifier(max_iter=1).fit(X, y)
print((kilobytes("VmHWM") - before) / 1000)
"""


def memory(settings: Settings) -> Result:
    """Compare the peak of a fit of 60,000 x 784 bytes with what import and data take."""
    if not Path("/proc/self/status").exists():
        return Result(note="needs Linux's /proc/self/status")
    with tempfile.TemporaryDirectory() as directory:
        paths = [f"{directory}/{name}.npy" for name in "Xy"]
        for path, array in zip(paths, digits(settings, 60_000), strict=True):
            np.save(path, array)
        runs = [float(_python(_FIT_AND_READ_MEMORY, *paths)) for _ in range(3)]
    return Result(value=max(runs), note="the most of 3 processes")


def _python(code: str, *arguments: str) -> str:
    """Run code in a fresh process, which may keep its bytecode, and read what it prints."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=kept,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def linear(settings: Settings) -> Result:
    """Compare the times that a sample takes in fits of 15,000, 30,000 and 60,000, one thread."""
    sizes = [settings.amount(n) for n in (15_000, 30_000, 60_000)]
    X, y = digits(settings, sizes[-1])
    model = classifier(max_iter=1, n_jobs=1)

    def fits(size: int) -> Callable[[], Any]:
        """Fit as often as it takes to see all samples, so that all sizes run as long."""
        return lambda: [model.fit(X[:size], y[:size]) for _ in range(sizes[-1] // size)]

    fewer = replace(settings, repeats=min(5, settings.repeats))
    sides = alternate(fewer, *map(fits, sizes))
    times = [1e6 * side.median / sizes[-1] for side in sides]
    shown = ", ".join(f"{microseconds:.1f}" for microseconds in times)
    return Result(value=100 * (max(times) / min(times) - 1), note=f"{shown} us a sample")


_IMPORT = """
import time
import sklearn.neural_network
begin = time.perf_counter()
import sklearn_lenet
print(1e3 * (time.perf_counter() - begin))
"""


def import_time(settings: Settings) -> Result:
    """Measure, in fresh processes, what our import takes after that of scikit-learn's networks.

    The two imports' difference is no more than that, and drowns in their noise.
    """
    runs = [float(_python(_IMPORT)) for _ in range(settings.repeats + 1)]
    return Result(value=median(runs[1:]))  # the first reads the files from the disk


def bits(settings: Settings) -> Result:
    """Compare all bits of the parameters after fits by 1, 2, 3 and 4 workers."""
    X, y = digits(settings, settings.amount(2000) + 37)
    weights = set()
    for n_jobs in (1, 2, 3, 4):
        model = classifier(max_iter=2, shuffle=True, n_jobs=n_jobs).fit(X, y)
        weights.add(b"".join(array.tobytes() for array in model.coefs_ + model.intercepts_))
    return Result(value=float(len(weights) == 1), note="1, 2, 3 and 4 workers")


def grid(settings: Settings) -> Result:
    """Compare a grid search by two processes, warm, with one whose fits use two threads."""
    from sklearn.model_selection import GridSearchCV

    from sklearn_lenet import LeNetClassifier

    X, y = digits(settings, settings.amount(12_000))

    def search(n_jobs: int) -> Callable[[], Any]:
        # fits of one epoch: their loss has no time to converge, whatever the rate
        model = LeNetClassifier(max_iter=1, random_state=0)
        candidates = {"lr": [0.002, 0.005, 0.01, 0.02]}
        grid = GridSearchCV(model, candidates, cv=2, refit=False, n_jobs=n_jobs)
        return lambda: grid.fit(X, y)

    return compare(settings, search(1), search(2), threads=2, cpu_clock=cpu_with_children)


def jax(settings: Settings) -> Result:
    """Train with JAX's jit, on all the threads that it takes, and ours on two."""
    n = settings.amount(6400)
    X, y = scaled_digits(settings, n)
    train = rivals.jax_epoch(untrained(X), X, y, batch_size=64)
    model = classifier(n_jobs=2)
    return compare(settings, partial_fit(model, X, y), train, per=n / 64, threads=2)


def keras(settings: Settings) -> Result:
    """Train with Keras' fit, on all the threads that it takes, and ours on two."""
    backend = next(filter(find_spec, ("jax", "torch", "tensorflow")), None)
    if backend is None:
        return Result(note="not installed: a backend of Keras")
    os.environ.setdefault("KERAS_BACKEND", backend)
    n = settings.amount(6400)
    X, y = scaled_digits(settings, n)
    train = rivals.keras_epoch(X, y, batch_size=64)
    note = f"backend {os.environ['KERAS_BACKEND']}"
    ours = partial_fit(classifier(n_jobs=2), X, y)
    return compare(settings, ours, train, per=n / 64, threads=2, note=note)


def mantissa(settings: Settings) -> Result:
    """Train with mantissa-cnn, with the C compiled for any CPU, and ours, one thread each."""
    n = settings.amount(6400)
    X, y = scaled_digits(settings, n)
    ours = partial_fit(classifier(n_jobs=1, pooling="max", momentum=0.0), X, y)
    return compare(settings, ours, rivals.mantissa_epoch(X, y, batch_size=64), per=n / 64)


def neuralnetlib(settings: Settings) -> Result:
    """Train with neuralnetlib, and ours, one thread each."""
    n = settings.amount(1280)
    X, y = scaled_digits(settings, n)
    ours = partial_fit(classifier(n_jobs=1, momentum=0.0), X, y)
    with threadpool_limits(1, "blas"):
        return compare(settings, ours, rivals.neuralnetlib_epoch(X, y, batch_size=64), per=n / 64)


def mlp(settings: Settings) -> Result:
    """Train scikit-learn's dense layers alone, and ours on two threads."""
    from sklearn.neural_network import MLPClassifier

    n = settings.amount(6400)
    X, y = scaled_digits(settings, n)
    dense = MLPClassifier(
        (120, 84), solver="sgd", batch_size=64, learning_rate_init=rivals.LR, shuffle=False
    )
    dense.partial_fit(X, y, classes=np.arange(10))
    ours = partial_fit(classifier(n_jobs=2), X, y)
    return compare(settings, ours, lambda: dense.partial_fit(X, y), per=n / 64, threads=2)


def _training(what: str, at_least: float | None, **parameters: Any) -> Figure:
    """Make a figure of `torch_training`."""
    threads = {1: "one thread each", 2: "two threads each"}[parameters["threads"]]
    return Figure(
        partial(torch_training, **parameters),
        f"training step: {what}, {threads}",
        at_least=at_least,
        needs=("torch",),
    )


# What larger networks are called, their parameters, and what is wanted
_SIZES: dict[str, tuple[dict[str, Any], float | None]] = {
    "16-32": ({"conv_channels": (16, 32)}, 1.75),
    "32-64": ({"conv_channels": (32, 64)}, 1.5),
    "32-64-colour": ({"conv_channels": (32, 64), "colour": True}, 1.25),
    "64-128-colour": ({"conv_channels": (64, 128), "colour": True}, 1.25),
    "128-256-colour": ({"conv_channels": (128, 256), "colour": True}, None),
    "3x3": (
        {"conv_channels": (32, 64, 128), "kernel_size": 3, "padding": 1, "colour": True},
        1.1,
    ),
}


def _sizes() -> dict[str, Figure]:
    """Make the figures of larger networks: mean and max pooling, and larger mini-batches."""
    figures = {}
    for name, (parameters, at_least) in _SIZES.items():
        image = "3 x 32 x 32" if parameters.get("colour") else "28 x 28"
        what = f"{parameters['conv_channels']} kernels, {image}"
        for suffix, kind, less, more in (
            ("", "batch 64", 0.0, {}),
            ("-max", "max pooling, batch 64", 0.1, {"pooling": "max"}),
            ("-128", "batch 128", 0.0, {"batch_size": 128}),
        ):
            figures[f"size-{name}{suffix}"] = _training(
                f"{what}, PyTorch / ours, {kind}",
                None if at_least is None else at_least - less,
                threads=1,
                **parameters,
                **more,
            )
    return figures


def _latency(rival: str, n_rows: int, at_least: float | None, *needs: str) -> Figure:
    """Make a figure of `latency`."""
    names = {"mlp": "MLPClassifier", "torch": "PyTorch", "skorch": "skorch", "onnx": "onnxruntime"}
    return Figure(
        partial(latency, rival=rival, n_rows=n_rows),
        f"predict_proba of {n_rows} rows: {names[rival]} / ours, one thread each",
        at_least=at_least,
        needs=needs,
    )


FIGURES = {
    "train-64-1": _training("PyTorch eager / ours, batch 64", 2.7, threads=1),
    "train-64-2": _training("PyTorch eager / ours, batch 64", 2.6, threads=2),
    "compile-64-2": _training("torch.compile / ours, batch 64", None, threads=2, compiled=True),
    "train-256-1": _training("PyTorch eager / ours, batch 256", 2.6, threads=1, batch_size=256),
    "train-256-2": _training("PyTorch eager / ours, batch 256", None, threads=2, batch_size=256),
    "max-pool-1": _training("max pooling, PyTorch / ours, batch 64", 1.9, threads=1, pooling="max"),
    "max-pool-2": _training("max pooling, PyTorch / ours, batch 64", 2, threads=2, pooling="max"),
    "colour-1": _training("3 x 32 x 32, PyTorch / ours, batch 64", 1.5, threads=1, colour=True),
    "colour-2": _training("3 x 32 x 32, PyTorch / ours, batch 64", 1.5, threads=2, colour=True),
    **_sizes(),
    "skorch": Figure(
        skorch,
        "fit of 2 epochs: skorch / ours, batch 64, two threads each",
        needs=("torch", "skorch"),
    ),
    "small-fit": Figure(
        small_fit,
        "fit of 50 images, 100 epochs: skorch / ours, one thread each",
        needs=("torch", "skorch"),
    ),
    "small-partial": Figure(
        small_partial_fit,
        "partial_fit of 64 rows: skorch / ours, one thread each",
        needs=("torch", "skorch"),
    ),
    "floor": Figure(floor, "our step on one thread / its arithmetic at sgemm's speed"),
    "workers": Figure(workers, "training step: one worker's time / two workers'"),
    "predict": Figure(
        torch_prediction,
        "10,000 images: PyTorch eager / ours, one thread each",
        needs=("torch",),
    ),
    "predict-onnx": Figure(
        onnx_prediction,
        "10,000 images: onnxruntime / ours, one thread each",
        needs=("onnx", "onnxruntime"),
    ),
    "latency-mlp-1": _latency("mlp", 1, 1 / 1.6),
    **{
        f"latency-torch-{n_rows}": _latency("torch", n_rows, at_least, "torch")
        for n_rows, at_least in ((1, None), (10, 1 / 0.85), (32, 1 / 0.85), (100, 1 / 0.85))
    },
    "latency-skorch-1": _latency("skorch", 1, None, "torch", "skorch"),
    "latency-onnx-1": _latency("onnx", 1, None, "onnx", "onnxruntime"),
    "time-to-99": Figure(
        time_to_accuracy,
        "a fit to 99 % on the test set: the rivals' best / ours, two threads each",
        at_least=2.5,
        needs=("torch", "skorch"),
    ),
    "time-to-99-tutorial": Figure(
        time_to_accuracy_by_tutorial,
        "a fit to 99 % on the test set: tutorials' PyTorch / ours, two threads each",
        at_least=10,
        needs=("torch",),
    ),
    "memory": Figure(
        memory, "peak of a fit of 60,000 images, over import and data", at_most=120, unit="MB"
    ),
    "linear": Figure(linear, "time per sample with 15k, 30k, 60k: spread", at_most=10, unit="%"),
    "import": Figure(
        import_time, "import sklearn_lenet, over sklearn.neural_network", at_most=50, unit="ms"
    ),
    "bits": Figure(bits, "bit-identical weights for any n_jobs", at_least=1, unit=""),
    "grid": Figure(
        grid,
        "grid search of 4 candidates: n_jobs=2 / n_jobs=1",
        at_most=1,
        needs=("psutil",),
    ),
    "jax": Figure(jax, "training step: JAX jit / ours, batch 64", needs=("jax",)),
    "keras": Figure(keras, "training step: Keras fit / ours, batch 64", needs=("keras",)),
    "mantissa": Figure(
        mantissa,
        "training step: mantissa-cnn / ours, batch 64, max pooling, one thread each",
        needs=("mantissa_cnn",),
    ),
    "neuralnetlib": Figure(
        neuralnetlib,
        "training step: neuralnetlib / ours, batch 64, one thread each",
        needs=("neuralnetlib",),
    ),
    "mlp": Figure(mlp, "training step: MLPClassifier (120, 84) / ours, batch 64"),
    "breakdown": Figure(breakdown, "where our step on one thread spends its time", unit="ms"),
}
