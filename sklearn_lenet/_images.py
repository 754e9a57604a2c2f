"""From rows of features to the images that the network reads."""

from dataclasses import dataclass
from math import ceil, floor, inf, isfinite, isqrt, log2
from types import ModuleType
from typing import Any

import numpy as np

from ._augmentation import NO_AUGMENTATION, Augmentation
from ._backend import namespace, rows_on_host, to_device, to_host, zeros

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

    @property
    def is_extreme(self) -> bool:
        """Whether float32 is too narrow for the features before they are scaled."""
        return not 1e-30 < self.scale < 1e30

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
        self._features = self._unscaled = features[:, : layout.n_features]
        if layout.is_extreme:
            self._unscaled = zeros(xp, (N, layout.n_features), np.float64)
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
        xp, unscaled = self.xp, self._unscaled
        # wide types lose digits if they are converted before the mean is taken off
        dtype = xp.result_type(rows.dtype, unscaled.dtype)
        xp.subtract(rows, self.layout.mean, out=unscaled, dtype=dtype, casting="same_kind")
        xp.multiply(unscaled, self.layout.scale, out=self._features, casting="same_kind")
        if self._augmentation.distorts:
            self._augmentation.apply(xp, self._scaled, draws, self._source)
        xp.copyto(self._pixels, self._source.transpose(2, 1, 3, 0)[:, None, :, :, None])


