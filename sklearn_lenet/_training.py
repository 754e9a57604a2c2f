"""The training loop: epochs, validation, stopping, progress."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import ceil, inf, isfinite, isnan, nan
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ._backend import to_host
from ._engine import Data, Engine, MiniBatches
from ._loss import log_softmax
from ._optimizers import Optimizer
from ._schedules import Schedule, make_schedule


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


class Course:
    """How a training goes: the loss of each epoch, what is best, and whether to go on.

    Parameters
    ----------
    engine : Engine
    optimizer : Optimizer
    schedule : Schedule
    validation : Data or None
    settings : Settings

    Attributes
    ----------
    epochs : list of Epoch
        Those run to their end.
    """

    def __init__(
        self,
        engine: Engine,
        optimizer: Optimizer,
        schedule: Schedule,
        validation: Data | None,
        settings: Settings,
    ) -> None:
        self.engine, self.optimizer, self.schedule = engine, optimizer, schedule
        self.validation, self.settings = validation, settings
        self.epochs: list[Epoch] = []
        self._best, self._best_parameters, self._n_without_improvement = -inf, None, 0

    @property
    def parameters(self) -> Any:
        """What the training leaves, as the engine's kind of array.

        With validation, the parameters of the best epoch, otherwise the last, or their average.
        """
        if self._best_parameters is None:
            return self.optimizer.predicting
        return self._best_parameters

    def epoch_ended(self, loss: float) -> bool:
        """Take in an epoch's loss, and tell whether the training is to stop."""
        epoch = self._judge(loss)
        quality = epoch.validation_score if self.validation else -epoch.loss
        improved = quality > self._best + (self.settings.tol or 0)
        self._n_without_improvement = 0 if improved else self._n_without_improvement + 1
        if quality > self._best:
            self._best = quality
            if self.validation:
                self._best_parameters = self.optimizer.predicting.copy()
        self.schedule.epoch_ended(improved)
        self.epochs.append(epoch)
        may_stop = self.validation is not None or self.settings.tol is not None
        return may_stop and self._n_without_improvement >= self.settings.n_iter_no_change

    def _judge(self, loss: float) -> Epoch:
        """Check the loss, and validate."""
        if not isfinite(loss):
            raise ValueError(
                f"The loss became {loss}. The training diverged: choose an 'lr' smaller than "
                f"{self.settings.lr}, or check the input for features of extreme values."
            )
        if self.validation is None:
            return Epoch(loss, nan, nan)
        with self.optimizer.predicts():
            return Epoch(loss, *_validate(self.engine, self.validation))


def train(
    engine: Engine,
    optimizer: Optimizer,
    generator: np.random.Generator,
    data: Data,
    validation: Data | None,
    settings: Settings,
) -> Course:
    """Train for at most `max_iter` epochs; a keyboard interrupt ends it early, with a warning.

    Parameters
    ----------
    engine : Engine
    optimizer : Optimizer
        Bound to the engine's parameters.
    generator : numpy.random.Generator
        Draws the order of the samples, and the augmentation.
    data : Data
    validation : Data or None
        None without early stopping.
    settings : Settings

    Returns
    -------
    course : Course

    Raises
    ------
    ValueError
        If the loss becomes infinite or NaN.
    """
    schedule = make_schedule(settings.lr_schedule, settings.lr, settings.max_iter)
    orders = Orders(generator, data.rows, settings.shuffle)
    n_batches = ceil(len(data.rows) / settings.batch_size)
    course = Course(engine, optimizer, schedule, validation, settings)
    try:
        with _progress(settings) as show:
            for number in range(settings.max_iter):
                rates = schedule.rates(number, n_batches)
                batches = MiniBatches(orders.take(), settings.batch_size, rates)
                loss = engine.train_epoch(data, batches, optimizer, generator)
                if number + 1 < settings.max_iter:
                    orders.draw_ahead()  # before the loss is waited for
                stops = course.epoch_ended(loss())
                show(course.epochs[-1])
                if stops:
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
    return course


def _validate(engine: Engine, data: Data) -> tuple[float, float]:
    """Compute the weighted mean cross-entropy and the weighted accuracy."""
    y, weights = data.y[data.rows], data.weights[data.rows]
    log_proba = to_host(engine.predict_logits(data.X, data.rows))
    log_softmax(np, log_proba.T)
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
