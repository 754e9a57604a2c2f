"""Learning-rate schedules."""

from collections.abc import Callable
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np

from ._backend import call_of_user

# Share of the epochs in which "cosine" warms up
_WARM_UP = 0.05

# What "plateau" multiplies the learning rate by, and after how many epochs without improvement, as
# `MLPClassifier(learning_rate="adaptive")` does
_PLATEAU_FACTOR, _PLATEAU_PATIENCE = 1 / 5, 2


class Schedule:
    """The learning rates of one training: here, `lr` throughout.

    Parameters
    ----------
    lr : float
    max_iter : int
        Number of epochs in all.
    """

    def __init__(self, lr: float, max_iter: int) -> None:
        self.lr, self.max_iter = lr, max_iter

    def rate(self, epoch: int, times: np.ndarray) -> Any:
        """Give the learning rate, or rates.

        Parameters
        ----------
        epoch : int
            From 0.
        times : ndarray of shape (n_batches,)
            Epochs gone in the middle of each of the epoch's mini-batches.
        """
        return self.lr

    def rates(self, epoch: int, n_batches: int) -> np.ndarray:
        """Give the learning rate of each mini-batch of an epoch.

        Parameters
        ----------
        epoch : int
            From 0.
        n_batches : int

        Returns
        -------
        rates : ndarray of shape (n_batches,)
        """
        times = epoch + (np.arange(n_batches) + 0.5) / n_batches
        return np.full(n_batches, self.rate(epoch, times), dtype=np.float64)

    def epoch_ended(self, improved: bool) -> None:
        """Learn whether the epoch brought an improvement: a schedule may want to remember."""


class Step(Schedule):
    """`lr`, a tenth of it from ``max_iter / 2``, a hundredth from ``3 * max_iter / 4`` on.

    As He et al. 2016, "Deep residual learning".
    """

    def rate(self, epoch: int, times: np.ndarray) -> float:
        return self.lr / 10 ** ((epoch >= self.max_iter / 2) + (epoch >= 3 * self.max_iter / 4))


class Cosine(Schedule):
    """A linear rise to `lr` in the first twentieth of `max_iter`, then half a period of a cosine.

    With t the number of epochs gone, fractions included, and w those of the rise, the rate falls as
    ``lr / 2 * (1 + cos(pi * (t - w) / (max_iter - w)))`` (Loshchilov and Hutter 2017, equation 5;
    the warm-up is that of Goyal et al. 2017).
    """

    def rate(self, epoch: int, times: np.ndarray) -> np.ndarray:
        warm_up = _WARM_UP * self.max_iter
        falling = (1 + np.cos(np.pi * (times - warm_up) / (self.max_iter - warm_up))) / 2
        return self.lr * np.minimum(times / warm_up, np.where(times < warm_up, 1, falling))


class Plateau(Schedule):
    """`lr`, divided by 5 after every two epochs in a row without improvement."""

    n_plateaus = n_without_improvement = 0

    def rate(self, epoch: int, times: np.ndarray) -> float:
        return self.lr * _PLATEAU_FACTOR**self.n_plateaus

    def epoch_ended(self, improved: bool) -> None:
        self.n_without_improvement = 0 if improved else self.n_without_improvement + 1
        if self.n_without_improvement == _PLATEAU_PATIENCE:
            self.n_plateaus, self.n_without_improvement = self.n_plateaus + 1, 0


class UserSchedule(Schedule):
    """What a callable returns for the epoch's number, from 0.

    Parameters
    ----------
    function : callable
    lr, max_iter
        As for other schedules, though unused.

    Raises
    ------
    ValueError
        By `rates`, if the callable returns something else than a positive number.
    """

    def __init__(self, function: Callable[[int], float], lr: float, max_iter: int) -> None:
        super().__init__(lr, max_iter)
        self.function = function

    def rate(self, epoch: int, times: np.ndarray) -> float:
        rate = call_of_user("lr_schedule", self.function, epoch)
        if not (isinstance(rate, Real) and isfinite(rate) and float(rate) > 0):
            raise ValueError(
                f"'lr_schedule' must return a float in the range (0.0, inf). Got {rate!r} for "
                f"epoch {epoch}."
            )
        return float(rate)


_SCHEDULES = {"constant": Schedule, "step": Step, "cosine": Cosine, "plateau": Plateau}


def make_schedule(lr_schedule: str | Callable[[int], float], lr: float, max_iter: int) -> Schedule:
    """Make the schedule that the estimator's parameter `lr_schedule` names."""
    if callable(lr_schedule):
        return UserSchedule(lr_schedule, lr, max_iter)
    return _SCHEDULES[lr_schedule](lr, max_iter)
