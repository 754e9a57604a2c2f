"""IDX, the format of MNIST's files: an array of bytes behind a header that gives its shape.

The header is 00 00, 08 (for unsigned bytes), the number of dimensions, and then the length of each
dimension as a big-endian 32-bit integer.
"""

import gzip
import math
import zlib
from importlib.resources.abc import Traversable

import numpy as np
from numpy.typing import NDArray


def read_idx(file: Traversable, n_dims: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped, into a read-only array."""
    content = file.read_bytes()
    # Told by the content: some browsers unpack a download and leave the .gz in its name.
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{file} is a corrupt gzip file: {error}") from error

    magic = bytes([0, 0, 8, n_dims])
    if not content.startswith(magic):
        raise ValueError(
            f"{file} is not an IDX file of unsigned bytes in {n_dims} dimensions: "
            f"expected it to start with {magic.hex(' ')}, got {content[:4].hex(' ') or 'nothing'}"
        )
    n_header = 4 + 4 * n_dims
    if len(content) < n_header:
        raise ValueError(
            f"{file} is truncated: expected a header of {n_header} bytes, got {len(content)}"
        )
    # Python integers: they cannot overflow, and nothing is allocated on the header's word.
    shape = tuple(np.frombuffer(content, ">u4", n_dims, offset=4).tolist())
    n_expected, n_data = math.prod(shape), len(content) - n_header
    if n_data != n_expected:
        fault = "is truncated" if n_data < n_expected else "has trailing bytes"
        raise ValueError(
            f"{file} {fault}: expected {n_expected} bytes of data for the shape {shape} in its "
            f"header, got {n_data}"
        )
    if n_data == 0:
        raise ValueError(f"{file} is empty: expected at least one byte of data, got shape {shape}")
    return np.frombuffer(content, np.uint8, offset=n_header).reshape(shape)
