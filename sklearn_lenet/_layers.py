"""The layers of a LeNet: convolution with pooling, and dense.

A layer is bound, when it is made, to the arrays that it reads and writes: its parameters and their
gradients, its input and its output. `forward` fills the output, `backward` (directly below it)
reads the gradient of the loss with respect to the output and fills those with respect to the
parameters and the input. Gradients are overwritten, never accumulated.
The samples are always the last axis, N: copies then move whole runs of samples, and the columns of
every matrix product are (position, sample), so that no layer has to transpose for the next.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil
from types import ModuleType
from typing import Any

import numpy as np

from ._activations import ACTIVATIONS
from ._backend import zeros

# From so many on, the arithmetic of a convolution weighs more than the copies of its input
_MANY_CHANNELS = 4


def even_slices(n: int, n_slices: int) -> list[slice]:
    """Cut ``range(n)`` in order, as evenly as can be; with more slices than n, some are empty."""
    ends = [i * n // n_slices for i in range(n_slices + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


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

    @property
    def merged(self) -> int:
        """Side of the square of places of a pooling window that one patch of pixels serves.

        All of them, or one. All take fewer copies of pixels and more arithmetic, which few channels
        make little of.
        """
        return self.pool_size if self.in_channels < _MANY_CHANNELS else 1

    @property
    def patch_size(self) -> int:
        """Side of the patch of pixels that the merged places see."""
        return (self.merged - 1) * self.stride + self.kernel_size

    @property
    def patch_step(self) -> int:
        """Pixels from one patch to the next, along both axes."""
        return self.merged * self.stride

    @property
    def patches_of_window(self) -> int:
        """Number of patches, along each axis, that serve one pooling window."""
        return self.pool_size // self.merged

    @property
    def n_patches(self) -> tuple[int, int]:
        """Number of patches along an image's height and width."""
        return self.out_height * self.patches_of_window, self.out_width * self.patches_of_window

    @property
    def blocks_of_patch(self) -> int:
        """Number of blocks, of `patch_step` rows each, that a patch reaches into."""
        return ceil(self.patch_size / self.patch_step)

    @property
    def n_blocks(self) -> int:
        """Number of blocks that an image's rows are cut into, as far as patches see them."""
        return self.n_patches[0] - 1 + self.blocks_of_patch

    @property
    def lines_of_block(self) -> int:
        """Lines of a block's matrix: one of ones, then one for each row, channel and column."""
        return 1 + self.patch_step * self.in_channels * self.patch_size

    @property
    def lines_of_patch(self) -> int:
        """Lines of a patch's matrix: those of its blocks as far as it reaches, and up to 3 more.

        OpenBLAS takes less time for a product with a multiple of 4 lines than with fewer.
        """
        n_lines = self.blocks_of_patch + self.patch_size * self.in_channels * self.patch_size
        return ceil(n_lines / 4) * 4

    def n_numbers(self, n_samples: int) -> int:
        """Count the numbers in a layer's buffers, roughly, in training on so many samples."""
        height, channels, width = self.padded_shape
        rows, columns = self.n_patches
        n_kernels = self.merged**2 * self.out_channels
        n_weights = n_kernels * self.lines_of_patch
        return (
            2 * height * channels * width * n_samples
            + (self.n_blocks * self.lines_of_block + 2 * rows * n_kernels) * columns * n_samples
            + (rows + 5) * n_weights
            + 3 * width * self.patch_size * columns
        )

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """Shape (H, C_in, W) of the images with their margins, and rows to fill the last block."""
        margin = 2 * self.padding
        height = max(self.height + margin, self.n_blocks * self.patch_step)
        return height, self.in_channels, self.width + margin


