"""Softmax cross-entropy, with weights."""

from types import ModuleType
from typing import Any


def log_softmax(xp: ModuleType, logits: Any) -> None:
    """Compute logits = log(softmax(logits)) over axis 0, in place.

    Subtracting each sample's largest logit first leaves the result as it is and every exponential
    at most 1: nothing overflows.
    """
    logits -= logits.max(axis=0)
    logits -= xp.log(xp.exp(logits).sum(axis=0))


def softmax_cross_entropy(xp: ModuleType, logits: Any, labels: Any, weights: Any) -> Any:
    """Compute the loss, and its gradient in place of the logits.

    With p = softmax(logits) and y the one-hot labels, the loss is ``-sum_i w_i log p[y_i, i]`` and
    its gradient with respect to the logits ``w_i (p - y)``.

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

    Returns
    -------
    loss : array of shape ()
    """
    samples = xp.arange(len(labels))
    log_softmax(xp, logits)
    loss = -(logits[labels, samples] @ weights)
    xp.exp(logits, out=logits)
    logits[labels, samples] -= 1
    logits *= weights
    return loss
