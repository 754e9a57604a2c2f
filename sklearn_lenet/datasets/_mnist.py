"""Loaders for MNIST: where its files are found, and how they become a `Bunch`."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_scalar

from ._idx import read_idx

# The sets of each subset, by the first letters of their files' names.
SETS = {"all": ("train", "t10k"), "train": ("train",), "test": ("t10k",)}

DESCR = """\
The MNIST database of handwritten digits, by Y. LeCun, C. Cortes and C. Burges.

70,000 images of 28 x 28 pixels, from 0 (background) to 255 (ink): 60,000 for training, then
10,000 for testing, written by other people. Ten classes, the digits 0 to 9.
Licence: CC BY-SA 3.0.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86(11), pp. 2278-2324, 1998.
"""


def load_mnist(
    data_home: str | os.PathLike[str] | None = None,
    *,
    subset: Literal["all", "train", "test"] = "all",
    return_X_y: bool = False,
) -> Bunch | tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Load MNIST, from its IDX files or from OpenML.

    ==============   ===============================
    Classes                                       10
    Samples total    70000 (60000 train, 10000 test)
    Dimensionality                     784 (28 x 28)
    Features                          integers 0-255
    ==============   ===============================

    Parameters
    ----------
    data_home : str or path-like, default=None
        Directory with the IDX files (``train-images-idx3-ubyte``, ``t10k-labels.idx1-ubyte.gz`` and
        so on, plain or gzipped) in it or anywhere below it. If None or "", the directory in the
        environment variable ``SKLEARN_LENET_DATA``. If that is not set either,
        :func:`sklearn.datasets.fetch_openml` downloads MNIST once and keeps it in scikit-learn's
        own cache.

    subset : {"all", "train", "test"}, default="all"
        The rows to load: the training set, the test set, or the one followed by the other, so that
        the first 60,000 rows are the training set and the last 10,000 the test set.

    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    mnist : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        data : ndarray of shape (n_samples, 784), dtype uint8
            One flattened image a row, from 0 (background) to 255 (ink).
        target : ndarray of shape (n_samples,), dtype int64
            The digits, 0 to 9.
        images : ndarray of shape (n_samples, 28, 28), dtype uint8
            A view of `data`.
        target_names : ndarray of shape (10,), dtype int64
            The classes.
        feature_names : list of str of length 784
            ``pixel_<row>_<column>``.
        DESCR : str
            What the data set is and where it comes from.

    (data, target) : tuple if ``return_X_y`` is True
        The two arrays above.

    Raises
    ------
    TypeError
        If `data_home` is no str, path-like or None.
    FileNotFoundError
        If there is no such directory, or if it lacks a file that `subset` needs.
    ValueError
        If `subset` is none of the above, if a file's content is not as it should be, or if files of
        one name lie in several directories below the directory given.

    See Also
    --------
    load_mnist_sample : 6,000 of these images, shipped with the package.
    load_idx : Any file of this format.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), pp. 2278-2324, 1998.

    Examples
    --------
    >>> from sklearn_lenet.datasets import load_mnist
    >>> X, y = load_mnist(subset="train", return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (60000, 784)
    """
    check_scalar(data_home, "data_home", (str, os.PathLike, type(None)))
    _check_subset(subset, "load_mnist")
    data_home = data_home or os.environ.get("SKLEARN_LENET_DATA")
    if data_home:
        data, target = _read(_find(_directory(data_home), SETS[subset]))
    else:
        data, target = _fetch(subset)
    return (data, target) if return_X_y else _bunch(data, target, DESCR)


