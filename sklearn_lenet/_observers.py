"""Who looks on at a fit by scikit-learn's means: the scorer of early stopping."""

from collections.abc import Callable
from copy import copy
from functools import partial
from math import isnan
from numbers import Real
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring

from ._backend import call_of_user, rows_on_host, to_host
from ._engine import Data


def validation_score(estimator: Any, data: Data) -> Callable[[float, float, Any], float]:
    """Make the measure that `scoring` names, as `Validation` wants it.

    Parameters
    ----------
    estimator : LeNetClassifier
        As a fit has it that has not begun to train.
    data : Data
        To validate on.

    Returns
    -------
    score : callable
        Raises a ValueError where a scorer returns anything else than a number.
    """
    if estimator.scoring is None:
        return lambda loss, accuracy, parameters: accuracy
    if isinstance(estimator.scoring, str) and estimator.scoring == "loss":
        return lambda loss, accuracy, parameters: -loss
    scorer = check_scoring(estimator, estimator.scoring)
    weights = data.weights[data.rows]
    if (weights != 1).any():
        scorer = partial(scorer, sample_weight=weights)
    X, y = rows_on_host(data.X, data.rows), estimator.classes_[data.y[data.rows]]

    def score(loss: float, accuracy: float, parameters: Any) -> float:
        fitted = copy(estimator)
        fitted._parameters = np.array(to_host(parameters))
        vars(fitted).pop("feature_names_in_", None)  # the rows have lost theirs
        value = call_of_user("scoring", scorer, fitted, X, y)
        if not isinstance(value, Real) or isnan(value):
            raise ValueError(f"'scoring' must return a number. Got {value!r}.")
        return float(value)

    return score
