"""Training policy: epochs, learning-rate schedule, validation, stopping, progress."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, inf, isfinite, nan, pi
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import murmurhash3_32

from ._engine import Engine
from ._images import row_chunks
from ._optimizers import SGD, Adam


@dataclass(frozen=True)
class Settings:
    """Parameters of the estimator that steer training; their meaning is documented there."""

    lr: float
    lr_schedule: str
    batch_size: int
    max_iter: int
    alpha: float
    shuffle: bool
    tol: float
    n_iter_no_change: float
    early_stopping: bool
    verbose: int


@dataclass(frozen=True)
class Data:
    """What a fit learns from, and what it is validated on.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
    y : integer ndarray of shape (n_samples,)
    weights : ndarray of shape (n_samples,)
    rows, validation_rows : integer ndarrays
        Rows of `X` to learn from and to validate on.
    """

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    validation_rows: np.ndarray


class Epoch(NamedTuple):
    """Results of one epoch; those on the validation rows are NaN without early stopping."""

    loss: float
    validation_loss: float
    validation_score: float


def stratified_split(
    X: np.ndarray, y: np.ndarray, weights: np.ndarray, rows: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into those to learn from and those to validate on.

    A hash of its features decides on which side a row comes to stand: copies of a sample stand on
    one side, and the same data are split the same way in any order, at every warm start, and with
    samples weighted or repeated.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y : integer ndarray of shape (n_samples,)
    weights : ndarray of shape (n_samples,)
    rows : integer ndarray of shape (n_rows,)
        Rows of `X` to split.
    fraction : float
        Share of each class, by weight, to validate on. Any class that has two different samples
        comes to stand on both sides.
    seed : int

    Returns
    -------
    training_rows, validation_rows : integer ndarrays

    Raises
    ------
    ValueError
        If no class has two different samples.
    """
    direction = np.random.default_rng(seed).standard_normal(X.shape[1])
    projections = np.concatenate([(X[chunk] * direction).sum(axis=1) for chunk in row_chunks(rows)])
    hashes = murmurhash3_32(projections.astype(np.float32).view(np.int32), seed=seed)
    is_validated = np.zeros(len(rows), bool)
    for label in np.unique(y[rows]):
        members = np.flatnonzero(y[rows] == label)
        members = members[np.argsort(hashes[members], kind="stable")]
        ordered = hashes[members]
        total = np.cumsum(weights[rows[members]])
        weight_before = np.append(0, total)[np.searchsorted(ordered, ordered)]
        is_validated[members] = (weight_before < fraction * total[-1]) & (ordered != ordered[-1])
    if not is_validated.any():
        raise ValueError(
            "early_stopping=True needs two different samples of a class, one to learn from and one "
            f"to validate on. Got {len(rows)} sample{'s' if len(rows) > 1 else ''}."
        )
    return rows[~is_validated], rows[is_validated]


def make_optimizer(
    xp: Any, solver: str, parameters: Any, momentum: float, nesterovs_momentum: bool
) -> SGD | Adam:
    """Make the optimizer that `solver` names."""
    if solver == "sgd":
        return SGD(xp, parameters, momentum, nesterovs_momentum)
    return Adam(xp, parameters)


def learning_rate(settings: Settings, epoch: int) -> float:
    """Compute the learning rate of an epoch, the first being 0.

    "cosine" is lr / 2 * (1 + cos(pi * epoch / max_iter)) (Loshchilov and Hutter 2017, equation 5).
    """
    if settings.lr_schedule == "cosine":
        return settings.lr / 2 * (1 + cos(pi * epoch / settings.max_iter))
    return settings.lr


def train(
    engine: Engine,
    optimizer: SGD | Adam,
    generator: np.random.Generator,
    data: Data,
    settings: Settings,
) -> list[Epoch]:
    """Train for at most `max_iter` epochs; a keyboard interrupt ends it early, with a warning.

    Parameters
    ----------
    engine : Engine
    optimizer : SGD or Adam
        Bound to the engine's parameters.
    generator : numpy.random.Generator
        Draws the order of the samples.
    data : Data
    settings : Settings

    Returns
    -------
    epochs : list of Epoch
        Those run to their end.

    Raises
    ------
    ValueError
        If the loss becomes infinite or NaN.
    """
    epochs: list[Epoch] = []
    best, best_parameters, n_without_improvement = -inf, None, 0
    try:
        # A fit that diverges is told by its loss, once, not by a warning of every operation
        with np.errstate(all="ignore"), _progress(settings) as show:
            for number in range(settings.max_iter):
                epoch = _run_epoch(engine, optimizer, generator, data, settings, number)
                quality = epoch.validation_score if settings.early_stopping else -epoch.loss
                n_without_improvement += 1
                if quality > best + settings.tol:
                    n_without_improvement = 0
                if quality > best:
                    best = quality
                    if settings.early_stopping:
                        best_parameters = engine.parameters.copy()
                epochs.append(epoch)
                show(epoch)
                if n_without_improvement >= settings.n_iter_no_change:
                    break
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=4)
    if best_parameters is not None:
        engine.parameters[...] = best_parameters
    return epochs


def _run_epoch(
    engine: Engine,
    optimizer: SGD | Adam,
    generator: np.random.Generator,
    data: Data,
    settings: Settings,
    number: int,
) -> Epoch:
    """Train for one epoch, then validate."""
    order = generator.permutation(data.rows) if settings.shuffle else data.rows
    loss = engine.train_epoch(
        data.X,
        data.y,
        data.weights,
        order,
        settings.batch_size,
        optimizer,
        learning_rate(settings, number),
        settings.alpha,
    )
    if not isfinite(loss):
        raise ValueError(
            f"The loss became {loss} in epoch {number + 1}. The training diverged: choose an 'lr' "
            f"smaller than {settings.lr}, or check the input for features of extreme values."
        )
    return Epoch(loss, *(_validate(engine, data) if settings.early_stopping else (nan, nan)))


def _validate(engine: Engine, data: Data) -> tuple[float, float]:
    """Compute the weighted mean loss and the weighted accuracy on the validation rows."""
    rows = data.validation_rows
    y, weights = data.y[rows], data.weights[rows]
    log_proba = engine.predict_log_proba(data.X, rows)
    loss = -np.average(log_proba[np.arange(len(rows)), y], weights=weights)
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
            if settings.early_stopping:
                results["val_score"] = epoch.validation_score
            bar.set_postfix({name: f"{value:.4f}" for name, value in results.items()})
            bar.update()

        yield show
