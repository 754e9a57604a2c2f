"""Measure how well LeNetClassifier learns: ``python -m tests.benchmarks.accuracies --help``.

Every row of the table is a setting, trained once with each seed; each fit predicts the test set
once. The settings were chosen without it: see `tests/benchmarks/selection.py`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from sklearn_lenet.datasets import load_mnist, load_mnist_sample

from . import report
from .accuracy import TO_99
from .figures import operations_per_sample
from .fits import Fold, Score, cross_validate_digits, score
from .measuring import Settings, alternate, data_directory


@dataclass(frozen=True)
class Row:
    """A setting, and what is wanted of it.

    Attributes
    ----------
    what : str
    parameters : dict
        Of LeNetClassifier; all others have their defaults.
    at_least : float
        Mean test accuracy, in percent.
    then : dict or None
        Parameters that are others in a second fit, which goes on from the first.
    seconds : float or None
        The median fit takes that at most, on two cores.
    ranges : tuple of str
        What the pixels are, of `RANGES`; with more than one, their mean accuracies are compared.
    apart : float or None
        How far apart those may be, in percentage points.
    data : {"mnist", "digits"}
        "digits" are scikit-learn's, 8 x 8 pixels, by stratified cross-validation in five shuffled
        folds.
    """

    what: str
    parameters: dict[str, Any]
    at_least: float
    then: dict[str, Any] | None = None
    seconds: float | None = None
    ranges: tuple[str, ...] = ("raw",)
    apart: float | None = None
    data: str = "mnist"


# LeNet-5 as it is often taught: sigmoid units, a constant rate
REPORT = {
    "activation": "sigmoid",
    "solver": "sgd",
    "momentum": 0.98,
    "max_iter": 50,
    "lr_schedule": "constant",
    "label_smoothing": 0.0,
}
# The network is too small to fit distorted images and smooth labels at the same time
AUGMENTED = {
    "augment": "elastic",
    "max_iter": 50,
    "solver": "sgd",
    "lr": 0.02,
    "momentum": 0.9,
    "label_smoothing": 0.0,
    "ema_decay": 0.999,
}
# Distorted images are not quite those that it is to recognize
UNDISTORTED = {"augment": None, "max_iter": 10, "lr": 0.005}
TO_98 = {"max_iter": 1, "batch_size": 256, "lr": 0.02}

ROWS = {
    "report": Row("sigmoid, mean pooling, SGD, constant lr=0.005, 50 epochs", REPORT, 98),
    "defaults": Row("all defaults", {}, 99),
    "plain": Row("all defaults, which are 20 epochs without augmentation", {}, 99.25),
    "augmented": Row(
        f"with augmentation, 60 epochs: {AUGMENTED}, then {UNDISTORTED}",
        AUGMENTED,
        99.5,
        then=UNDISTORTED,
    ),
    "digits": Row("load_digits, 5 folds, all defaults", {}, 98.5, data="digits"),
    "ranges": Row(
        "all defaults, pixels 0 to 255, 0 to 1, standardized",
        {},
        99,
        ranges=("raw", "0..1", "standardized"),
        apart=0.1,
    ),
    "to-98": Row(f"in a few seconds: {TO_98}", TO_98, 98, seconds=4),
    "to-99": Row(f"in one epoch: {TO_99}", TO_99, 99, seconds=5),
}

RANGES = {
    "raw": lambda X: X,
    "0..1": lambda X: X.astype(np.float32) / 255,
    "standardized": lambda X: (X.astype(np.float32) - 33.32) / 78.57,
}


class Fits(NamedTuple):
    """The fits of one setting on pixels of one range, by seed: 0, 1, ..."""

    accuracies: list[float]  # in percent
    seconds: list[float]


class Trainer:
    """Train on MNIST and on scikit-learn's digits; no fit is made twice.

    Parameters
    ----------
    data : str or None
        Directory of MNIST's files; None takes the sample that ships with the package.
    """

    def __init__(self, data: str | None) -> None:
        subsets = [
            load_mnist_sample(subset=subset, return_X_y=True)
            if data is None
            else load_mnist(data, subset=subset, return_X_y=True)
            for subset in ("train", "test")
        ]
        self.fold = Fold(*subsets[0], *subsets[1])
        self._made: dict[str, Score] = {}

    def fit(self, row: Row, pixels: str, seed: int) -> Score:
        """Train on pixels of a range, and predict the test set once."""
        key = repr((row.data, row.parameters, row.then, pixels, seed))
        if key not in self._made:
            if row.data == "digits":
                self._made[key] = cross_validate_digits(row.parameters, seed)
            else:
                X, y, X_test, y_test = self.fold
                scale = RANGES[pixels]
                fold = Fold(scale(X), y, scale(X_test), y_test)
                self._made[key] = score(row.parameters, seed, fold, row.then)
        return self._made[key]


def floor_of_an_epoch() -> float:
    """Compute the seconds that 60,000 samples' arithmetic takes one thread at sgemm's speed."""
    size = 2048
    matrix = np.ones((size, size), np.float32)
    product = np.empty_like(matrix)
    with threadpool_limits(1, "blas"):
        settings = Settings(quick=False, data=None, repeats=9)
        (matmul,) = alternate(settings, lambda: np.matmul(matrix, matrix, out=product))
    return 60_000 * operations_per_sample() * matmul.median / (2 * size**3)


def measure(row: Row, trainer: Trainer, seeds: int) -> dict[str, Fits]:
    """Train with each seed, on pixels of each range."""
    fits = {}
    for pixels in row.ranges:
        scores = []
        for seed in range(seeds):
            scores.append(trainer.fit(row, pixels, seed))
            print(f"{pixels}, seed {seed}: {scores[-1]}", file=sys.stderr)
        fits[pixels] = Fits(*map(list, zip(*scores, strict=True)))
    return fits


def verdict(row: Row, fits: dict[str, Fits]) -> str:
    """Say whether a row is what is wanted of it."""
    means = [mean(of_range.accuracies) for of_range in fits.values()]
    is_reached = min(means) >= row.at_least
    if row.seconds is not None:
        is_reached &= max(median(of_range.seconds) for of_range in fits.values()) <= row.seconds
    if row.apart is not None:
        is_reached &= max(means) - min(means) <= row.apart
    return "ok" if is_reached else "short"


HEADER = (
    f"{'row':10} {'mean':>7} {'min':>7} {'max':>7} {'std':>5} {'wanted':>8} {'':5} {'s/fit':>7}"
)


def lines(name: str, row: Row, fits: dict[str, Fits], floor: float) -> Iterator[str]:
    """Write a row's lines of the table."""
    for pixels, of_range in fits.items():
        accuracies, seconds = of_range.accuracies, median(of_range.seconds)
        notes = [row.what]
        if len(fits) > 1:
            notes.append(pixels)
        if row.seconds is not None:
            notes.append(f"{seconds:.1f} s (wanted: {row.seconds:g}), {seconds / floor:.1f} floors")
        yield (
            f"{name:10} {mean(accuracies):7.3f} {min(accuracies):7.2f} {max(accuracies):7.2f} "
            f"{pstdev(accuracies):5.2f} {f'>= {row.at_least:g}':>8} {verdict(row, fits):5} "
            f"{seconds:7.1f} {'; '.join(notes)}"
        )
    if row.apart is not None:
        means = [mean(of_range.accuracies) for of_range in fits.values()]
        yield f"{'':10} {max(means) - min(means):7.3f} apart, wanted: at most {row.apart:g}"


