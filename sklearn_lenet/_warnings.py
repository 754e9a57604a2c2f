"""Warnings that come once all is done, and that point at the user's own line."""

import contextlib
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import joblib
import sklearn

# Frames of these files are not where a user reads a warning
_INNER = (
    str(Path(__file__).parent),
    str(Path(sklearn.__file__).parent),
    str(Path(joblib.__file__).parent),
    contextlib.__file__,
)

_waiting = threading.local()


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line outside of this package, scikit-learn and joblib.

    Within `Deferred`, that is done at the end of its block.
    """
    blocks = _blocks()
    if blocks:
        blocks[-1].append((message, category))
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


class Deferred:
    """A block of which the warnings come at its end, and not at all if it raises.

    A user may have made an error of them: it must not come in place of what the block leaves.
    """

    def __enter__(self) -> None:
        _blocks().append([])

    def __exit__(self, kind: Any, *exception: Any) -> None:
        found = _blocks().pop()
        if kind is None:
            for message, category in found:
                warn(message, category)


def _blocks() -> list[list[tuple[str, type[Warning]]]]:
    """Give what waits in this thread, for each block that it is in."""
    return _waiting.__dict__.setdefault("blocks", [])
