"""Loaders for MNIST: where its files are found, and how they become a `Bunch`."""

import os
from collections.abc import Mapping, Sequence
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
from ._paths import expand_directory, is_archive

# The sets of each subset, by the first letters of their files' names.
SETS = {"all": ("train", "t10k"), "train": ("train",), "test": ("t10k",)}

WANTED = (
    "the directory of MNIST's IDX files as data_home or in the environment variable "
    "SKLEARN_LENET_DATA"
)

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
        so on, plain or gzipped) in it or anywhere below it. All come from one directory; each may
        lie in a folder of its own name there. If None or "", the directory in the environment
        variable ``SKLEARN_LENET_DATA``. If that is not set either,
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
        If there is no such directory, or none in or below it has all files that `subset` needs.
    NotADirectoryError
        If `data_home` is a file, such as an archive that is not unpacked.
    ValueError
        If `subset` is none of the above, if a file's content is not as it should be, or if several
        directories below the directory given have the files.

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
    environment = os.environ.get("SKLEARN_LENET_DATA")
    if data_home:
        data, target = _read(_find(expand_directory("data_home", data_home, WANTED), SETS[subset]))
    elif environment:
        directory = expand_directory("SKLEARN_LENET_DATA", environment, WANTED)
        data, target = _read(_find(directory, SETS[subset]))
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


def _find(data_home: Path, sets: Sequence[str]) -> list[tuple[Path, Path]]:
    """Find each set's files of images and of labels, all in one directory in or below data_home."""
    patterns = [f"{name}*{n_dims}-ubyte" for name in sets for n_dims in (3, 1)]
    # The files of each directory, the first of a name: several are one set in several packings.
    found: dict[Path, dict[str, Path]] = {}
    # Those in a directory itself come before those in a folder of their own name
    files = sorted(data_home.rglob("*"), key=lambda path: (len(path.parts), path))
    for file in filter(Path.is_file, files):
        for pattern in patterns:
            if _is_named(file, pattern):
                directory = file.parent
                if directory != data_home and _is_named(directory, pattern):
                    directory = directory.parent
                found.setdefault(directory, {}).setdefault(pattern, file)
    complete = [directory for directory, matches in found.items() if len(matches) == len(patterns)]
    if not complete:
        raise FileNotFoundError(_missing(data_home, patterns, found, files))
    if len(complete) > 1 and data_home not in complete:
        # They may well be several data sets: Fashion-MNIST has the names of MNIST.
        raise ValueError(
            f"Expected one directory with MNIST's IDX files below {str(data_home)!r}, got "
            f"{', '.join(str(directory) for directory in complete)}. Give one as data_home."
        )
    matches = found[data_home if data_home in complete else complete[0]]
    chosen = [matches[pattern] for pattern in patterns]
    return list(zip(chosen[::2], chosen[1::2], strict=True))


def _is_named(path: Path, pattern: str) -> bool:
    """Tell whether a file or directory has a name of a pattern, in letters of any case."""
    return fnmatchcase(path.name.lower().removesuffix(".gz"), pattern)


def _missing(
    data_home: Path,
    patterns: Sequence[str],
    found: Mapping[Path, Mapping[str, Path]],
    files: Sequence[Path],
) -> str:
    """Say why no directory has all files."""
    where = f"in or below the directory {str(data_home)!r}"
    missing = [
        pattern for pattern in patterns if not any(pattern in matches for matches in found.values())
    ]
    if not missing:
        return (
            f"MNIST's IDX files lie in several directories {where}, and none has all of "
            f"{', '.join(patterns)}: {', '.join(str(directory) for directory in found)}. Images "
            "and labels have to come from one."
        )
    archives = [str(file) for file in files if is_archive(file)]
    return (
        f"No file named {', '.join(missing)} (plain, or with .gz) {where}. "
        + (f"Unpack the archive {archives[0]}, or give" if archives else "Give")
        + f" {WANTED}."
    )


def _read(
    pairs: Sequence[tuple[Traversable, Traversable]],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read pairs of files, images and their labels, into one array of rows and one of labels."""
    read = [_read_set(images_file, labels_file) for images_file, labels_file in pairs]
    data = np.concatenate([images for images, _ in read]).reshape(-1, 784)
    return data, np.concatenate([labels for _, labels in read]).astype(np.int64)


def _read_set(
    images_file: Traversable, labels_file: Traversable
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a set's images and labels, and no further than the headers if those do not fit."""

    def check_images(shape: tuple[int, ...]) -> None:
        if shape[1:] != (28, 28):
            raise ValueError(
                f"{images_file}: expected images of 28 x 28 pixels, got {shape[1]} x {shape[2]}"
            )

    def check_labels(shape: tuple[int, ...]) -> None:
        if shape[0] != len(images):
            raise ValueError(
                f"Expected one label an image, got {len(images)} images in {images_file} and "
                f"{shape[0]} labels in {labels_file}"
            )

    images = read_idx(images_file, 3, check_images)
    labels = read_idx(labels_file, 1, check_labels)
    if labels.max() > 9:
        raise ValueError(
            f"{labels_file}: expected labels from 0 to 9, got {labels.max()}, at {labels.argmax()}"
        )
    return images, labels


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
