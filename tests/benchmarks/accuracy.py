"""The time that training takes to a test accuracy, which is measured outside the clock.

Ours trains on bytes, as fits of one epoch that go on from each other, which at a constant rate is
the same to the bit as one fit. The rivals get our initial weights, the same rate and momentum, and
images that are scaled already, so that they need about as many epochs; two threads each. skorch
runs the same arithmetic as PyTorch's loop: one seed shows whether it is faster, and then counts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from . import rivals
from .measuring import Result, Settings, Side, alternate, load, multiply_on_two_threads
from .ours import classifier, untrained


@dataclass(frozen=True)
class Race:
    """Data, where to stop, and the three runners.

    Attributes
    ----------
    X, y, X_test, y_test : ndarrays
        As bytes, and their labels.
    scaled, scaled_test : ndarrays of shape (n, 1, 28, 28)
        For the rivals.
    target : float
        Accuracy on the test set.
    limit : float
        Seconds of training after which a runner is stopped.
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    scaled: np.ndarray
    scaled_test: np.ndarray
    target: float
    limit: float

    def ours(self, seed: int) -> Side:
        """Run LeNetClassifier."""
        model = classifier(
            nesterovs_momentum=True,
            shuffle=True,
            max_iter=1,
            warm_start=True,
            random_state=seed,
            n_jobs=2,
        )
        return self._run(
            lambda: model.fit(self.X, self.y), lambda: model.score(self.X_test, self.y_test)
        )

    def torch(self, seed: int) -> Side:
        """Run PyTorch by a plain loop."""
        import torch

        torch.manual_seed(seed)
        network = rivals.torch_network(untrained(self.scaled, random_state=seed))
        optimizer = rivals.torch_sgd(network, nesterov=True)
        X, y, X_test = map(torch.from_numpy, (self.scaled, self.y, self.scaled_test))

        def epoch() -> None:
            rivals.torch_epoch(network, optimizer, X, y, torch.randperm(len(y)), batch_size=64)

        def accuracy() -> float:
            return np.mean(rivals.torch_predict(network, X_test, 1000).numpy() == self.y_test)

        return self._run(epoch, accuracy)

    def skorch(self, seed: int) -> Side:
        """Run skorch."""
        import torch

        torch.manual_seed(seed)
        net = rivals.skorch_classifier(
            untrained(self.scaled, random_state=seed), epochs=1, nesterov=True
        )
        return self._run(
            lambda: net.partial_fit(self.scaled, self.y),
            lambda: np.mean(net.predict(self.scaled_test) == self.y_test),
        )

    def _run(self, epoch: Callable[[], Any], accuracy: Callable[[], float]) -> Side:
        side = Side()
        while side.total < self.limit:
            side.time(epoch)
            if accuracy() >= self.target:
                break
        return side


def time_to_accuracy(settings: Settings) -> Result:
    """Let ours and PyTorch run with three seeds in turns, then skorch with one."""
    import torch

    torch.set_num_threads(2)
    race = _race(settings)
    deadline = time.perf_counter() + 4 * settings.seconds
    ours, loop, free = [], [], []
    for seed in range(1 if settings.quick else 3):
        if seed and time.perf_counter() > deadline:
            break
        ours.append(race.ours(seed))
        loop.append(race.torch(seed))
        free += alternate(replace(settings, repeats=1), multiply_on_two_threads)

    ours_seconds, loop_seconds = (median(side.total for side in sides) for sides in (ours, loop))
    limit = min(race.limit, loop_seconds)
    skorch = replace(race, limit=limit).skorch(seed=0)
    rival_seconds = skorch.total if skorch.total < limit else loop_seconds
    return Result(
        value=rival_seconds / ours_seconds,
        ours_ms=1e3 * ours_seconds,
        rival_ms=1e3 * rival_seconds,
        ours_runs=[1e3 * side.total for side in ours],
        rival_runs=[1e3 * side.total for side in loop],
        ours_cores=median(side.cores for side in ours),
        rival_cores=median(side.cores for side in loop),
        free_cores=median(side.cores for side in free),
        note=_note(race, ours, loop, skorch),
    )


def _race(settings: Settings) -> Race:
    X, y = load(settings, "train")
    X_test, y_test = load(settings, "test")
    mean, std = X.mean(), X.std()
    scaled, scaled_test = (
        ((images - mean) / std).astype(np.float32).reshape(-1, 1, 28, 28) for images in (X, X_test)
    )
    # 5,000 images do not teach 99 %
    target = 0.93 if settings.quick else 0.99 if len(X) == 60_000 else 0.96
    return Race(X, y, X_test, y_test, scaled, scaled_test, target, limit=2 * settings.seconds)


def _note(race: Race, ours: list[Side], loop: list[Side], skorch: Side) -> str:
    epochs = [[len(side.seconds) for side in sides] for sides in (ours, loop)]
    stopped = sum(side.total >= race.limit for side in ours + loop)
    is_slower = skorch.total >= median(side.total for side in loop)
    notes = [
        f"{race.target:.0%} after {epochs[0]} epochs, PyTorch {epochs[1]}",
        f"{stopped} runs stopped at {race.limit:.0f} s" if stopped else "",
        f"skorch {'slower, stopped after ' if is_slower else ''}{skorch.total:.0f} s",
    ]
    return "; ".join(filter(None, notes))
