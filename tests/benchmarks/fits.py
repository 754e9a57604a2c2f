"""Fits that are scored: what `accuracies` and `selection` share."""

import time
from collections.abc import Iterator
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklearn_lenet import LeNetClassifier


class Fold(NamedTuple):
    """What to train on, and what to score on."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


class Score(NamedTuple):
    """Accuracy in percent, and the seconds of the fit."""

    accuracy: float
    seconds: float


def score(
    parameters: dict[str, Any], seed: int, fold: Fold, then: dict[str, Any] | None = None
) -> Score:
    """Train, and go on with other parameters, if any; predict once."""
    begin = time.perf_counter()
    model = LeNetClassifier(**parameters, random_state=seed).fit(fold.X, fold.y)
    if then is not None:
        model.set_params(**then, warm_start=True).fit(fold.X, fold.y)
    seconds = time.perf_counter() - begin
    return Score(100 * model.score(fold.X_test, fold.y_test), seconds)


def cross_validate_digits(parameters: dict[str, Any], seed: int) -> Score:
    """Average over five stratified folds of scikit-learn's digits, shuffled by `seed`."""
    scores = [score(parameters, seed, fold) for fold in _digits(seed)]
    return Score(*map(mean, zip(*scores, strict=True)))


def _digits(seed: int) -> Iterator[Fold]:
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y):
        yield Fold(X[train], y[train], X[test], y[test])