@dataclass(frozen=True)
class PixelRanges:
    """In which range the images of a fit lie, so that others can be told.

    Attributes
    ----------
    values : pair of float
        The least and the greatest feature.
    means : pair of float
        The least and the greatest mean of a single image, once scaled as `ImageLayout` says.
    deviations : pair of float
        The least and the greatest standard deviation of a single image, likewise. Nearly constant
        images are left aside; (0, 0) if there are no others.
    """

    values: tuple[float, float]
    means: tuple[float, float]
    deviations: tuple[float, float]

    @classmethod
    def of(cls, images: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> "PixelRanges":
        """Give the ranges of images, of which the moments are known, once scaled."""
        return cls(
            (float(images.min()), float(images.max())),
            (float(means.min()), float(means.max())),
            (float(deviations.min()), float(deviations.max())),
        )

    def joined(self, other: "PixelRanges") -> "PixelRanges":
        """Give the ranges of both."""
        pairs = [
            (min(a[0], b[0]), max(a[1], b[1]))
            for a, b in (
                (self.values, other.values),
                (self.means, other.means),
                (self.deviations, other.deviations),
            )
        ]
        return PixelRanges(*pairs)


@dataclass(frozen=True)
class PixelStatistics:
    """What a fit finds out about its features.

    Attributes
    ----------
    mean : float
        Of all features.
    scale : float
        1 / their standard deviation; 1 for constant features.
    ranges : PixelRanges
    extreme : tuple (row, feature, value) or None
        A feature that, with at most one in 10,000 of all, makes more than half of the variance.
    """

    mean: float
    scale: float
    ranges: PixelRanges
    extreme: tuple[int, int, float] | None


def pixel_statistics(X: Any, weights: np.ndarray, rows: np.ndarray) -> PixelStatistics:
    """Find mean, scale and ranges of the features.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        NumPy's or CuPy's.
    weights : ndarray of shape (n_samples,)
    rows : integer ndarray of shape (n_rows,)
        Rows of `X` to take.

    Raises
    ------
    ValueError
        If the features are too large, or too close to each other, for float64.
    """
    with np.errstate(all="ignore"):
        moments = _Moments(X, weights[rows] / weights[rows].max(), rows, unit=1.0)
        if not 1e-280 < moments.variance < 1e280:  # squares go beyond float64 before numbers do
            largest = max(abs(value) for value in moments.values)
            unit = 2.0 ** floor(log2(largest)) if 0 < largest < inf else 1.0
            moments = _Moments(X, weights[rows] / weights[rows].max(), rows, unit)
        deviation = moments.variance**0.5 * moments.unit
        scale = float(1 / np.float64(deviation)) if moments.variance > 0 else 1.0
    if not all(map(isfinite, (moments.mean, scale, *moments.values))):
        raise ValueError(
            f"The features of X, from {X.min():.6g} to {X.max():.6g}, are out of the range of "
            "numbers that LeNetClassifier can compute with. Divide them by a constant."
        )
    return PixelStatistics(moments.mean, scale, moments.ranges(), moments.extreme(X))


class _Moments:
    """Moments of all features, and of each image: of X / unit, in float64.

    Off a first value, in two passes over chunks: constant features have no spread, and features far
    from zero lose no digits.
    """

    def __init__(self, X: Any, weights: np.ndarray, rows: np.ndarray, unit: float) -> None:
        xp, self.rows, self.unit = namespace(X), rows, unit
        self.n_features = X.shape[1]
        total = weights.sum() * self.n_features
        first = np.float64(X[rows[0], 0].item()) / unit
        chunks, chunk_weights = (row_chunks(to_device(xp, array)) for array in (rows, weights))
        mean = variance = 0.0
        sums, squares, low, high = [], [], inf, -inf
        for chunk, weight in zip(chunks, chunk_weights, strict=True):
            features = X[chunk] / unit - first if unit != 1 else X[chunk] - first
            sums.append(features.sum(axis=1))
            mean += weight @ sums[-1] / total
            low, high = xp.minimum(low, features.min()), xp.maximum(high, features.max())
        for chunk, weight in zip(chunks, chunk_weights, strict=True):
            features = X[chunk] / unit - first if unit != 1 else X[chunk] - first
            features -= mean
            squares.append(xp.square(features, out=features).sum(axis=1))
            variance += weight @ squares[-1] / total
        self.variance = float(to_host(variance))
        self.centre = float(to_host(first + mean))  # in units
        self.mean = self.centre * unit
        low, high = (float(to_host(first + value)) * unit for value in (low, high))
        self.values = low, high
        # Of each image, off the mean of all
        self.means = to_host(xp.concatenate(sums) / self.n_features - mean)
        self.squares = to_host(xp.concatenate(squares))

    def ranges(self) -> PixelRanges:
        """Give the ranges, in standard deviations of all features."""
        if self.variance == 0:
            return PixelRanges(self.values, (0.0, 0.0), (0.0, 0.0))
        deviation = self.variance**0.5
        means = self.means / deviation
        deviations = self.squares / self.n_features / self.variance - means**2
        deviations = np.sqrt(np.maximum(deviations, 0))
        varied = deviations[deviations > 0.1 * np.median(deviations)]
        if len(varied) == 0:
            varied = np.zeros(1)
        return PixelRanges(
            self.values,
            (float(means.min()), float(means.max())),
            (float(varied.min()), float(varied.max())),
        )

    def extreme(self, X: Any) -> tuple[int, int, float] | None:
        """Find the feature whose squares drown all others, if there is one."""
        total, n_most = self.squares.sum(), self.squares.size * self.n_features // 10_000
        order = np.argsort(self.squares)[::-1]
        n_rows = int(np.searchsorted(np.cumsum(self.squares[order]), total / 2)) + 1
        # Many rows have many such features; or each row has its own, as one-hot rows do
        if total == 0 or n_rows > min(n_most, len(order) / 10):
            return None
        rows = self.rows[order[:n_rows]]
        features = rows_on_host(X, rows).astype(np.float64)
        squares = np.square(features / self.unit - self.centre).reshape(-1)
        largest = np.argpartition(squares, max(len(squares) - n_most, 0))[-n_most:]
        if squares[largest].sum() <= total / 2:
            return None
        some = rows_on_host(X, self.rows[:: max(1, len(self.rows) // 32)])
        if np.median(some.max(axis=1) != some.min(axis=1)) == 0:
            return None  # there is next to nothing that could be drowned
        row, feature = divmod(int(squares.argmax()), self.n_features)
        return int(rows[row]), feature, float(features[row, feature])


def image_moments(rows: np.ndarray, layout: ImageLayout) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and the standard deviation of each row, once scaled.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
    layout : ImageLayout

    Returns
    -------
    means, deviations : ndarrays of shape (n,)
    """
    dtype = np.float64 if layout.is_extreme else np.result_type(rows.dtype, np.float32)
    with np.errstate(all="ignore"):
        scaled = np.subtract(rows, layout.mean, dtype=dtype)
        np.multiply(scaled, layout.scale, out=scaled)
        means = np.add.reduce(scaled, axis=1) / layout.n_features
        squares = np.vecdot(scaled, scaled) / layout.n_features
        return means, np.sqrt(np.maximum(squares - means * means, 0))


def image_spreads(rows: np.ndarray, layout: ImageLayout) -> np.ndarray:
    """Compute the mean absolute deviation of each row from its mean, once scaled."""
    rows = rows.astype(np.float64)
    return np.abs(rows - rows.mean(axis=1, keepdims=True)).mean(axis=1) * layout.scale
