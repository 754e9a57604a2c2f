"""Activation functions: in place, each derivative written from the function's output.

An activation is bound to an array when it is made. `forward` turns the pre-activations in it into
activations; `backward` turns those into the gradient of the loss with respect to the
pre-activations, given that with respect to the activations (which broadcasts). Neither allocates an
array.
"""

from types import ModuleType
from typing import Any

from ._backend import zeros

_INTEGER_OF_SIZE = {4: "int32", 8: "int64"}


class Activation:
    """What all activations share.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    array : array
        Holds pre-activations, then activations, then gradients.
    """

    def __init__(self, xp: ModuleType, array: Any) -> None:
        self.xp, self.array = xp, array

    def forward(self) -> None:
        """Turn pre-activations into activations, in place."""
        raise NotImplementedError

    def backward(self, output_grad: Any) -> None:
        """Turn activations into the gradient with respect to the pre-activations, in place."""
        raise NotImplementedError


class ReLU(Activation):
    """max(z, 0)."""

    def __init__(self, xp: ModuleType, array: Any) -> None:
        super().__init__(xp, array)
        # NumPy takes four times as long with a number in the place of these arrays
        self._zeros = zeros(xp, array.shape[1:], array.dtype)
        integer = _INTEGER_OF_SIZE[array.dtype.itemsize]
        self._bits, self._ones = array.view(integer), zeros(xp, array.shape[1:], integer)
        self._ones.fill(1)

    def forward(self) -> None:
        """Compute max(z, 0)."""
        self.xp.maximum(self.array, self._zeros, out=self.array)

    def backward(self, output_grad: Any) -> None:
        """Compute output_grad * (output > 0)."""
        # Read as an integer, the bits of a positive float are 1 or more, those of 0.0 and -0.0 are
        # not; the integer product with 1 leaves the gradient's bits as they are. No mask, no
        # conversion.
        xp, bits = self.xp, self._bits
        xp.minimum(bits, self._ones, out=bits)
        xp.multiply(bits, output_grad.view(bits.dtype), out=bits)


class Tanh(Activation):
    """tanh(z)."""

    def forward(self) -> None:
        """Compute tanh(z)."""
        self.xp.tanh(self.array, out=self.array)

    def backward(self, output_grad: Any) -> None:
        """Compute output_grad * (1 - output**2)."""
        xp, output = self.xp, self.array
        xp.multiply(output, output, out=output)
        xp.subtract(1, output, out=output)
        xp.multiply(output, output_grad, out=output)


class Sigmoid(Activation):
    """1 / (1 + exp(-z))."""

    def forward(self) -> None:
        """Compute tanh(z / 2) / 2 + 1/2, which is the same and cannot overflow."""
        xp, z = self.xp, self.array
        xp.multiply(z, 0.5, out=z)
        xp.tanh(z, out=z)
        xp.multiply(z, 0.5, out=z)
        xp.add(z, 0.5, out=z)

    def backward(self, output_grad: Any) -> None:
        """Compute output_grad * output * (1 - output)."""
        # s (1 - s) = 1/4 - (s - 1/2)**2 needs no second array
        xp, output = self.xp, self.array
        xp.subtract(output, 0.5, out=output)
        xp.multiply(output, output, out=output)
        xp.subtract(0.25, output, out=output)
        xp.multiply(output, output_grad, out=output)


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}