class KernelMatrix:
    """A convolution's parameters as the matrix that multiplies its input.

    The m*m merged places of a pooling window are computed at once, from the patch of pixels that
    they see: the matrix holds each kernel m*m times, shifted to each of these places, with zeros
    around.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    shape : ConvPoolShape
    weight, weight_grad : arrays of shape (C_out, C_in, k, k)
    bias, bias_grad : arrays of shape (C_out,)
        The gradients are None where none is wanted.

    Attributes
    ----------
    matrix : array of shape (m * m * C_out, n_lines)
        Filled by `lay_out`. Its columns are the lines of a patch, as `ConvPool` has them.
    stack : array of shape (blocks_of_patch * m * m * C_out, lines_of_block - 1)
        Filled by `lay_out` where gradients are wanted. The matrix is cut into the blocks of a
        patch, which lie one below the other, the last block on top, without the lines of ones.
    """

    def __init__(
        self,
        xp: ModuleType,
        shape: ConvPoolShape,
        weight: Any,
        bias: Any,
        weight_grad: Any,
        bias_grad: Any,
    ) -> None:
        self.xp, self.shape = xp, shape
        # NumPy takes twice as long to check the indices, which CuPy never does
        self.take = partial(np.take, mode="wrap") if xp is np else xp.take
        self.weight, self.bias = weight, bias
        self.weight_grad, self.bias_grad = weight_grad, bias_grad
        n_parameters, dtype = weight.size + bias.size, weight.dtype

        # Each entry of the matrix is one of the parameters, or the 0 behind them
        rows, columns = _places(shape)
        sources = np.full((shape.merged**2 * len(bias), shape.lines_of_patch), n_parameters)
        sources[rows, columns] = np.arange(n_parameters)
        self.sources = xp.asarray(sources)
        self.parameters = zeros(xp, (n_parameters + 1,), dtype)
        self.matrix = zeros(xp, sources.shape, dtype)
        self.stacked: list[tuple[Any, Any]] = []
        if weight_grad is None:
            return

        n_rows, n_blocks, n_lines = len(sources), shape.blocks_of_patch, shape.lines_of_block
        self.stack = zeros(xp, (n_blocks * n_rows, n_lines - 1), dtype)
        for top, block in enumerate(reversed(range(n_blocks))):
            part = self.matrix[:, block * n_lines + 1 : (block + 1) * n_lines]
            place = self.stack[top * n_rows : (top + 1) * n_rows, : part.shape[1]]
            self.stacked.append((place, part))

        # In the gradient of the matrix, which comes transposed
        self.places = xp.ascontiguousarray(xp.asarray(columns * len(sources) + rows))
        self.copies_grad = zeros(xp, rows.shape, dtype)
        self.ones = xp.ones(len(rows), dtype)
        self.parameters_grad = zeros(xp, (n_parameters,), dtype)

    def lay_out(self) -> None:
        """Fill `matrix` and `stack`, as the parameters are now."""
        xp, weight = self.xp, self.weight
        xp.copyto(self.parameters[: weight.size].reshape(weight.shape), weight)
        xp.copyto(self.parameters[weight.size : -1], self.bias)
        self.take(self.parameters, self.sources, out=self.matrix)
        for place, part in self.stacked:
            xp.copyto(place, part)

    def fold(self, matrix_grad: Any) -> None:
        """Fill the gradients of weight and bias, given that of the matrix, transposed."""
        xp, weight_grad = self.xp, self.weight_grad
        self.take(matrix_grad, self.places, out=self.copies_grad)
        xp.matmul(self.ones, self.copies_grad, out=self.parameters_grad)
        xp.copyto(weight_grad, self.parameters_grad[: weight_grad.size].reshape(weight_grad.shape))
        xp.copyto(self.bias_grad, self.parameters_grad[weight_grad.size :])


