"""Choose the defaults: ``python -m tests.benchmarks.selection --help``.

Every line of the table changes one thing of the defaults. Each setting is trained with each seed on
the first images of MNIST's training set and scored on the last sixth of it; and on scikit-learn's
digits, by cross-validation in five stratified folds. MNIST's test set is not read.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from sklearn_lenet.datasets import load_mnist, load_mnist_sample

from .fits import Fold, Score, cross_validate_digits, score
from .measuring import data_directory

_SGD = {"solver": "sgd"}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "lr 0.001": {"lr": 0.001},
    "lr 0.01": {"lr": 0.01},
    "lr 0.02": {"lr": 0.02},
    "batch 16": {"batch_size": 16},
    "batch 256": {"batch_size": 256},
    "constant": {"lr_schedule": "constant"},
    "no smoothing": {"label_smoothing": 0.0},
    "smoothing 0.1": {"label_smoothing": 0.1},
    "20 epochs": {"max_iter": 20},
    "max pooling": {"pooling": "max"},
    "average": {"ema_decay": 0.99},
    "penalty": {"alpha": 0.1},
    "short": {"max_iter": 3},
    "shortest": {"max_iter": 1, "batch_size": 256, "lr": 0.02},
    "tanh": {"activation": "tanh"},
    "sigmoid": {"activation": "sigmoid"},
    "sgd": _SGD,
    "sgd lr 0.001": _SGD | {"lr": 0.001},
    "sgd lr 0.02": _SGD | {"lr": 0.02},
    "sgd batch 256": _SGD | {"batch_size": 256},
    "sgd constant": _SGD | {"lr_schedule": "constant"},
    "sgd 0.9": _SGD | {"momentum": 0.9},
    "sgd short": _SGD | {"max_iter": 3, "lr": 0.05, "momentum": 0.9},
    "sgd sigmoid": _SGD | {"activation": "sigmoid"},
}

HEADER = (
    f"{'setting':15} {'MNIST':>7} {'+-':>5} {'s/fit':>6}   {'digits':>7} {'+-':>5} {'s/fit':>6}"
)


def main() -> None:
    """Score the settings that are asked for; write each as soon as it is there."""
    arguments = _arguments()
    data = data_directory(arguments.data)
    fold = _validation(data, arguments.images)
    source = "MNIST" if data else "the sample of MNIST that ships with the package"
    print(
        f"{len(fold.y)} images of {source} to train on, {len(fold.y_test)} to validate on. "
        f"{arguments.seeds} seeds. Accuracies in percent.\n\n{HEADER}"
    )
    written = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for name in arguments.only:
        parameters = SETTINGS[name]
        mnist, digits = [], []
        for seed in range(arguments.seeds):
            mnist.append(score(parameters, seed, fold))
            digits.append(cross_validate_digits(parameters, seed))
            print(f"{name}, seed {seed}: {mnist[-1]}, {digits[-1]}", file=sys.stderr)
        print(f"{name:15} {_cells(mnist)}   {_cells(digits)}", flush=True)
        written[name] = {"parameters": parameters, "mnist": mnist, "digits": digits}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    print(f"\nwritten: {arguments.json}")


def _validation(data: str | None, n_images: int) -> Fold:
    """Split the training set: its last sixth serves to validate."""
    if data is None:
        X, y = load_mnist_sample(subset="train", return_X_y=True)
    else:
        X, y = load_mnist(data, subset="train", return_X_y=True)
    n_training = len(X) * 5 // 6
    n_images = min(n_images, n_training)
    return Fold(X[:n_images], y[:n_images], X[n_training:], y[n_training:])


def _cells(scores: list[Score]) -> str:
    accuracies, seconds = zip(*scores, strict=True)
    return f"{mean(accuracies):7.2f} {pstdev(accuracies):5.2f} {mean(seconds):6.1f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.selection", description=__doc__
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=SETTINGS,
        default=list(SETTINGS),
        help=", ".join(map(repr, SETTINGS)),
    )
    parser.add_argument("--images", type=int, default=10_000, help="to train on (default: 10000)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--data", help="directory of MNIST's files (default: SKLEARN_LENET_DATA)")
    parser.add_argument(
        "--json", type=Path, default=Path("selection.json"), help="its other settings stay"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
