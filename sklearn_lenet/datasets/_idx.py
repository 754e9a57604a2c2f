"""IDX, the format of MNIST's files: an array behind a header that gives its type and shape.

The header is 00 00, a byte for the type, the number of dimensions, and then the length of each
dimension as a big-endian 32-bit integer. The numbers behind it are big-endian, too.
"""

import gzip
import math
import os
import zlib
from collections.abc import Callable
from importlib.resources.abc import Traversable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ._paths import expand

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# Bytes that are read at a time: what a header asks for is not taken before it is there
_CHUNK = 2**18

# What a download may be instead, by its first bytes
_OTHERS = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x1f\x8b": "gzipped twice: unpack it once",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ": "an xz file: unpack it first",
    b"<": "a web page or XML, and not what should have been downloaded",
}


def load_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Load an array from an IDX file, plain or gzipped.

    IDX is the format of MNIST, and of the sets that take its place, such as Fashion-MNIST, KMNIST
    and EMNIST.

    Parameters
    ----------
    path : str or path-like
        The file. Whether it is gzipped is told by its content, not by its name.

    Returns
    -------
    array : ndarray
        Of any shape; of uint8, int8, int16, int32, float32 or float64, in this machine's byte
        order.

    Raises
    ------
    TypeError
        If `path` is no str or path-like.
    OSError
        If the file cannot be opened.
    ValueError
        If it is no IDX file, is cut off, is empty, goes on behind its end, or has more dimensions
        than NumPy's arrays can have.

    See Also
    --------
    load_mnist : MNIST, from four such files.

    Notes
    -----
    The header is read first, and then no more than it asks for, and one byte. Memory is taken for
    what is there, once: a header alone takes none.

    Examples
    --------
    >>> from sklearn_lenet.datasets import load_idx
    >>> images = load_idx("fashion/train-images-idx3-ubyte.gz")  # doctest: +SKIP
    >>> images.shape  # doctest: +SKIP
    (60000, 28, 28)

    The images of EMNIST are transposed:

    >>> X = load_idx("emnist-letters-train-images-idx3-ubyte.gz")  # doctest: +SKIP
    >>> X = X.transpose(0, 2, 1)  # doctest: +SKIP
    """
    return read_idx(expand("path", path))


def read_idx(
    file: Traversable,
    n_dims: int | None = None,
    check_shape: Callable[[tuple[int, ...]], None] | None = None,
) -> NDArray[Any]:
    """Read an IDX file, plain or gzipped.

    Parameters
    ----------
    file : Traversable
    n_dims : int, default=None
        Number of dimensions that an array of unsigned bytes has to have; None takes any array.
    check_shape : callable, default=None
        Called with the shape, before more than the header is read: it raises if that is not right.
    """
    with file.open("rb") as opened:
        start = opened.read(2)
        opened.seek(0)
        # Told by the content: some browsers unpack a download and leave the .gz in its name.
        if start != b"\x1f\x8b":
            return _read(opened, file, n_dims, check_shape)
        try:
            with gzip.GzipFile(fileobj=opened) as unpacked:
                return _read(unpacked, file, n_dims, check_shape)
        except EOFError as error:
            raise ValueError(f"{file} is a corrupt gzip file, cut off: {error}") from error
        except (OSError, zlib.error) as error:
            raise ValueError(f"{file} is a corrupt gzip file: {error}") from error


def _read(
    stream: IO[bytes] | gzip.GzipFile,
    file: Traversable,
    n_dims: int | None,
    check_shape: Callable[[tuple[int, ...]], None] | None,
) -> NDArray[Any]:
    """Read the array from the content of an IDX file."""
    magic = _take(stream, 4)
    _check_magic(magic, stream, file, n_dims)
    n_header = 4 * magic[3]
    header = _take(stream, n_header)
    if len(header) < n_header:
        raise ValueError(
            f"{file} is truncated: expected a header of {4 + n_header} bytes, got {4 + len(header)}"
        )
    # Python integers: they cannot overflow, and nothing is allocated on the header's word.
    shape = tuple(np.frombuffer(header, ">u4").tolist())
    dtype = np.dtype(_TYPES[magic[2]])
    n_expected = math.prod(shape) * dtype.itemsize
    if n_expected == 0:
        raise ValueError(f"{file} is empty: expected at least one byte of data, got shape {shape}")
    if check_shape is not None:
        check_shape(shape)
    content = _take(stream, n_expected + 1)
    if len(content) != n_expected:
        is_cut = len(content) < n_expected
        raise ValueError(
            f"{file} {'is truncated' if is_cut else 'has trailing bytes'}: expected {n_expected} "
            f"bytes of data for the shape {shape} in its header, got "
            f"{len(content) if is_cut else 'more'}"
        )
    array: NDArray[Any] = np.frombuffer(content, dtype)
    if not dtype.isnative:  # in place, so that the array is not in memory twice
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _check_magic(
    magic: bytearray, stream: IO[bytes] | gzip.GzipFile, file: Traversable, n_dims: int | None
) -> None:
    """Check the first four bytes."""
    is_idx = len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _TYPES
    if is_idx and (n_dims is None or (magic[2], magic[3]) == (8, n_dims)):
        return
    start = magic + _take(stream, 508)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()  # the mark that a page in UTF-8 may have
    kinds = [kind for prefix, kind in _OTHERS.items() if text.startswith(prefix)]
    if start[257:262] == b"ustar":
        kinds = ["a tar archive: unpack it first"]
    if n_dims is None:
        wanted = "an IDX file: expected it to start with 00 00 and a type of IDX's"
    else:
        wanted = (
            f"an IDX file of unsigned bytes in {n_dims} dimensions: expected it to start with "
            f"{bytes([0, 0, 8, n_dims]).hex(' ')}"
        )
    raise ValueError(
        f"{file} is not {wanted}, got {magic.hex(' ') or 'nothing'}"
        + (f". It is {kinds[0]}" if kinds else "")
    )


def _take(stream: IO[bytes] | gzip.GzipFile, n_bytes: int) -> bytearray:
    """Read so many bytes, or as many as there are."""
    content = bytearray()
    while len(content) < n_bytes and (chunk := stream.read(min(_CHUNK, n_bytes - len(content)))):
        content += chunk
    return content
