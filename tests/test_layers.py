"""Activations, convolutions with pooling, and dense layers, against the naive loops."""

import numpy as np
import pytest
from hypothesis import given, settings

from sklearn_lenet._activations import ACTIVATIONS as CLASSES

from . import naive
from .helpers import (
    ACTIVATIONS,
    POOLINGS,
    Convolution,
    assert_close,
    by_example,
    convolutions,
    numbers,
    random_images,
    random_parameters,
    run,
    small_architecture,
)

# Both signs of zero, numbers that the activations hardly bend, and numbers that saturate them
PRE_ACTIVATIONS = [0.0, -0.0, 1e-30, -1e-30, 1e-3, -1e-3, 0.5, -0.5, 2.0, -2.0, 30.0, -30.0]


def activate(name, z):
    output = z.copy()
    CLASSES[name](np, output).forward()
    return output


def derive(name, z, output_grad):
    """Return the gradient with respect to z, given that with respect to the activation of z."""
    array = z.copy()
    activation = CLASSES[name](np, array)
    activation.forward()
    activation.backward(output_grad)
    return array


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
class TestActivations:
    def test_function(self, name, dtype):
        z = np.array(PRE_ACTIVATIONS, dtype)
        expected = naive.each(naive.FUNCTIONS[name], z)
        np.testing.assert_allclose(activate(name, z), expected, rtol=0, atol=np.finfo(dtype).eps)

    def test_derivative(self, name, dtype):
        z = np.array(PRE_ACTIVATIONS, dtype)
        output_grad = np.linspace(-3, 5, len(z)).astype(dtype)
        expected = output_grad * naive.each(naive.DERIVATIVES[name], z)
        np.testing.assert_allclose(
            derive(name, z, output_grad), expected, rtol=0, atol=10 * np.finfo(dtype).eps
        )

    def test_gradient_is_broadcast(self, name, dtype):
        z = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(dtype)
        output_grad = np.arange(1, 16, dtype=dtype).reshape(3, 5)
        np.testing.assert_array_equal(
            derive(name, z, output_grad), derive(name, z, np.tile(output_grad, (4, 1, 1)))
        )

    def test_output_gradient_is_left_alone(self, name, dtype):
        output_grad = np.arange(12, dtype=dtype)
        derive(name, np.array(PRE_ACTIVATIONS, dtype), output_grad)
        np.testing.assert_array_equal(output_grad, np.arange(12))

    def test_huge_numbers(self, name, dtype):
        z = np.array([1e4, -1e4], dtype)
        with np.errstate(all="raise"):
            output = activate(name, z)
            gradient = derive(name, z, np.full(2, 3, dtype))
        high, low, slope = {"relu": (1e4, 0, 1), "tanh": (1, -1, 0), "sigmoid": (1, 0, 0)}[name]
        np.testing.assert_array_equal(output, [high, low])
        np.testing.assert_array_equal(gradient, [3 * slope, 0])

    def test_nan_stays(self, name, dtype):
        z = np.array([np.nan, -np.nan], dtype)
        assert np.isnan(activate(name, z)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 7, 16, 100])
class TestReLU:
    """The derivative works on whole arrays, whatever signs and zeros lie side by side."""

    def test_gradient_passes_where_positive_only(self, n, dtype):
        z = np.resize(np.array([-2, 0.0, 3, -0.0, 1e-30, -1e-30, 0.5], dtype), n)
        gradient = np.arange(1, n + 1, dtype=dtype) * -1.5
        np.testing.assert_array_equal(derive("relu", z, gradient), np.where(z > 0, gradient, 0))

    def test_no_gradient_at_either_zero(self, n, dtype):
        for zero in (0.0, -0.0):
            gradient = derive("relu", np.full(n, zero, dtype), np.full(n, 2.5, dtype))
            np.testing.assert_array_equal(gradient, np.zeros(n))


