"""The loss, and the score on the validation set, epoch by epoch."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ._drawing import COLOURS, MARKERS, check_axes, check_network, import_pyplot


class LossCurveDisplay:
    """Loss, and score on the validation set, of each epoch.

    Make one by :meth:`from_estimator`. To compare models, draw the next one where the first was
    drawn: ``ax=display.axes_``.

    The training loss is measured while the epoch runs, on distorted images where `augment` is set,
    with label smoothing and penalty; the loss on the validation set after it, and without them. So
    it may well be the lower one.

    Parameters
    ----------
    loss : sequence of float
        Training loss of each epoch.
    validation_loss : sequence of float, default=None
        Loss on the validation set, of each of the last epochs.
    validation_score : sequence of float, default=None
        Score on the validation set, likewise.
    name : str, default=None
        Of the model, for the legend.

    Attributes
    ----------
    axes_ : ndarray of shape (1,) or (2,) of matplotlib Axes
        The losses, and below them the scores.
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        Those that this display has drawn: training loss, validation loss, score.

    See Also
    --------
    sklearn.model_selection.LearningCurveDisplay : Scores by the number of training samples.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> from sklearn_lenet.inspection import LossCurveDisplay
    >>> X, y = load_mnist_sample(return_X_y=True, subset="test")
    >>> model = LeNetClassifier(max_iter=2, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(model)
    >>> display.axes_[0].set_yscale("log")
    >>> plt.show()
    """

    def __init__(
        self,
        *,
        loss: Sequence[float],
        validation_loss: Sequence[float] | None = None,
        validation_score: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.loss = loss
        self.validation_loss = validation_loss
        self.validation_score = validation_score
        self.name = name

    @classmethod
    def from_estimator(cls, estimator: Any, *, name: str | None = None, ax: Any = None) -> Self:
        """Draw the curves of a fitted model.

        Parameters
        ----------
        estimator : LeNetClassifier
            Fitted. With `early_stopping` it has a validation set.
        name : str, default=None
            Of the model, for the legend; None takes the class's.
        ax : matplotlib Axes or array-like of two of them, default=None
            Where to draw the losses, and the scores; without a second one, the scores are left out.
            None makes a figure.

        Returns
        -------
        display : LossCurveDisplay
        """
        check_network(estimator, cls)
        display = cls(
            loss=estimator.loss_curve_,
            validation_loss=estimator.validation_loss_curve_,
            validation_score=estimator.validation_scores_,
            name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of two of them, default=None
            As for :meth:`from_estimator`.

        Returns
        -------
        display : LossCurveDisplay
            Itself.
        """
        plt = import_pyplot(self)
        if ax is None:
            n_axes = 1 if self.validation_score is None else 2
            _, ax = plt.subplots(
                n_axes, sharex=True, figsize=(6.4, 2 + 2.4 * n_axes), layout="constrained"
            )
        axes = np.ravel(np.asarray(ax, dtype=object))
        for each in axes:
            check_axes(plt, each)
        self.axes_ = axes
        self.figure_ = self.axes_[0].figure
        self.lines_: list[Any] = []
        number = len({line.get_color() for line in self.axes_[0].lines})
        self._draw(self.axes_[0], self.loss, "training", "-", number)
        if self.validation_loss is not None:
            self._draw(self.axes_[0], self.validation_loss, "validation", "--", number)
        if self.validation_score is not None and len(self.axes_) > 1:
            self._draw(self.axes_[1], self.validation_score, "validation", "--", number)
        for axes, label in zip(self.axes_, ("loss", "validation score"), strict=False):
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
            if axes.lines:
                axes.legend()
        self.axes_[-1].set_xlabel("epoch")
        return self

    def _draw(self, axes: Any, values: Sequence[float], what: str, style: str, number: int) -> None:
        """Draw a line, which ends at the last epoch."""
        last = len(self.loss)
        self.lines_ += axes.plot(
            range(last - len(values) + 1, last + 1),
            values,
            style,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markevery=max(1, len(values) // 8),
            markersize=6,
            label=what if self.name is None else f"{self.name}, {what}",
        )
