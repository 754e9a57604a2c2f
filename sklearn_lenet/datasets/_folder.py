"""Pictures in folders, one folder a class."""

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from ._paths import expand_directory

# Beyond what any network takes, and within what Pillow can be asked for
MAX_SIDE = 10_000


def load_image_folder(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    return_X_y: bool = False,
) -> Bunch | tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Load pictures from a folder that has a folder for each class.

    That is the layout of :func:`sklearn.datasets.load_files`. Pillow reads the pictures: ``python
    -m pip install ".[images]"`` in a clone.

    Parameters
    ----------
    path : str or path-like
        The folder. Files and folders whose names begin with a dot are left out, and so are files
        that lie in it directly.

    size : tuple (height, width), default=None
        Pixels to which all pictures are resized, each from 1 to 10000; the proportions are not
        kept. None takes the pictures as they are: they need one size.

    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    pictures : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        images : ndarray of shape (n_samples, height, width) or (n_samples, 3, height, width)
            Of uint8, as :class:`~sklearn_lenet.LeNetClassifier` takes them. Grey if the files of
            all pictures are, else of three channels, red, green and blue.
        data : ndarray of shape (n_samples, n_features), dtype uint8
            A view of `images`, one flattened picture a row.
        target : ndarray of shape (n_samples,), dtype int64
            The place of each picture's class in `target_names`.
        target_names : list of str
            The names of the classes' folders, sorted.
        filenames : list of str
            The pictures' files, sorted within each class.

    (images, target) : tuple if ``return_X_y`` is True
        The two arrays above.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    TypeError
        If `path` is no str or path-like.
    FileNotFoundError
        If there is no such folder, or no picture in it or in the folder of a class.
    NotADirectoryError
        If `path` is a file, such as an archive that is not unpacked.
    ValueError
        If `size` is none of the above, if a class's folder has another in it, if a file is no
        picture, or one of more than 8 bits, or if the pictures have several sizes and `size` is
        None.

    Notes
    -----
    Pictures are taken as viewers show them: turned as a camera notes it (EXIF), what is transparent
    on white, and of several in a file the first.

    Examples
    --------
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_image_folder
    >>> pictures = load_image_folder("pictures", size=(32, 32))  # doctest: +SKIP
    >>> LeNetClassifier().fit(pictures.images, pictures.target)  # doctest: +SKIP
    """
    try:
        import PIL.Image  # noqa: F401  (only here, so that the package does without it)
    except ImportError as error:
        raise ImportError(
            "load_image_folder needs Pillow: python -m pip install '.[images]' in a clone of "
            "sklearn_lenet"
        ) from error
    _check_size(size)
    folder = expand_directory("path", path, "the folder that has a folder for each class")
    names, files_of_classes = _files(folder)
    files = [file for of_class in files_of_classes for file in of_class]
    pictures = _load_all(files, size)
    height, width = pictures[0].shape[:2]
    is_grey = all(picture.ndim == 2 for picture in pictures)
    images = np.empty((len(files), *([] if is_grey else [3]), height, width), np.uint8)
    for image, picture in zip(images, pictures, strict=True):
        # A grey picture among others spreads over their channels
        image[...] = picture if picture.ndim == 2 else picture.transpose(2, 0, 1)
    target = np.repeat(
        np.arange(len(names), dtype=np.int64), [len(of_class) for of_class in files_of_classes]
    )
    if return_X_y:
        return images, target
    return Bunch(
        images=images,
        data=images.reshape(len(images), -1),
        target=target,
        target_names=names,
        filenames=[str(file) for file in files],
    )


def _check_size(size: Any) -> None:
    """Raise a ValueError unless size is None or two lengths."""
    is_pair = isinstance(size, tuple | list) and len(size) == 2
    if size is not None and not (is_pair and all(map(_is_side, size))):
        raise ValueError(
            "The 'size' parameter of load_image_folder must be a tuple (height, width) of two "
            f"ints from 1 to {MAX_SIDE}, or None. Got {size!r} instead."
        )


def _is_side(length: Any) -> bool:
    """Tell whether a picture can have the length as its height or width."""
    is_int = isinstance(length, Integral) and not isinstance(length, bool)
    return is_int and int(length) in range(1, MAX_SIDE + 1)


def _files(folder: Path) -> tuple[list[str], list[list[Path]]]:
    """List the names of the classes, and the files of each."""
    classes = [path for path in _visible(folder) if path.is_dir()]
    if not classes:
        raise FileNotFoundError(
            f"path={str(folder)!r}: expected a folder for each class, with pictures in it, got none"
        )
    files = [_visible(of_class) for of_class in classes]
    for of_class, paths in zip(classes, files, strict=True):
        if not paths:
            raise FileNotFoundError(f"The folder {of_class} has no picture for its class.")
        for path in paths:
            if path.is_dir():
                raise ValueError(
                    f"Expected pictures in the folder of a class, {of_class}, got the folder "
                    f"{path}. path is the folder that has the folders of the classes in it."
                )
    return [of_class.name for of_class in classes], files


def _visible(folder: Path) -> list[Path]:
    """List what is in a folder, sorted, without what is hidden."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _load_all(files: Sequence[Path], size: tuple[int, int] | None) -> list[NDArray[np.uint8]]:
    """Load the pictures, all of one size: up to the first of another."""
    pictures: list[NDArray[np.uint8]] = []
    for file in files:
        picture = _load(file, size)
        if pictures and picture.shape[:2] != pictures[0].shape[:2]:
            (height, width), (first_height, first_width) = picture.shape[:2], pictures[0].shape[:2]
            raise ValueError(
                f"{file} has {height} x {width} pixels, and {files[0]} has {first_height} x "
                f"{first_width}: images need one size. Pass size=(height, width)."
            )
        pictures.append(picture)
    return pictures


def _load(file: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Load a picture, grey or with its channels last."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            mode = opened.mode
            if mode[0] not in "IF":
                picture = _on_white(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise ValueError(f"{file} is no picture that Pillow can read.") from error
    except Exception as error:  # what damage leads to: from OSError to struct.error and TypeError
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error
    if mode[0] in "IF":  # Pillow would cut the values off at 255
        raise ValueError(
            f"{file} has pixels of more than 8 bits (Pillow's mode {mode!r}): convert it."
        )
    return np.asarray(picture if size is None else picture.resize((int(size[1]), int(size[0]))))


def _on_white(picture: Any) -> Any:
    """Give a picture as grey, where its format knows no colours, or as red, green and blue."""
    from PIL import Image

    is_grey = picture.mode in ("1", "L", "LA")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        # What is drawn in black would else be lost: transparent pixels mostly are black, too
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return picture.convert("L" if is_grey else "RGB")