def main() -> None:
    """Measure the rows that are asked for; write each as soon as it is there."""
    arguments = _arguments()
    data = data_directory(arguments.data)
    trainer = Trainer(data)
    floor = floor_of_an_epoch()
    written = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    source = "MNIST" if data else "The sample of MNIST that ships with the package"
    print(
        f"{source}, {len(trainer.fold.y)} images to train on, {len(trainer.fold.y_test)} to test "
        f"on. {arguments.seeds} seeds. Accuracies in percent.\n"
        f"An epoch's arithmetic at sgemm's speed, one thread: {floor:.2f} s\n\n{HEADER}"
    )
    for name in arguments.only:
        row = ROWS[name]
        print(f"{name}: {row.what}", file=sys.stderr)
        fits = measure(row, trainer, arguments.seeds)
        print("\n".join(lines(name, row, fits, floor)), flush=True)
        written[name] = {
            "what": row.what,
            "parameters": row.parameters,
            "then": row.then,
            "at_least": row.at_least,
            "verdict": verdict(row, fits),
            "floor": floor,
            "machine": report.machine(),
            "fits": {pixels: of_range._asdict() for pixels, of_range in fits.items()},
        }
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    print(f"\nwritten: {arguments.json}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.accuracies", description=__doc__
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=ROWS, default=list(ROWS), help=", ".join(ROWS)
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--data", help="directory of MNIST's files (default: SKLEARN_LENET_DATA)")
    parser.add_argument(
        "--json", type=Path, default=Path("accuracies.json"), help="rows that it has already stay"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
