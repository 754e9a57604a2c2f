"""From rows of features to the images that the network reads."""

from dataclasses import dataclass
from math import ceil, isqrt
from types import ModuleType
from typing import Any

import numpy as np

from ._augmentation import NO_AUGMENTATION, Augmentation
from ._backend import namespace, to_device, to_host, zeros

_SPARE = 16


def row_chunks(rows: Any) -> list[Any]:
    """Cut what each row has one of: a chunk's features, as float64, take a few megabytes."""
    return [rows[begin : begin + 1024] for begin in range(0, len(rows), 1024)]


def infer_image_shape(n_features: int) -> tuple[int, int, int]:
    """Guess the images' shape (C, H, W) from the length of a flat row.

    Square grey images where `n_features` is a square; otherwise the smallest nearly square image,
    filled row by row, with zeros behind the last feature.

    Parameters
    ----------
    n_features : int
        At least 1.

    Returns
    -------
    image_shape : tuple (1, H, W)
    """
    side = isqrt(n_features - 1) + 1  # the square root, rounded up
    return 1, side, ceil(n_features / side)


def is_square_colour(n_features: int) -> bool:
    """Tell whether a flat row could be a square image of three channels, 8 x 8 or larger."""
    side = isqrt(n_features // 3)
    return side >= 8 and 3 * side * side == n_features and isqrt(n_features) ** 2 != n_features


@dataclass(frozen=True)
class ImageLayout:
    """How a row of features becomes an image for the network.

    Features are scaled, laid out row by row, channel by channel, each pixel repeated `zoom` times
    along both axes, and set in the middle of a canvas of zeros.

    Attributes
    ----------
    image_shape : tuple (C, H, W)
    n_features : int
        At most C * H * W; missing cells are zero.
    zoom : int
    canvas_shape : tuple (C, height, width)
    mean, scale : float
        A feature x enters the network as (x - mean) * scale.
    """

    image_shape: tuple[int, int, int]
    n_features: int
    zoom: int
    canvas_shape: tuple[int, int, int]
    mean: float
    scale: float

    @classmethod
    def fitting(
        cls,
        image_shape: tuple[int, int, int],
        n_features: int,
        smallest: int,
        multiple: int,
        mean: float,
        scale: float,
    ) -> "ImageLayout":
        """Lay images out for a network that reads sides of `smallest` pixels or more.

        Smaller images are enlarged by a whole factor, and their canvas to a multiple of `multiple`,
        so that pooling loses none of their pixels.
        """
        C, H, W = image_shape
        zoom = max(1, ceil(smallest / min(H, W)))
        height, width = H * zoom, W * zoom
        if zoom > 1:
            height, width = ceil(height / multiple) * multiple, ceil(width / multiple) * multiple
        return cls(image_shape, n_features, zoom, (C, height, width), mean, scale)


class ImageLoader:
    """Write rows of features into a network's images.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    layout : ImageLayout
    images : array of shape (height, C, width, N)
        The network's input, written by `load`.
    augmentation : Augmentation, default=NO_AUGMENTATION
    """

    def __init__(
        self,
        xp: ModuleType,
        layout: ImageLayout,
        images: Any,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        C, H, W = layout.image_shape
        zoom, N = layout.zoom, images.shape[-1]
        self.xp, self.layout = xp, layout
        images.fill(0)
        top = (images.shape[0] - H * zoom) // 2
        left = (images.shape[2] - W * zoom) // 2
        middle = images[top : top + H * zoom, :, left : left + W * zoom]
        # an axis of its own for the repeated rows and columns: (H, zoom, C, W, zoom, N)
        y, c, x, n = middle.strides
        self._pixels = xp.lib.stride_tricks.as_strided(
            middle, (H, zoom, C, W, zoom, N), (zoom * y, y, c, zoom * x, x, n)
        )

        def rows() -> Any:
            """Make rows of numbers, a few of them spare.

            Those keep images of a multiple of 4096 bytes from sharing the same lines of the cache.
            """
            return zeros(xp, (N, C * H * W + _SPARE), images.dtype)

        features = rows()
        self._features = features[:, : layout.n_features]
        self._scaled = features[:, :-_SPARE].reshape(N, C, H, W)
        self._augmentation, self._source = augmentation, self._scaled
        if augmentation.distorts:
            self._source = rows()[:, :-_SPARE].reshape(N, C, H, W)

    def load(self, rows: Any, draws: Any = None) -> None:
        """Scale rows, distort them as drawn, and write them into the images.

        Parameters
        ----------
        rows : array of shape (N, n_features)
        draws : array of shape (N, ...), default=None
            From the augmentation's `draw`.
        """
        xp = self.xp
        features = self._features
        # wide types lose digits if they are converted before the mean is taken off
        dtype = xp.result_type(rows.dtype, features.dtype)
        xp.subtract(rows, self.layout.mean, out=features, dtype=dtype, casting="same_kind")
        xp.multiply(features, self.layout.scale, out=features)
        if self._augmentation.distorts:
            self._augmentation.apply(xp, self._scaled, draws, self._source)
        xp.copyto(self._pixels, self._source.transpose(2, 1, 3, 0)[:, None, :, :, None])


def weighted_mean_and_scale(X: Any, weights: Any, rows: Any) -> tuple[float, float]:
    """Compute the mean of all features, and 1 / their standard deviation.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        NumPy's or CuPy's.
    weights : ndarray of shape (n_samples,)
    rows : integer ndarray of shape (n_rows,)
        Rows of `X` to take.

    Returns
    -------
    mean, scale : float
        The scale of constant features is 1.
    """
    # In float64, off a first value, in two passes over chunks: constant features have no spread,
    # and features far from zero lose no digits
    xp, weights = namespace(X), weights[rows]
    total = weights.sum() * X.shape[1]
    first = np.float64(X[rows[0], 0].item())
    chunks, chunk_weights = (row_chunks(to_device(xp, array)) for array in (rows, weights))
    mean = variance = 0.0
    for chunk, weight in zip(chunks, chunk_weights, strict=True):
        features = X[chunk] - first
        mean += weight @ features.sum(axis=1) / total
    for chunk, weight in zip(chunks, chunk_weights, strict=True):
        features = X[chunk] - first - mean
        variance += weight @ xp.square(features).sum(axis=1) / total
    mean, variance = float(to_host(first + mean)), float(to_host(variance))
    return mean, variance**-0.5 if variance > 0 else 1.0