class TestConvolution:
    @settings(by_example, max_examples=200)
    @given(convolutions())
    def test_output_and_parameters_gradient(self, drawn):
        convolution, images, output_grad = drawn
        output, weight_grad, bias_grad = convolution.run(images, output_grad)
        _, _, expected = convolution.naive_forward(images)
        expected_weight_grad, expected_bias_grad, _ = convolution.naive_gradients(
            images, output_grad
        )
        assert_close(output, expected, 1e-12)
        assert_close(weight_grad, expected_weight_grad, 1e-10)
        assert_close(bias_grad, expected_bias_grad, 1e-10)

    @settings(by_example, max_examples=200)
    @given(convolutions())
    def test_input_gradient(self, drawn):
        convolution, images, output_grad = drawn
        _, _, expected = convolution.naive_gradients(images, output_grad)
        assert_close(convolution.input_gradient(images, output_grad), expected, 1e-10)

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("padding", [0, 1, 2, 3, 4])
    @pytest.mark.parametrize("stride", [1, 2, 3])
    def test_every_stride_and_padding(self, stride, padding, pooling):
        weight, bias, images = numbers(0, (2, 2, 3, 3), (2,), (2, 2, 9, 12))
        images = 0.5 + 0.4 * np.tanh(images)
        convolution = Convolution(weight, bias, stride, padding, pooling, 2, "tanh")
        (output_grad,) = numbers(1, convolution.out_shape(images))
        output, *parameter_grads = convolution.run(images, output_grad)
        assert_close(output, convolution.naive_forward(images)[2], 1e-12)
        grads = [*parameter_grads, convolution.input_gradient(images, output_grad)]
        for grad, expected in zip(
            grads, convolution.naive_gradients(images, output_grad), strict=True
        ):
            assert_close(grad, expected, 1e-10)

    def test_worked_example(self):
        image = np.array([[1, 2, 0, 1], [0, 1, 3, 1], [2, 0, 1, 0], [1, 1, 0, 2]], float)
        convolution = Convolution(
            weight=np.array([[[[1.0, 0], [0, -1]]]]),
            bias=np.array([0.5]),
            stride=1,
            padding=0,
            pooling="avg",
            pool_size=3,
            activation="relu",
        )
        # weighted sums 1 - 1, 2 - 3, 0 - 1; 0 - 0, 1 - 1, 3 - 0; 2 - 1, 0 - 0, 1 - 2; plus 1/2
        output, weight_grad, bias_grad = convolution.run(
            image[None, None], np.full((1, 1, 1, 1), 9.0)
        )
        assert output.item() == pytest.approx((0.5 + 0.5 + 0.5 + 3.5 + 1.5 + 0.5) / 9)
        # positive at 6 places: the pixels above them are 1, 0, 1, 3, 2, 0 and those below 1, 0, 1,
        # 0, 1, 0
        assert bias_grad.item() == pytest.approx(6)
        assert weight_grad[0, 0, 0, 0] == pytest.approx(1 + 0 + 1 + 3 + 2 + 0)
        assert weight_grad[0, 0, 1, 1] == pytest.approx(1 + 0 + 1 + 0 + 1 + 0)

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_pixels_that_fill_no_window_have_no_gradient(self, pooling):
        weight, images = numbers(0, (1, 1, 1, 1), (1, 1, 5, 7))
        images = 0.5 + 0.4 * np.tanh(images)
        convolution = Convolution(weight, np.full(1, 9.0), 1, 0, pooling, 3, "relu")
        grad = convolution.input_gradient(images, np.ones((1, 1, 1, 2)))[0, 0]
        assert not grad[3:].any()
        assert not grad[:, 6:].any()
        assert grad[:3, :3].any()
        assert grad[:3, 3:6].any()

    def test_every_bias_has_the_sum_of_its_weighted_sums_gradients(self):
        weight, images, output_grad = numbers(0, (3, 2, 3, 3), (4, 2, 8, 6), (4, 3, 3, 2))
        convolution = Convolution(weight, np.full(3, 99.0), 1, 0, "avg", 2, "relu")
        _, _, bias_grad = convolution.run(images, output_grad)
        np.testing.assert_allclose(bias_grad, output_grad.sum(axis=(0, 2, 3)))


