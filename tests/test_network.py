"""Whole networks: sizes and parameters, logits and gradients."""

from dataclasses import replace
from itertools import pairwise
from math import prod, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_lenet._loss import softmax_cross_entropy
from sklearn_lenet._network import Architecture, Network, smallest_image

from . import naive
from .helpers import (
    ACTIVATIONS,
    LENET,
    POOLINGS,
    architectures,
    assert_close,
    by_example,
    import_torch,
    make_network,
    numbers,
    pixels,
    random_images,
    random_parameters,
    run,
    seeds,
    small_architecture,
)


@pytest.fixture(scope="module")
def torch():
    return import_torch()


def loss_and_gradient(architecture, parameters, images, labels, weights):
    network, gradient = make_network(architecture, parameters, images)
    network.forward()
    loss = softmax_cross_entropy(np, network.logits, labels, weights)
    network.backward()
    return float(loss), gradient


def assert_gradients_close(architecture, actual, expected, tolerance):
    """Compare layer by layer: a layer of small gradients must not hide behind a larger one's."""
    for actual_parts, expected_parts in zip(
        architecture.views(actual), architecture.views(expected), strict=True
    ):
        for actual_part, expected_part in zip(actual_parts, expected_parts, strict=True):
            assert_close(actual_part, expected_part, tolerance)


class TestArchitecture:
    def test_default_has_lenets_number_of_parameters(self):
        assert LENET.n_parameters == 61_706

    def test_weight_shapes(self):
        assert LENET.weight_shapes() == [
            (6, 1, 5, 5),
            (16, 6, 5, 5),
            (120, 400),
            (84, 120),
            (10, 84),
        ]
        assert LENET.n_weights == 61_706 - (6 + 16 + 120 + 84 + 10)

    @settings(by_example, max_examples=100)
    @given(architectures())
    def test_sizes(self, architecture):
        sizes = naive.image_sizes(architecture)
        convolutions = architecture.convolutions()
        for shape, (before, after) in zip(convolutions, pairwise(sizes), strict=True):
            assert (shape.in_channels, shape.height, shape.width) == before
            assert (shape.out_channels, shape.out_height, shape.out_width) == after
        assert architecture.weight_shapes()[len(convolutions)][1] == prod(sizes[-1])

    def test_views_are_views_of_all_weights_then_all_biases(self):
        architecture = small_architecture(hidden_layer_sizes=(5, 4))
        vector = np.arange(architecture.n_parameters)
        weights, biases = architecture.views(vector)
        assert [weight.shape for weight in weights] == architecture.weight_shapes()
        assert [bias.shape for bias in biases] == [(weight.shape[0],) for weight in weights]
        parts = [*weights, *biases]
        np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts]), vector)
        assert sum(weight.size for weight in weights) == architecture.n_weights
        for part in parts:
            part[...] = -1
        np.testing.assert_array_equal(vector, np.full(architecture.n_parameters, -1))


class TestInitialParameters:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_seed_decides(self, dtype):
        architecture = small_architecture()
        first, second, other = (
            architecture.initial_parameters(np.random.default_rng(seed), dtype)
            for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)
        assert first.dtype == dtype
        assert first.shape == (architecture.n_parameters,)

    @pytest.mark.parametrize(
        ("activation", "gain"), [("relu", sqrt(2)), ("tanh", 1), ("sigmoid", 4)]
    )
    def test_weights_fill_their_bounds_and_biases_are_zero(self, activation, gain):
        architecture = replace(LENET, activation=activation)
        parameters = architecture.initial_parameters(np.random.default_rng(0), np.float64)
        weights, biases = architecture.views(parameters)
        # connections of an input and of an output: kernels of 5 x 5 = 25 pixels
        fans = [25 + 150, 150 + 400, 400 + 120, 120 + 84, 84 + 10]
        for weight, fan in zip(weights, fans, strict=True):
            bound = gain * sqrt(6 / fan)
            assert 0.95 * bound < weight.max() <= bound
            assert -bound <= weight.min() < -0.95 * bound
            assert abs(weight.mean()) < 0.2 * bound
        assert not any(bias.any() for bias in biases)


