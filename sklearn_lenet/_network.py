"""LeNet: its sizes, its parameters in one flat vector, and its layers on one set of buffers."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod, sqrt
from types import ModuleType
from typing import Any

import numpy as np

from ._backend import zeros
from ._layers import ConvPool, ConvPoolShape, Dense, DensePart, Kernels, even_slices

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


class Shard:
    """The convolutions on some of a mini-batch's samples, and their part of the first dense layer.

    LeCun et al. (1998) call that layer a convolution too; its weights are most of the network's.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    architecture : Architecture
    kernels : list of Kernels
    features, features_grad : arrays of shape (H, C, W, N)
        Output of the last convolution, and the gradient with respect to it, or None.
    dense : DensePart
        Reads the features.

    Attributes
    ----------
    images : array of shape (H, C, W, N)
        To be filled before `forward`.
    convolutions : list of ConvPool
    dense : DensePart
    """

    def __init__(
        self,
        xp: ModuleType,
        architecture: Architecture,
        kernels: list[Kernels],
        features: Any,
        features_grad: Any,
        dense: DensePart,
    ) -> None:
        self.dense = dense
        n_samples, dtype = features.shape[-1], features.dtype
        trains = features_grad is not None

        def padded(shape: ConvPoolShape) -> tuple[Any, Any]:
            """Make images of a layer's input, with its margin of zeros, and view their middle."""
            images = zeros(xp, (*shape.padded_shape, n_samples), dtype)
            y = slice(shape.padding, shape.padding + shape.height)
            x = slice(shape.padding, shape.padding + shape.width)
            return images, images[y, :, x]

        images, self.images = padded(kernels[0].shape)
        images_grad = None  # nobody wants the gradient with respect to the first layer's input
        self.convolutions = []
        for layer, following in zip(kernels, [*kernels[1:], None], strict=True):
            if following is None:
                next_images, output, next_images_grad, output_grad = (
                    None,
                    features,
                    None,
                    features_grad,
                )
            else:
                next_images, output = padded(following.shape)
                next_images_grad, output_grad = padded(following.shape) if trains else (None, None)
            self.convolutions.append(
                ConvPool(
                    xp,
                    layer,
                    architecture.pooling,
                    architecture.activation,
                    images,
                    images_grad,
                    output,
                    output_grad,
                )
            )
            images, images_grad = next_images, next_images_grad

    def forward(self) -> None:
        """Go through the convolutions, whose kernels are laid out, to the dense product."""
        for layer in self.convolutions:
            layer.forward()
        self.dense.forward()

    def backward(self) -> None:
        """Go back from the gradient with respect to the dense product to the convolutions'."""
        self.dense.backward()
        for layer in reversed(self.convolutions):
            layer.backward()


class Network:
    """The layers of one architecture, bound to parameters and to buffers for N samples.

    The convolutions take the samples in shards, which may be at work at the same time; the dense
    layers take them all at once. `forward` and `backward` do all the steps one after the other.

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
    n_shards : int, default=1
        The samples are cut evenly, in order.

    Attributes
    ----------
    shards : list of Shard
        Their images are to be filled before they go forward.
    samples_of_shards : list of slice
        Which of the N samples each shard has.
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
        n_shards: int = 1,
    ) -> None:
        self.xp = xp
        dtype, trains = parameters.dtype, gradient is not None
        weights, biases = architecture.views(parameters)
        no_grads = (None,) * len(weights)
        grads = architecture.views(gradient) if trains else (no_grads, no_grads)
        parameters_of_layers: list[tuple[Any, Any, Any, Any]] = list(
            zip(weights, biases, *grads, strict=True)
        )

        shapes = architecture.convolutions()
        self.kernels = [
            Kernels(xp, shape, *arrays)
            for shape, arrays in zip(shapes, parameters_of_layers, strict=False)
        ]
        last = shapes[-1]
        sizes = last.out_channels, last.out_height, last.out_width, n_samples
        features, features_grad = zeros(xp, sizes, dtype), zeros(xp, sizes, dtype)
        self.samples_of_shards = even_slices(n_samples, n_shards)

        # flatten, and the dense layers
        vector, vector_grad = (a.reshape(-1, n_samples) for a in (features, features_grad))
        self.dense: list[Dense] = []
        for arrays in parameters_of_layers[len(shapes) :]:
            is_first = not self.dense
            is_last = len(self.dense) == len(architecture.hidden_layer_sizes)
            output = zeros(xp, (len(arrays[0]), n_samples), dtype)
            # the loss leaves its gradient in place of the logits
            output_grad = output if is_last else zeros(xp, output.shape, dtype)
            activation = None if is_last else architecture.activation
            parts = self.samples_of_shards if is_first else [slice(None)]
            self.dense.append(
                Dense(xp, activation, *arrays, vector, vector_grad, output, output_grad, parts)
            )
            vector, vector_grad = output, output_grad
        self.logits = vector

        self.shards = []
        for samples, dense in zip(self.samples_of_shards, self.dense[0].parts, strict=True):
            output, output_grad = (
                array[..., samples].transpose(1, 0, 2, 3) for array in (features, features_grad)
            )
            features_of_shard = output, output_grad if trains else None
            self.shards.append(Shard(xp, architecture, self.kernels, *features_of_shard, dense))

    def forward(self) -> None:
        """Fill `logits`."""
        self.lay_out_kernels()
        for shard in self.shards:
            shard.forward()
        self.forward_dense()

    def backward(self) -> None:
        """Fill the gradient vector."""
        self.backward_dense()
        for shard in self.shards:
            shard.backward()
        self.fold_kernels()

    def lay_out_kernels(self) -> None:
        """Take over the convolutions' parameters, before the shards go forward."""
        for kernels in self.kernels:
            kernels.lay_out()

    def forward_dense(self) -> None:
        """Fill `logits`, when all shards have gone forward."""
        first, *others = self.dense
        first.forward_elementwise()
        for layer in others:
            layer.forward()

    def backward_dense(self) -> None:
        """Fill the dense layers' gradients, as far as the shards do not, and what those need."""
        first, *others = self.dense
        for layer in reversed(others):
            layer.backward()
        first.backward_elementwise()

    def fold_kernels(self) -> None:
        """Fill the convolutions' gradients with the sums over the shards, in their order."""
        for number, kernels in enumerate(self.kernels):
            total, *others = [shard.convolutions[number].kernels_grad for shard in self.shards]
            for kernels_grad in others:
                self.xp.add(total, kernels_grad, out=total)
            kernels.fold(total)
