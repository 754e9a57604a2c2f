"""The layers of a LeNet: convolution with pooling, and dense.

A layer is bound, when it is made, to the arrays that it reads and writes: its parameters and their
gradients (views into flat vectors), its input and its output. `forward` fills the output,
`backward` (directly below it) reads the gradient of the loss with respect to the output and fills
those with respect to the parameters and the input. Gradients are overwritten, never accumulated.
The samples are always the last axis, N: copies then move whole runs of samples, and the columns of
every matrix product are (position, sample), so that no layer has to transpose for the next.
"""

from dataclasses import dataclass
from math import gcd
from types import ModuleType
from typing import Any

from ._activations import DERIVATIVES, FUNCTIONS

# OpenBLAS multiplies small matrices without first packing them into panels. Below about this many
# multiplications a stack of products, one for each row of the image, is faster than a single one.
SMALL_PRODUCT = 1_000_000


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
    def patch_size(self) -> int:
        """Side of the patch below one pooling window."""
        return (self.pool_size - 1) * self.stride + self.kernel_size

    @property
    def step(self) -> int:
        """Pixels from one patch to the next."""
        return self.pool_size * self.stride

    @property
    def block_size(self) -> int:
        """Side of the largest square blocks that patches, steps, padding and image consist of."""
        return gcd(self.step, self.patch_size, self.padding, self.height, self.width)


class BlockedImages:
    """Zero-padded images of one layer, stored by the pixel's place in blocks of b x b pixels.

    Pixel (y, x) of channel c is ``array[c, y % b, x % b, y // b, x // b]``, a run of N samples
    (space to depth). Where patches begin at multiples of b, the neighbours of a pixel in the next
    patches lie next to it in memory: with b = 2, LeNet's second convolution adds up its input's
    gradient in runs 5 times as long.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    shape : ConvPoolShape
        Of the layer that reads the images.
    block_size : int
        b; it divides the height, the width and the padding.
    n_samples : int
    dtype : dtype
    rows_outside : bool
        Whether the rows of blocks, rather than the channels, are the outer axis in memory.

    Attributes
    ----------
    array : array of shape (C, b, b, blocks high, blocks wide, N)
        With the padding.
    interior : view of `array`
        Without the padding.
    """

    def __init__(
        self,
        xp: ModuleType,
        shape: ConvPoolShape,
        block_size: int,
        n_samples: int,
        dtype: Any,
        rows_outside: bool,
    ) -> None:
        b, margin = block_size, shape.padding // block_size
        high, wide = shape.height // b + 2 * margin, shape.width // b + 2 * margin
        if rows_outside:
            memory = xp.zeros((b, b, high, shape.in_channels, wide, n_samples), dtype)
            self.array = memory.transpose(3, 0, 1, 2, 4, 5)
        else:
            self.array = xp.zeros((shape.in_channels, b, b, high, wide, n_samples), dtype)
        self.interior = self.array[..., margin : high - margin, margin : wide - margin, :]


