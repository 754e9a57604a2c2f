"""Make the sample of MNIST that ships with the package.

``python -m sklearn_lenet.datasets._make_sample DIRECTORY`` writes it to DIRECTORY, as four gzipped
IDX files. MNIST itself comes from where `load_mnist` finds it.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from ._mnist import load_mnist


def make_sample(directory: Path) -> None:
    """Write 5,000 training and 1,000 test images, drawn stratified, to an existing directory."""
    for name, (X, y), n_samples in (
        ("train", load_mnist(subset="train", return_X_y=True), 5000),
        ("t10k", load_mnist(subset="test", return_X_y=True), 1000),
    ):
        X, _, y, _ = train_test_split(X, y, train_size=n_samples, stratify=y, random_state=0)
        _write_idx(directory / f"{name}-images-idx3-ubyte.gz", X.reshape(-1, 28, 28))
        _write_idx(directory / f"{name}-labels-idx1-ubyte.gz", y.astype(np.uint8))


def _write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write an array as a gzipped IDX file, the same bytes each time."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    # No file name and no time of writing go into the gzip header.
    with (
        open(path, "wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=0) as packed,
    ):
        packed.write(header + array.tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="existing directory to write the files to")
    make_sample(parser.parse_args().directory)
