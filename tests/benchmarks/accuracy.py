"""The time of a fit to a test accuracy: few epochs of Adam, a rate that falls along the cosine.

All sides have the same initial weights, batch size, rates and label smoothing, two threads each.
Ours trains on bytes; the rivals get images that are scaled already.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

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

# The defaults, but for few epochs: see the short fit of `selection.py`
TO_99 = {"max_iter": 3}

LR, BATCH_SIZE, LABEL_SMOOTHING = 0.005, 64, 0.05


def time_to_accuracy(settings: Settings) -> Result:
    """Let ours, PyTorch and skorch fit in turns, with three seeds; the faster rival counts."""
    import torch

    torch.set_num_threads(2)
    (X, y), (X_test, y_test) = (load(settings, subset) for subset in ("train", "test"))
    n = settings.amount(len(X))
    X, y = X[:n], y[:n]
    scaled = standardized(X)
    scaled_test = ((X_test - X.mean()) / X.std()).astype(np.float32).reshape(-1, 1, 28, 28)
    schedule, n_epochs = make_schedule("cosine", LR, TO_99["max_iter"]), TO_99["max_iter"]
    rates = np.concatenate([schedule.rates(e, -(-n // BATCH_SIZE)) for e in range(n_epochs)])
    sides, accuracies, free = [Side(), Side(), Side()], [[], [], []], []
    for seed in range(1 if settings.quick else 3):
        runners = (
            _ours(X, y, X_test, seed),
            _torch(scaled, y, scaled_test, seed, rates),
            _skorch(scaled, y, scaled_test, seed, rates),
        )
        for (fit, predict), side, of_side in zip(runners, sides, accuracies, strict=True):
            side.time(fit)
            of_side.append(np.mean(predict() == y_test))
        free += alternate(replace(settings, repeats=1), multiply_on_two_threads)
    ours, rival = sides[0], min(sides[1:], key=lambda side: side.median)
    shown = "; ".join(
        f"{name} {median(of_side):.2%} in {side.median:.1f} s"
        for name, of_side, side in zip(
            ("ours", "PyTorch", "skorch"), accuracies, sides, strict=True
        )
    )
    return Result(
        value=rival.median / ours.median,
        ours_ms=1e3 * ours.median,
        rival_ms=1e3 * rival.median,
        ours_runs=[1e3 * seconds for seconds in ours.seconds],
        rival_runs=[1e3 * seconds for seconds in rival.seconds],
        ours_cores=ours.cores,
        rival_cores=rival.cores,
        free_cores=median(side.cores for side in free),
        note=shown,
    )


Runner = tuple[Callable[[], Any], Callable[[], np.ndarray]]


def _ours(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, seed: int) -> Runner:
    """Give how LeNetClassifier fits, and how it predicts."""
    from sklearn_lenet import LeNetClassifier

    model = LeNetClassifier(
        **TO_99,
        solver="adam",
        lr=LR,
        batch_size=BATCH_SIZE,
        lr_schedule="cosine",
        label_smoothing=LABEL_SMOOTHING,
        random_state=seed,
        n_jobs=2,
    )
    return lambda: model.fit(X, y), lambda: model.predict(X_test)


def _torch(
    X: np.ndarray, y: np.ndarray, X_test: np.ndarray, seed: int, rates: np.ndarray
) -> Runner:
    """Give how a plain loop of PyTorch fits, and how it predicts."""
    import torch

    torch.manual_seed(seed)
    network = rivals.torch_network(untrained(X, random_state=seed))
    optimizer = torch.optim.Adam(network.parameters())
    images, labels, test = rivals.torch_images(X), torch.from_numpy(y), torch.from_numpy(X_test)

    def fit() -> None:
        for of_epoch in np.split(rates, TO_99["max_iter"]):
            order = torch.randperm(len(labels))
            rivals.torch_epoch(
                network, optimizer, images, labels, order, BATCH_SIZE, of_epoch, LABEL_SMOOTHING
            )

    return fit, lambda: rivals.torch_predict(network, test, 1000).numpy()


def _skorch(
    X: np.ndarray, y: np.ndarray, X_test: np.ndarray, seed: int, rates: np.ndarray
) -> Runner:
    """Give how skorch fits, and how it predicts."""
    import torch
    from skorch.callbacks import LRScheduler

    torch.manual_seed(seed)
    scheduler = LRScheduler(
        "LambdaLR",
        lr_lambda=lambda step: rates[min(step, len(rates) - 1)] / LR,
        step_every="batch",
    )
    network = rivals.torch_network(untrained(X, random_state=seed))
    net = rivals.skorch_classifier(network, TO_99["max_iter"], torch.optim.Adam, lr=LR).set_params(
        callbacks=[("rates", scheduler)], criterion__label_smoothing=LABEL_SMOOTHING
    )
    images = X.reshape(-1, 1, 28, 28)
    return lambda: net.fit(images, y), lambda: net.predict(X_test)