def _places(shape: ConvPoolShape) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows and columns of a `KernelMatrix` that the parameters stand in.

    Returns
    -------
    rows, columns : integer ndarrays of shape (m * m, n_parameters)
        For the weights, then the biases, at each merged place.
    """
    k, s, m, K = shape.kernel_size, shape.stride, shape.merged, shape.patch_size
    C_in, C_out = shape.in_channels, shape.out_channels
    i, j, o, c, u, v = np.ogrid[:m, :m, :C_out, :C_in, :k, :k]
    block, row = np.divmod(s * i + u, shape.patch_step)
    column = block * shape.lines_of_block + 1 + (row * C_in + c) * K + s * j + v
    row = (i * m + j) * C_out + o
    biases = row.reshape(m * m, C_out)
    rows, columns = (
        np.broadcast_to(index, (m, m, C_out, C_in, k, k)).reshape(m * m, -1)
        for index in (row, column)
    )
    return np.hstack([rows, biases]), np.hstack([columns, np.zeros_like(biases)])


class ConvPool:
    """Convolution, activation and pooling, by one matrix product for each row of patches.

    The image's rows are the outermost axis in memory, cut into blocks: the rows from one patch to
    the next below. Each block is laid out once, as the matrix of what the kernels' columns meet in
    it: one line for each row, channel and column of a patch, one column for each patch and sample,
    and first a line of ones for the bias. The blocks that a row of patches reaches into lie one
    behind the other, and *are* the matrix that the textbook's im2col would make for it: a strided
    view gives all those matrices, overlapping, without a copy.

    A row of patches goes through the windows' columns one after the other: where a window has
    several patches, first come its first column's of all windows, then its second's. So the places
    of the windows, m*m of each patch, are slabs of the maps: pooling combines slabs.

    With G the gradient with respect to the maps before the activation, the three products are, for
    row R of patches and block B of image rows,

    ``maps[R] = kernels.matrix @ patches[R]``, the convolution;

    ``kernels.matrix_grad.T = sum_R patches[R] @ G[R].T``, the gradient of the weights;

    ``blocks_grad[B] = sum_R kernels.matrix[:, lines of block B in patches[R]].T @ G[R]``, that of
    the input, of which col2im then adds up the columns.

    `docs/how_it_works.md` derives them.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    kernels : KernelMatrix
    pooling : {"avg", "max"}
    activation : {"relu", "tanh", "sigmoid"}
    images, images_grad : arrays of shape (*padded_shape, N), (H, C_in, W, N) in short
        The input, with its margin of zeros, and the gradient with respect to it; None for
        `images_grad` where nobody wants it.
    output, output_grad : arrays of shape (H_out, C_out, W_out, N)
        None for `output_grad` makes a layer that can only go forward.
    """

    def __init__(
        self,
        xp: ModuleType,
        kernels: KernelMatrix,
        pooling: str,
        activation: str,
        images: Any,
        images_grad: Any,
        output: Any,
        output_grad: Any,
    ) -> None:
        self.xp, self.kernels = xp, kernels
        self.output, self.output_grad = output, output_grad

        as_strided, dtype, shape = xp.lib.stride_tricks.as_strided, output.dtype, kernels.shape
        (n_kernels, n_lines), n_blocks = kernels.matrix.shape, shape.n_blocks
        K, step, C_in = shape.patch_size, shape.patch_step, shape.in_channels
        Y, C_out, X, N = output.shape
        q, (n_rows, n_columns) = shape.patches_of_window, shape.n_patches

        # im2col: a line of ones, then (row, channel, column of the patch), of each block
        n_lines_of_blocks = n_blocks * shape.lines_of_block
        lines = zeros(xp, (n_lines_of_blocks + 3, n_columns * N), dtype)
        self.blocks = lines[:n_lines_of_blocks].reshape(n_blocks, -1, n_columns * N)
        self.blocks[:, 0] = 1
        self.block_pixels = self.blocks[:, 1:].reshape(n_blocks, step, C_in, K, q, X, N)
        y, c, x, n = images.strides
        strides = step * y, y, c, x, step * x, q * step * x, n
        self.pixels = as_strided(images, self.block_pixels.shape, strides)
        self.patches = as_strided(lines, (n_rows, n_lines, n_columns * N), self.blocks.strides)

        self.maps = zeros(xp, (n_rows, n_kernels, n_columns * N), dtype)
        slabs = self.maps.reshape(Y, q, n_kernels // C_out, C_out, q, X * N)
        self.pooled = zeros(xp, output.shape, dtype)
        self.pool = _POOLS[pooling](xp, activation, slabs, self.pooled)
        if output_grad is None:
            return

        self.kernels_grads = zeros(xp, (n_rows, n_lines, n_kernels), dtype)
        self.kernels_grad = zeros(xp, (n_lines * n_kernels,), dtype)
        self.ones = xp.ones(n_rows, dtype)
        self.products: list[tuple[Any, Any, Any]] = []
        if images_grad is None:
            return

        # The rows of patches that reach into a block follow each other, and so do the parts of the
        # kernels that meet it there: one product sums them up, and takes the block's place
        rows_of_maps = self.maps.reshape(-1, n_columns * N)
        for block in range(n_blocks):
            above = block + 1 - shape.blocks_of_patch
            first, end = max(above, 0), min(block + 1, n_rows)
            part = kernels.stack[(first - above) * n_kernels : (end - above) * n_kernels].T
            maps_grad = rows_of_maps[first * n_kernels : end * n_kernels]
            self.products.append((part, maps_grad, self.blocks[block, 1:]))
        # col2im along x, as a product: which pixel each column of the patch meets in each patch
        W = images.shape[2]
        column_scatter = np.zeros((W, K, n_columns))
        first_pixels = step * np.arange(n_columns).reshape(X, q).T.reshape(-1)
        for shift in range(K):
            column_scatter[first_pixels + shift, shift, np.arange(n_columns)] = 1
        self.column_scatter = xp.asarray(column_scatter.reshape(W, K * n_columns), dtype)
        self.pixels_grad = self.blocks[:, 1:].reshape(n_blocks, step, C_in, K * n_columns, N)
        self.image_blocks_grad = images_grad[: n_blocks * step].reshape(n_blocks, step, C_in, W, N)

    def forward(self) -> None:
        """Fill `output`."""
        xp = self.xp
        xp.copyto(self.block_pixels, self.pixels)
        xp.matmul(self.kernels.matrix, self.patches, out=self.maps)  # maps[r]
        self.pool.forward()
        xp.copyto(self.output, self.pooled)

    def backward(self) -> None:
        """Fill the gradients with respect to the parameters and the input."""
        xp = self.xp
        self.pool.backward(self.output_grad)  # the maps are now their gradient, G
        xp.matmul(self.patches, self.maps.transpose(0, 2, 1), out=self.kernels_grads)
        # A sum over few long rows: as a product it takes NumPy less time
        rows = self.kernels_grads.reshape(len(self.ones), -1)
        xp.matmul(self.ones, rows, out=self.kernels_grad)
        self.kernels.fold(self.kernels_grad)
        if self.products:
            for part, maps_grad, pixels_grad in self.products:
                xp.matmul(part, maps_grad, out=pixels_grad)
            xp.matmul(self.column_scatter, self.pixels_grad, out=self.image_blocks_grad)


class AveragePool:
    """Activation, then the mean of the slabs.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    activation : {"relu", "tanh", "sigmoid"}
    slabs : array of shape (H_out, q, m * m, C_out, q, W_out * N)
        Pre-activations at each place of the pooling windows, in the order of the three axes between
        the others; `backward` leaves their gradient.
    pooled : array of shape (H_out, C_out, W_out, N)
    """

    def __init__(self, xp: ModuleType, activation: str, slabs: Any, pooled: Any) -> None:
        self.xp, self.pooled = xp, pooled
        self.rows, self.places = _pooling_windows(slabs, pooled)
        self.activation = ACTIVATIONS[activation](xp, slabs)
        self.rows_of_slabs = self.rows[:, None, None, :, None]

    def forward(self) -> None:
        """Fill `pooled`."""
        xp, rows, (total, *others) = self.xp, self.rows, self.places
        self.activation.forward()
        for place in others:
            total = xp.add(total, place, out=rows)
        xp.multiply(total, 1 / len(self.places), out=rows)

    def backward(self, output_grad: Any) -> None:
        """Turn the slabs into their gradient; `pooled` is overwritten."""
        self.xp.multiply(output_grad, 1 / len(self.places), out=self.pooled)
        self.activation.backward(self.rows_of_slabs)


class MaxPool:
    """Maximum of the slabs, then the activation.

    Activations rise with their argument: the other way round, this is the same, on more numbers.

    Parameters
    ----------
    xp, activation, slabs, pooled
        As for `AveragePool`.
    """

    def __init__(self, xp: ModuleType, activation: str, slabs: Any, pooled: Any) -> None:
        self.xp = xp
        self.rows, self.places = _pooling_windows(slabs, pooled)
        self.activation = ACTIVATIONS[activation](xp, pooled)
        self.largest = zeros(xp, self.rows.shape, slabs.dtype)
        self.is_largest = zeros(xp, self.rows.shape, bool)

    def forward(self) -> None:
        """Fill `pooled`."""
        xp, (largest, *others) = self.xp, self.places
        for place in others:
            largest = xp.maximum(largest, place, out=self.largest)
        xp.copyto(self.rows, largest)
        self.activation.forward()

    def backward(self, output_grad: Any) -> None:
        """Turn the slabs into their gradient; `pooled` is overwritten.

        The first largest place of a window, row by row, has all of it.
        """
        xp, rest = self.xp, self.rows
        self.activation.backward(output_grad)
        *places, last = self.places
        for slab in places:
            xp.equal(slab, self.largest, out=self.is_largest)
            xp.multiply(rest, self.is_largest, out=slab)
            xp.subtract(rest, slab, out=rest)
        xp.copyto(last, rest)


def _pooling_windows(slabs: Any, pooled: Any) -> tuple[Any, list[Any]]:
    """View what comes out of pooling, and each place of a window, as (H_out, C_out, W_out * N)."""
    Y, n_rows, n_merged, C_out, n_columns, _ = slabs.shape
    places = [
        slabs[:, row, merged, :, column]
        for row in range(n_rows)
        for merged in range(n_merged)
        for column in range(n_columns)
    ]
    return pooled.reshape(Y, C_out, -1), places


_POOLS: dict[str, type[AveragePool | MaxPool]] = {"avg": AveragePool, "max": MaxPool}


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
        self.xp = xp
        self.activation = None if activation is None else ACTIVATIONS[activation](xp, output)
        self.weight, self.bias = weight, bias
        self.weight_grad, self.bias_grad = weight_grad, bias_grad
        self.input, self.input_grad = input_, input_grad
        self.output, self.output_grad = output, output_grad
        self.z_grad = output_grad if activation is None else output
        self.ones = xp.ones(output.shape[1], output.dtype)

    def forward(self) -> None:
        """Fill `output`."""
        xp = self.xp
        xp.matmul(self.weight, self.input, out=self.output)
        xp.add(self.output, self.bias[:, None], out=self.output)
        if self.activation is not None:
            self.activation.forward()

    def backward(self) -> None:
        """Fill the gradients with respect to weight, bias and input."""
        xp = self.xp
        if self.activation is not None:
            self.activation.backward(self.output_grad)
        xp.matmul(self.z_grad, self.ones, out=self.bias_grad)  # the sum over the samples
        xp.matmul(self.z_grad, self.input.T, out=self.weight_grad)
        xp.matmul(self.weight.T, self.z_grad, out=self.input_grad)
