"""The layers of a LeNet: convolution with pooling, and dense.

A layer is bound, when it is made, to the arrays that it reads and writes: its parameters and their
gradients (views into flat vectors), its input and its output. `forward` fills the output,
`backward` (directly below it) reads the gradient of the loss with respect to the output and fills
those with respect to the parameters and the input. Gradients are overwritten, never accumulated.
The samples are always the last axis, N: copies then move whole runs of samples, and the columns of
every matrix product are (position, sample), so that no layer has to transpose for the next.
"""

from dataclasses import dataclass
from math import ceil
from types import ModuleType
from typing import Any

import numpy as np

from ._activations import DERIVATIVES, FUNCTIONS
from ._backend import zeros


@dataclass(frozen=True)
class ConvPoolShape:
    """Sizes of a convolution and of the pooling behind it.

    Attributes
    ----------
    in_channels, height, width : int
        Size of the images that come in.
    out_channels : int
        Number of kernels.
    kernel_size, stride, padding : int
        Of the convolution, along both axes.
    pool_size : int
        Side of the square pooling windows, which do not overlap; 1 is no pooling.
    """

    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    pool_size: int

    @property
    def out_height(self) -> int:
        """Height of the images that come out."""
        return self._out_size(self.height)

    @property
    def out_width(self) -> int:
        """Width of the images that come out."""
        return self._out_size(self.width)

    def _out_size(self, size: int) -> int:
        convolved = (size + 2 * self.padding - self.kernel_size) // self.stride + 1
        return convolved // self.pool_size


