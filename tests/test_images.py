"""From rows of features to the images that the network reads."""

from math import isqrt, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_lenet._images import (
    ImageLayout,
    ImageLoader,
    PixelRanges,
    image_moments,
    infer_image_shape,
    is_square_colour,
    pixel_statistics,
)
from sklearn_lenet._network import Network

from .helpers import by_example, pixels, seeds, small_architecture


def loader_and_images(layout, n_samples, dtype=np.float64):
    """Bind a loader to a network; return it with a view (N, C, H, W) of the network's images."""
    architecture = small_architecture(image_shape=layout.canvas_shape)
    parameters = np.zeros(architecture.n_parameters, dtype)
    network = Network(np, architecture, parameters, None, n_samples)
    images = network.images
    images[...] = 99
    return ImageLoader(np, layout, images), pixels(images)


def load(layout, rows, dtype=np.float64):
    loader, images = loader_and_images(layout, len(rows), dtype)
    loader.load(rows)
    return images


def naive_images(layout, rows):
    """Scale, lay out, repeat and centre pixel by pixel."""
    C, H, W = layout.image_shape
    zoom, (_, height, width) = layout.zoom, layout.canvas_shape
    top, left = (height - H * zoom) // 2, (width - W * zoom) // 2
    images = np.zeros((len(rows), C, height, width))
    for n, c, y, x in np.ndindex(len(rows), C, H * zoom, W * zoom):
        feature = (c * H + y // zoom) * W + x // zoom
        if feature < layout.n_features:
            value = (float(rows[n, feature]) - layout.mean) * layout.scale
            images[n, c, top + y, left + x] = value
    return images


class TestImageLoader:
    @settings(by_example, max_examples=100)
    @given(
        image_shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
        missing=st.integers(0, 5),
        zoom=st.integers(1, 4),
        margins=st.tuples(st.integers(0, 5), st.integers(0, 5)),
        n_samples=st.integers(1, 4),
        seed=seeds,
    )
    def test_against_naive(self, image_shape, missing, zoom, margins, n_samples, seed):
        C, H, W = image_shape
        height, width = (
            max(side * zoom + margin, 8) for side, margin in zip((H, W), margins, strict=True)
        )
        n_features = max(C * H * W - missing, 1)
        layout = ImageLayout(image_shape, n_features, zoom, (C, height, width), 0.3, 1.7)
        rows = np.random.default_rng(seed).normal(size=(n_samples, n_features))
        np.testing.assert_allclose(load(layout, rows), naive_images(layout, rows), rtol=1e-14)

    def test_zoom_and_margin(self):
        layout = ImageLayout((1, 1, 2), 2, 3, (1, 9, 8), 0.0, 1.0)
        expected = np.zeros((9, 8))
        expected[3:6, 1:4], expected[3:6, 4:7] = 5, 6
        np.testing.assert_array_equal(load(layout, np.array([[5.0, 6.0]]))[0, 0], expected)

    def test_missing_cells_are_zero_whatever_the_mean(self):
        layout = ImageLayout((1, 8, 8), 60, 1, (1, 8, 8), 7.0, 2.0)
        image = load(layout, np.full((1, 60), 8.0)).reshape(-1)
        np.testing.assert_array_equal(image, [2.0] * 60 + [0.0] * 4)

    def test_channel_by_channel_row_by_row(self):
        layout = ImageLayout((3, 8, 9), 216, 1, (3, 8, 9), 0.0, 1.0)
        rows = np.arange(2 * 216.0).reshape(2, 216)
        np.testing.assert_array_equal(load(layout, rows), rows.reshape(2, 3, 8, 9))

    @pytest.mark.parametrize(
        "dtype",
        [np.uint8, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64, np.bool_],
    )
    def test_types_of_features(self, dtype):
        layout = ImageLayout((1, 8, 8), 64, 1, (1, 8, 8), 0.75, 0.5)
        rows = np.arange(64).reshape(1, 64).astype(dtype)
        expected = (rows.astype(np.float64).reshape(8, 8) - 0.75) * 0.5
        for image_dtype in (np.float32, np.float64):
            images = load(layout, rows, image_dtype)
            assert images.dtype == image_dtype
            np.testing.assert_array_equal(images[0, 0], expected)

    def test_all_pixels_of_a_byte(self):
        layout = ImageLayout((1, 16, 16), 256, 1, (1, 16, 16), 127.5, 1 / 128)
        rows = np.arange(256, dtype=np.uint8).reshape(1, 256)
        expected = (np.arange(256) - 127.5) / 128
        np.testing.assert_array_equal(load(layout, rows, np.float32).reshape(-1), expected)

    def test_far_offset_keeps_its_digits(self):
        layout = ImageLayout((1, 8, 8), 64, 1, (1, 8, 8), 1e8, 1.0)
        noise = np.random.default_rng(0).normal(size=(1, 64))
        images = load(layout, 1e8 + noise, np.float32)
        np.testing.assert_allclose(images.reshape(1, 64), noise, rtol=0, atol=1e-6)

    def test_second_load_replaces_the_first(self):
        layout = ImageLayout((1, 4, 3), 10, 2, (1, 10, 9), 0.5, 2.0)
        first, second = np.random.default_rng(0).normal(size=(2, 3, 10))
        loader, images = loader_and_images(layout, 3)
        loader.load(first)
        loader.load(second)
        np.testing.assert_array_equal(images, load(layout, second))

    def test_rows_are_only_read(self):
        layout = ImageLayout((1, 8, 8), 64, 1, (1, 8, 8), 0.5, 2.0)
        rows = np.ones((2, 64))
        rows.flags.writeable = False
        np.testing.assert_array_equal(load(layout, rows), np.ones((2, 1, 8, 8)))


class TestFitting:
    def test_large_images_are_left_as_they_are(self):
        layout = ImageLayout.fitting((3, 28, 31), 2604, 12, 4, 0.5, 2.0)
        assert layout == ImageLayout((3, 28, 31), 2604, 1, (3, 28, 31), 0.5, 2.0)

    @pytest.mark.parametrize(
        ("shape", "zoom", "canvas"),
        [
            ((1, 12, 12), 1, (1, 12, 12)),
            ((1, 8, 8), 2, (1, 16, 16)),
            ((2, 11, 30), 2, (2, 24, 60)),
            ((1, 5, 3), 4, (1, 20, 12)),
            ((1, 1, 1), 12, (1, 12, 12)),
            ((1, 2, 1), 12, (1, 24, 12)),
        ],
    )
    def test_small_images_are_enlarged(self, shape, zoom, canvas):
        layout = ImageLayout.fitting(shape, 1, 12, 4, 0.0, 1.0)
        assert (layout.zoom, layout.canvas_shape) == (zoom, canvas)

    @settings(by_example, max_examples=100)
    @given(*[st.integers(1, 40)] * 3, st.integers(1, 12))
    def test_smallest_zoom_and_canvas(self, height, width, smallest, multiple):
        layout = ImageLayout.fitting((1, height, width), 1, smallest, multiple, 0.0, 1.0)
        zoom = layout.zoom
        assert zoom * min(height, width) >= smallest
        assert zoom == 1 or (zoom - 1) * min(height, width) < smallest
        for side, canvas in zip((height, width), layout.canvas_shape[1:], strict=True):
            if zoom == 1:
                assert canvas == side
            else:
                assert canvas % multiple == 0
                assert 0 <= canvas - zoom * side < multiple


class TestGuesses:
    @pytest.mark.parametrize(
        ("n_features", "shape"),
        [
            (1, (1, 1, 1)),
            (2, (1, 2, 1)),
            (3, (1, 2, 2)),
            (10, (1, 4, 3)),
            (30, (1, 6, 5)),
            (64, (1, 8, 8)),
            (784, (1, 28, 28)),
            (2914, (1, 54, 54)),
        ],
    )
    def test_shape_of_flat_rows(self, n_features, shape):
        assert infer_image_shape(n_features) == shape

    def test_smallest_nearly_square_image_that_holds_all(self):
        for n_features in range(1, 2000):
            _, height, width = infer_image_shape(n_features)
            assert height * width >= n_features
            assert 0 <= height - width <= 1
            shorter = (height - 1, width) if height > width else (height, width - 1)
            assert shorter[0] * shorter[1] < n_features

    @pytest.mark.parametrize(
        ("n_features", "expected"),
        [
            (3072, True),  # 3 x 32 x 32
            (768, True),  # 3 x 16 x 16
            (192, True),  # 3 x 8 x 8, the smallest
            (147, False),  # 3 x 7 x 7
            (784, False),  # 28 x 28
            (12, False),
            (1, False),
            (3071, False),
            (3073, False),
            (3074, False),
        ],
    )
    def test_colour(self, n_features, expected):
        assert is_square_colour(n_features) is expected

    def test_colour_is_no_grey_square(self):
        squares = [side * side for side in range(1, 200)]
        assert not any(is_square_colour(square) for square in squares)
        assert all(is_square_colour(3 * square) == (isqrt(square) >= 8) for square in squares)


def mean_and_scale(X, weights, rows):
    statistics = pixel_statistics(X, weights, rows)
    return statistics.mean, statistics.scale


class TestMeanAndScale:
    @staticmethod
    def expected(X, weights):
        weights = np.repeat(weights, X.shape[1]).astype(np.float64)
        features = X.astype(np.float64).ravel()
        mean = np.average(features, weights=weights)
        return mean, 1 / sqrt(np.average((features - mean) ** 2, weights=weights))

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
    @pytest.mark.parametrize("n_samples", [1, 5, 1024, 1025, 2500])
    def test_against_numpys_average(self, n_samples, dtype):
        generator = np.random.default_rng(0)
        X = (generator.random((n_samples, 7)) * 255).astype(dtype)
        weights = generator.random(n_samples)
        actual = mean_and_scale(X, weights, np.arange(n_samples))
        assert actual == pytest.approx(self.expected(X, weights), rel=1e-12)

    def test_rows(self):
        generator = np.random.default_rng(0)
        X, weights = generator.random((50, 3)), generator.random(50)
        rows = np.array([40, 3, 17, 3])
        actual = mean_and_scale(X, weights, rows)
        assert actual == pytest.approx(self.expected(X[rows], weights[rows]), rel=1e-12)

    def test_weight_is_repetition(self):
        X = np.random.default_rng(0).random((6, 3))
        weights = np.array([1.0, 2, 0, 3, 1, 1])
        rows = np.repeat(np.arange(6), weights.astype(int))
        assert mean_and_scale(X, weights, np.arange(6)) == pytest.approx(
            mean_and_scale(X, np.ones(6), rows), rel=1e-12
        )

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("value", [0.0, 0.1, -0.7, 1 / 3, 255.0, 1e5 + 0.3, 1e8, 1e-9])
    @pytest.mark.parametrize("n_samples", [1, 3, 1000, 5000, 300_000])
    def test_constant_features_have_scale_1(self, n_samples, value, dtype):
        X = np.full((n_samples, 1), value, dtype)
        for weights in (np.ones(n_samples), np.random.default_rng(0).random(n_samples) + 0.1):
            mean, scale = mean_and_scale(X, weights, np.arange(n_samples))
            assert mean == pytest.approx(float(X[0, 0]), rel=1e-12)
            assert scale == 1

    @pytest.mark.parametrize("size", [1e-300, 1e-170, 1e-12, 1e-3, 1e9, 1e160, 1e307])
    def test_features_of_any_size(self, size):
        noise = np.random.default_rng(0).normal(size=(2000, 4))
        mean, scale = mean_and_scale(size * noise, np.ones(2000), np.arange(2000))
        assert mean == pytest.approx(size * noise.mean(), rel=1e-10)
        assert scale == pytest.approx(1 / (size * noise.std()), rel=1e-10)

    @pytest.mark.parametrize("offset", [1e8, -1e8, 1e11])
    def test_noise_on_a_huge_offset(self, offset):
        noise = np.random.default_rng(0).normal(size=(2000, 4))
        mean, scale = mean_and_scale(offset + noise, np.ones(2000), np.arange(2000))
        assert mean == pytest.approx(offset + noise.mean(), rel=1e-15)
        assert scale == pytest.approx(1 / noise.std(), rel=1e-5)

    def test_bytes_do_not_overflow(self):
        X = np.tile(np.array([0, 255], np.uint8), (3000, 50))
        mean, scale = mean_and_scale(X, np.ones(3000), np.arange(3000))
        assert (mean, scale) == pytest.approx((127.5, 1 / 127.5))

    def test_result_is_plain_numbers(self):
        for X in (np.eye(3), np.ones((3, 3), np.float32)):
            mean, scale = mean_and_scale(X, np.ones(3), np.arange(3))
            assert type(mean) is float
            assert type(scale) is float


class TestRanges:
    def test_are_those_of_single_images(self):
        X = np.random.default_rng(0).integers(0, 256, (2000, 30)).astype(np.uint8)
        statistics = pixel_statistics(X, np.ones(2000), np.arange(5, 1900))
        taken = (X[5:1900] - statistics.mean) * statistics.scale
        ranges = statistics.ranges
        assert ranges.values == (X.min(), X.max())
        means, deviations = taken.mean(axis=1), taken.std(axis=1)
        assert ranges.means == pytest.approx((means.min(), means.max()), rel=1e-9)
        assert ranges.deviations == pytest.approx((deviations.min(), deviations.max()), rel=1e-9)
        layout = ImageLayout((1, 5, 6), 30, 1, (1, 5, 6), statistics.mean, statistics.scale)
        np.testing.assert_allclose(image_moments(X[5:1900], layout), (means, deviations), atol=1e-6)

    def test_nearly_constant_images_have_no_part(self):
        X = np.random.default_rng(0).normal(100, 20, (50, 64))
        expected = pixel_statistics(X, np.ones(50), np.arange(50)).ranges.deviations
        flat = np.vstack([X, np.full((5, 64), 100.0), 100 + 0.01 * X[:5]])
        actual = pixel_statistics(flat, np.ones(60), np.arange(60)).ranges.deviations
        assert actual[1] / actual[0] == pytest.approx(expected[1] / expected[0])

    def test_constant_features(self):
        statistics = pixel_statistics(np.full((4, 9), 7), np.ones(4), np.arange(4))
        assert statistics.ranges.values == (7, 7)
        assert statistics.ranges.deviations == (0, 0)

    def test_joined(self):
        a, b = PixelRanges((0, 1), (2, 5), (3, 4)), PixelRanges((-1, 0), (3, 7), (1, 2))
        assert a.joined(b) == PixelRanges((-1, 1), (2, 7), (1, 4))


class TestExtremes:
    """At most one feature in 10,000 that makes more than half of the variance."""

    def find(self, X):
        return pixel_statistics(X, np.ones(len(X)), np.arange(len(X))).extreme

    @pytest.mark.parametrize("value", [1e20, -1e6, 3.4e38, 1e300])
    def test_one(self, value):
        X = np.random.default_rng(0).integers(0, 256, (500, 100)).astype(np.float64)
        X[7, 3] = value
        assert self.find(X) == (7, 3, value)

    def test_some(self):
        """Five of 50,000, in rows that are not all taken."""
        X = np.random.default_rng(0).normal(size=(1000, 50))
        places = np.arange(100, 600, 100)
        X[places, 9] = -9999
        row, feature, value = pixel_statistics(X, np.ones(1000), np.arange(50, 1000)).extreme
        assert row in places
        assert (feature, value) == (9, -9999)
        X[:, 9] = -9999
        assert self.find(X) is None

    @pytest.mark.parametrize(
        "X",
        [
            np.eye(20_000, 11_000, dtype=np.uint8)[:300],
            np.random.default_rng(0).poisson(0.01, (500, 400)),
            np.random.default_rng(0).normal(size=(1000, 100)),
            np.zeros((1000, 100)),
            (np.random.default_rng(0).random((1000, 784)) < 1e-4).astype(float),
            np.where(np.arange(10 * 784).reshape(10, 784) == 5, 1e20, 1.0),  # a set of 10 rows
        ],
        ids=["one-hot", "counts", "noise", "zeros", "sparse", "few"],
    )
    def test_none(self, X):
        assert self.find(X) is None


class TestFeaturesBeyondFloat32:
    """They are scaled before they are converted."""

    @pytest.mark.parametrize("size", [1e-300, 1e-60, 1e-42, 1e42, 1e100, 1e300])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_scaled(self, size, dtype):
        noise = np.random.default_rng(0).normal(3, 2, (20, 64))
        layout = ImageLayout((1, 8, 8), 64, 1, (1, 8, 8), 3 * size, 0.5 / size)
        images = np.zeros((8, 1, 8, 20), dtype)
        ImageLoader(np, layout, images).load(noise * size)
        expected = ((noise - 3) / 2).T.reshape(8, 1, 8, 20)
        np.testing.assert_allclose(images, expected, atol=1e-6)
