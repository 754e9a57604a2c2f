"""The time of a fit to a test accuracy: an epoch of Adam, a rate that falls along the cosine.

All sides have the same initial weights, batch size, rates and label smoothing, two threads each;
but for the comparison with tutorials, which take PyTorch's own weights, a constant rate and more
epochs. Ours trains on bytes; the rivals get images that are scaled already.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np

from sklearn_lenet._schedules import make_schedule

from . import rivals
from .measuring import (
    Result,
    Settings,
    Side,
    alternate,
    load,
    multiply_on_two_threads,
    standardized,
)
from .ours import untrained

# One epoch, with averages that forget sooner than Adam's usual ones
TO_99: dict[str, Any] = {"max_iter": 1, "lr": 0.01, "beta_1": 0.8, "beta_2": 0.95}

BATCH_SIZE, LABEL_SMOOTHING = 64, 0.05
BETAS = TO_99["beta_1"], TO_99["beta_2"]

# Of tutorials' fits
_MOST_EPOCHS = 12


class Sets(NamedTuple):
    """MNIST's two sets, as bytes, and as the rivals get them."""

    X: np.ndarray
    y: np.ndarray
    scaled: np.ndarray
    X_test: np.ndarray
    scaled_test: np.ndarray
    y_test: np.ndarray


Runner = tuple[Callable[[], Any], Callable[[], np.ndarray]]