class ConvPool:
    """Convolution, activation and pooling.

    The image's rows are the outermost axis in memory. Each row is laid out once, as the matrix of
    what the kernel's rows meet in it: one row for each channel and column of the kernel, one column
    for each position and sample. The k rows that a kernel of height k covers then lie one behind
    the other, and *are* the matrix that the textbook's im2col would make for one row of outputs: a
    strided view gives all those matrices, overlapping, without a copy. So im2col takes 1/k of the
    textbook's memory and time. A row of ones under each image row carries the bias.

    The gradient with respect to such a row is a product, too: of the kernel's rows, in reverse
    order, with the k rows of outputs that saw it, which lie one behind the other as well.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    shape : ConvPoolShape
    pooling : {"avg", "max"}
    activation : {"relu", "tanh", "sigmoid"}
    weight, weight_grad : arrays of shape (C_out, C_in, k, k)
    bias, bias_grad : arrays of shape (C_out,)
    images, images_grad : arrays of shape (H, C_in, W, N)
        The input, with its margin of zeros, and the gradient with respect to it; None for
        `images_grad` where nobody wants it.
    output, output_grad : arrays of shape (H_out, C_out, W_out, N)
        `backward` overwrites `output_grad`.
    """

    def __init__(
        self,
        xp: ModuleType,
        shape: ConvPoolShape,
        pooling: str,
        activation: str,
        weight: Any,
        bias: Any,
        weight_grad: Any,
        bias_grad: Any,
        images: Any,
        images_grad: Any,
        output: Any,
        output_grad: Any,
    ) -> None:
        self.xp, self.max_pooling = xp, pooling == "max"
        self.activate, self.derive = FUNCTIONS[activation], DERIVATIVES[activation]
        self.weight, self.bias = weight, bias
        self.weight_grad, self.bias_grad = weight_grad, bias_grad
        self.images_grad, self.output, self.output_grad = images_grad, output, output_grad

        as_strided, dtype = xp.lib.stride_tricks.as_strided, weight.dtype
        C_in, C_out, (_, _, W, N) = shape.in_channels, shape.out_channels, images.shape
        k, s, p = shape.kernel_size, shape.stride, shape.pool_size
        # Outputs that no pooling window takes are not computed, nor inputs read that only they see
        Y, X = shape.out_height * p, shape.out_width * p
        H = (Y - 1) * s + k

        # im2col: each row of the image, k times shifted along x
        self.rows = zeros(xp, (H, C_in * k + 1, X * N), dtype)
        self.rows[:, -1] = 1
        self.row_pixels = self.rows[:, :-1].reshape(H, C_in, k, X, N)
        y, c, x, n = images.strides
        self.pixels = as_strided(images, (H, C_in, k, X, N), (y, c, x, s * x, n))
        y, row, column = self.rows.strides
        self.columns = as_strided(self.rows, (Y, k * (C_in * k + 1), X * N), (s * y, row, column))

        # The weights in the order of the columns' rows, and the bias under one of the rows of ones
        kernels = zeros(xp, (C_out, k, C_in * k + 1), dtype)
        self.kernels = kernels.reshape(C_out, -1)
        self.kernel_weights = kernels[:, :, :-1].reshape(C_out, k, C_in, k)
        self.kernel_biases = kernels[:, 0, -1]

        # Margins of zero rows stand for outputs beyond the edges, where gradients are sought
        margin = ceil(k / s) - 1
        memory = zeros(xp, (Y + 2 * margin, C_out, X * N), dtype)
        self.maps = memory[margin : margin + Y]
        self.pools = self.maps.reshape(Y // p, p, C_out, X // p, p, N)
        self.window = range(p)
        # The second half of average pooling, from the sums over a window's rows, as a product
        means = np.kron(np.eye(X // p), np.full((1, p), 1 / p**2))
        self.means = xp.asarray(means, dtype)
        self.row_pools = zeros(xp, (Y // p, C_out, X // p, p, N), dtype)
        self.row_sums = self.row_pools.reshape(Y // p, C_out, X, N)
        if weight_grad is None:
            return

        # With a vector register's width of kernels or more, a transposed copy pays for itself
        self.transposed_maps = zeros(xp, (Y, X * N, C_out), dtype) if C_out >= 16 else None
        self.kernels_grads = zeros(xp, (Y, k * (C_in * k + 1), C_out), dtype)
        self.kernels_grad = zeros(xp, (k, C_in * k + 1, C_out), dtype)
        if self.max_pooling:
            self.is_maximum = zeros(xp, self.pools.shape, bool)
            self.is_free = zeros(xp, output.shape, bool)
        if images_grad is None:
            return

        # Rows of the image that are a multiple of the stride apart meet the same rows of the kernel
        self.residues = []
        for first in range(min(s, H)):
            kernel_rows = range(first, k, s)[::-1]
            top = margin + 1 - len(kernel_rows)
            seen_by = as_strided(
                memory[top:],
                (len(range(first, H, s)), len(kernel_rows) * C_out, X * N),
                memory.strides,
            )
            reversed_kernels = zeros(xp, (C_in, k, len(kernel_rows), C_out), dtype)
            self.residues.append((kernel_rows, reversed_kernels, seen_by, self.rows[first::s, :-1]))

        # col2im along x as a product: which pixel each column of the kernel meets at each position
        meets = np.zeros((W, k, X))
        for shift in range(k):
            meets[s * np.arange(X) + shift, shift, np.arange(X)] = 1
        self.meets = xp.asarray(meets.reshape(W, k * X), dtype)
        self.pixels_grad = self.row_pixels.reshape(H, C_in, k * X, N)
        self.images_grad_used = images_grad[:H]

    def forward(self) -> None:
        """Fill `output`."""
        xp = self.xp
        xp.copyto(self.kernel_weights, self.weight.transpose(0, 2, 1, 3))
        xp.copyto(self.kernel_biases, self.bias)
        xp.copyto(self.row_pixels, self.pixels)
        xp.matmul(self.kernels, self.columns, out=self.maps)
        self.activate(xp, self.maps)
        combine = xp.maximum if self.max_pooling else xp.add
        self._reduce(combine, [self.pools[:, y] for y in self.window], self.row_pools)
        if self.max_pooling:
            self._reduce(combine, [self.row_pools[:, :, :, x] for x in self.window], self.output)
        else:
            xp.matmul(self.means, self.row_sums, out=self.output)

    def _reduce(self, combine: Any, parts: list[Any], out: Any) -> None:
        """Combine arrays into `out`; for the few of a window, faster than a reduction."""
        first, *others = parts
        if not others:
            self.xp.copyto(out, first)
        for part in others:
            combine(first, part, out=out)
            first = out

    def backward(self) -> None:
        """Fill the gradients with respect to weight, bias and input."""
        xp = self.xp
        if self.max_pooling:
            self._find_maxima()
            xp.copyto(self.row_pools, self.output_grad[:, :, :, None])
        else:
            xp.matmul(self.means.T, self.output_grad, out=self.row_sums)
        self.derive(xp, self.pools, self.row_pools[:, None])  # the maps are now their gradient
        if self.max_pooling:
            xp.multiply(self.pools, self.is_maximum, out=self.pools)

        maps = self.maps.transpose(0, 2, 1)
        if self.transposed_maps is not None:
            xp.copyto(self.transposed_maps, maps)
            maps = self.transposed_maps
        xp.matmul(self.columns, maps, out=self.kernels_grads)
        xp.sum(
            self.kernels_grads.reshape(-1, *self.kernels_grad.shape), axis=0, out=self.kernels_grad
        )
        C_out, C_in, k, _ = self.weight.shape
        weight_grad = self.kernels_grad[:, :-1].reshape(k, C_in, k, C_out)
        xp.copyto(self.weight_grad, weight_grad.transpose(3, 1, 0, 2))
        xp.copyto(self.bias_grad, self.kernels_grad[0, -1])

        if self.images_grad is not None:
            # The rows have done their work: their gradient takes their place
            for kernel_rows, kernels, seen_by, rows_grad in self.residues:
                xp.copyto(kernels, self.weight[:, :, kernel_rows].transpose(1, 3, 2, 0))
                xp.matmul(kernels.reshape(C_in * k, -1), seen_by, out=rows_grad)
            xp.matmul(self.meets, self.pixels_grad, out=self.images_grad_used)

    def _find_maxima(self) -> None:
        """Mark the first maximum of each pooling window, row by row."""
        xp, p = self.xp, self.pools.shape[1]
        self.is_free.fill(True)
        for y in range(p):
            for x in range(p):
                is_maximum = self.is_maximum[:, y, :, :, x]
                xp.equal(self.pools[:, y, :, :, x], self.output, out=is_maximum)
                xp.logical_and(is_maximum, self.is_free, out=is_maximum)
                xp.logical_xor(self.is_free, is_maximum, out=self.is_free)


class Dense:
    """``output = activation(weight @ input + bias)``.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    activation : {"relu", "tanh", "sigmoid"} or None
    weight, weight_grad : arrays of shape (n_outputs, n_inputs)
    bias, bias_grad : arrays of shape (n_outputs,)
    input_, input_grad : arrays of shape (n_inputs, N)
    output, output_grad : arrays of shape (n_outputs, N)
        `backward` overwrites both.
    """

    def __init__(
        self,
        xp: ModuleType,
        activation: str | None,
        weight: Any,
        bias: Any,
        weight_grad: Any,
        bias_grad: Any,
        input_: Any,
        input_grad: Any,
        output: Any,
        output_grad: Any,
    ) -> None:
        self.xp, self.activation = xp, activation
        self.weight, self.bias = weight, bias
        self.weight_grad, self.bias_grad = weight_grad, bias_grad
        self.input, self.input_grad = input_, input_grad
        self.output, self.output_grad = output, output_grad

    def forward(self) -> None:
        """Fill `output`."""
        xp = self.xp
        xp.matmul(self.weight, self.input, out=self.output)
        xp.add(self.output, self.bias[:, None], out=self.output)
        if self.activation is not None:
            FUNCTIONS[self.activation](xp, self.output)

    def backward(self) -> None:
        """Fill the gradients with respect to weight, bias and input."""
        xp = self.xp
        z_grad = self.output_grad
        if self.activation is not None:
            DERIVATIVES[self.activation](xp, self.output, self.output_grad)
            z_grad = self.output
        xp.matmul(z_grad, self.input.T, out=self.weight_grad)
        xp.sum(z_grad, axis=1, out=self.bias_grad)
        xp.matmul(self.weight.T, z_grad, out=self.input_grad)
