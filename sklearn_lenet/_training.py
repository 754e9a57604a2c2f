"""The training loop: epochs, validation, stopping, progress."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from math import ceil, inf, isfinite, isnan, nan
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ._backend import to_device, to_host
from ._diagnosis import answers, likely_cause, warn_of_one_answer
from ._engine import Data, Engine, MiniBatches
from ._interrupts import interrupted_twice, interruption_point
from ._loss import log_probabilities
from ._optimizers import Optimizer
from ._schedules import make_schedule
from ._warnings import warn

# Sums of squares of the weights: those below do not make outputs overflow, those above no training
# comes to that has not diverged
_SAFE_SIZE, _ABSURD_SIZE = 1e6, 1e24


@dataclass(frozen=True)
class Settings:
    """Parameters of the estimator that steer training; their meaning is documented there.

    `max_iter` is a number here, `decay` that of AdamW, and 0 for other solvers.
    """

    lr: float
    lr_schedule: str | Callable[[int], float]
    batch_size: int
    max_iter: int
    shuffle: bool
    tol: float | None
    n_iter_no_change: float
    decay: float
    is_partial: bool
    verbose: int


class Epoch(NamedTuple):
    """Results of one epoch; those on the validation rows are NaN without early stopping."""

    loss: float
    validation_loss: float
    validation_score: float


class Validation(NamedTuple):
    """What a training is validated on, and by what measure.

    Attributes
    ----------
    data : Data
    score : callable
        From the cross-entropy and the accuracy on the data, and the parameters that gave them, to
        the number that early stopping wants large.
    """

    data: Data
    score: Callable[[float, float, Any], float]


class Observer:
    """Who looks on at a training, and may end it; here, nobody does."""

    def epoch_begins(self) -> None:
        """Learn that an epoch begins."""

    def epoch_ended(self, course: "Course") -> bool:
        """Look at an epoch that came to its end, and tell whether the training is to stop."""
        return False

    def fit_ended(self) -> None:
        """Learn that the estimator has what it has learnt."""


@dataclass(frozen=True)
class Snapshot:
    """Where a training stood between two epochs: from there, it can run those that are left.

    Attributes
    ----------
    parameters : array of shape (n_parameters,)
        Those that predicted.
    best : array of shape (n_parameters,)
        Those that predicted best so far.
    optimizer, generator : dict
        Their states.
    """

    parameters: Any
    best: Any
    optimizer: dict[str, Any]
    generator: Mapping[str, Any]


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
        order = self._draw(ahead)
        self._ahead.append((ahead.bit_generator.state, order))

    def take(self) -> np.ndarray:
        """Give the next order."""
        if not self._ahead:
            return self._draw(self.generator)
        self.generator.bit_generator.state, order = self._ahead.pop()
        return order

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(self.rows) if self.shuffle else self.rows


class Course:
    """How a training goes: the loss of each epoch, what is best, and whether to go on.

    Parameters
    ----------
    engine : Engine
    optimizer : Optimizer
        Bound to the engine's parameters.
    generator : numpy.random.Generator
        Draws the order of the samples, and the augmentation.
    data : Data
    validation : Validation or None
        None without early stopping.
    settings : Settings

    Attributes
    ----------
    epochs : list of Epoch
        Those run to their end, and not diverged.
    has_diverged : bool
        Whether a later one has.
    was_interrupted, was_stopped : bool
        By the user, and by an observer.
    snapshot : Snapshot or None
        Of the last epoch's end.
    """

    def __init__(
        self,
        engine: Engine,
        optimizer: Optimizer,
        generator: np.random.Generator,
        data: Data,
        validation: Validation | None,
        settings: Settings,
    ) -> None:
        self.engine, self.optimizer, self.generator = engine, optimizer, generator
        self.data, self.validation, self.settings = data, validation, settings
        self._schedule = make_schedule(settings.lr_schedule, settings.lr, settings.max_iter)
        self.epochs: list[Epoch] = []
        self.has_diverged = self.was_interrupted = self.was_stopped = False
        self.snapshot: Snapshot | None = None
        self._best, self._best_parameters, self._n_without_improvement = -inf, None, 0

    @property
    def parameters(self) -> Any:
        """What the training leaves, as the engine's kind of array.

        With validation, the parameters of the best epoch, otherwise the last, or their average; if
        the training has diverged since, those of the epoch of least loss.
        """
        if self._best_parameters is None or not (self.validation or self.has_diverged):
            return self.optimizer.predicting
        return self._best_parameters

    @property
    def n_samples_seen(self) -> int:
        """How many samples what the training leaves has learnt from, each time that it did."""
        if self.has_diverged:
            return len(self.epochs) * len(self.data.rows)
        return self.engine.n_samples_seen

    def rates(self, epoch: int, n_batches: int) -> np.ndarray:
        """Give the learning rate of each mini-batch of an epoch."""
        rates = self._schedule.rates(epoch, n_batches)
        self._rate = float(rates.max())
        return rates

    @property
    def is_over(self) -> bool:
        """Whether the training is to stop, though `max_iter` may not have been reached."""
        may_stop = self.validation is not None or self.settings.tol is not None
        is_idle = self._n_without_improvement >= self.settings.n_iter_no_change
        return self.has_diverged or self.was_stopped or (may_stop and is_idle)

    def recall(self, epochs: Sequence[Epoch], best: Any) -> None:
        """Go on after epochs that another training ran, and the best parameters among them."""
        for epoch in epochs:
            self._count(epoch)
        self._best_parameters = to_device(self.engine.xp, best)
        self.engine.n_samples_seen = len(epochs) * len(self.data.rows)
        self._take_snapshot(self.optimizer.predicting.copy())

    def epoch_ended(self, loss: float) -> None:
        """Take in an epoch's loss.

        Raises
        ------
        ValueError
            If it has diverged, and no epoch before it is left to go back to.
        """
        fault = self._fault(loss)
        if fault:
            self._diverge(fault, len(self.epochs) + 1)
            return
        epoch = Epoch(loss, nan, nan)
        if self.validation is not None:
            epoch = Epoch(loss, *self._validate(self.validation))
        parameters = self.optimizer.predicting.copy()
        if self._count(epoch):
            self._best_parameters = parameters
        self._take_snapshot(parameters)

    def _count(self, epoch: Epoch) -> bool:
        """Count an epoch, and tell whether it is the best so far."""
        quality = epoch.validation_score if self.validation else -epoch.loss
        is_best, improved = quality > self._best, quality > self._best + (self.settings.tol or 0)
        self._n_without_improvement = 0 if improved else self._n_without_improvement + 1
        self._best = max(self._best, quality)
        self._schedule.epoch_ended(improved)
        self.epochs.append(epoch)
        return is_best

    def _take_snapshot(self, parameters: Any) -> None:
        """Keep what is never changed from now on: copies of what later steps change."""
        self.snapshot = Snapshot(
            parameters,
            self._best_parameters,
            _copied(self.optimizer.state),
            self.generator.bit_generator.state,
        )

    def training_ended(self) -> None:
        """Look at the solver's state, and whether what is left gives more than one answer."""
        if not self.epochs:
            return
        xp = self.engine.xp
        if not all(xp.isfinite(moment).all().item() for moment in self.optimizer.moments):
            self._diverge("The solver's averages became infinite or NaN", len(self.epochs))
        if not self.settings.is_partial:
            with self.optimizer.replaced(self.parameters):
                warn_of_one_answer(self.engine, self.data, self.settings)

    def interrupted(self) -> None:
        """Look at weights in the middle of an epoch as at those of its end."""
        warn("Training interrupted by user.")
        self.was_interrupted = True
        fault = self._fault(0.0)
        if fault:
            self._diverge(fault, len(self.epochs) + 1)
        self.training_ended()

    def _validate(self, validation: Validation) -> tuple[float, float]:
        """Compute the cross-entropy and the score of what predicts."""
        predicting = self.optimizer.predicting
        with self.optimizer.replaced(predicting):
            loss, accuracy = _loss_and_accuracy(self.engine, validation.data)
        return loss, validation.score(loss, accuracy, predicting)

    def _fault(self, loss: float) -> str:
        """Say what has become infinite or NaN in an epoch, if anything has."""
        if not isfinite(loss):
            return f"The loss became {loss}"
        optimizer = self.optimizer
        size = max((v @ v).item() for v in (optimizer.parameters, optimizer.predicting))
        if not size < inf:
            return "The weights became infinite or NaN"
        if size > _ABSURD_SIZE:
            return f"The weights grew to {size**0.5:.2g}"
        if size > _SAFE_SIZE:
            with optimizer.replaced(optimizer.predicting):
                if not np.isfinite(answers(self.engine, self.data)).all():
                    return "The outputs became infinite or NaN"
        return ""

    def _diverge(self, fault: str, number: int) -> None:
        """Go back to the best epoch so far, with a warning; raise an error if there is none."""
        if self.has_diverged:
            return
        cause = likely_cause(self.engine, self.data, self.settings, self._rate)
        message = f"{fault} in epoch {number}. The training diverged: {cause}."
        if self._best_parameters is None or self.settings.is_partial:
            raise ValueError(message)
        self.has_diverged = True
        losses = [epoch.loss for epoch in self.epochs]
        scores = [epoch.validation_score for epoch in self.epochs]
        best = scores.index(max(scores)) if self.validation else losses.index(min(losses))
        warn(
            f"{message} The weights are those of epoch {best + 1}, the best before that.",
            ConvergenceWarning,
        )