class ConvPool:
    """Convolution, activation and pooling as one matrix product.

    A patch of K x K pixels covers what one p x p pooling window needs. The matrix `bank` holds p*p
    shifted copies of each kernel, zeros around them, so that its product with a patch gives the p*p
    convolution outputs of the window: ``bank @ columns`` has one slab for each place in the window,
    the activation runs over all slabs, and pooling is the mean or the maximum of the slabs. A row
    of ones under the columns carries the bias. For LeNet this moves 2.8 times fewer numbers than a
    convolution by the textbook's im2col, for 1.44 times the arithmetic. With p = 1 it is that
    convolution.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    shape : ConvPoolShape
    pooling : {"avg", "max"}
    activation : {"relu", "tanh", "sigmoid"}
    weight, weight_grad : arrays of shape (C_out, C_in, k, k)
    bias, bias_grad : arrays of shape (C_out,)
    images, images_grad : BlockedImages
        The input and the gradient with respect to it; None for `images_grad` where nobody wants it.
    output, output_grad : arrays of shape (C_out, b, b, Y, X, N)
        The next layer's input (b is its block size, Y * b the height that comes out), and the
        gradient with respect to it, which `backward` overwrites.
    rows_apart : bool
        Whether each row of output blocks has a product of its own.
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
        images: BlockedImages,
        images_grad: BlockedImages | None,
        output: Any,
        output_grad: Any,
        rows_apart: bool,
    ) -> None:
        self.xp, self.max_pooling = xp, pooling == "max"
        self.activate, self.derive = FUNCTIONS[activation], DERIVATIVES[activation]
        self.weight, self.bias = weight, bias
        self.weight_grad, self.bias_grad = weight_grad, bias_grad
        self.images_grad, self.output, self.output_grad = images_grad, output, output_grad

        # Letters: p pooling, k kernel, s stride, K patch; b blocks in, B blocks out; (Y, X) patches
        p, k, s, K = shape.pool_size, shape.kernel_size, shape.stride, shape.patch_size
        _, B, _, Y, X, N = output.shape
        C_in, C_out, dtype = shape.in_channels, shape.out_channels, weight.dtype
        rows, slabs = C_in * K * K + 1, p * p * C_out
        stack = B * B * Y if rows_apart else 1
        n_columns = B * B * Y * X * N // stack
        as_strided, size = xp.lib.stride_tricks.as_strided, dtype.itemsize

        # The same patches, seen in the image and in the columns' memory
        patches = _patches(xp, images.array, shape, output.shape)
        self.columns = xp.ones((stack, rows, n_columns), dtype)
        self.patches = patches
        self.patch_columns = _by_position(self.columns, rows, output.shape, rows_apart)[
            :-1
        ].reshape(patches.shape)

        self.bank = xp.zeros((slabs, rows), dtype)
        self.kernel_copies = as_strided(
            self.bank,
            (p, p, C_out, C_in, k, k),
            [size * n for n in (p * C_out * rows + s * K, C_out * rows + s, rows, K * K, K, 1)],
        )
        self.bias_copies = self.bank[:, -1].reshape(p * p, C_out)

        self.slabs = xp.empty((stack, slabs, n_columns), dtype)
        self.windows = _by_position(self.slabs, slabs, output.shape, rows_apart).reshape(
            p * p, *output.shape
        )
        if weight_grad is None:
            return

        # Transposed, as (rows, slabs): OpenBLAS is faster so
        self.bank_grad = xp.empty((stack, rows, slabs), dtype)
        self.bank_grad_sum = xp.empty((rows, slabs), dtype) if stack > 1 else self.bank_grad[0]
        self.kernel_copies_grad = as_strided(
            self.bank_grad_sum,
            (p, p, C_out, C_in, k, k),
            [
                size * n
                for n in (
                    p * C_out + s * K * slabs,
                    C_out + s * slabs,
                    1,
                    K * K * slabs,
                    K * slabs,
                    slabs,
                )
            ],
        )
        self.bias_copies_grad = self.bank_grad_sum[-1].reshape(p * p, C_out)
        if self.max_pooling:
            self.is_maximum = xp.empty(self.windows.shape, bool)
            self.is_free = xp.empty(output.shape, bool)
        if images_grad is not None:
            self._bind_fold(shape, images_grad.array)

    def forward(self) -> None:
        """Fill `output`."""
        xp = self.xp
        xp.copyto(self.kernel_copies, self.weight)
        xp.copyto(self.bias_copies, self.bias)
        xp.copyto(self.patch_columns, self.patches)  # im2col
        xp.matmul(self.bank, self.columns, out=self.slabs)
        self.activate(xp, self.slabs)
        combine = xp.maximum if self.max_pooling else xp.add
        first, *others = self.windows
        if not others:
            xp.copyto(self.output, first)
        for window in others:
            combine(first, window, out=self.output)
            first = self.output
        if others and not self.max_pooling:
            xp.multiply(self.output, 1 / len(self.windows), out=self.output)

    def backward(self) -> None:
        """Fill the gradients with respect to weight, bias and input."""
        xp = self.xp
        if self.max_pooling:
            self._find_maxima()
        elif len(self.windows) > 1:
            xp.multiply(self.output_grad, 1 / len(self.windows), out=self.output_grad)
        self.derive(xp, self.windows, self.output_grad)  # the slabs are now their gradient
        if self.max_pooling:
            xp.multiply(self.windows, self.is_maximum, out=self.windows)

        xp.matmul(self.columns, self.slabs.transpose(0, 2, 1), out=self.bank_grad)
        if len(self.bank_grad) > 1:
            xp.sum(self.bank_grad, axis=0, out=self.bank_grad_sum)
        xp.sum(self.kernel_copies_grad, axis=(0, 1), out=self.weight_grad)
        xp.sum(self.bias_copies_grad, axis=0, out=self.bias_grad)

        if self.images_grad is not None:
            # The columns have done their work: their gradient takes their place
            xp.matmul(self.bank[:, :-1].T, self.slabs, out=self.columns[:, :-1])
            self._fold(self.images_grad.array)

    def _find_maxima(self) -> None:
        """Mark the first of the slabs that holds the window's maximum."""
        xp = self.xp
        self.is_free.fill(True)
        for window, is_maximum in zip(self.windows, self.is_maximum, strict=True):
            xp.equal(window, self.output, out=is_maximum)
            xp.logical_and(is_maximum, self.is_free, out=is_maximum)
            xp.logical_xor(self.is_free, is_maximum, out=self.is_free)

    def _bind_fold(self, shape: ConvPoolShape, images_grad: Any) -> None:
        """Make the views for `_fold`: pairs of (sum, summand)."""
        xp = self.xp
        as_strided = xp.lib.stride_tricks.as_strided
        C, b, _, high, _, N = images_grad.shape
        _, B, _, Y, X, _ = self.output.shape
        n_offsets, step = shape.patch_size // b, shape.step // b
        # summed over the patches' rows, not yet over their columns
        self.row_sums = xp.empty((C, b, n_offsets, b, B, high, X, N), images_grad.dtype)
        *outer, y, x, n = self.row_sums.strides
        column_grads = self.patch_columns  # (C, offset, b, offset, b, B, B, Y, X, N)
        self.row_pairs = [
            (
                as_strided(
                    self.row_sums[..., offset:, :, :],
                    (C, b, n_offsets, b, B, B, Y, X, N),
                    (*outer[:4], step * y, outer[4], B * step * y, x, n),
                ),
                column_grads[:, offset],
            )
            for offset in range(n_offsets)
        ]
        *outer, y, x, n = images_grad.strides
        self.column_pairs = [
            (
                as_strided(
                    images_grad[..., offset:, :],
                    (C, b, b, B, high, X, N),
                    (*outer, step * x, y, B * step * x, n),
                ),
                self.row_sums[:, :, offset],
            )
            for offset in range(n_offsets)
        ]

    def _fold(self, images_grad: Any) -> None:
        """Add the columns' gradient up where the patches overlap (col2im), first along y."""
        self.row_sums.fill(0)
        for total, summand in self.row_pairs:
            self.xp.add(total, summand, out=total)
        images_grad.fill(0)
        for total, summand in self.column_pairs:
            self.xp.add(total, summand, out=total)


def _patches(xp: ModuleType, images: Any, shape: ConvPoolShape, output_shape: Any) -> Any:
    """View blocked images as patches: (C, K/b, b, K/b, b, B, B, Y, X, N)."""
    C, b, _, _, _, N = images.shape
    _, B, _, Y, X, _ = output_shape
    c, in_block_y, in_block_x, y, x, n = images.strides
    n_offsets, step = shape.patch_size // b, shape.step // b
    return xp.lib.stride_tricks.as_strided(
        images,
        (C, n_offsets, b, n_offsets, b, B, B, Y, X, N),
        (c, y, in_block_y, x, in_block_x, step * y, step * x, B * step * y, B * step * x, n),
    )


def _by_position(matrices: Any, rows: int, output_shape: Any, rows_apart: bool) -> Any:
    """View a (stack of) matrices with `rows` rows as (rows, B, B, Y, X, N)."""
    _, B, _, Y, X, N = output_shape
    if rows_apart:
        return matrices.reshape(B, B, Y, rows, X, N).transpose(3, 0, 1, 2, 4, 5)
    return matrices.reshape(rows, B, B, Y, X, N)


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