def load_mnist_sample(
    *, subset: Literal["all", "train", "test"] = "all", return_X_y: bool = False
) -> Bunch | tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Load 6,000 images of MNIST that ship with the package.

    5,000 come from MNIST's training set and 1,000 from its test set. Both are drawn at random with
    the proportions of the classes kept, and are in random order.

    Parameters
    ----------
    subset : {"all", "train", "test"}, default="all"
        The rows to load: those for training, those for testing, or the one followed by the other,
        so that the first 5,000 rows are for training and the last 1,000 for testing.

    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    mnist : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the attributes that :func:`load_mnist` describes: `data`
        (uint8), `target` (int64), `images`, `target_names`, `feature_names` and `DESCR`.

    (data, target) : tuple if ``return_X_y`` is True
        Arrays of shape (n_samples, 784), dtype uint8, and (n_samples,), dtype int64.

    Raises
    ------
    ValueError
        If `subset` is none of the above.

    See Also
    --------
    load_mnist : All 70,000 images.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), pp. 2278-2324, 1998.

    Examples
    --------
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> X, y = load_mnist_sample(subset="train", return_X_y=True)
    >>> X.shape, y.shape
    ((5000, 784), (5000,))
    """
    _check_subset(subset, "load_mnist_sample")
    directory = resources.files("sklearn_lenet.datasets").joinpath("data")
    data, target = _read(
        [
            (
                directory.joinpath(f"{name}-images-idx3-ubyte.gz"),
                directory.joinpath(f"{name}-labels-idx1-ubyte.gz"),
            )
            for name in SETS[subset]
        ]
    )
    if return_X_y:
        return data, target
    return _bunch(data, target, directory.joinpath("README.md").read_text(encoding="utf-8"))


def _check_subset(subset: str, caller: str) -> None:
    """Raise a ValueError unless subset is one of SETS."""
    if subset not in tuple(SETS):
        raise ValueError(
            f"The 'subset' parameter of {caller} must be a str among "
            f"{{'all', 'test', 'train'}}. Got {subset!r} instead."
        )


def _directory(data_home: str | os.PathLike[str]) -> Path:
    """Give the directory that data_home names, if there is one."""
    given = f"data_home={os.fspath(data_home)!r}"
    try:
        directory = Path(data_home).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{given}: {error}") from error
    if directory.is_file():
        raise NotADirectoryError(f"{given} is a file. Give the directory of MNIST's IDX files.")
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{given}: there is no such directory. Give the directory of MNIST's IDX files as "
            "data_home or in the environment variable SKLEARN_LENET_DATA."
        )
    return directory


def _find(data_home: Path, sets: Sequence[str]) -> list[tuple[Path, Path]]:
    """Find each set's files of images and of labels in or below data_home."""
    patterns = [f"{name}*{n_dims}-ubyte" for name in sets for n_dims in (3, 1)]
    files = sorted(path for path in data_home.rglob("*") if path.is_file())
    matches = {
        pattern: [
            file for file in files if fnmatchcase(file.name.lower().removesuffix(".gz"), pattern)
        ]
        for pattern in patterns
    }
    # Images and labels of one directory, where there is one that has all of them
    complete = set.intersection(*({file.parent for file in paths} for paths in matches.values()))
    if complete:
        matches = {
            pattern: [file for file in paths if file.parent in complete]
            for pattern, paths in matches.items()
        }
    missing = [pattern for pattern, paths in matches.items() if not paths]
    if missing:
        raise FileNotFoundError(
            f"No file named {', '.join(missing)} (plain, or with .gz) in or below the directory "
            f"{str(data_home)!r}. Give the directory of MNIST's IDX files as data_home or in the "
            "environment variable SKLEARN_LENET_DATA."
        )
    found = [_nearest(paths, data_home) for paths in matches.values()]
    return list(zip(found[::2], found[1::2], strict=True))


def _nearest(paths: Sequence[Path], data_home: Path) -> Path:
    """Choose one of the paths: the first in data_home itself, else the first of the only directory.

    Several names in one directory are one set in several packings. Several directories may well
    be several data sets: Fashion-MNIST has the names of MNIST.
    """
    nearest = [path for path in paths if path.parent == data_home] or paths
    if len({path.parent for path in nearest}) > 1:
        raise ValueError(
            f"Expected one directory with MNIST's IDX files below {str(data_home)!r}, got "
            f"{', '.join(str(path) for path in nearest)}. Give the directory of one as data_home."
        )
    return nearest[0]


def _read(
    pairs: Sequence[tuple[Traversable, Traversable]],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read pairs of files, images and their labels, into one array of rows and one of labels."""
    data, target = [], []
    for images_file, labels_file in pairs:
        images, labels = read_idx(images_file, n_dims=3), read_idx(labels_file, n_dims=1)
        if labels.max() > 9:
            raise ValueError(
                f"{labels_file}: expected labels from 0 to 9, got {labels.max()}, at "
                f"{labels.argmax()}"
            )
        if images.shape[1:] != (28, 28):
            raise ValueError(
                f"{images_file}: expected images of 28 x 28 pixels, got "
                f"{images.shape[1]} x {images.shape[2]}"
            )
        if len(images) != len(labels):
            raise ValueError(
                f"Expected one label an image, got {len(images)} images in {images_file} and "
                f"{len(labels)} labels in {labels_file}"
            )
        data.append(images.reshape(-1, 784))
        target.append(labels)
    # Concatenating copies even a single array, so that the result can be written to.
    return np.concatenate(data), np.concatenate(target).astype(np.int64)


def _fetch(subset: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Fetch MNIST from OpenML, where the first 60,000 rows are the training set."""
    # Of the two parsers liac-arff is the one that does not need pandas.
    data, target = sklearn.datasets.fetch_openml(
        "mnist_784", version=1, as_frame=False, parser="liac-arff", return_X_y=True
    )
    rows = {"all": slice(None), "train": slice(60_000), "test": slice(60_000, None)}[subset]
    return data[rows].astype(np.uint8), target[rows].astype(np.int64)


def _bunch(data: NDArray[np.uint8], target: NDArray[np.int64], descr: str) -> Bunch:
    """Give the arrays the form of scikit-learn's own data sets."""
    return Bunch(
        data=data,
        target=target,
        images=data.reshape(-1, 28, 28),
        target_names=np.arange(10),
        feature_names=[f"pixel_{row}_{column}" for row in range(28) for column in range(28)],
        DESCR=descr,
    )