def time_to_accuracy(settings: Settings) -> Result:
    """Let ours, PyTorch and skorch fit by one recipe in turns; the faster rival counts."""
    data = _load(settings)
    n, n_epochs = len(data.y), TO_99["max_iter"]
    schedule = make_schedule("cosine", TO_99["lr"], n_epochs)
    rates = np.concatenate([schedule.rates(e, -(-n // BATCH_SIZE)) for e in range(n_epochs)])
    makers = {"ours": _ours, "PyTorch": _torch, "skorch": _skorch}
    sides, accuracies, free = _in_turns(
        settings, data, {name: partial(make, rates=rates) for name, make in makers.items()}
    )
    ours, *others = sides.values()
    rival = min(others, key=lambda side: side.median)
    shown = "; ".join(
        f"{name} {mean(of_side):.2%} in {sides[name].median:.1f} s"
        for name, of_side in accuracies.items()
    )
    return _compared(ours, rival, free, shown)


def time_to_accuracy_by_tutorial(settings: Settings) -> Result:
    """Compare with tutorials' PyTorch: Adam, 1e-3, batch 64, until the seeds' mean is 99 %.

    All seeds learn side by side, epoch by epoch, beside a fit of ours. Where `_MOST_EPOCHS` are too
    few, the figure is a lower bound.
    """
    import torch

    torch.set_num_threads(2)
    data, seeds = _load(settings), range(1 if settings.quick else 5)
    learners = [_tutorial(data, seed) for seed in seeds]
    ours, rivals_sides, accuracies, free = Side(), [Side() for _ in seeds], [], []
    for n_epochs in range(1, 2 if settings.quick else _MOST_EPOCHS + 1):
        fit, predict = _ours(data, n_epochs, rates=None)
        ours.time(fit)
        accuracies.append(np.mean(predict() == data.y_test))
        for (train, _), side in zip(learners, rivals_sides, strict=True):
            side.time(train)
        free += alternate(replace(settings, repeats=1), multiply_on_two_threads)
        accuracy = mean(np.mean(answers() == data.y_test) for _, answers in learners)
        if accuracy >= 0.99:
            break
    rival = Side([side.total for side in rivals_sides], [sum(side.cpu) for side in rivals_sides])
    shown = (
        f"ours {mean(accuracies):.2%} in {ours.median:.1f} s; PyTorch {accuracy:.2%} after "
        f"{n_epochs} epochs, {rival.median:.1f} s"
    )
    value = rival.median / ours.median
    cores = median(side.cores for side in free)
    return _compared(ours, rival, cores, shown, value)


def _load(settings: Settings) -> Sets:
    """Load both sets, as bytes for ours, and scaled for the rivals."""
    (X, y), (X_test, y_test) = (load(settings, subset) for subset in ("train", "test"))
    n = settings.amount(len(X))
    X, y = X[:n], y[:n]
    scaled_test = ((X_test - X.mean()) / X.std()).astype(np.float32).reshape(-1, 1, 28, 28)
    return Sets(X, y, standardized(X), X_test, scaled_test, y_test)


def _in_turns(
    settings: Settings, data: Sets, learners: dict[str, Callable[[Sets, int], Runner]]
) -> tuple[dict[str, Side], dict[str, list[Any]], float]:
    """Fit each with five seeds; give times, test accuracies, and the cores that were free."""
    import torch

    torch.set_num_threads(2)
    sides: dict[str, Side] = {name: Side() for name in learners}
    accuracies: dict[str, list[Any]] = {name: [] for name in learners}
    free = []
    for seed in range(1 if settings.quick else 5):
        for name, make in learners.items():
            fit, predict = make(data, seed)
            sides[name].time(fit)
            accuracies[name].append(np.mean(predict() == data.y_test))
        free += alternate(replace(settings, repeats=1), multiply_on_two_threads)
    return sides, accuracies, median(side.cores for side in free)


def _compared(
    ours: Side, rival: Side, free: float, note: str, value: float | None = None
) -> Result:
    """Compare fits, by default run by run."""
    pairs = zip(ours.seconds, rival.seconds, strict=False)
    return Result(
        value=median(b / a for a, b in pairs) if value is None else value,
        ours_ms=1e3 * ours.median,
        rival_ms=1e3 * rival.median,
        ours_runs=[1e3 * seconds for seconds in ours.seconds],
        rival_runs=[1e3 * seconds for seconds in rival.seconds],
        ours_cores=ours.cores,
        rival_cores=rival.cores,
        free_cores=free,
        note=note,
    )


def _ours(data: Sets, seed: int, rates: Any) -> Runner:
    """Give how LeNetClassifier fits, and how it predicts."""
    from sklearn_lenet import LeNetClassifier

    model = LeNetClassifier(**TO_99, random_state=seed, n_jobs=2)
    return lambda: model.fit(data.X, data.y), lambda: model.predict(data.X_test)


def _torch(data: Sets, seed: int, rates: np.ndarray) -> Runner:
    """Give how a plain loop of PyTorch fits, and how it predicts."""
    import torch

    torch.manual_seed(seed)
    network = rivals.torch_network(untrained(data.X, random_state=seed))
    optimizer = torch.optim.Adam(network.parameters(), betas=BETAS)
    images, labels = rivals.torch_images(data.scaled), torch.from_numpy(data.y)
    test = torch.from_numpy(data.scaled_test)

    def fit() -> None:
        for of_epoch in np.split(rates, TO_99["max_iter"]):
            order = torch.randperm(len(labels))
            rivals.torch_epoch(
                network, optimizer, images, labels, order, BATCH_SIZE, of_epoch, LABEL_SMOOTHING
            )

    return fit, lambda: rivals.torch_predict(network, test, 1000).numpy()


def _tutorial(data: Sets, seed: int) -> Runner:
    """Give an epoch as tutorials have it with PyTorch, and how the network predicts."""
    import torch

    torch.manual_seed(seed)
    shapes = [weight.shape for weight in untrained(data.X).coefs_]
    network = torch.nn.Sequential(*rivals.torch_layers(shapes))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    images, labels = rivals.torch_images(data.scaled), torch.from_numpy(data.y)
    test = torch.from_numpy(data.scaled_test)

    def epoch() -> None:
        order = torch.randperm(len(labels))
        rivals.torch_epoch(network, optimizer, images, labels, order, BATCH_SIZE)

    return epoch, lambda: rivals.torch_predict(network, test, 1000).numpy()


def _skorch(data: Sets, seed: int, rates: np.ndarray) -> Runner:
    """Give how skorch fits, and how it predicts."""
    import torch
    from skorch.callbacks import LRScheduler

    torch.manual_seed(seed)
    scheduler = LRScheduler(
        "LambdaLR",
        lr_lambda=lambda step: rates[min(step, len(rates) - 1)] / TO_99["lr"],
        step_every="batch",
    )
    network = rivals.torch_network(untrained(data.X, random_state=seed))
    net = rivals.skorch_classifier(
        network,
        TO_99["max_iter"],
        torch.optim.Adam,
        lr=TO_99["lr"],
        optimizer__betas=BETAS,
        callbacks=[("rates", scheduler)],
        criterion__label_smoothing=LABEL_SMOOTHING,
    )
    images = data.scaled.reshape(-1, 1, 28, 28)
    return lambda: net.fit(images, data.y), lambda: net.predict(data.scaled_test)
