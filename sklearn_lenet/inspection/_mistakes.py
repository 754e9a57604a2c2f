"""The images that a classifier mistakes, those first of which it is surest."""

from math import ceil
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.utils import check_scalar
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .._arrays import on_host
from .._validation import check_scoring_data
from ._drawing import (
    COLUMNS,
    as_images,
    check_image_shape,
    image_grid,
    import_pyplot,
    limits,
    show_image,
)

# Characters in two labels that do not stand in one line above an image
_LONG_LABELS = 9


class MistakesDisplay:
    """Images that a classifier mistakes, with what they are and what they are taken for.

    Make one by :meth:`from_estimator`. The surest mistake comes first: the one whose wrong answer
    has the highest probability. Among them are images that are hard, that are labelled wrongly, and
    of a kind that the training set had too few of.

    Parameters
    ----------
    images : ndarray of shape (n_mistakes, C, H, W)
        All that are mistaken, or the first of them.
    y_true, y_pred : array-likes of shape (n_mistakes,)
        Their labels, and the answers.
    confidence : array-like of shape (n_mistakes,)
        Probabilities of the answers.
    n_mistakes, n_samples : int
        How many of how many are mistaken.

    Attributes
    ----------
    axes_ : ndarray of shape (n_rows, n_columns) of matplotlib Axes
        Of the images, 8 side by side at most. Some of the last row may be empty.
    figure_ : matplotlib Figure

    See Also
    --------
    sklearn.metrics.ConfusionMatrixDisplay : Which classes are taken for which.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> from sklearn_lenet.inspection import MistakesDisplay
    >>> X, y = load_mnist_sample(return_X_y=True, subset="test")
    >>> model = LeNetClassifier(max_iter=2, random_state=0).fit(X[:500], y[:500])
    >>> display = MistakesDisplay.from_estimator(model, X[500:], y[500:])
    >>> plt.show()
    """

    def __init__(
        self,
        *,
        images: np.ndarray,
        y_true: Any,
        y_pred: Any,
        confidence: Any,
        n_mistakes: int,
        n_samples: int,
    ) -> None:
        self.images = images
        self.y_true = y_true
        self.y_pred = y_pred
        self.confidence = confidence
        self.n_mistakes = n_mistakes
        self.n_samples = n_samples

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        n_images: int = 16,
        image_shape: tuple[int, ...] | None = None,
        ax: Any = None,
    ) -> Self:
        """Predict, and draw the surest mistakes.

        Parameters
        ----------
        estimator : classifier
            Fitted, with `predict` and `predict_proba`: a LeNetClassifier, a pipeline, a search.
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as the estimator takes them.
        y : array-like of shape (n_samples,)
            True labels.
        n_images : int, default=16
            To draw, at most.
        image_shape : tuple (H, W) or (C, H, W), default=None
            What flat rows are drawn as. None is what a LeNetClassifier reads them as; for other
            estimators, square images, grey or of three channels, where the number of features
            allows it.
        ax : matplotlib Axes, default=None
            In whose place to draw; None makes a figure.

        Returns
        -------
        display : MistakesDisplay
        """
        check_scalar(n_images, "n_images", Integral, min_val=1)
        check_is_fitted(estimator)
        y, _ = check_scoring_data(y, None)
        y_pred = on_host(estimator.predict(X), "y_pred")
        check_consistent_length(y, y_pred)
        unique_labels(y, y_pred)  # refuses strings beside numbers: all would be mistaken
        proba = on_host(estimator.predict_proba(X), "proba")
        confidence = proba[np.arange(len(y)), np.searchsorted(estimator.classes_, y_pred)]
        mistakes = np.flatnonzero(y_pred != y)
        surest = mistakes[np.argsort(-confidence[mistakes], kind="stable")[:n_images]]
        if image_shape is None:
            image_shape = getattr(estimator, "image_shape_", None)
        else:
            check_image_shape(image_shape, X)
        display = cls(
            images=as_images(X, image_shape)[surest],
            y_true=y[surest],
            y_pred=y_pred[surest],
            confidence=confidence[surest],
            n_mistakes=len(mistakes),
            n_samples=len(y),
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the mistakes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            As for :meth:`from_estimator`.

        Returns
        -------
        display : MistakesDisplay
            Itself.
        """
        plt = import_pyplot(self)
        n_images = len(self.images)
        n_columns = max(1, min(n_images, COLUMNS))
        shape = max(1, ceil(n_images / n_columns)), n_columns
        title = f"{self.n_mistakes:,} of {self.n_samples:,} images mistaken"
        if self.n_mistakes > 1:
            title += ", the surest first"
        self.figure_, self.axes_ = image_grid(plt, ax, title, shape, height=1.5)
        for axes in self.axes_.flat[n_images:]:
            axes.set_axis_off()
        low, high = limits(self.images)
        for axes, image, truth, answer, confidence in zip(
            self.axes_.flat, self.images, self.y_true, self.y_pred, self.confidence, strict=False
        ):
            show_image(axes, image, low, high)
            break_ = "\n" if len(f"{answer}{truth}") > _LONG_LABELS else " "
            told = f"{answer},{break_}not {truth}\n{_percent(confidence)}"
            axes.set_title(told, fontsize="small", pad=3)
        return self


def _percent(share: float) -> str:
    """Give a share in percent; 100 % is only what is 1."""
    return f"{np.floor(share * 1000) / 10:.1f} %"