class TestMaxPoolingTies:
    @staticmethod
    def gradient(image, size, output_grad):
        """Pool the image, by a kernel that is the number 1, and return its gradient."""
        convolution = Convolution(np.ones((1, 1, 1, 1)), np.zeros(1), 1, 0, "max", size, "relu")
        images, output_grad = np.array(image, float)[None, None], np.array(output_grad, float)
        return convolution.input_gradient(images, output_grad[None, None])[0, 0]

    @pytest.mark.parametrize("size", [2, 3])
    def test_first_of_equal_pixels_gets_all(self, size):
        output_grad = [[3.0, -5.0], [7.0, 11.0]]
        expected = np.zeros((2 * size, 2 * size))
        expected[::size, ::size] = output_grad
        image = np.full((2 * size, 2 * size), 0.5)
        np.testing.assert_array_equal(self.gradient(image, size, output_grad), expected)

    @pytest.mark.parametrize(
        ("image", "first"),
        [
            ([[0.25, 0.5], [0.5, 0.5]], (0, 1)),
            ([[0.25, 0.25], [0.5, 0.5]], (1, 0)),
            ([[0.5, 0.25], [0.25, 0.5]], (0, 0)),
            ([[0.25, 0.5], [0.5, 0.25]], (0, 1)),
        ],
    )
    def test_first_is_by_rows(self, image, first):
        grad = self.gradient(image, 2, [[4.0]])
        assert grad[first] == 4
        assert np.count_nonzero(grad) == 1

    @pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
    def test_saturated_units_tie(self, activation):
        weight, bias = np.full((1, 1, 1, 1), 1e4), np.full(1, 1e4)
        convolution = Convolution(weight, bias, 1, 0, "max", 2, activation)
        images, output_grad = np.full((2, 1, 4, 4), 0.5), np.ones((2, 1, 2, 2))
        output, weight_grad, bias_grad = convolution.run(images, output_grad)
        np.testing.assert_array_equal(output, np.ones((2, 1, 2, 2)))
        np.testing.assert_array_equal(weight_grad, np.zeros((1, 1, 1, 1)))
        np.testing.assert_array_equal(bias_grad, [0])

    def test_small_integers(self):
        """Weights and pixels of few values make many ties, and sums without rounding errors."""
        generator = np.random.default_rng(0)
        for kernel_size, stride, padding, pool_size in [(2, 1, 1, 2), (3, 2, 2, 2), (1, 1, 0, 3)]:
            weight = generator.integers(-1, 2, (2, 2, kernel_size, kernel_size)).astype(float)
            convolution = Convolution(
                weight, np.array([1.0, 0]), stride, padding, "max", pool_size, "relu"
            )
            images = generator.choice([0.25, 0.5], (3, 2, 9, 11))
            output_grad = generator.integers(-4, 5, convolution.out_shape(images)).astype(float)
            _, weight_grad, bias_grad = convolution.run(images, output_grad)
            input_grad = convolution.input_gradient(images, output_grad)
            expected = convolution.naive_gradients(images, output_grad)
            np.testing.assert_array_equal(weight_grad, expected[0])
            np.testing.assert_array_equal(bias_grad, expected[1])
            np.testing.assert_array_equal(input_grad, expected[2])


class TestDense:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("hidden", [(), (1,), (6,), (4, 7), (3, 2, 5)])
    @pytest.mark.parametrize("n_samples", [1, 5])
    def test_against_naive(self, activation, hidden, n_samples):
        architecture = small_architecture(
            image_shape=(2, 3, 2),
            conv_channels=(3,),
            kernel_size=(1,),
            stride=(1,),
            padding=(0,),
            pool_size=1,
            hidden_layer_sizes=hidden,
            activation=activation,
        )
        parameters = random_parameters(architecture)
        images = random_images(architecture, n_samples)
        (logits_grad,) = numbers(1, (n_samples, 3))
        logits, gradient = run(architecture, parameters, images, logits_grad)
        expected_logits, steps = naive.forward(architecture, parameters, images)
        assert_close(logits, expected_logits, 1e-12)
        expected, _ = naive.backward(architecture, parameters, steps, logits_grad)
        for actual_part, expected_part in zip(
            (part for parts in architecture.views(gradient) for part in parts),
            (part for parts in naive.unflatten(architecture, expected) for part in parts),
            strict=True,
        ):
            assert_close(actual_part, expected_part, 1e-10)
