"""Distortions of training images, against SciPy's interpolation and Simard's elastic fields."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from sklearn_lenet._augmentation import (
    AFFINE,
    AFFINE_OF_ELASTIC,
    ELASTIC_ALPHA,
    ELASTIC_SIGMA,
    make_augmentation,
)

KINDS = ("affine", "elastic")
DTYPES = (np.float32, np.float64)
SHAPES = ((1, 28, 28), (3, 9, 14), (2, 14, 9), (1, 8, 8), (1, 1, 6), (2, 6, 1), (1, 1, 1))

by_kind = pytest.mark.parametrize("kind", KINDS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES)
by_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def random_images(n_samples, shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n_samples, *shape)).astype(dtype)


def affine(augmentation, n=1, dtype=np.float64, rotation=0, scales=(1, 1), shear=0, shifts=(0, 0)):
    """Give maps that displace nothing; all parameters may be numbers or n of them."""

    def each(value):
        return np.broadcast_to(np.asarray(value, float), n)

    return augmentation.affine(
        each(rotation), tuple(map(each, scales)), each(shear), tuple(map(each, shifts)), dtype
    )


def apply(augmentation, images, draws):
    out = np.full_like(images, np.nan)
    augmentation.apply(np, images, draws, out)
    return out


def places(augmentation, draws):
    """Find where the pixels come from, as (N, 2, H, W); the augmentation is that of two channels.

    The images hold their own coordinates, so places beyond the edges show as those at the edges.
    """
    _, H, W = augmentation.image_shape
    coordinates = np.broadcast_to(np.indices((H, W), draws.dtype), (len(draws), 2, H, W))
    return apply(augmentation, coordinates, draws)


def forward_matrix(rotation, scales, shear):
    """Multiply what turns a pixel's (y, x) into where it goes: scales, then shear, then rotation.

    y points downwards, so this rotates counter-clockwise as the image is seen.
    """
    cos, sin = np.cos(rotation), np.sin(rotation)
    return np.array([[cos, -sin], [sin, cos]]) @ [[1, 0], [shear, 1]] @ np.diag(scales)


@by_kind
@by_dtype
@by_shape
class TestEveryShape:
    def test_identity_is_exact(self, kind, dtype, shape):
        augmentation = make_augmentation(kind, shape)
        images = random_images(3, shape, dtype)
        draws = affine(augmentation, 3, dtype)
        np.testing.assert_array_equal(apply(augmentation, images, draws), images)

    def test_places_are_interpolated_as_by_scipy(self, kind, dtype, shape):
        draws = make_augmentation(kind, shape).draw(np.random.default_rng(0), 6, dtype)
        images = random_images(6, shape, dtype)
        found = places(make_augmentation(kind, (2, *shape[1:])), draws)
        expected = [
            [ndimage.map_coordinates(channel, yx, order=1, mode="nearest") for channel in image]
            for image, yx in zip(images.astype(float), found.astype(float), strict=True)
        ]
        actual = apply(make_augmentation(kind, shape), images, draws)
        tolerance = 2e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)

    def test_type_is_kept_and_input_unchanged(self, kind, dtype, shape):
        augmentation = make_augmentation(kind, shape)
        draws = augmentation.draw(np.random.default_rng(0), 4, dtype)
        assert draws.dtype == dtype
        assert len(draws) == 4
        images = random_images(4, shape, dtype)
        images_before, draws_before = images.copy(), draws.copy()
        assert apply(augmentation, images, draws).dtype == dtype
        np.testing.assert_array_equal(images, images_before)
        np.testing.assert_array_equal(draws, draws_before)

    def test_others_in_the_batch_do_not_matter(self, kind, dtype, shape):
        """Not even where they are not finite, or the memory is that of an earlier batch."""
        augmentation = make_augmentation(kind, shape)
        images = random_images(7, shape, dtype)
        draws = augmentation.draw(np.random.default_rng(0), 7, dtype)
        together = apply(augmentation, images, draws)
        for cuts in ([0, 7], [0, 3, 7], [0, 1, 2, 3, 4, 5, 6, 7], [0, 6, 7], [0, 1, 7]):
            shards = [
                apply(augmentation, images[begin:end], draws[begin:end])
                for begin, end in pairwise(cuts)
            ]
            np.testing.assert_array_equal(np.concatenate(shards), together)
        other_images, other_draws = images.copy(), draws[::-1].copy()
        other_images[[0, 1, 2, 4, 5, 6]] = [[[[np.nan]]], [[[np.inf]]]] * 3
        other_draws[3] = draws[3]
        with np.errstate(invalid="ignore"):
            among_others = apply(augmentation, other_images, other_draws)
        np.testing.assert_array_equal(among_others[3], together[3])

    def test_channels_are_distorted_alike(self, kind, dtype, shape):
        images = random_images(5, shape, dtype)
        draws = make_augmentation(kind, shape).draw(np.random.default_rng(0), 5, dtype)
        grey = make_augmentation(kind, (1, *shape[1:]))
        expected = [apply(grey, images[:, [c]], draws) for c in range(shape[0])]
        actual = apply(make_augmentation(kind, shape), images, draws)
        np.testing.assert_array_equal(actual, np.concatenate(expected, axis=1))

    def test_background_stays_clean(self, kind, dtype, shape):
        augmentation = make_augmentation(kind, shape)
        images = np.full((5, *shape), -0.4242, dtype)
        draws = augmentation.draw(np.random.default_rng(0), 5, dtype)
        np.testing.assert_array_equal(apply(augmentation, images, draws), images)


@by_kind
@by_dtype
class TestAffine:
    @pytest.mark.parametrize("shift", [(0, 2), (2, 0), (-1, 3), (-20, 0)])
    def test_shift_by_whole_pixels_is_roll_with_the_edge_repeated(self, kind, dtype, shift):
        shape = 2, 11, 16
        augmentation = make_augmentation(kind, shape)
        images = random_images(3, shape, dtype)
        margin = 20
        padding = (0, 0), (0, 0), (margin, margin), (margin, margin)
        rolled = np.roll(np.pad(images, padding, mode="edge"), shift, axis=(2, 3))
        actual = apply(augmentation, images, affine(augmentation, 3, dtype, shifts=shift))
        np.testing.assert_array_equal(actual, rolled[:, :, margin:-margin, margin:-margin])

    @pytest.mark.parametrize("turns", [1, 2, 3])
    @pytest.mark.parametrize("side", [7, 28])
    def test_quarter_turns_are_rot90(self, kind, dtype, turns, side):
        augmentation = make_augmentation(kind, (2, side, side))
        images = random_images(3, (2, side, side), dtype)
        draws = affine(augmentation, 3, dtype, rotation=turns * np.pi / 2)
        np.testing.assert_allclose(
            apply(augmentation, images, draws),
            np.rot90(images, turns, axes=(2, 3)),
            atol=100 * np.finfo(dtype).eps,
        )

    @pytest.mark.parametrize(
        "parameters",
        [
            {"scales": (1.3, 1)},
            {"scales": (1, 0.8)},
            {"shear": 0.4},
            {"shear": -0.2},
            {"rotation": 0.3},
            {"shifts": (0.25, -1.6)},
            {"rotation": -0.2, "scales": (1.15, 0.9), "shear": 0.15, "shifts": (-1.7, 0.9)},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("size", [(28, 28), (10, 17)], ids=str)
    def test_against_scipy(self, kind, dtype, parameters, size):
        augmentation = make_augmentation(kind, (1, *size))
        images = random_images(2, (1, *size), dtype)
        actual = apply(augmentation, images, affine(augmentation, 2, dtype, **parameters))

        given = {"rotation": 0, "scales": (1, 1), "shear": 0, "shifts": (0, 0), **parameters}
        shifts = np.array(given.pop("shifts"))
        backward = np.linalg.inv(forward_matrix(**given))
        centre = (np.array(size) - 1) / 2
        offset = centre - backward @ (centre + shifts)
        expected = [
            [ndimage.affine_transform(image[0], backward, offset, order=1, mode="nearest")]
            for image in images.astype(float)
        ]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)

    def test_maps_of_one_batch_are_each_their_own(self, kind, dtype):
        augmentation = make_augmentation(kind, (1, 12, 12))
        images = random_images(4, (1, 12, 12), dtype)
        rotations, shears = [0, 0.1, -0.2, 0.3], [0.2, 0, -0.1, 0.1]
        draws = affine(augmentation, 4, dtype, rotation=rotations, shear=shears)
        expected = [
            apply(augmentation, images[[n]], affine(augmentation, 1, dtype, r, shear=s))
            for n, (r, s) in enumerate(zip(rotations, shears, strict=True))
        ]
        actual = apply(augmentation, images, draws)
        np.testing.assert_array_equal(actual, np.concatenate(expected))


@by_kind
class TestDraw:
    @by_dtype
    def test_generator_determines_the_draws(self, kind, dtype):
        augmentation = make_augmentation(kind, (1, 28, 28))
        first, again, other = (
            augmentation.draw(np.random.default_rng(seed), 5, dtype) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any(axis=(1, 2, 3)).all()
        assert len(np.unique(first, axis=0)) == 5

    def test_affine_part_fills_its_ranges(self, kind):
        """The matrix is factored into those of rotation, shear and scales."""
        size = 28, 42
        augmentation = make_augmentation(kind, (2, *size))
        n = 2000
        draws = augmentation.draw(np.random.default_rng(0), n, np.float64)
        draws[:, :, :-2, :-2] = 0
        mapped = places(augmentation, draws)
        middle = mapped[:, :, 13:15, 20:22]  # four pixels around the centre, within the image
        backward = np.stack(
            [
                (middle[:, :, 1] - middle[:, :, 0]).mean(axis=-1),
                (middle[:, :, :, 1] - middle[:, :, :, 0]).mean(axis=-1),
            ],
            axis=-1,
        )
        forward = np.linalg.inv(backward)
        centre = np.array([[13.5], [20.5]])
        shifts = forward @ (centre - middle.mean(axis=(2, 3))[..., None])
        scale_x = np.hypot(forward[:, 0, 1], forward[:, 1, 1])
        scale_y = np.linalg.det(forward) / scale_x
        rotation = np.degrees(np.arctan2(-forward[:, 0, 1], forward[:, 1, 1]))
        shear = np.einsum("ni,ni->n", forward[:, :, 0], forward[:, :, 1]) / (scale_x * scale_y)

        ranges = AFFINE if kind == "affine" else AFFINE_OF_ELASTIC
        drawn = {
            "rotation": (rotation, ranges.rotation),
            "scale_y": (np.log(scale_y), np.log1p(ranges.scale)),
            "scale_x": (np.log(scale_x), np.log1p(ranges.scale)),
            "shear": (shear, ranges.shear),
            "shift_y": (shifts[:, 0, 0], 28 * ranges.shift),
            "shift_x": (shifts[:, 1, 0], 28 * ranges.shift),
        }
        uniform = np.stack([values / largest for values, largest in drawn.values()])
        assert np.abs(uniform).max() <= 1 + 1e-9
        assert (uniform.min(axis=1) < -0.99).all()
        assert (uniform.max(axis=1) > 0.99).all()
        np.testing.assert_allclose(uniform.mean(axis=1), 0, atol=0.05)
        np.testing.assert_allclose(np.cov(uniform), np.eye(6) / 3, atol=0.03)


def displacements(size, n_samples):
    """Draw elastic fields of shape (N, 2, H, W)."""
    augmentation = make_augmentation("elastic", (2, *size))
    draws = augmentation.draw(np.random.default_rng(0), n_samples, np.float64)
    # Enlarged twice, the image takes no pixel from beyond its edges, displaced or not
    without = affine(augmentation, n_samples, scales=(2, 2))
    draws[:, :, -2:, -2:] = without[:, :, -2:, -2:]
    return places(augmentation, draws) - places(augmentation, without)


def correlations(fields, distance, axis):
    """Compute them between pixels so far apart along the axis, one for each pair of places on it.

    Along the other axis they are averaged.
    """
    fields = np.moveaxis(fields, axis, 0)
    n = len(fields) - distance
    return (fields[:n] * fields[distance:]).mean(axis=tuple(range(1, fields.ndim))) / fields.var()


class TestElasticField:
    @pytest.mark.parametrize("size", [(29, 29), (29, 40)], ids=str)
    def test_is_like_noise_at_every_pixel_smoothed(self, size):
        """Smoothed by SciPy, as Simard et al. do; the noise goes on far beyond the edges."""
        sigma, n = ELASTIC_SIGMA, 1000
        H, W = size
        margin = int(5 * sigma)
        noise = np.random.default_rng(1).uniform(-1, 1, (n, H + 2 * margin, W + 2 * margin))
        smoothed = ndimage.gaussian_filter(noise, sigma, axes=(1, 2), truncate=5)
        expected = ELASTIC_ALPHA * smoothed[:, margin:-margin, margin:-margin]
        spread = ELASTIC_ALPHA / (2 * np.sqrt(3 * np.pi) * sigma)  # as documented
        np.testing.assert_allclose(expected.std(), spread, rtol=0.03)

        fields = displacements(size, 1500)
        assert abs((fields[:, 0] * fields[:, 1]).mean()) < 0.03 * spread**2
        assert (abs(fields.mean(axis=(0, 2, 3))) < 0.05 * spread).all()
        np.testing.assert_allclose(fields.std(axis=(0, 2, 3)), expected.std(), rtol=0.04)
        # at each pixel, those in the corners too
        np.testing.assert_allclose(fields.std(axis=0), np.full((2, H, W), spread), rtol=0.1)
        for distance in range(1, int(4 * sigma), 2):
            theory = np.exp(-(distance**2) / (4 * sigma**2))
            for axis in (1, 2):
                actual = correlations(fields, distance, 1 + axis)
                assert abs(actual.mean() - correlations(expected, distance, axis).mean()) < 0.05
                assert (abs(actual - theory) < 0.05).all()

    def test_grows_with_the_image(self):
        small, large = displacements((28, 28), 1000), displacements((56, 56), 1000)
        np.testing.assert_allclose(large.std(), 2 * small.std(), rtol=0.04)
        for distance in (2, 5, 10):
            near = correlations(small, distance, 3).mean()
            far = correlations(large, 2 * distance, 3).mean()
            assert abs(near - far) < 0.04

    def test_samples_and_components_differ(self):
        fields = displacements((28, 28), 3).reshape(6, -1)
        assert np.abs(np.corrcoef(fields) - np.eye(6)).max() < 0.9

    def test_small_images_are_displaced_smoothly(self):
        """The displacements of neighbours agree, though sigma would be less than a pixel."""
        fields = displacements((4, 40), 500)
        spread = fields.std()
        assert spread < 0.3
        assert np.diff(fields, axis=3).std() < 0.8 * spread


@by_kind
def test_arrays_may_have_any_strides(kind):
    shape = 2, 9, 12
    augmentation = make_augmentation(kind, shape)
    images = random_images(5, shape, np.float32)
    draws = augmentation.draw(np.random.default_rng(0), 5, np.float32)
    expected = apply(augmentation, images, draws)
    out = np.empty((9, 2, 12, 5), np.float32).transpose(3, 1, 0, 2)
    augmentation.apply(np, np.asfortranarray(images), np.asfortranarray(draws), out)
    np.testing.assert_array_equal(out, expected)


@by_kind
def test_threads_may_share_an_augmentation(kind):
    augmentation = make_augmentation(kind, (1, 28, 28))
    images = random_images(64, (1, 28, 28), np.float32)
    draws = augmentation.draw(np.random.default_rng(0), 64, np.float32)
    expected = apply(augmentation, images, draws)

    def work(begin):
        part = slice(begin, begin + 32)
        return all(
            np.array_equal(apply(augmentation, images[part], draws[part]), expected[part])
            for _ in range(100)
        )

    with ThreadPoolExecutor(2) as executor:
        assert all(executor.map(work, (0, 32)))
