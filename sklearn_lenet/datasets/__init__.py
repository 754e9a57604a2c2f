"""MNIST, whole or a sample that ships with the package; the format of its files; own pictures."""

from ._folder import load_image_folder
from ._idx import load_idx
from ._mnist import load_mnist, load_mnist_sample

__all__ = ["load_idx", "load_image_folder", "load_mnist", "load_mnist_sample"]
