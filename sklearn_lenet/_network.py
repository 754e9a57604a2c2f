"""LeNet: its sizes, its parameters in one flat vector, and its layers on one set of buffers."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod, sqrt
from types import ModuleType
from typing import Any

import numpy as np

from ._backend import zeros
from ._layers import ConvPool, ConvPoolShape, Dense, KernelMatrix

# Glorot and Bengio (2010) for tanh; He et al. (2015) for ReLU, which halves the variance; the
# sigmoid is a tanh of half the slope and half the height.
_GAINS = {"relu": sqrt(2), "tanh": 1.0, "sigmoid": 4.0}


@dataclass(frozen=True)
class Architecture:
    """What a network's parameters mean.

    Attributes
    ----------
    image_shape : tuple (C, H, W)
        Of the images that the first convolution reads.
    conv_channels, kernel_size, stride, padding : tuples of int, one for each convolution
    pooling : {"avg", "max"}
    pool_size : int
        Side of the pooling windows behind each convolution.
    hidden_layer_sizes : tuple of int
        Outputs of the dense layers before the last.
    activation : {"relu", "tanh", "sigmoid"}
    n_classes : int
    """

    image_shape: tuple[int, int, int]
    conv_channels: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    pooling: str
    pool_size: int
    hidden_layer_sizes: tuple[int, ...]
    activation: str
    n_classes: int

    def convolutions(self) -> list[ConvPoolShape]:
        """Sizes of the convolutions, in order."""
        shapes: list[ConvPoolShape] = []
        channels, height, width = self.image_shape
        for out_channels, kernel_size, stride, padding in zip(
            self.conv_channels, self.kernel_size, self.stride, self.padding, strict=True
        ):
            shape = ConvPoolShape(
                in_channels=channels,
                height=height,
                width=width,
                out_channels=out_channels,
                kernel_size=kernel_size,
                stride=stride,
                padding=padding,
                pool_size=self.pool_size,
            )
            shapes.append(shape)
            channels, height, width = out_channels, shape.out_height, shape.out_width
        return shapes

    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the layers' weights, outputs first; the biases have the first axis' length."""
        convolutions = self.convolutions()
        shapes: list[tuple[int, ...]] = [
            (shape.out_channels, shape.in_channels, shape.kernel_size, shape.kernel_size)
            for shape in convolutions
        ]
        last = convolutions[-1]
        sizes = [
            last.out_channels * last.out_height * last.out_width,
            *self.hidden_layer_sizes,
            self.n_classes,
        ]
        return shapes + [(n_outputs, n_inputs) for n_inputs, n_outputs in pairwise(sizes)]

    @property
    def n_weights(self) -> int:
        """Number of parameters that are not biases: they come first in the flat vector."""
        return sum(prod(shape) for shape in self.weight_shapes())

    @property
    def n_parameters(self) -> int:
        """Length of the flat vector of parameters."""
        return self.n_weights + sum(shape[0] for shape in self.weight_shapes())

    def n_numbers(self, n_samples: int) -> int:
        """Count the numbers in a network's buffers, roughly, in training on so many samples."""
        dense = sum(shape[0] for shape in self.weight_shapes() if len(shape) == 2)
        return sum(s.n_numbers(n_samples) for s in self.convolutions()) + 2 * dense * n_samples

    def views(self, vector: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """View a flat vector as the layers' weights and biases.

        Parameters
        ----------
        vector : array of shape (n_parameters,)
            All weights, then all biases, so that the L2 penalty applies to one slice.

        Returns
        -------
        weights, biases : tuples of arrays
            Views into `vector`.
        """
        weights, biases = [], []
        begin, bias_begin = 0, self.n_weights
        for shape in self.weight_shapes():
            end, bias_end = begin + prod(shape), bias_begin + shape[0]
            weights.append(vector[begin:end].reshape(shape))
            biases.append(vector[bias_begin:bias_end])
            begin, bias_begin = end, bias_end
        return tuple(weights), tuple(biases)

    def initial_parameters(self, generator: np.random.Generator, dtype: Any) -> np.ndarray:
        """Draw weights uniformly in +-gain * sqrt(6 / (fan_in + fan_out)); biases are zero."""
        parameters = np.zeros(self.n_parameters, dtype)
        for weight in self.views(parameters)[0]:
            area = prod(weight.shape[2:])
            fan_out, fan_in = weight.shape[0] * area, weight.shape[1] * area
            bound = _GAINS[self.activation] * sqrt(6 / (fan_in + fan_out))
            weight[...] = generator.uniform(-bound, bound, weight.shape)
        return parameters


def smallest_image(kernel_size: Any, stride: Any, padding: Any, pool_size: int) -> int:
    """Side of the smallest image from which every convolution still puts out a pixel."""
    side = 1
    for k, s, p in reversed(list(zip(kernel_size, stride, padding, strict=True))):
        side = max((side * pool_size - 1) * s + k - 2 * p, 1)
    return side


class Network:
    """The layers of one architecture, bound to parameters and to buffers for N samples.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    architecture : Architecture
    parameters : array of shape (n_parameters,)
    gradient : array of shape (n_parameters,) or None
        Filled by `backward`; None makes a network that can only predict.
    n_samples : int
        N.

    Attributes
    ----------
    images : array of shape (H, C, W, N)
        To be filled before `forward`; and `lay_out` called, where parameters have changed.
    layers : list of ConvPool and Dense
        In the order of `forward`.
    hidden : array of shape (n_inputs, N)
        What the last dense layer reads. Filled by `forward`.
    logits : array of shape (n_classes, N)
        Filled by `forward`; `backward` wants the gradient with respect to them in their place.
    """

    def __init__(
        self,
        xp: ModuleType,
        architecture: Architecture,
        parameters: Any,
        gradient: Any,
        n_samples: int,
    ) -> None:
        dtype, trains = parameters.dtype, gradient is not None
        weights, biases = architecture.views(parameters)
        no_grads = (None,) * len(weights)
        grads = architecture.views(gradient) if trains else (no_grads, no_grads)
        arrays: list[tuple[Any, Any, Any, Any]] = list(zip(weights, biases, *grads, strict=True))
        shapes = architecture.convolutions()

        def padded(shape: ConvPoolShape) -> tuple[Any, Any]:
            """Make images of a layer's input, with its margin of zeros, and view their middle."""
            images = zeros(xp, (*shape.padded_shape, n_samples), dtype)
            y = slice(shape.padding, shape.padding + shape.height)
            x = slice(shape.padding, shape.padding + shape.width)
            return images, images[y, :, x]

        # flatten: the last convolution's output, (H, C, W, N), lies in memory as (C, H, W, N)
        last = shapes[-1]
        sizes = last.out_channels, last.out_height, last.out_width, n_samples
        features, features_grad = zeros(xp, sizes, dtype), zeros(xp, sizes, dtype)

        self.layers: list[ConvPool | Dense] = []
        self._kernels: list[KernelMatrix] = []
        images, self.images = padded(shapes[0])
        images_grad = None  # nobody wants the gradient with respect to the first layer's input
        for shape, following, of_layer in zip(shapes, [*shapes[1:], None], arrays, strict=False):
            next_images = next_images_grad = output_grad = None
            if following is None:
                output = features.transpose(1, 0, 2, 3)
                output_grad = features_grad.transpose(1, 0, 2, 3) if trains else None
            else:
                next_images, output = padded(following)
                if trains:
                    next_images_grad, output_grad = padded(following)
            kernels = KernelMatrix(xp, shape, *of_layer)
            self._kernels.append(kernels)
            of_architecture = architecture.pooling, architecture.activation
            self.layers.append(
                ConvPool(xp, kernels, *of_architecture, images, images_grad, output, output_grad)
            )
            images, images_grad = next_images, next_images_grad

        vector, vector_grad = (a.reshape(-1, n_samples) for a in (features, features_grad))
        for i, of_layer in enumerate(arrays[len(shapes) :]):
            self.hidden = vector
            is_last = i == len(architecture.hidden_layer_sizes)
            output = zeros(xp, (len(of_layer[0]), n_samples), dtype)
            # the loss leaves its gradient in place of the logits
            output_grad = output if is_last else zeros(xp, output.shape, dtype)
            activation = None if is_last else architecture.activation
            self.layers.append(
                Dense(xp, activation, *of_layer, vector, vector_grad, output, output_grad)
            )
            vector, vector_grad = output, output_grad
        self.logits = vector
        self.lay_out()

    def lay_out(self) -> None:
        """Take up the parameters, which convolutions read in an order of their own."""
        for kernels in self._kernels:
            kernels.lay_out()

    def forward(self) -> None:
        """Fill `logits`."""
        for layer in self.layers:
            layer.forward()

    def backward(self) -> None:
        """Fill the gradient vector."""
        for layer in reversed(self.layers):
            layer.backward()
