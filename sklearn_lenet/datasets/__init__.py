"""MNIST, whole or a sample that ships with the package; and the format of its files."""

from ._idx import load_idx
from ._mnist import load_mnist, load_mnist_sample

__all__ = ["load_idx", "load_mnist", "load_mnist_sample"]
