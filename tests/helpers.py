"""What several test files share: small networks, and what to draw examples from."""

import re
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sklearn_lenet._network import Architecture, Network

from . import naive

ACTIVATIONS = ("relu", "tanh", "sigmoid")
POOLINGS = ("avg", "max")

# Naive loops are slow, not wrong
by_example = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def without_addresses(value):
    """Name a test's parameter; functions by their names alone, the same in every process."""
    return re.sub(r" at 0x\w+", "", str(value))


def import_torch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    torch.set_num_threads(1)  # the arrays are small
    return torch


def assert_close(actual, expected, tolerance):
    """Assert that the largest difference is at most `tolerance` times the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    if actual.size:
        largest = np.abs(expected).max()
        assert np.abs(actual - expected).max() <= tolerance * largest, (actual, expected)


def small_architecture(**changes):
    """Make a network of two convolutions that the naive loops go through quickly."""
    return Architecture(
        **{
            "image_shape": (1, 10, 8),
            "conv_channels": (2, 3),
            "kernel_size": (3, 2),
            "stride": (1, 1),
            "padding": (1, 0),
            "pooling": "max",
            "pool_size": 2,
            "hidden_layer_sizes": (5,),
            "activation": "relu",
            "n_classes": 3,
            **changes,
        }
    )


LENET = Architecture(
    image_shape=(1, 28, 28),
    conv_channels=(6, 16),
    kernel_size=(5, 5),
    stride=(1, 1),
    padding=(2, 0),
    pooling="avg",
    pool_size=2,
    hidden_layer_sizes=(120, 84),
    activation="tanh",
    n_classes=10,
)


def random_parameters(architecture, seed=0, dtype=np.float64):
    """Draw the weights as a fit does, and the biases, which a fit begins at zero."""
    generator = np.random.default_rng(seed)
    parameters = architecture.initial_parameters(generator, dtype)
    for bias in architecture.views(parameters)[1]:
        bias[...] = generator.uniform(-0.5, 0.5, bias.shape)
    return parameters


def random_images(architecture, n_samples, seed=0):
    return np.random.default_rng(seed).normal(size=(n_samples, *architecture.image_shape))


def pixels(network_images):
    """View a network's images, of shape (H, C, W, N), as (N, C, H, W)."""
    return network_images.transpose(3, 1, 0, 2)


def make_network(architecture, parameters, images):
    """Return a network that holds `images`, (N, C, H, W), and its gradient, NaN for now."""
    gradient = np.full_like(parameters, np.nan)
    network = Network(np, architecture, parameters, gradient, len(images))
    pixels(network.images)[...] = images
    return network, gradient


def run(architecture, parameters, images, logits_grad):
    """Return logits (N, n_classes) and gradient, given the loss' gradient wrt. the logits."""
    network, gradient = make_network(architecture, parameters, images)
    network.forward()
    logits = network.logits.T.copy()
    network.logits[...] = logits_grad.T
    network.backward()
    return logits, gradient


@dataclass
class Convolution:
    """A convolution with its activation and pooling, without any layers around it."""

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    padding: int
    pooling: str
    pool_size: int
    activation: str

    def architecture(self, image_shape, **changes):
        """Make a network of this convolution, and of one dense layer that hands its states on."""
        out_channels, _, kernel_size, _ = self.weight.shape
        out_size = prod(self.out_size(side) for side in image_shape[1:])
        return Architecture(
            **{
                "image_shape": image_shape,
                "conv_channels": (out_channels,),
                "kernel_size": (kernel_size,),
                "stride": (self.stride,),
                "padding": (self.padding,),
                "pooling": self.pooling,
                "pool_size": self.pool_size,
                "hidden_layer_sizes": (),
                "activation": self.activation,
                "n_classes": out_channels * out_size,
                **changes,
            }
        )

    def out_size(self, size):
        convolved = naive.convolved_size(size, self.weight.shape[2], self.stride, self.padding)
        return convolved // self.pool_size

    def out_shape(self, images):
        N, _, H, W = images.shape
        return N, len(self.weight), self.out_size(H), self.out_size(W)

    def run(self, images, output_grad):
        """Return the output and the gradients of weight and bias."""
        architecture = self.architecture(images.shape[1:])
        parameters = np.zeros(architecture.n_parameters, self.weight.dtype)
        weights, biases = architecture.views(parameters)
        weights[0][...], biases[0][...] = self.weight, self.bias
        np.fill_diagonal(weights[1], 1)
        logits, gradient = run(
            architecture, parameters, images, output_grad.reshape(len(images), -1)
        )
        weight_grads, bias_grads = architecture.views(gradient)
        return logits.reshape(output_grad.shape), weight_grads[0], bias_grads[0]

    def input_gradient(self, images, output_grad):
        """Return the gradient with respect to the images, whose pixels lie between 0 and 1.

        A convolution goes before, whose kernels of one pixel hold the images as weights: it has one
        input channel for each pixel of each image, which is 1 at that pixel only. Its pooling
        windows hold a pixel's value p*p times. So the pixel's gradient is that of its weight.
        """
        N, C, H, W = images.shape
        p = self.pool_size
        pixels = N * H * W
        one_hot = np.eye(pixels, dtype=images.dtype).reshape(pixels, N, H, W).swapaxes(0, 1)
        architecture = self.architecture(
            (pixels, p * H, p * W),
            conv_channels=(C, len(self.weight)),
            kernel_size=(1, self.weight.shape[2]),
            stride=(1, self.stride),
            padding=(0, self.padding),
            n_classes=prod(output_grad.shape[1:]),
        )
        parameters = np.zeros(architecture.n_parameters, self.weight.dtype)
        weights, biases = architecture.views(parameters)
        inverse = {"relu": np.array, "tanh": np.arctanh, "sigmoid": lambda x: np.log(x / (1 - x))}
        weights[0][...] = inverse[self.activation](images).swapaxes(0, 1).reshape(C, pixels, 1, 1)
        weights[1][...], biases[1][...] = self.weight, self.bias
        np.fill_diagonal(weights[2], 1)
        _, gradient = run(
            architecture,
            parameters,
            one_hot.repeat(p, axis=2).repeat(p, axis=3),
            output_grad.reshape(N, -1),
        )
        by_pixel = architecture.views(gradient)[0][0].reshape(C, N, H, W).swapaxes(0, 1)
        derivative = {"relu": 1, "tanh": 1 - images**2, "sigmoid": images * (1 - images)}
        return by_pixel / derivative[self.activation]

    def naive_forward(self, images):
        a = naive.convolution(images, self.weight, self.bias, self.stride, self.padding)
        states = naive.each(naive.FUNCTIONS[self.activation], a)
        return a, states, naive.pooling(self.pooling, states, self.pool_size)

    def naive_gradients(self, images, output_grad):
        """Return the gradients of weight, bias and images."""
        a, states, _ = self.naive_forward(images)
        states_grad = naive.pooling_backward(self.pooling, states, self.pool_size, output_grad)
        a_grad = states_grad * naive.each(naive.DERIVATIVES[self.activation], a)
        return naive.convolution_backward(images, self.weight, self.stride, self.padding, a_grad)


