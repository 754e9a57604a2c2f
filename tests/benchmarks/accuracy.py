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
    return _compared(ours, rival, 1.0, free, shown)


def time_to_accuracy_by_tutorial(settings: Settings) -> Result:
    """Compare with tutorials' PyTorch: Adam, 1e-3, batch 64, epoch by epoch until 99 % on average.

    Where that takes more than `_MOST_EPOCHS`, the figure is a lower bound.
    """
    data, n_epochs = _load(settings), 1 if settings.quick else _MOST_EPOCHS
    learners = {
        "ours": partial(_ours, rates=None),
        "PyTorch": partial(_tutorial, n_epochs=n_epochs),
    }
    sides, accuracies, free = _in_turns(settings, data, learners)
    by_epoch = np.mean(accuracies["PyTorch"], axis=0)
    reached = np.flatnonzero(by_epoch >= 0.99)
    needed = int(reached[0]) + 1 if len(reached) else n_epochs
    shown = (
        f"ours {np.mean(accuracies['ours']):.2%} in {sides['ours'].median:.1f} s; PyTorch "
        f"{by_epoch[needed - 1]:.2%} after {needed} epochs{'' if len(reached) else ', the most'}"
    )
    return _compared(sides["ours"], sides["PyTorch"], needed / n_epochs, free, shown)


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
    """Fit each with five seeds; give the times, the test accuracies, and the cores that were free.

    A learner that gives predictions after each epoch has an accuracy for each.
    """
    import torch

    torch.set_num_threads(2)
    sides: dict[str, Side] = {name: Side() for name in learners}
    accuracies: dict[str, list[Any]] = {name: [] for name in learners}
    free = []
    for seed in range(1 if settings.quick else 5):
        for name, make in learners.items():
            fit, predict = make(data, seed)
            sides[name].time(fit)
            accuracies[name].append(np.mean(predict() == data.y_test, axis=-1))
        free += alternate(replace(settings, repeats=1), multiply_on_two_threads)
    return sides, accuracies, median(side.cores for side in free)


def _compared(ours: Side, rival: Side, share: float, free: float, note: str) -> Result:
    """Compare our fits with a share of the rival's."""
    ours_runs, rival_runs = (
        [1e3 * part * seconds for seconds in side.seconds]
        for side, part in ((ours, 1.0), (rival, share))
    )
    return Result(
        value=median(b / a for a, b in zip(ours_runs, rival_runs, strict=True)),
        ours_ms=median(ours_runs),
        rival_ms=median(rival_runs),
        ours_runs=ours_runs,
        rival_runs=rival_runs,
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


def _tutorial(data: Sets, seed: int, n_epochs: int) -> Runner:
    """Give how tutorials fit with PyTorch, and the predictions after each epoch."""
    import torch

    torch.manual_seed(seed)
    shapes = [weight.shape for weight in untrained(data.X).coefs_]
    network = torch.nn.Sequential(*rivals.torch_layers(shapes))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    images, labels = rivals.torch_images(data.scaled), torch.from_numpy(data.y)
    states: list[Any] = []

    def fit() -> None:
        for _ in range(n_epochs):
            order = torch.randperm(len(labels))
            rivals.torch_epoch(network, optimizer, images, labels, order, BATCH_SIZE)
            states.append({name: t.clone() for name, t in network.state_dict().items()})

    def predict() -> np.ndarray:
        predictions = []
        for state in states:
            network.load_state_dict(state)
            test = torch.from_numpy(data.scaled_test)
            predictions.append(rivals.torch_predict(network, test, 1000).numpy())
        return np.array(predictions)

    return fit, predict


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
