"""Softmax cross-entropy, with weights."""

from types import ModuleType
from typing import Any

import numpy as np


def log_softmax(xp: ModuleType, logits: Any) -> None:
    """Compute logits = log(softmax(logits)) over axis 0, in place.

    Subtracting each sample's largest logit first leaves the result as it is and every exponential
    at most 1: nothing overflows.
    """
    logits -= logits.max(axis=0)
    logits -= xp.log(xp.exp(logits).sum(axis=0))


def log_probabilities(xp: ModuleType, logits: Any) -> Any:
    """Compute the logarithms of the probabilities, in float64.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    logits : array of shape (n_samples, n_classes)

    Returns
    -------
    log_proba : array of shape (n_samples, n_classes)
    """
    log_proba = logits.astype(np.float64)
    log_softmax(xp, log_proba.T)
    return log_proba


def softmax_cross_entropy(
    xp: ModuleType, logits: Any, labels: Any, weights: Any, smoothing: float = 0.0
) -> Any:
    """Compute the loss, and its gradient in place of the logits.

    With a = softmax(logits) and the targets y, the loss is ``-sum_n w_n sum_c y[c, n] log a[c, n]``
    and its gradient with respect to the logits ``w_n (a - y)``. The targets are the one-hot labels,
    with label smoothing (Szegedy et al. 2016, section 7) multiplied by 1 - smoothing, and
    smoothing / n_classes added.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    logits : array of shape (n_classes, n_samples)
        Overwritten by the gradient.
    labels : integer array of shape (n_samples,)
        Row of each sample's class.
    weights : array of shape (n_samples,)
        Weight of each sample's loss; 1 / n_samples makes the mean of the batch.
    smoothing : float in [0, 1), default=0

    Returns
    -------
    loss : array of shape ()
    """
    samples = xp.arange(len(labels))
    uniform = smoothing / len(logits)
    log_softmax(xp, logits)
    loss = (smoothing - 1) * (logits[labels, samples] @ weights)
    if smoothing:
        loss -= uniform * (logits.sum(axis=0) @ weights)
    xp.exp(logits, out=logits)
    if smoothing:
        logits -= uniform
    logits[labels, samples] -= 1 - smoothing
    logits *= weights
    return loss