@st.composite
def sides(draw, out_size, kernel_size, stride, padding, pool_size):
    """Draw a side that a convolution makes `out_size` or more of, often the smallest.

    Some are multiples of the step from one pooling window to the next: the images of a layer may be
    stored in blocks where they are.
    """
    smallest = max(1, (out_size * pool_size - 1) * stride + kernel_size - 2 * padding)
    step = stride * pool_size
    return draw(
        st.one_of(
            st.just(smallest),
            st.just(ceil(smallest / step) * step),
            st.integers(smallest, smallest + 6),
        )
    )


def numbers(seed, *shapes):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=shape) for shape in shapes)


seeds = st.integers(0, 2**32 - 1)


@st.composite
def convolutions(draw, most_patches=3000, most_pixels=400):
    """Draw a Convolution, images for it, and a gradient with respect to its output.

    `most_patches` bounds the naive loops, `most_pixels` all images' pixels in one channel.
    """
    kernel_size, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    padding, pool_size = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    geometry = kernel_size, stride, padding
    height, width = (draw(sides(1, *geometry, pool_size)) for _ in "HW")
    places = prod(naive.convolved_size(side, *geometry) for side in (height, width))
    in_channels, out_channels = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    most_samples = min(most_patches // (places * out_channels), most_pixels // (height * width), 5)
    n_samples = draw(st.integers(1, max(most_samples, 1)))
    weight, bias, images = numbers(
        draw(seeds),
        (out_channels, in_channels, kernel_size, kernel_size),
        (out_channels,),
        (n_samples, in_channels, height, width),
    )
    convolution = Convolution(
        weight / kernel_size,
        bias,
        stride,
        padding,
        draw(st.sampled_from(POOLINGS)),
        pool_size,
        draw(st.sampled_from(ACTIVATIONS)),
    )
    (output_grad,) = numbers(draw(seeds), convolution.out_shape(images))
    return convolution, 0.5 + np.tanh(images) * 0.4, output_grad


@st.composite
def architectures(draw):
    """Draw a network of up to three convolutions, on images that may be the smallest."""
    n = draw(st.integers(1, 3))
    pool_size = draw(st.integers(1, 3 if n < 3 else 2))
    kernel_size = draw(st.tuples(*[st.integers(1, 6 - n)] * n))
    stride = draw(st.tuples(*[st.integers(1, 2)] * n))
    padding = draw(st.tuples(*[st.integers(0, 4)] * n))
    image_shape = [draw(st.integers(1, 3))]
    for _ in "HW":
        side = 1
        for geometry in reversed(list(zip(kernel_size, stride, padding, strict=True))):
            side = draw(sides(side, *geometry, pool_size))
        image_shape.append(side)
    return Architecture(
        image_shape=tuple(image_shape),
        conv_channels=draw(st.tuples(*[st.integers(1, 3)] * n)),
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        pooling=draw(st.sampled_from(POOLINGS)),
        pool_size=pool_size,
        hidden_layer_sizes=tuple(draw(st.lists(st.integers(1, 6), max_size=2))),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        n_classes=draw(st.integers(1, 4)),
    )
