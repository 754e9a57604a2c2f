"""Pictures in folders, one folder a class."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch


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
        Pixels to which all pictures are resized. None takes them as they are: they need one size.

    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    pictures : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        images : ndarray of shape (n_samples, height, width) or (n_samples, 3, height, width)
            Of uint8. Grey if all pictures are, else of three channels, red, green and blue;
            transparency is dropped.
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
    FileNotFoundError
        If there is no such folder, or no picture in it.
    ValueError
        If a file is no picture, or one of more than 8 bits, or if the pictures have several sizes
        and `size` is None.

    Examples
    --------
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_image_folder
    >>> pictures = load_image_folder("pictures", size=(32, 32))  # doctest: +SKIP
    >>> LeNetClassifier().fit(pictures.images, pictures.target)  # doctest: +SKIP
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError(
            "load_image_folder needs Pillow: python -m pip install '.[images]' in a clone of "
            "sklearn_lenet"
        ) from error
    folder = Path(path).expanduser()
    names, files = _files(folder)
    pictures: list[Any] = []
    for file in files:
        try:
            with Image.open(file) as opened:
                picture = _in_eight_bits(opened, file)
        except UnidentifiedImageError as error:
            raise ValueError(f"{file} is no picture that Pillow can read.") from error
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{file} is a damaged picture: {error}") from error
        pictures.append(picture if size is None else picture.resize((int(size[1]), int(size[0]))))
    _check_sizes(pictures, files)
    is_grey = all(picture.mode == "L" for picture in pictures)
    images = np.stack([np.asarray(p if is_grey else p.convert("RGB")) for p in pictures])
    if not is_grey:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    target = np.array([names.index(file.parent.name) for file in files], np.int64)
    if return_X_y:
        return images, target
    filenames = [str(file) for file in files]
    return Bunch(images=images, target=target, target_names=names, filenames=filenames)


def _files(folder: Path) -> tuple[list[str], list[Path]]:
    """List the names of the classes, and the files of all of them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"path={str(folder)!r}: there is no such folder.")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [
        file
        for of_class in classes
        for file in sorted(of_class.iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]
    if not files:
        raise FileNotFoundError(
            f"path={str(folder)!r}: expected a folder for each class, with pictures in it."
        )
    return [of_class.name for of_class in classes], files


def _in_eight_bits(picture: Any, file: Path) -> Any:
    """Give a picture as grey, where its format knows no colours, or as red, green and blue."""
    if picture.mode[0] in "IF":  # Pillow would cut the values off at 255
        raise ValueError(
            f"{file} has pixels of more than 8 bits (Pillow's mode {picture.mode!r}): convert it."
        )
    return picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB")


def _check_sizes(pictures: list[Any], files: list[Path]) -> None:
    """Refuse pictures of several sizes."""
    for picture, file in zip(pictures, files, strict=True):
        if picture.size != pictures[0].size:
            (width, height), (first_width, first_height) = picture.size, pictures[0].size
            raise ValueError(
                f"{file} has {height} x {width} pixels, and {files[0]} has {first_height} x "
                f"{first_width}: images need one size. Pass size=(height, width)."
            )
