"""Paths that users give: what is wrong with one is said before anything is read."""

import os
from pathlib import Path

from sklearn.utils import check_scalar

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def expand(name: str, path: str | os.PathLike[str]) -> Path:
    """Give the path that the parameter of that name holds, with ~ replaced."""
    check_scalar(path, name, (str, os.PathLike))
    if path == "":  # pathlib takes it for the current directory
        raise FileNotFoundError(f"{name}='' is no path.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name}={os.fspath(path)!r}: this user's home directory is not known."
        ) from error


def expand_directory(name: str, path: str | os.PathLike[str], wanted: str) -> Path:
    """Give the directory that the parameter holds; wanted says what should be in it."""
    directory = expand(name, path)
    given = f"{name}={os.fspath(path)!r}"
    if directory.is_file():
        is_what = "an archive: unpack it, and" if is_archive(directory) else "a file:"
        raise NotADirectoryError(f"{given} is {is_what} give {wanted}.")
    if not directory.is_dir():
        raise FileNotFoundError(f"{given}: there is no such directory. Give {wanted}.")
    return directory


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file has others in it."""
    return path.name.lower().endswith(_ARCHIVES)
