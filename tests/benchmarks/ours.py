"""Our side of the comparisons."""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import rivals


def classifier(**parameters: Any) -> Any:
    """Make ours, with the plain SGD that the rivals have: constant, no Nesterov, no shuffling."""
    from sklearn_lenet import LeNetClassifier

    plain = {"solver": "sgd", "lr": rivals.LR, "lr_schedule": "constant"}
    plain |= {"momentum": rivals.MOMENTUM, "nesterovs_momentum": False, "label_smoothing": 0.0}
    plain |= {"shuffle": False, "random_state": 0}
    return LeNetClassifier(**(plain | parameters))


def untrained(X: np.ndarray, **parameters: Any) -> Any:
    """Make a fitted estimator that still has its initial weights."""
    model = classifier(**(parameters | {"lr": 1e-30}))
    return model.partial_fit(X[:64], np.arange(64) % 10, classes=np.arange(10))


def partial_fit(model: Any, X: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """Make our side of all training figures: an epoch.

    In the clock is what a user pays: the check of the data, the start and the end of the threads,
    and every mini-batch's gathering and scaling. The rivals get images that are scaled already.
    """
    classes = np.arange(10)
    return lambda: model.partial_fit(X, y, classes=classes)