def train(course: Course, observer: Observer) -> None:
    """Train for at most `max_iter` epochs; a keyboard interrupt ends it early, with a warning.

    Parameters
    ----------
    course : Course
        That has not begun, or recalls epochs that another ran.
    observer : Observer

    Raises
    ------
    ValueError
        If the training diverges in the first epoch, or in the one of `partial_fit`.
    KeyboardInterrupt
        If it comes in the first epoch, or is the second within a second.
    """
    settings, data = course.settings, course.data
    orders = Orders(course.generator, data.rows, settings.shuffle)
    try:
        with _progress(settings, len(course.epochs), len(data.rows)) as show:
            while not course.is_over and len(course.epochs) < settings.max_iter:
                observer.epoch_begins()
                _run_epoch(course, orders)
                if not course.has_diverged:
                    show(course.epochs[-1])
                    course.was_stopped = observer.epoch_ended(course)
        if not course.is_over and settings.tol is not None and not settings.is_partial:
            warn(
                f"Stochastic Optimizer: Maximum iterations ({settings.max_iter}) reached "
                "and the optimization hasn't converged yet.",
                ConvergenceWarning,
            )
        course.training_ended()
    except KeyboardInterrupt:
        if interrupted_twice() or not course.epochs:
            raise
        course.interrupted()


