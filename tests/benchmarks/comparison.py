"""How LeNetClassifier compares: `python -m tests.benchmarks.comparison`.

The same LeNet by skorch (PyTorch) and by SciKeras (Keras), and scikit-learn's MLPClassifier with
the dense layers alone, learn from the packaged sample by Adam with mini-batches of 64. Prints a
table in Markdown, without those that are not installed. Takes about a minute on two cores.
"""

import argparse
import os
import pickle
import re
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import sklearn_lenet
from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

from . import rivals

# From a number of epochs to an estimator that is not fitted
Make = Callable[[int], Any]


def ours(epochs: int) -> LeNetClassifier:
    """Make ours at a constant rate, as the others have it."""
    return LeNetClassifier(lr=0.001, lr_schedule="constant", max_iter=epochs, random_state=0)


def mlp(epochs: int) -> MLPClassifier:
    """Make scikit-learn's: its network has no convolutions."""
    return MLPClassifier((120, 84), batch_size=64, max_iter=epochs, random_state=0)


def skorch(epochs: int) -> Any:
    """Make skorch's; it leaves the seed to PyTorch."""
    import torch

    torch.manual_seed(0)
    layers = rivals.torch_layers([(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)])
    network = torch.nn.Sequential(torch.nn.Unflatten(1, (1, 28, 28)), *layers)
    return rivals.skorch_classifier(network, epochs, torch.optim.Adam, lr=0.001)


def scikeras(epochs: int) -> Any:
    """Make SciKeras', on whichever of Keras' backends is installed."""
    os.environ["KERAS_BACKEND"] = keras_backend()
    from scikeras.wrappers import KerasClassifier

    return KerasClassifier(
        keras_network,
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        batch_size=64,
        epochs=epochs,
        random_state=0,
        verbose=0,
    )


def keras_backend() -> str:
    """Name the first of Keras' backends that is installed."""
    return next(filter(find_spec, ("jax", "torch", "tensorflow")))


def keras_network() -> Any:
    """Make LeNet with Keras, for rows of pixels."""
    import keras
    from keras import layers

    images = layers.Input((784,)), layers.Reshape((28, 28, 1))
    return keras.Sequential(
        [*images, *rivals.keras_layers(), layers.Dense(10, activation="softmax")]
    )


NEIGHBOURS: dict[str, Make] = {
    "LeNetClassifier": ours,
    "MLPClassifier": mlp,
    "skorch": skorch,
    "SciKeras": scikeras,
}

# Distributions that each needs beside scikit-learn's, by the names of their modules
NEEDS: dict[str, tuple[str, ...]] = {
    "LeNetClassifier": ("tqdm",),
    "MLPClassifier": (),
    "skorch": ("skorch", "torch"),
    "SciKeras": ("scikeras", "keras"),
}


class Sample:
    """The packaged sample, and the images that a row of the table learns from."""

    def __init__(self, n: int) -> None:
        X, self.y = load_mnist_sample(subset="train", return_X_y=True)
        self.X_test, self.y_test = load_mnist_sample(subset="test", return_X_y=True)
        self.X, self.y = X[:n], self.y[:n]

    def scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """Give training and test images as float32 from 0 to 1."""
        return (self.X / 255).astype(np.float32), (self.X_test / 255).astype(np.float32)


def accuracy(make: Make, sample: Sample, epochs: int) -> str:
    """Learn from scaled pixels, and time it."""
    X, X_test = sample.scaled()
    make(1).fit(X[:64], sample.y[:64])  # so that imports are not timed
    model = make(epochs)
    begin = time.perf_counter()
    model.fit(X, sample.y)
    seconds = time.perf_counter() - begin
    return f"{100 * model.score(X_test, sample.y_test):.1f} %, {seconds:.1f} s"


def bytes_as_they_are(make: Make, sample: Sample, epochs: int) -> str:
    """Learn from the bytes of the files."""
    model = make(epochs).fit(sample.X, sample.y)
    return f"{100 * model.score(sample.X_test, sample.y_test):.1f} %"


def continued(make: Make, sample: Sample, epochs: int) -> str:
    """Compare a fit of two epochs with two calls for one, the model saved and loaded in between."""
    X, X_test = sample.scaled()
    whole = make(2).fit(X, sample.y).predict_proba(X_test)
    part = make(1).partial_fit(X, sample.y, classes=np.unique(sample.y))
    part = pickle.loads(pickle.dumps(part)).partial_fit(X, sample.y).predict_proba(X_test)
    return "yes" if (whole == part).all() else "no"


def file_size(make: Make, sample: Sample, epochs: int) -> str:
    """Pickle a fitted model."""
    X, _ = sample.scaled()
    return f"{len(pickle.dumps(make(1).fit(X, sample.y))) / 1000:.0f} kB"


def installed(name: str) -> str:
    """Add up the files of all distributions that are needed beside scikit-learn and its own."""
    names = NEEDS[name] + ((keras_backend(),) if name == "SciKeras" else ())
    paths = [
        file.locate()
        for distribution in needed(*names) - needed("scikit-learn")
        for file in metadata.files(distribution) or ()
    ]
    if name == "LeNetClassifier":  # a clone, that may not be installed
        paths += Path(sklearn_lenet.__file__).parent.rglob("*")
    size = sum(Path(str(path)).stat().st_size for path in paths if Path(str(path)).is_file())
    return f"{size / 1e6:.1f} MB"


def needed(*names: str) -> set[str]:
    """List distributions and all that they require, without extras, as far as it is installed."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        left += [re.split(r"[^\w.-]", r, maxsplit=1)[0] for r in required if "extra ==" not in r]
    return found


ROWS: dict[str, Callable[[Make, Sample, int], str]] = {
    "accuracy, and time of `fit`: {epochs} epochs, pixels from 0 to 1": accuracy,
    "accuracy, the pixels as bytes from 0 to 255": bytes_as_they_are,
    "`fit` of 2 epochs = 2 calls of `partial_fit`, saved and loaded between, to the bit": continued,
    "size of the file": file_size,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.comparison", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--images", type=int, default=5000, help="to learn from (default: 5000)")
    parser.add_argument("--epochs", type=int, default=5, help="for the accuracies (default: 5)")
    arguments = parser.parse_args()
    sample = Sample(arguments.images)
    # So few epochs are not meant to converge
    warnings.simplefilter("ignore", ConvergenceWarning)
    found = [name for name, needs in NEEDS.items() if all(map(find_spec, needs))]
    print(f"| | {' | '.join(found)} |\n|---{'|---' * len(found)}|")
    for what, measure in ROWS.items():
        cells = [cell(measure, NEIGHBOURS[name], sample, arguments.epochs) for name in found]
        print(f"| {what.format(epochs=arguments.epochs)} | {' | '.join(cells)} |", flush=True)
    print(f"| to install beside scikit-learn | {' | '.join(map(installed, found))} |")


def cell(
    measure: Callable[[Make, Sample, int], str], make: Make, sample: Sample, epochs: int
) -> str:
    """Measure, or name the error."""
    try:
        return measure(make, sample, epochs)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        return f"no: {type(error).__name__}"


if __name__ == "__main__":
    main()
