"""Training policy: epochs, learning-rate schedule, validation, stopping, progress."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from math import ceil, inf, isfinite, isnan, nan
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ._backend import to_host
from ._cuda import DeviceEngine
from ._engine import Engine
from ._optimizers import SGD, Adam, WeightAverage
from ._schedules import PLATEAU_PATIENCE, learning_rates


@dataclass(frozen=True)
class Settings:
    """Parameters of the estimator that steer training; their meaning is documented there.

    `max_iter` is a number here.
    """

    lr: float
    lr_schedule: str | Callable[[int], float]
    batch_size: int
    max_iter: int
    shuffle: bool
    tol: float | None
    n_iter_no_change: float
    warns_of_standstill: bool
    verbose: int


@dataclass(frozen=True)
class Data:
    """What a fit learns from, or is validated on.

    Attributes
    ----------
    X : array of shape (n_samples, n_features)
        NumPy's or CuPy's.
    y : integer ndarray of shape (n_samples,)
    weights : ndarray of shape (n_samples,)
    rows : integer ndarray
        Rows of `X` to take.
    """

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    rows: np.ndarray


class Epoch(NamedTuple):
    """Results of one epoch; those on the validation rows are NaN without early stopping."""

    loss: float
    validation_loss: float
    validation_score: float


class Orders:
    """The rows of each epoch, in its order.

    The next order can be drawn ahead, while a device is at work. If it is never taken, the
    generator is as if it had not been drawn.

    Parameters
    ----------
    generator : numpy.random.Generator
    rows : integer ndarray of shape (n_rows,)
    shuffle : bool
    """

    def __init__(self, generator: np.random.Generator, rows: np.ndarray, shuffle: bool) -> None:
        self.generator, self.rows, self.shuffle = generator, rows, shuffle
        self._ahead: list[tuple[Any, np.ndarray]] = []

    def draw_ahead(self) -> None:
        """Draw the next order, by a copy of the generator."""
        ahead = deepcopy(self.generator)
        order = ahead.permutation(self.rows) if self.shuffle else self.rows
        self._ahead.append((ahead.bit_generator.state, order))

    def take(self) -> np.ndarray:
        """Give the next order."""
        if not self._ahead:
            self.draw_ahead()
        self.generator.bit_generator.state, order = self._ahead.pop()
        return order


def make_optimizer(
    xp: Any,
    solver: str,
    parameters: Any,
    *,
    momentum: float,
    nesterovs_momentum: bool,
    decay: float,
    n_weights: int,
    ema_decay: float | None,
) -> SGD | Adam | WeightAverage:
    """Make the optimizer that `solver` names; with `ema_decay`, one that averages the weights."""
    optimizer: SGD | Adam
    if solver == "sgd":
        optimizer = SGD(xp, parameters, momentum, nesterovs_momentum)
    else:
        optimizer = Adam(xp, parameters, decay, n_weights)
    return optimizer if ema_decay is None else WeightAverage(xp, optimizer, ema_decay)


def epochs_for(n_samples: int) -> int:
    """Give the number of epochs that `max_iter="auto"` stands for."""
    return min(max(20, ceil(100_000 / n_samples)), 100)


def train(
    engine: Engine | DeviceEngine,
    optimizer: SGD | Adam | WeightAverage,
    generator: np.random.Generator,
    data: Data,
    validation: Data | None,
    settings: Settings,
) -> tuple[list[Epoch], np.ndarray]:
    """Train for at most `max_iter` epochs; a keyboard interrupt ends it early, with a warning.

    Parameters
    ----------
    engine : Engine or DeviceEngine
    optimizer : SGD, Adam or WeightAverage
        Bound to the engine's parameters.
    generator : numpy.random.Generator
        Draws the order of the samples, and the augmentation.
    data : Data
    validation : Data or None
        None without early stopping.
    settings : Settings

    Returns
    -------
    epochs : list of Epoch
        Those run to their end.
    parameters : array of shape (n_parameters,)
        With `validation`, those of the best epoch; otherwise the last, or their average. The
        engine's kind of array.

    Raises
    ------
    ValueError
        If the loss becomes infinite or NaN.
    """
    epochs: list[Epoch] = []
    best, best_parameters, n_without_improvement, n_plateaus = -inf, None, 0, 0
    orders = Orders(generator, data.rows, settings.shuffle)
    predicting = optimizer.average if isinstance(optimizer, WeightAverage) else engine.parameters
    try:
        with _progress(settings) as show:
            for number in range(settings.max_iter):
                rates = learning_rates(
                    settings.lr_schedule,
                    settings.lr,
                    number,
                    settings.max_iter,
                    ceil(len(data.rows) / settings.batch_size),
                    n_plateaus,
                )
                loss = engine.train_epoch(
                    data.X,
                    data.y,
                    data.weights,
                    orders.take(),
                    settings.batch_size,
                    optimizer,
                    rates,
                    generator,
                )
                if number + 1 < settings.max_iter:
                    orders.draw_ahead()  # before the loss is waited for
                epoch = _judge(engine, optimizer, loss(), validation, settings)
                quality = epoch.validation_score if validation else -epoch.loss
                n_without_improvement += 1
                if quality > best + (settings.tol or 0):
                    n_without_improvement = 0
                if quality > best:
                    best, best_parameters = quality, predicting.copy() if validation else None
                if n_without_improvement and n_without_improvement % PLATEAU_PATIENCE == 0:
                    n_plateaus += 1
                epochs.append(epoch)
                show(epoch)
                if (
                    validation or settings.tol is not None
                ) and n_without_improvement >= settings.n_iter_no_change:
                    break
            else:
                if settings.tol is not None and settings.warns_of_standstill:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({settings.max_iter}) reached "
                        "and the optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=4,
                    )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=4)
    return epochs, predicting if best_parameters is None else best_parameters


def _judge(
    engine: Engine | DeviceEngine,
    optimizer: SGD | Adam | WeightAverage,
    loss: float,
    validation: Data | None,
    settings: Settings,
) -> Epoch:
    """Check the loss of an epoch, and validate."""
    if not isfinite(loss):
        raise ValueError(
            f"The loss became {loss}. The training diverged: choose an 'lr' smaller than "
            f"{settings.lr}, or check the input for features of extreme values."
        )
    if validation is None:
        return Epoch(loss, nan, nan)
    with optimizer.averaged() if isinstance(optimizer, WeightAverage) else nullcontext():
        return Epoch(loss, *_validate(engine, validation))


def _validate(engine: Engine | DeviceEngine, data: Data) -> tuple[float, float]:
    """Compute the weighted mean cross-entropy and the weighted accuracy."""
    y, weights = data.y[data.rows], data.weights[data.rows]
    log_proba = to_host(engine.predict_log_proba(data.X, data.rows))
    loss = -np.average(log_proba[np.arange(len(y)), y], weights=weights)
    return float(loss), float(np.average(log_proba.argmax(axis=1) == y, weights=weights))


@contextmanager
def _progress(settings: Settings) -> Iterator[Any]:
    """Give a function that shows an epoch's results on a tqdm bar, or nothing if not verbose."""
    if not settings.verbose:
        yield lambda epoch: None
        return
    from tqdm import tqdm

    with tqdm(total=settings.max_iter, unit="epoch") as bar:

        def show(epoch: Epoch) -> None:
            results = {"loss": epoch.loss}
            if not isnan(epoch.validation_score):
                results["val_score"] = epoch.validation_score
            bar.set_postfix({name: f"{value:.4f}" for name, value in results.items()})
            bar.update()

        yield show
