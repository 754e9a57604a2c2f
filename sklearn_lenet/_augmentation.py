"""Augmentation of training images: affine and elastic distortions, or whatever a user calls.

The elastic ones are after Simard, Steinkraus and Platt.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, pi, sqrt
from types import ModuleType
from typing import Any

import numpy as np

from ._backend import call_of_user, namespace, zeros


@dataclass(frozen=True)
class AffineRanges:
    """How far affine distortions go, at most; each is drawn uniformly between both extremes.

    Attributes
    ----------
    rotation : float
        Degrees, to both sides.
    scale : float
        Height and width are multiplied, each on its own, by ``1 + scale`` at most and by the
        inverse of that at least. (The logarithm is uniform.)
    shear : float
        Pixels that a row moves sideways for each pixel that it is away from the middle.
    shift : float
        Along both axes, as a share of the image's shorter side.
    """

    rotation: float
    scale: float
    shear: float
    shift: float


# For MNIST, Ciresan et al. ("Deep, big, simple neural nets for handwritten digit recognition",
# Neural Computation 22(12), 2010, section 4) rotate or shear by up to 15 degrees, the digits 1 and
# 7 by up to 7.5, and scale by up to 15 or 20 percent. Here one image meets both rotation and shear,
# whatever its class: together they slant it by 18 degrees at most. The digits of MNIST stand in the
# middle of a margin of 4 of 28 pixels: half of it leaves enlarged ones whole.
AFFINE = AffineRanges(rotation=10, scale=0.15, shear=0.15, shift=2 / 28)

# Beside the displacements, which shift, scale and slant parts of the image on their own
AFFINE_OF_ELASTIC = AffineRanges(rotation=7.5, scale=0.1, shear=0.1, shift=1 / 28)

# Standard deviation of the Gaussian, in pixels, and factor, both for images of 29 x 29 pixels: the
# least that Ciresan et al. draw, of 5 to 6 and 36 to 38. Simard, Steinkraus and Platt ("Best
# practices for convolutional neural networks applied to visual document analysis", ICDAR 2003)
# take 4 and 34; with the affine map on top, this stretches 3 % of a digit's places 2.5-fold or
# more, into smears that close an open 4 and tear up an 8. Here, those are 0.05 %.
ELASTIC_SIGMA, ELASTIC_ALPHA, ELASTIC_SIDE = 5.0, 36.0, 29

# Distance of the knots that carry the noise, in standard deviations of the Gaussian. At 1.25, the
# field's correlation along an axis differs from that of noise at every pixel by 0.006 at most; at
# 1.5, by 0.03.
_KNOT_SPACING = 1.25


class Augmentation:
    """What becomes of training images: here, nothing.

    Attributes
    ----------
    replaces : bool
        Whether `replace` makes the rows of a mini-batch new.
    distorts : bool
        Whether `draw` and `apply` distort its images, once they are scaled.
    """

    replaces = distorts = False

    def replace(self, rows: Any, generator: np.random.Generator) -> Any:
        """Give what takes the place of a mini-batch's rows.

        Parameters
        ----------
        rows : array of shape (N, n_features)
            Of the kind, NumPy's or CuPy's, and of the type of `X`.
        generator : numpy.random.Generator

        Returns
        -------
        rows : array of shape (N, n_features)
            Of the same kind.
        """
        raise NotImplementedError

    def draw(self, generator: np.random.Generator, n_samples: int, dtype: Any) -> Any:
        """Draw the distortions of a mini-batch's images.

        Parameters
        ----------
        generator : numpy.random.Generator
        n_samples : int
        dtype : {float32, float64}
            Type of the images.

        Returns
        -------
        draws : ndarray of shape (n_samples, ...) or None
            For `apply`, whole or in parts; None where nothing is distorted.
        """
        return None

    def apply(self, xp: ModuleType, images: Any, draws: Any, out: Any) -> None:
        """Write the distorted images.

        Parameters
        ----------
        xp : module
            numpy or cupy.
        images : floating array of shape (N, C, H, W)
        draws : array of shape (N, ...)
            From `draw`; on the host or on the device.
        out : array of shape (N, C, H, W)
            Of the images' type; may not share memory with them.
        """
        raise NotImplementedError


NO_AUGMENTATION = Augmentation()


class UserAugmentation(Augmentation):
    """A mini-batch's rows are replaced by what a callable makes of them.

    Parameters
    ----------
    function : callable
        From images of shape (N, C, H, W), and a generator, to images of this shape. It gets, and
        returns, the kind of array that `X` is.
    image_shape : tuple (C, H, W)
    """

    replaces = True

    def __init__(
        self,
        function: Callable[[Any, np.random.Generator], Any],
        image_shape: tuple[int, int, int],
    ) -> None:
        self.function, self.image_shape = function, image_shape

    def replace(self, rows: Any, generator: np.random.Generator) -> Any:
        """Call the function; a ValueError if it returns anything but such images."""
        xp, (C, H, W) = namespace(rows), self.image_shape
        images = xp.zeros((len(rows), C * H * W), rows.dtype)
        images[:, : rows.shape[1]] = rows
        images = images.reshape(-1, C, H, W)
        augmented = xp.asarray(call_of_user("augment", self.function, images, generator))
        if augmented.shape != images.shape or augmented.dtype.kind not in "biuf":
            raise ValueError(
                f"'augment' must return an array of numbers of the shape that it was given, "
                f"{images.shape}. Got {augmented.dtype} of shape {augmented.shape}."
            )
        # On a device, it would have to be waited for: there, the loss tells
        if xp is np and augmented.dtype.kind == "f" and not np.isfinite(augmented).all():
            raise ValueError("'augment' must return finite numbers. Got infinite ones or NaN.")
        return augmented.reshape(len(rows), -1)[:, : rows.shape[1]]


class Distortion(Augmentation):
    r"""Distort each image by a map of its own, drawn at random.

    A pixel of the distorted image takes its value from a place in the original, by bilinear
    interpolation; a place outside of the image takes that of the nearest at the edge. The places'
    coordinates, y or x, are a matrix ``rows @ control @ columns`` of shape (H, W). `rows` has a
    column for each function of a pixel's y: Gaussian bumps around knots, the distance from the
    image's centre, and 1. `columns` has the same of x as its rows. Both are the image shape's, and
    the two small matrices `control` are one image's map: displacements at the knots, coefficients
    of the affine map, and zeros.

    Simard et al. draw a displacement for each pixel uniformly from -1 to 1, smooth this noise by a
    Gaussian of standard deviation sigma, and multiply it by alpha. In the interior of a large image
    each component of their field has, from pixel to pixel,

    - the standard deviation :math:`\alpha / (2 \sqrt{3 \pi} \sigma)`,
    - the correlation :math:`\exp(-d^2 / 4 \sigma^2)` over the distance d.

    These are the field's here too, at the edges as in the interior. Its noise is just as uniform,
    but is drawn at knots 1.25 sigma apart, which go on beyond the edges, and not at each pixel. So
    that the displacements' standard deviation is the same everywhere, the bumps of one pixel are
    divided by the root of their sum of squares, along both axes.

    Parameters
    ----------
    image_shape : tuple (C, H, W)
    ranges : AffineRanges
    sigma : float, default=None
        As above, in pixels of these images; None displaces nothing.
    alpha : float, default=0
        As above, likewise.
    """

    distorts = True

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        ranges: AffineRanges,
        sigma: float | None = None,
        alpha: float = 0,
    ) -> None:
        self.image_shape = image_shape
        _, H, W = image_shape
        shift = ranges.shift * min(H, W)
        rotation, log_scale = np.radians(ranges.rotation), np.log1p(ranges.scale)
        self._ranges = np.array([rotation, log_scale, log_scale, ranges.shear, shift, shift])
        self._rows, self._columns = _basis(H, sigma), _basis(W, sigma).T
        # The squares of a Gaussian that sums to 1 sum to 1 / (4 pi sigma^2), along both axes
        self._amplitude = alpha / (2 * sqrt(pi) * sigma) if sigma else 0.0
        # Workers share this object, but not the buffers
        self._local = threading.local()

    def draw(self, generator: np.random.Generator, n_samples: int, dtype: Any) -> np.ndarray:
        """Draw each image's map, of shape (2, n_knots_y + 2, n_knots_x + 2)."""
        affine = generator.uniform(-1, 1, (n_samples, 6)) * self._ranges
        rotation, log_y, log_x, shear, shift_y, shift_x = affine.T
        scales = np.exp(log_y), np.exp(log_x)
        draws = self.affine(rotation, scales, shear, (shift_y, shift_x), dtype)
        noise = draws[:, :, :-2, :-2]
        if noise.size:
            drawn = generator.random(noise.shape, dtype)
            np.multiply(drawn, 2 * self._amplitude, out=drawn)
            np.subtract(drawn, self._amplitude, out=noise)
        return draws

    def affine(
        self,
        rotation: np.ndarray,
        scales: tuple[np.ndarray, np.ndarray],
        shear: np.ndarray,
        shifts: tuple[np.ndarray, np.ndarray],
        dtype: Any,
    ) -> np.ndarray:
        """Give the maps that, in this order, scale, shear, rotate and shift, and displace nothing.

        The centre of the image stays where it is, but for the shift.

        Parameters
        ----------
        rotation : ndarray of shape (n_samples,)
            Radians, counter-clockwise as the image is seen, with its first row on top; 90 degrees
            are ``np.rot90``.
        scales : pair of ndarrays of shape (n_samples,)
            Factors of height and width; more than 1 enlarges.
        shear : ndarray of shape (n_samples,)
            Pixels that a row moves to the right for each pixel that it is below the centre.
        shifts : pair of ndarrays of shape (n_samples,)
            Pixels downwards and to the right.
        dtype : dtype

        Returns
        -------
        draws : ndarray of shape (n_samples, 2, n_knots_y + 2, n_knots_x + 2)
        """
        _, H, W = self.image_shape
        cos, sin = np.cos(rotation), np.sin(rotation)
        draws = np.zeros(
            (len(rotation), 2, self._rows.shape[1], self._columns.shape[0]), np.dtype(dtype)
        )
        # The inverse, which leads from the distorted image to the original, about its centre
        for places, from_y, from_x, scale, centre in (
            (draws[:, 0], cos, sin, scales[0], (H - 1) / 2),
            (draws[:, 1], -sin - shear * cos, cos - shear * sin, scales[1], (W - 1) / 2),
        ):
            places[:, -2, -1] = from_y = from_y / scale
            places[:, -1, -2] = from_x = from_x / scale
            places[:, -1, -1] = centre - from_y * shifts[0] - from_x * shifts[1]
        return draws

    def apply(self, xp: ModuleType, images: Any, draws: Any, out: Any) -> None:
        """Write the distorted images.

        With NumPy, an image's result is the same to the bit whatever else is in the batch. Threads
        may call this at the same time.
        """
        warps = self._local.__dict__.setdefault("warps", {})
        key = xp.__name__, len(images), images.dtype
        if key not in warps:
            warps[key] = _Warp(xp, self.image_shape, self._rows, self._columns, *key[1:])
        warps[key].run(images, draws, out)


