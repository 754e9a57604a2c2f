"""Activation functions: in place, each derivative written from the function's output.

`FUNCTIONS[name]` turns pre-activations into activations. `DERIVATIVES[name]` turns activations into
the gradient of the loss with respect to the pre-activations, given that with respect to the
activations (which broadcasts). None allocates an array.
"""

from types import ModuleType
from typing import Any

_INTEGER_OF_SIZE = {4: "int32", 8: "int64"}


def relu(xp: ModuleType, z: Any) -> None:
    """Compute z = max(z, 0), in place."""
    xp.clip(z, 0, xp.inf, out=z)  # NumPy's maximum with a scalar takes twice the time


def relu_derivative(xp: ModuleType, output: Any, output_grad: Any) -> None:
    """Compute output = output_grad * (output > 0), in place."""
    # Read as an integer, the bits of a positive float are 1 or more, those of 0.0 and -0.0 are not;
    # the integer product with 1 leaves the gradient's bits as they are. No mask, no conversion.
    integer = _INTEGER_OF_SIZE[output.dtype.itemsize]
    bits = output.view(integer)
    xp.clip(bits, 0, 1, out=bits)
    xp.multiply(bits, output_grad.view(integer), out=bits)


def tanh(xp: ModuleType, z: Any) -> None:
    """Compute z = tanh(z), in place."""
    xp.tanh(z, out=z)


def tanh_derivative(xp: ModuleType, output: Any, output_grad: Any) -> None:
    """Compute output = output_grad * (1 - output**2), in place."""
    xp.multiply(output, output, out=output)
    xp.subtract(1, output, out=output)
    xp.multiply(output, output_grad, out=output)


def sigmoid(xp: ModuleType, z: Any) -> None:
    """Compute z = 1 / (1 + exp(-z)) = tanh(z / 2) / 2 + 1/2, in place; it cannot overflow."""
    xp.multiply(z, 0.5, out=z)
    xp.tanh(z, out=z)
    xp.multiply(z, 0.5, out=z)
    xp.add(z, 0.5, out=z)


def sigmoid_derivative(xp: ModuleType, output: Any, output_grad: Any) -> None:
    """Compute output = output_grad * output * (1 - output), in place."""
    # s (1 - s) = 1/4 - (s - 1/2)**2 needs no second array
    xp.subtract(output, 0.5, out=output)
    xp.multiply(output, output, out=output)
    xp.subtract(0.25, output, out=output)
    xp.multiply(output, output_grad, out=output)


FUNCTIONS = {"relu": relu, "tanh": tanh, "sigmoid": sigmoid}
DERIVATIVES = {"relu": relu_derivative, "tanh": tanh_derivative, "sigmoid": sigmoid_derivative}