class TestSmallestImage:
    convolutions = st.lists(
        st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=3
    )

    def test_lenet(self):
        assert smallest_image((5, 5), (1, 1), (2, 0), 2) == 12

    @settings(by_example, max_examples=100)
    @given(convolutions, st.integers(1, 3))
    def test_no_smaller_one_is_legal(self, convolutions, pool_size):
        geometry = tuple(zip(*convolutions, strict=True))
        smallest = smallest_image(*geometry, pool_size)
        assert smallest == naive.smallest_side(*geometry, pool_size)

    @settings(by_example, max_examples=30)
    @given(architectures())
    def test_network_runs_on_it(self, architecture):
        geometry = architecture.kernel_size, architecture.stride, architecture.padding
        side = smallest_image(*geometry, architecture.pool_size)
        architecture = replace(architecture, image_shape=(1, side, side))
        logits_grad = np.ones((2, architecture.n_classes))
        logits, gradient = run(
            architecture,
            random_parameters(architecture),
            random_images(architecture, 2),
            logits_grad,
        )
        assert np.isfinite(logits).all()
        assert np.isfinite(gradient).all()


class TestNaive:
    @settings(by_example, max_examples=200)
    @given(architectures(), st.integers(1, 5), seeds)
    def test_logits_and_gradient(self, architecture, n_samples, seed):
        patches = sum(
            channels * height * width * architecture.pool_size**2
            for channels, height, width in naive.image_sizes(architecture)[1:]
        )
        n_samples = min(n_samples, max(1, 5000 // patches))
        parameters = random_parameters(architecture, seed)
        images = random_images(architecture, n_samples, seed)
        (logits_grad,) = numbers(seed, (n_samples, architecture.n_classes))
        logits, gradient = run(architecture, parameters, images, logits_grad)
        expected_logits, steps = naive.forward(architecture, parameters, images)
        expected, _ = naive.backward(architecture, parameters, steps, logits_grad)
        assert_close(logits, expected_logits, 1e-12)
        assert_gradients_close(architecture, gradient, expected, 1e-9)

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_lenet(self, activation, pooling):
        architecture = replace(LENET, activation=activation, pooling=pooling)
        parameters, images = random_parameters(architecture), random_images(architecture, 2)
        labels, weights = np.array([3, 7]), np.array([0.25, 0.75])
        loss, gradient = loss_and_gradient(architecture, parameters, images, labels, weights)
        expected_loss, expected = naive.loss_and_gradient(
            architecture, parameters, images, labels, weights
        )
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert_gradients_close(architecture, gradient, expected, 1e-10)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
class TestNumericalGradient:
    def test_random_directions(self, activation, pooling):
        architecture = small_architecture(
            activation=activation, pooling=pooling, image_shape=(2, 9, 12), padding=(2, 1)
        )
        generator = np.random.default_rng(5)
        parameters, images = random_parameters(architecture), random_images(architecture, 4)
        labels, weights = np.array([0, 2, 1, 2]), np.array([0.5, 1, 2, 0.1])
        _, gradient = loss_and_gradient(architecture, parameters, images, labels, weights)
        for _ in range(10):
            direction = generator.normal(size=parameters.shape)
            direction /= np.linalg.norm(direction)
            after, before = (
                loss_and_gradient(
                    architecture, parameters + step * direction, images, labels, weights
                )[0]
                for step in (1e-5, -1e-5)
            )
            assert gradient @ direction == pytest.approx(
                (after - before) / 2e-5, abs=1e-8 * np.linalg.norm(gradient)
            )


class TestBuffers:
    """A network is one set of buffers, used again and again."""

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_gradients_do_not_accumulate(self, activation, pooling):
        architecture = small_architecture(activation=activation, pooling=pooling)
        network, gradient = make_network(
            architecture, random_parameters(architecture), random_images(architecture, 4)
        )
        (logits_grad,) = numbers(1, (3, 4))
        results = []
        for _ in range(3):
            network.forward()
            logits = network.logits.copy()
            network.logits[...] = logits_grad
            network.backward()
            results.append((logits, gradient.copy()))
        for logits, grad in results[1:]:
            np.testing.assert_array_equal(logits, results[0][0])
            np.testing.assert_array_equal(grad, results[0][1])

    def test_images_and_parameters_may_change_between_calls(self):
        architecture = small_architecture()
        parameters = random_parameters(architecture)
        network, gradient = make_network(architecture, parameters, random_images(architecture, 4))
        network.forward()
        network.logits[...] = 1
        network.backward()

        parameters[...] = random_parameters(architecture, seed=1)
        network.lay_out()
        images = random_images(architecture, 4, seed=1)
        pixels(network.images)[...] = images
        network.forward()
        logits = network.logits.T.copy()
        (logits_grad,) = numbers(2, (4, 3))
        network.logits[...] = logits_grad.T
        network.backward()
        expected_logits, expected = run(architecture, parameters, images, logits_grad)
        np.testing.assert_array_equal(logits, expected_logits)
        np.testing.assert_array_equal(gradient, expected)

    def test_images_and_parameters_are_only_read(self):
        architecture = small_architecture()
        parameters, images = random_parameters(architecture), random_images(architecture, 4)
        network, _ = make_network(architecture, parameters, images)
        network.forward()
        network.backward()
        np.testing.assert_array_equal(pixels(network.images), images)
        np.testing.assert_array_equal(parameters, random_parameters(architecture))

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_without_gradient_the_logits_are_the_same(self, pooling):
        architecture = small_architecture(pooling=pooling)
        parameters, images = random_parameters(architecture), random_images(architecture, 4)
        network = Network(np, architecture, parameters, None, 4)
        pixels(network.images)[...] = images
        network.forward()
        logits, _ = run(architecture, parameters, images, np.zeros((4, 3)))
        np.testing.assert_array_equal(network.logits.T, logits)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_float32_stays_float32(self, pooling, activation):
        architecture = small_architecture(pooling=pooling, activation=activation)
        parameters = random_parameters(architecture, dtype=np.float32)
        network, gradient = make_network(
            architecture, parameters, random_images(architecture, 4).astype(np.float32)
        )
        network.forward()
        softmax_cross_entropy(np, network.logits, np.arange(4) % 3, np.full(4, 0.25, np.float32))
        network.backward()
        parts = [*network.layers]
        for layer in network.layers[: len(architecture.conv_channels)]:
            parts += [layer.kernels, layer.pool]
        arrays = [parameters, gradient, network.images, network.logits]
        arrays += [
            value
            for part in parts
            for value in vars(part).values()
            if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
        ]
        assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


class TestNotANumber:
    """A diverging fit is found out by its loss: no layer may turn NaN into numbers."""

    @pytest.mark.parametrize("layer", [0, 1, 2, 3])
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_weights(self, activation, pooling, layer):
        architecture = small_architecture(activation=activation, pooling=pooling)
        with np.errstate(invalid="ignore"):
            nan = np.array([np.inf]) - np.inf  # its sign bit is not that of np.nan
        for value in (nan, -nan):
            parameters = random_parameters(architecture)
            architecture.views(parameters)[0][layer][...] = value
            network, _ = make_network(architecture, parameters, random_images(architecture, 2))
            network.forward()
            assert np.isnan(network.logits).all()


class TestSamples:
    """Samples do not know of each other."""

    @pytest.mark.parametrize("n_samples", [2, 33, 150])
    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_batch_is_its_samples_one_by_one(self, pooling, n_samples):
        architecture = replace(LENET, pooling=pooling, activation="relu")
        parameters, images = random_parameters(architecture), random_images(architecture, n_samples)
        (logits_grad,) = numbers(1, (n_samples, 10))
        logits, gradient = run(architecture, parameters, images, logits_grad)
        network, sample_gradient = make_network(architecture, parameters, images[:1])
        sum_of_gradients = np.zeros_like(gradient)
        for n in range(n_samples):
            pixels(network.images)[0] = images[n]
            network.forward()
            assert_close(logits[n], network.logits[:, 0], 1e-11)
            network.logits[:, 0] = logits_grad[n]
            network.backward()
            sum_of_gradients += sample_gradient
        assert_gradients_close(architecture, gradient, sum_of_gradients, 1e-10)

    def test_mean_gradient_of_a_batch_is_that_of_the_batch_twice(self):
        architecture = small_architecture()
        parameters, images = random_parameters(architecture), random_images(architecture, 6)
        labels = np.array([0, 1, 2, 2, 1, 0])
        loss, gradient = loss_and_gradient(
            architecture, parameters, images, labels, np.full(6, 1 / 6)
        )
        loss_twice, gradient_twice = loss_and_gradient(
            architecture,
            parameters,
            np.concatenate([images, images]),
            np.concatenate([labels, labels]),
            np.full(12, 1 / 12),
        )
        assert loss_twice == pytest.approx(loss)
        assert_gradients_close(architecture, gradient_twice, gradient, 1e-12)

    def test_gradient_is_linear_in_the_samples_weights(self):
        architecture = small_architecture()
        parameters, images = random_parameters(architecture), random_images(architecture, 3)
        labels, weights = np.array([0, 1, 2]), np.array([0.5, 3, 0])
        _, gradient = loss_and_gradient(architecture, parameters, images, labels, weights)
        expected = sum(
            weight
            * loss_and_gradient(architecture, parameters, images[[n]], labels[[n]], np.ones(1))[1]
            for n, weight in enumerate(weights)
        )
        assert_gradients_close(architecture, gradient, expected, 1e-12)


# kernel, stride, padding, pool size, channels in, channels out, height, width
GEOMETRIES = [
    (5, 1, 2, 2, 1, 6, 28, 28),
    (5, 1, 0, 2, 6, 16, 14, 14),
    (1, 1, 0, 1, 1, 1, 1, 1),
    (1, 1, 0, 2, 8, 8, 7, 4),
    (2, 2, 2, 2, 3, 4, 8, 12),
    (2, 2, 0, 3, 2, 3, 12, 18),
    (3, 1, 1, 1, 3, 8, 9, 11),
    (3, 2, 1, 2, 1, 5, 15, 9),
    (3, 3, 4, 1, 2, 2, 5, 20),
    (4, 1, 3, 3, 2, 4, 12, 9),
    (4, 3, 2, 2, 4, 2, 16, 13),
    (6, 2, 4, 3, 3, 3, 14, 22),
    (7, 1, 4, 2, 2, 6, 6, 10),
    (7, 3, 0, 3, 1, 3, 25, 30),
]


class TestTorch:
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("geometry", GEOMETRIES)
    def test_one_convolution(self, torch, geometry, activation, pooling, dtype, tolerance):
        kernel_size, stride, padding, pool_size, in_channels, out_channels, *sides = geometry
        architecture = Architecture(
            image_shape=(in_channels, *sides),
            conv_channels=(out_channels,),
            kernel_size=(kernel_size,),
            stride=(stride,),
            padding=(padding,),
            pooling=pooling,
            pool_size=pool_size,
            hidden_layer_sizes=(7,),
            activation=activation,
            n_classes=4,
        )
        self.compare(torch, architecture, dtype, tolerance)

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"image_shape": (3, 32, 20), "conv_channels": (8, 8)},
            {"image_shape": (1, 24, 33), "kernel_size": (4, 2), "stride": (1, 2), "pool_size": 2},
            {"image_shape": (2, 25, 34), "kernel_size": (3, 4), "padding": (3, 3), "pool_size": 3},
            {
                "image_shape": (1, 30, 46),
                "conv_channels": (4, 6, 5),
                "kernel_size": (3, 5, 3),
                "stride": (1, 1, 1),
                "padding": (1, 2, 4),
            },
        ],
        ids=["lenet", "colour", "strides", "thirds", "three"],
    )
    def test_several_convolutions(self, torch, changes, activation, pooling, dtype, tolerance):
        architecture = replace(LENET, activation=activation, pooling=pooling, **changes)
        self.compare(torch, architecture, dtype, tolerance)

    @staticmethod
    def compare(torch, architecture, dtype, tolerance):
        """Compare the logits and the gradients, all relative to the largest of an array."""
        parameters = random_parameters(architecture, dtype=dtype)
        images = random_images(architecture, 5).astype(dtype)
        logits_grad = next(numbers(1, (5, architecture.n_classes))).astype(dtype)
        logits, gradient = run(architecture, parameters, images, logits_grad)

        functional = torch.nn.functional
        pool = {"avg": functional.avg_pool2d, "max": functional.max_pool2d}[architecture.pooling]
        activate = getattr(torch, architecture.activation)
        vector = torch.tensor(parameters, requires_grad=True)
        weights, biases = architecture.views(vector)
        x, n_convolutions = torch.tensor(images), len(architecture.conv_channels)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if layer < n_convolutions:
                stride, padding = architecture.stride[layer], architecture.padding[layer]
                a = functional.conv2d(x, weight, bias, stride, padding)
                x = pool(activate(a), architecture.pool_size)
            else:
                a = functional.linear(x.flatten(1), weight, bias)
                x = activate(a)
        a.backward(torch.tensor(logits_grad))
        assert_close(logits, a.detach().numpy(), tolerance)
        assert_gradients_close(architecture, gradient, vector.grad.numpy(), tolerance)
