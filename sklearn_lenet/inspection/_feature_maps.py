"""One image on its way through the convolutions."""

from collections.abc import Sequence
from math import ceil
from typing import Any, Self

import numpy as np

from .._arrays import on_host
from .._engine import feature_maps
from .._state import architecture_of, layout_of, ranges_of
from .._validation import check_images, check_range
from ._drawing import COLUMNS, check_network, image_grid, import_pyplot, show_image


class FeatureMapsDisplay:
    """What each convolution, and the pooling behind it, make of one image.

    Make one by :meth:`from_estimator`. From top to bottom: the image as the network reads it,
    scaled and, if it is small, enlarged; then, for each convolution, its maps behind the
    activation, and these behind the pooling. Black is the least number of a layer and white the
    greatest; both stand at its side.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
        The image that goes through the layers.
    maps : sequence of pairs of ndarrays of shape (C, H, W)
        For each convolution, behind the activation and behind pooling.

    Attributes
    ----------
    axes_ : ndarray of shape (n_rows, n_columns) of matplotlib Axes
        Of the maps, 8 side by side at most; a layer begins in a row of its own.
    figure_ : matplotlib Figure

    See Also
    --------
    FiltersDisplay : The kernels of the first convolution.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> from sklearn_lenet.inspection import FeatureMapsDisplay
    >>> X, y = load_mnist_sample(return_X_y=True, subset="test")
    >>> model = LeNetClassifier(max_iter=2, random_state=0).fit(X, y)
    >>> display = FeatureMapsDisplay.from_estimator(model, X[0])
    >>> plt.show()
    """

    def __init__(self, *, image: np.ndarray, maps: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self.image = image
        self.maps = maps

    @classmethod
    def from_estimator(cls, estimator: Any, image: Any, *, ax: Any = None) -> Self:
        """Take an image through a fitted model, and draw the maps.

        Parameters
        ----------
        estimator : LeNetClassifier
            Fitted.
        image : array-like of shape (n_features,), (H, W) or (C, H, W)
            One image; an array of one is taken, too.
        ax : matplotlib Axes, default=None
            In whose place to draw; None makes a figure.

        Returns
        -------
        display : FeatureMapsDisplay

        Raises
        ------
        ValueError
            If `image` is not one image as the model was fitted with.

        Warns
        -----
        UserWarning
            If the image is in another range than those of the fit.
        """
        check_network(estimator, cls)
        row = _one_row(estimator, image)
        network = architecture_of(estimator), layout_of(estimator), estimator._parameters
        with np.errstate(all="ignore"):
            scaled, maps = feature_maps(*network, row)
        return cls(image=scaled, maps=maps).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the image and the maps.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            As for :meth:`from_estimator`.

        Returns
        -------
        display : FeatureMapsDisplay
            Itself.
        """
        plt = import_pyplot(self)
        layers = [("image", self.image[None])]
        for number, (convolved, pooled) in enumerate(self.maps, start=1):
            layers += [
                (f"convolution {number}", convolved[:, None]),
                (f"pooling {number}", pooled[:, None]),
            ]
        n_columns = min(COLUMNS, max(len(images) for _, images in layers))
        n_rows = [ceil(len(images) / n_columns) for _, images in layers]
        title = "One image in the convolutions"
        self.figure_, self.axes_ = image_grid(plt, ax, title, (sum(n_rows), n_columns))
        first = 0
        for (name, images), n in zip(layers, n_rows, strict=True):
            _draw_layer(self.axes_[first : first + n], name, images)
            first += n
        return self


def _one_row(estimator: Any, image: Any) -> np.ndarray:
    """Check that there is one image, and that it is as the model was fitted with."""
    image = on_host(image, "image")
    (C, *sides), shape = estimator.image_shape_, np.shape(image)
    shapes = [(estimator.n_features_in_,), (C, *sides)] + [tuple(sides)] * (C == 1)
    if shape in shapes:
        image = np.asarray(image)[None]
    elif shape[:1] != (1,) or shape[1:] not in shapes:
        raise ValueError(
            f"image should be one image, of shape {' or '.join(map(str, shapes))}, as "
            f"LeNetClassifier was fitted with. Got shape {shape} instead."
        )
    rows = check_images(estimator, image)
    check_range(rows, None, layout_of(estimator), ranges_of(estimator), "image")
    return rows[0]


def _draw_layer(axes: np.ndarray, name: str, images: np.ndarray) -> None:
    """Draw images of shape (n, C, H, W) on one scale, into axes of shape (n_rows, n_columns)."""
    low, high = images.min(), images.max()
    for each, image in zip(axes.flat, images, strict=False):
        show_image(each, image, low, high)
    for each in axes.flat[len(images) :]:
        each.set_axis_off()
    height, width = images.shape[-2:]
    label = f"{name}\n{height} x {width}\n{low:.2g} to {high:.2g}"
    axes[0, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