class _Warp:
    """The memory in which one thread distorts N images of one type.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    image_shape : tuple (C, H, W)
    rows : ndarray of shape (H, n_knots_y + 2)
    columns : ndarray of shape (n_knots_x + 2, W)
    N : int
    dtype : dtype
    """

    def __init__(
        self,
        xp: ModuleType,
        image_shape: tuple[int, int, int],
        rows: np.ndarray,
        columns: np.ndarray,
        N: int,
        dtype: Any,
    ) -> None:
        C, H, W = image_shape
        self.xp = xp
        self.rows, self.columns = xp.asarray(rows, dtype), xp.asarray(columns, dtype)
        self.half = zeros(xp, (N, 2, rows.shape[1], W), dtype)
        self.last = xp.asarray([H - 1, W - 1], dtype).reshape(2, 1, 1, 1)
        self.places = zeros(xp, (2, N, H, W), dtype)
        self.pixels = zeros(xp, (2, N, H, W), dtype)
        # A place on the lower or right edge has neighbours beyond it, which weigh 0
        self.padded = zeros(xp, (N, C, H + 1, W + 1), dtype)
        self.neighbours = [self.padded.reshape(-1)[step:] for step in (0, 1, W + 1, W + 2)]
        self.first = xp.arange(0, self.padded.size, (H + 1) * (W + 1)).reshape(N, C, 1, 1)
        self.index = zeros(xp, (N, C, H, W), self.first.dtype)
        self.left = zeros(xp, (2, N, C, H, W), dtype)
        self.right = zeros(xp, (2, N, C, H, W), dtype)
        # No index is out of range, but NumPy copies `out` before and after to tell whether one is
        self.take_options = {"mode": "clip"} if xp is np else {}

    def run(self, images: Any, draws: Any, out: Any) -> None:
        """Write the distorted images; the parameters are those of `Distortion.apply`."""
        xp, places, pixels, left, right = self.xp, self.places, self.pixels, self.left, self.right
        N, _, H, W = images.shape

        # Small products for each image: one for all of them may round an image's places
        # differently from batch to batch
        n_controls = len(self.columns)
        draws = xp.asarray(draws).reshape(N, -1, n_controls)
        xp.matmul(draws, self.columns, out=self.half.reshape(N, -1, W))
        xp.matmul(self.rows, self.half.swapaxes(0, 1), out=places)
        xp.clip(places, 0, self.last, out=places)
        xp.floor(places, out=pixels)
        xp.subtract(places, pixels, out=places)
        share_below, share_right = places[:, :, None]

        # Exact in float32 up to 2**24 pixels
        xp.multiply(pixels[0], W + 1, out=pixels[0])
        xp.add(pixels[0], pixels[1], out=pixels[0])
        xp.copyto(self.index, pixels[0][:, None], casting="unsafe")
        xp.add(self.index, self.first, out=self.index)
        xp.copyto(self.padded[:, :, :H, :W], images)
        for neighbour, taken in zip(
            self.neighbours, (left[0], right[0], left[1], right[1]), strict=True
        ):
            xp.take(neighbour, self.index, out=taken, **self.take_options)

        # Differences first: where neighbours are equal, as in the background, nothing is rounded
        xp.subtract(right, left, out=right)
        xp.multiply(right, share_right, out=right)
        xp.add(left, right, out=left)
        above, below = left
        xp.subtract(below, above, out=below)
        xp.multiply(below, share_below, out=below)
        xp.add(above, below, out=out)


