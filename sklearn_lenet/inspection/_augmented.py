"""Training images as the augmentation distorts them."""

from numbers import Integral
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import check_array, check_random_state, check_scalar

from .._arrays import on_host
from .._augmentation import Augmentation, make_augmentation
from .._parameters import check_parameters
from .._validation import check_training_data
from ._drawing import as_images, check_class, image_grid, import_pyplot, limits, show_image


class AugmentationDisplay:
    """Images, and what the augmentation makes of them.

    Make one by :meth:`from_estimator`. Each row has an image as it is, then distorted ones, as the
    network may meet them in its epochs. Whoever looks at them should still tell the classes apart.

    Parameters
    ----------
    images : ndarray of shape (n_images, C, H, W)
        As they are.
    augmented : ndarray of shape (n_versions, n_images, C, H, W)
        Versions of them, distorted.

    Attributes
    ----------
    axes_ : ndarray of shape (n_images, 1 + n_versions) of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> from sklearn_lenet.inspection import AugmentationDisplay
    >>> X, y = load_mnist_sample(return_X_y=True, subset="test")
    >>> model = LeNetClassifier(augment="elastic")
    >>> display = AugmentationDisplay.from_estimator(model, X, random_state=0)
    >>> plt.show()
    """

    def __init__(self, *, images: np.ndarray, augmented: np.ndarray) -> None:
        self.images = images
        self.augmented = augmented

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_images: int = 4,
        n_versions: int = 7,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
    ) -> Self:
        """Distort the first images as `fit` would, and draw them.

        Parameters
        ----------
        estimator : LeNetClassifier
            With `augment` other than None; it need not be fitted.
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as for `fit`.
        n_images : int, default=4
            Of `X`, at most.
        n_versions : int, default=7
            Distorted images to make of each.
        random_state : int, RandomState instance or None, default=None
            Determines the distortions.
        ax : matplotlib Axes, default=None
            In whose place to draw; None makes a figure.

        Returns
        -------
        display : AugmentationDisplay

        Raises
        ------
        ValueError
            If the estimator has no augmentation, or `X` is nothing that it could be fitted to.
        """
        check_class(estimator, cls)
        check_scalar(n_images, "n_images", Integral, min_val=1)
        check_scalar(n_versions, "n_versions", Integral, min_val=1)
        check_parameters(estimator, "augment", "image_shape")
        if estimator.augment is None:
            raise ValueError(
                f"{cls.__name__} shows what 'augment' does, which is None. Set it to 'affine', "
                "'elastic' or a callable."
            )
        X = on_host(X, "X")
        if sparse.issparse(X) or not hasattr(X, "__getitem__"):
            check_array(X, input_name="X")  # which says why it is no array
        X = X[:n_images]
        fitted = clone(estimator)  # `fit` would find this shape
        rows, _, _ = check_training_data(fitted, X, np.zeros(len(X), int), None, reset=True)
        images = as_images(rows, fitted.image_shape_)
        augmentation = make_augmentation(estimator.augment, fitted.image_shape_)
        seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        generator = np.random.default_rng(seed)
        augmented = [_augment(augmentation, images, generator) for _ in range(n_versions)]
        return cls(images=images, augmented=np.stack(augmented)).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the images.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            As for :meth:`from_estimator`.

        Returns
        -------
        display : AugmentationDisplay
            Itself.
        """
        plt = import_pyplot(self)
        columns = [self.images, *self.augmented]
        shape = len(self.images), len(columns)
        title = "Training images as they are, and distorted"
        self.figure_, self.axes_ = image_grid(plt, ax, title, shape)
        low, high = limits(np.stack(columns))
        for (row, column), axes in np.ndenumerate(self.axes_):
            show_image(axes, columns[column][row], low, high)
        self.axes_[0, 0].set_title("as it is", fontsize="small", pad=3)
        return self


def _augment(
    augmentation: Augmentation, images: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Give images of shape (n, C, H, W) as they would go to the network, but for their scale."""
    if augmentation.replaces:
        rows = images.reshape(len(images), -1)
        return augmentation.replace(rows, generator).reshape(images.shape)
    images = images.astype(np.float64)
    draws = augmentation.draw(generator, len(images), images.dtype)
    distorted = np.empty_like(images)
    augmentation.apply(np, images, draws, distorted)
    return distorted
