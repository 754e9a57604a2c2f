"""What to say of a training that failed: what it left, and what is likely to be the cause."""

from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ._backend import rows_on_host, to_host
from ._engine import Data, Engine
from ._images import image_moments
from ._loss import log_probabilities
from ._warnings import warn

# Rows of the training set that are looked at, at most
_LOOKED_AT = 256

# Answers whose log-probabilities vary by less, as a standard deviation, are one answer; hidden
# units that vary by a smaller share of their values are dead
_LEAST_VARIATION = 1e-3

# Standard deviations from the mean of all that an image's mean may have, or its own deviation
_FAR = 1000


def some_rows(data: Data) -> np.ndarray:
    """Give some of the rows, evenly spread."""
    chosen = np.linspace(0, len(data.rows) - 1, min(len(data.rows), _LOOKED_AT))
    return data.rows[chosen.astype(np.intp)]


def answers(engine: Engine, data: Data) -> np.ndarray:
    """Compute the log-probabilities of some of the rows."""
    logits = engine.predict_logits(data.X, some_rows(data))
    return to_host(log_probabilities(engine.xp, logits))


def warn_of_one_answer(engine: Engine, data: Data, settings: Any) -> None:
    """Warn where the network answers all images of the training set alike.

    Parameters
    ----------
    engine : Engine
        With the parameters that the training leaves.
    data : Data
        Of the training.
    settings : Settings
    """
    log_proba, rows = answers(engine, data), some_rows(data)
    if 1 in log_proba.shape:
        return
    # Outputs may be so large that one class is certain, however they vary
    are_certain = np.exp(log_proba).std(axis=0).max() < _LEAST_VARIATION**2
    if not (are_certain and len(np.unique(data.y[rows])) > 1):
        if log_proba.std(axis=0).max() >= _LEAST_VARIATION:
            return
        # Labels that have nothing to do with the images let the answers agree, but not these
        hidden = to_host(engine.predict_hidden(data.X, rows))
        if hidden.std(axis=0).max() > _LEAST_VARIATION * abs(hidden).max():
            return
    images = rows_on_host(data.X, rows)
    if (images == images[0]).all():
        message = "The images of X are all the same: there is nothing to tell the classes by."
    else:
        alpha = engine.objective.alpha + settings.decay
        penalty = f" or an 'alpha' smaller than {alpha}," if alpha else ""
        message = (
            "The network gives all images of the training set the same answer: it has learnt "
            "nothing. After steps that are too large, no image activates its units any more. Try "
            f"an 'lr' smaller than {settings.lr},{penalty} or activation='tanh'."
        )
    warn(message, ConvergenceWarning)


def likely_cause(engine: Engine, data: Data, settings: Any, rate: float) -> str:
    """Say what a training diverged by, as far as can be told, and what to do.

    Parameters
    ----------
    engine : Engine
    data : Data
    settings : Settings
    rate : float
        The largest learning rate of the epoch.
    """
    objective, weights = engine.objective, data.weights[data.rows]
    if settings.decay * rate > 1:
        return f"choose an 'alpha' smaller than {settings.decay:g}, or a smaller 'lr'"
    batch_weight = weights.mean() * min(settings.batch_size, len(weights))
    if objective.alpha * rate > batch_weight:
        light = weights.mean() < 1e-3
        return f"choose an 'alpha' smaller than {objective.alpha:g}" + (
            f", or larger sample weights: their mean is {weights.mean():g}" if light else ""
        )
    if callable(settings.lr_schedule) and rate > settings.lr:
        return f"'lr_schedule' returned a learning rate of {rate:g}; let it return a smaller one"
    if objective.augmentation.replaces:
        return (
            "see to it that 'augment' returns images of the range that it gets, or choose an 'lr' "
            f"smaller than {settings.lr}"
        )
    means, deviations = image_moments(rows_on_host(data.X, some_rows(data)), engine.layout)
    if max(abs(means).max(), deviations.max()) > _FAR:
        return "X has images of extreme values: scale or clip them"
    return (
        f"choose an 'lr' smaller than {settings.lr}, or check the input for features of extreme "
        "values"
    )
