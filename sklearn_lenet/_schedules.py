"""Learning-rate schedules."""

from collections.abc import Callable
from math import isfinite

import numpy as np

# Share of the epochs in which "cosine" warms up
_WARM_UP = 0.05

# What "plateau" multiplies the learning rate by, and after how many epochs without improvement, as
# `MLPClassifier(learning_rate="adaptive")` does
PLATEAU_FACTOR, PLATEAU_PATIENCE = 1 / 5, 2


def learning_rates(
    schedule: str | Callable[[int], float],
    lr: float,
    epoch: int,
    max_iter: int,
    n_batches: int,
    n_plateaus: int,
) -> np.ndarray:
    """Compute the learning rate of each mini-batch of an epoch.

    Parameters
    ----------
    schedule : {"constant", "step", "cosine", "plateau"} or callable
        With t the number of epochs gone, fractions included:

        - "constant" is `lr`.
        - "step" is `lr`, a tenth of it from ``max_iter / 2``, and a hundredth from
          ``3 * max_iter / 4`` on (as He et al. 2016, "Deep residual learning").
        - "cosine" rises linearly from 0 to `lr` within the first twentieth of `max_iter`, w epochs,
          and then is ``lr / 2 * (1 + cos(pi * (t - w) / (max_iter - w)))`` (Loshchilov and Hutter
          2017, equation 5; the warm-up is that of Goyal et al. 2017).
        - "plateau" is `lr` divided by 5 for each plateau met.
        - A callable is called with the epoch's number, from 0, and returns its learning rate.
    lr : float
    epoch : int
        From 0.
    max_iter : int
        Number of epochs in all.
    n_batches : int
    n_plateaus : int

    Returns
    -------
    rates : ndarray of shape (n_batches,)

    Raises
    ------
    ValueError
        If a callable returns something else than a positive number.
    """
    if callable(schedule):
        rate = schedule(epoch)
        try:
            is_allowed = isfinite(rate) and rate > 0
        except TypeError:
            is_allowed = False
        if not is_allowed:
            raise ValueError(
                f"'lr_schedule' must return a float in the range (0.0, inf). Got {rate!r} for "
                f"epoch {epoch}."
            )
        return np.full(n_batches, float(rate))
    if schedule == "step":
        drops = (epoch >= max_iter / 2) + (epoch >= 3 * max_iter / 4)
        return np.full(n_batches, lr / 10**drops)
    if schedule == "plateau":
        return np.full(n_batches, lr * PLATEAU_FACTOR**n_plateaus)
    if schedule == "cosine":
        warm_up = _WARM_UP * max_iter
        times = epoch + (np.arange(n_batches) + 0.5) / n_batches  # the middle of each mini-batch
        falling = (1 + np.cos(np.pi * (times - warm_up) / (max_iter - warm_up))) / 2
        return lr * np.minimum(times / warm_up, np.where(times < warm_up, 1, falling))
    return np.full(n_batches, lr)
