"""Train the model of the page "Try it", and write it as JavaScript: `python docs/write_weights.py`.

The build of the documentation does it where the file is missing or older than this script.
"""

import json
from base64 import b64encode
from pathlib import Path

import numpy as np

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

PATH = Path(__file__).parent / "_static" / "try_it_model.js"


def trained():
    """Train on the sample, distorted: what people draw differs more than MNIST's digits do."""
    X, y = load_mnist_sample(subset="train", return_X_y=True)
    return LeNetClassifier(augment="affine", random_state=0).fit(X, y)


def examples():
    """Give the first image of each digit among the sample's test images, as rows of bytes."""
    X, y = load_mnist_sample(subset="test", return_X_y=True)
    return X[[np.flatnonzero(y == digit)[0] for digit in range(10)]]


def javascript(model, images):
    """Write a model and images as one JavaScript constant; arrays as base64 of their bytes."""

    def text(array, dtype):
        return b64encode(np.asarray(array, dtype).tobytes()).decode()

    content = {
        "mean": float(model.mean_),
        "scale": float(model.scale_),
        "weights": [text(coef, "<f4") for coef in model.coefs_],
        "biases": [text(intercept, "<f4") for intercept in model.intercepts_],
        "examples": [text(image, "u1") for image in images],
    }
    return f"const MODEL = {json.dumps(content)};\n"


def write():
    """Train, and write the file."""
    PATH.write_text(javascript(trained(), examples()), encoding="utf-8")


def write_if_older():
    """Write the file, unless it is there and newer than this script."""
    if not PATH.exists() or PATH.stat().st_mtime < Path(__file__).stat().st_mtime:
        write()


if __name__ == "__main__":
    write()
