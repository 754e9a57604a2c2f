"""The kernels of the first convolution, as images."""

from math import ceil
from typing import Any, Self

import numpy as np

from ._drawing import COLUMNS, check_network, image_grid, import_pyplot, show_image


class FiltersDisplay:
    """Kernels of the first convolution: the patterns that it answers to.

    Make one by :meth:`from_estimator`. Each kernel is a column, each channel of the images a row.
    Grey is a weight of 0, the same in all of them; white weights are positive, black ones negative.

    Parameters
    ----------
    kernels : ndarray of shape (n_kernels, n_channels, height, width)
        Weights of the first convolution.

    Attributes
    ----------
    axes_ : ndarray of shape (n_rows, n_columns) of matplotlib Axes
        Of the images, 8 side by side at most. Some of the last row may be empty.
    figure_ : matplotlib Figure

    See Also
    --------
    FeatureMapsDisplay : What the convolutions make of an image.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> from sklearn_lenet.inspection import FiltersDisplay
    >>> X, y = load_mnist_sample(return_X_y=True, subset="test")
    >>> model = LeNetClassifier(max_iter=2, random_state=0).fit(X, y)
    >>> display = FiltersDisplay.from_estimator(model)
    >>> plt.show()
    """

    def __init__(self, *, kernels: np.ndarray) -> None:
        self.kernels = kernels

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Draw the first convolution's kernels of a fitted model.

        Parameters
        ----------
        estimator : LeNetClassifier
            Fitted.
        ax : matplotlib Axes, default=None
            In whose place to draw; None makes a figure.

        Returns
        -------
        display : FiltersDisplay
        """
        check_network(estimator, cls)
        return cls(kernels=estimator.coefs_[0].copy()).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the kernels.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            As for :meth:`from_estimator`.

        Returns
        -------
        display : FiltersDisplay
            Itself.
        """
        plt = import_pyplot(self)
        n_kernels, n_channels = self.kernels.shape[:2]
        n_columns = min(n_kernels, COLUMNS)
        shape = ceil(n_kernels / n_columns) * n_channels, n_columns
        title = "Kernels of the first convolution"
        self.figure_, self.axes_ = image_grid(plt, ax, title, shape)
        largest = np.abs(self.kernels).max()
        for number, axes in np.ndenumerate(self.axes_):
            block, channel = divmod(number[0], n_channels)
            kernel = block * n_columns + number[1]
            if kernel >= n_kernels:
                axes.set_axis_off()
                continue
            image = show_image(axes, self.kernels[kernel, channel][None], -largest, largest)
            if channel == 0:
                axes.set_title(str(kernel), fontsize="small", pad=2)
            if number[1] == 0 and n_channels > 1:
                axes.set_ylabel(f"channel {channel}", fontsize="small")
        axes.figure.colorbar(image, ax=self.axes_, label="weight")
        return self