def _run_epoch(course: Course, orders: Orders) -> None:
    """Take every sample once, and have the course look at what comes of it."""
    number, data, settings = len(course.epochs), course.data, course.settings
    size = min(settings.batch_size, len(data.rows))
    rates = course.rates(number, ceil(len(data.rows) / size))
    batches = MiniBatches(orders.take(), size, rates)
    interruption_point()
    loss = course.engine.train_epoch(data, batches, course.optimizer, course.generator)
    if number + 1 < settings.max_iter:
        orders.draw_ahead()  # before the loss is waited for
    course.epoch_ended(loss())


def _copied(state: Any) -> Any:
    """Copy a solver's state: its arrays, also those in a dict within it; numbers stay."""
    if isinstance(state, dict):
        return {name: _copied(part) for name, part in state.items()}
    return state.copy() if hasattr(state, "copy") else state


def _loss_and_accuracy(engine: Engine, data: Data) -> tuple[float, float]:
    """Compute the weighted mean cross-entropy and the weighted accuracy."""
    y, weights = data.y[data.rows], data.weights[data.rows]
    logits = engine.predict_logits(data.X, data.rows)
    log_proba = to_host(log_probabilities(engine.xp, logits))
    loss = -np.average(log_proba[np.arange(len(y)), y], weights=weights)
    return float(loss), float(np.average(log_proba.argmax(axis=1) == y, weights=weights))


class _Output:
    """A file of text, as long as it takes what is written: a broken pipe ends no training."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        with suppress(Exception):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(Exception):
            self._file.flush()


@contextmanager
def _progress(settings: Settings, n_epochs: int, n_rows: int) -> Iterator[Any]:
    """Give a function that shows an epoch's results on a tqdm bar, or nothing if not verbose.

    Parameters
    ----------
    settings : Settings
    n_epochs : int
        That have been run already.
    n_rows : int
        Images of an epoch.
    """
    # A notebook shows what is written to stderr on red ground
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    file = sys.stdout if in_notebook else sys.stderr
    if not settings.verbose or file is None:
        yield lambda epoch: None
        return
    from tqdm import tqdm

    class Bar(tqdm):
        """A bar without tqdm's thread, which would stay."""

        monitor_interval = 0

    Bar.set_lock(threading.RLock())
    total, output = settings.max_iter, _Output(file)
    with Bar(total=total, initial=n_epochs, unit="epoch", file=output) as bar:
        shown = time.perf_counter()

        def show(epoch: Epoch) -> None:
            nonlocal shown
            before, shown = shown, time.perf_counter()
            results = {"loss": f"{epoch.loss:.4f}"}
            if not isnan(epoch.validation_score):
                results["val_score"] = f"{epoch.validation_score:.4f}"
            results["images/s"] = f"{n_rows / max(shown - before, 1e-9):.0f}"
            bar.set_postfix(results, refresh=False)  # `update` does
            bar.update()

        yield show
