"""What all tests share."""

import os
import signal

# Read when SciPy is first imported; scikit-learn skips a check without it
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import matplotlib as mpl
import pytest

mpl.use("agg")

# A shell that starts the tests in the background has it ignored, and interrupts would never come
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sample():
    """The packaged MNIST sample: X_train, y_train, X_test, y_test."""
    from sklearn_lenet.datasets import load_mnist_sample

    return (
        *load_mnist_sample(subset="train", return_X_y=True),
        *load_mnist_sample(subset="test", return_X_y=True),
    )


@pytest.fixture(scope="session")
def mnist():
    """All of MNIST, where `SKLEARN_LENET_DATA` names a directory that has it."""
    if "SKLEARN_LENET_DATA" not in os.environ:
        pytest.skip("set SKLEARN_LENET_DATA to a directory with MNIST's IDX files")
    from sklearn_lenet.datasets import load_mnist

    return (
        *load_mnist(subset="train", return_X_y=True),
        *load_mnist(subset="test", return_X_y=True),
    )
