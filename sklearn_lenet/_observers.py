"""Who looks on at a fit by scikit-learn's means: callbacks, and the scorer of early stopping."""

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
from ._interrupts import interrupted_twice, interruptible
from ._training import Course, Observer
from ._warnings import warn

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks."""

    def with_callbacks(method: Callable) -> Callable:
        """Give the method as it is: this scikit-learn has no callbacks."""
        return method


class Callbacks(Observer):
    """Call scikit-learn's callbacks: a fit is a task, and each of its epochs one within it.

    Parameters
    ----------
    estimator : LeNetClassifier
    given : tuple (X, y, sample_weight)
        As the user has passed them.
    course : Course
        That has not begun; epochs that it recalls are counted, and not told of.
    attributes : callable
        From a course to the attributes of an estimator that is fitted as far as it has come.
    """

    def __init__(
        self,
        estimator: Any,
        given: tuple[Any, Any, Any],
        course: Course,
        attributes: Callable[[Course], dict[str, Any]],
    ) -> None:
        X, y, sample_weight = given
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._task = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._attributes = attributes
        self._fit = estimator._init_callback_context(max_subtasks=course.settings.max_iter)
        for _ in course.epochs:
            self._fit.subcontext(task_name="epoch")
        self._call(self._fit.call_on_fit_task_begin)

    def epoch_begins(self) -> None:
        self._epoch = self._fit.subcontext(task_name="epoch")
        self._call(self._epoch.call_on_fit_task_begin)

    def epoch_ended(self, course: Course) -> bool:
        attributes = partial(self._attributes, course)
        return self._call(self._epoch.call_on_fit_task_end, reconstruction_attributes=attributes)

    def fit_ended(self) -> None:
        try:
            self._call(self._fit.call_on_fit_task_end, reconstruction_attributes={})
        except KeyboardInterrupt:
            if interrupted_twice():
                raise
            warn("Callbacks interrupted by user, at the end of the fit.")

    def _call(self, hooks: Callable, **arguments: Any) -> Any:
        return interruptible(partial(hooks, **self._task, **arguments))


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
