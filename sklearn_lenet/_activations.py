"""Activation functions: in place, each derivative written from the function's output.

`FUNCTIONS[name]` turns pre-activations into activations. `DERIVATIVES[name]` turns activations into
the gradient of the loss with respect to the pre-activations, given that with respect to the
activations (which broadcasts). None allocates an array.
"""

from types import ModuleType
from typing import Any

# A float whose sign bit is set is a negative integer when its bits are read as one, and 0.0 is 0:
# integer maximum and minimum see signs and zeros just as well, in half the float ones' time.
_INTEGER_OF_SIZE = {4: "int32", 8: "int64"}


def _bits(array: Any) -> Any:
    """View the bits of a floating-point array as signed integers."""
    return array.view(_INTEGER_OF_SIZE[array.dtype.itemsize])


def relu(xp: ModuleType, z: Any) -> None:
    """Compute z = max(z, 0), in place."""
    bits = _bits(z)
    xp.maximum(bits, 0, out=bits)


def relu_derivative(xp: ModuleType, output: Any, output_grad: Any) -> None:
    """Compute output = output_grad * (output > 0), in place."""
    bits = _bits(output)
    xp.minimum(bits, 1, out=bits)  # 1 where the output is positive, 0 where it is zero
    xp.multiply(bits, _bits(output_grad), out=bits)


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
