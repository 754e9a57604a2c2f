"""What the displays share: matplotlib, imported when something is drawn, and checks."""

from math import prod
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array, check_is_fitted

from .._arrays import on_host
from .._classifier import LeNetClassifier
from .._images import infer_image_shape, is_square_colour
from .._parameters import is_image_shape
from .._validation import as_array

# Told apart by the colour-blind (Okabe and Ito, 2008); the markers, by those who print in greys
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# Images side by side, at most
COLUMNS = 8


def import_pyplot(display: Any) -> Any:
    """Import matplotlib.pyplot, or say what installs it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{type(display).__name__}.plot needs matplotlib: install it by "
            '`python -m pip install ".[plot]"` in a clone of sklearn_lenet.'
        ) from error
    return plt


def check_class(estimator: Any, display: type) -> None:
    """Refuse what is no LeNetClassifier."""
    if not isinstance(estimator, LeNetClassifier):
        raise TypeError(
            f"{display.__name__} shows a LeNetClassifier. Got {type(estimator).__name__} instead. "
            "Of a pipeline pass the step, pipeline[-1]; of a search, search.best_estimator_."
        )


def check_network(estimator: Any, display: type) -> None:
    """Refuse what is no fitted LeNetClassifier."""
    check_class(estimator, display)
    check_is_fitted(estimator)


def as_images(X: Any, image_shape: tuple[int, ...] | None) -> np.ndarray:
    """Give images, or rows of pixels, as an array of shape (n, C, H, W) to draw.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
    image_shape : tuple (H, W) or (C, H, W), or None
        Of rows, which may lack the last pixels. None guesses: square images, grey or of three
        channels, if it can be.
    """
    X = check_array(
        as_array(on_host(X, "X")),
        dtype="numeric",
        ensure_2d=False,
        allow_nd=True,
        ensure_all_finite=False,
    )
    if X.ndim > 2:
        return X.reshape(len(X), *(1, *X.shape[1:])[-3:])
    n_features = X.shape[1]
    if image_shape is not None:
        C, H, W = (1, *image_shape)[-3:]
    elif is_square_colour(n_features):
        C, H, W = 3, *infer_image_shape(n_features // 3)[1:]
    else:
        C, H, W = infer_image_shape(n_features)
    images = np.zeros((len(X), C * H * W), X.dtype)
    images[:, :n_features] = X
    return images.reshape(-1, C, H, W)


def check_image_shape(image_shape: Any, X: Any) -> None:
    """Refuse a user's shape of images that is none, or not that of the rows of `X`."""
    shape = np.shape(X)
    n_features = shape[1] if len(shape) == 2 else None
    if not is_image_shape(image_shape) or n_features not in (None, prod(image_shape)):
        raise ValueError(
            "image_shape must be (H, W) or (C, H, W), positive integers with the number of "
            f"features of X, {n_features}, as their product. Got {image_shape!r} instead."
        )


def check_axes(plt: Any, ax: Any) -> None:
    """Refuse what is no matplotlib Axes."""
    if not isinstance(ax, plt.Axes):
        raise TypeError(f"ax must be matplotlib Axes or None. Got {type(ax).__name__} instead.")


def limits(images: np.ndarray) -> tuple[float, float]:
    """Give the least and the largest of pixels that are finite: black and white."""
    finite = images[np.isfinite(images)]
    return (finite.min(), finite.max()) if finite.size else (0.0, 1.0)


def image_grid(
    plt: Any, ax: Any, title: str, shape: tuple[int, int], height: float = 1.1
) -> tuple[Any, np.ndarray]:
    """Make axes without ticks for images, in the place of other axes or in a new figure.

    Parameters
    ----------
    plt : module
        matplotlib.pyplot.
    ax : matplotlib Axes or None
    title : str
    shape : tuple (n_rows, n_columns)
    height : float, default=1.1
        Inches of a row in a new figure.

    Returns
    -------
    figure : matplotlib Figure or SubFigure
        Of the other axes, or the new one.
    axes : ndarray of shape (n_rows, n_columns) of matplotlib Axes
    """
    n_rows, n_columns = shape
    if ax is None:
        size = max(1.1 * n_columns + 0.5, 4), height * n_rows + 0.6
        figure = place = plt.figure(figsize=size, layout="constrained")
    else:
        check_axes(plt, ax)
        if ax.get_subplotspec() is None:
            raise ValueError(
                "ax should be Axes of a grid, as plt.subplots() makes them. Got Axes that were put "
                "at a position of their own."
            )
        ax.set_axis_off()
        figure = ax.figure
        place = figure.add_subfigure(ax.get_subplotspec())
    place.suptitle(title)
    axes = place.subplots(n_rows, n_columns, squeeze=False)
    for each in axes.flat:
        each.set(xticks=[], yticks=[])
    return figure, axes


def show_image(axes: Any, image: np.ndarray, low: float, high: float) -> Any:
    """Show an image of shape (C, H, W): three channels in colour, others as the mean, in greys."""
    if len(image) == 3:
        span = high - low or 1.0
        return axes.imshow(np.clip((image.transpose(1, 2, 0) - low) / span, 0, 1))
    return axes.imshow(image.mean(axis=0), cmap="gray", vmin=low, vmax=high)
