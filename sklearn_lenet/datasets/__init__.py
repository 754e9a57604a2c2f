"""MNIST: the whole set from its IDX files or OpenML, and a sample that ships with the package."""

from ._mnist import load_mnist, load_mnist_sample

__all__ = ["load_mnist", "load_mnist_sample"]