def _basis(side: int, sigma: float | None) -> np.ndarray:
    """Make the functions of one coordinate of which a map consists.

    Parameters
    ----------
    side : int
        Number of pixels along this axis.
    sigma : float or None
        Standard deviation of the bumps; None makes none.

    Returns
    -------
    basis : ndarray of shape (side, n_knots + 2)
        The bumps, pixels from the centre, and 1.
    """
    pixels = np.arange(side) - (side - 1) / 2
    bumps = np.empty((side, 0))
    if sigma is not None:
        spacing = _KNOT_SPACING * sigma
        n_knots = ceil((side - 1) / spacing) + 3
        knots = (np.arange(n_knots) - (n_knots - 1) / 2) * spacing
        bumps = np.exp(-(((pixels[:, None] - knots) / sigma) ** 2) / 2)
        bumps /= np.sqrt(np.sum(bumps**2, axis=1, keepdims=True))
    return np.column_stack([bumps, pixels, np.ones(side)])


def make_augmentation(
    augment: str | Callable[[Any, np.random.Generator], Any] | None,
    image_shape: tuple[int, int, int],
) -> Augmentation:
    """Make the augmentation that the estimator's parameter `augment` names.

    Displacements are in proportion to the images' shorter side.

    Parameters
    ----------
    augment : {"affine", "elastic"}, callable or None
    image_shape : tuple (C, H, W)

    Returns
    -------
    augmentation : Augmentation
    """
    if augment is None:
        return NO_AUGMENTATION
    if callable(augment):
        return UserAugmentation(augment, image_shape)
    if augment == "affine":
        return Distortion(image_shape, AFFINE)
    size = min(image_shape[1:]) / ELASTIC_SIDE
    # Noise finer than the pixels would not be smooth
    sigma = max(ELASTIC_SIGMA * size, 1.0)
    # Displacements, proportional to alpha / sigma, grow with the image
    alpha = ELASTIC_ALPHA * size * sigma / ELASTIC_SIGMA
    return Distortion(image_shape, AFFINE_OF_ELASTIC, sigma, alpha)
