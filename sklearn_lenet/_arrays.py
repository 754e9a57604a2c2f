"""Arrays of other libraries: PyTorch's, and those that follow the array API standard.

They are turned into NumPy's where they come in; what is predicted goes out as it came in, where
scikit-learn's setting `array_api_dispatch` asks for that.
"""

import sys
from types import ModuleType
from typing import Any

import numpy as np
from sklearn import get_config

from ._backend import import_cupy, is_cupy, to_device, to_host


def is_dispatched() -> bool:
    """Tell whether predictions are to be of the kind of array that X is."""
    return get_config()["array_api_dispatch"]


def on_host(array: Any, name: str) -> Any:
    """Turn arrays of CuPy's, PyTorch's and the array API's into NumPy's; leave anything else.

    Parameters
    ----------
    array : object
    name : str
        What an error calls it.

    Raises
    ------
    TypeError
        If its library does not hand it over.
    """
    other = _other_namespace(array)
    if other is None:
        return to_host(array) if is_cupy(array) else array
    try:
        if hasattr(array, "detach"):  # PyTorch's, which may have a gradient, or be elsewhere
            return array.numpy(force=True)
        return np.from_dlpack(array)
    except Exception as error:
        raise TypeError(
            f"{name} is an array of {other.__name__} that cannot be turned into NumPy's: {error}"
        ) from error


def as_given(result: Any, X: Any) -> Any:
    """Give a result as an array of X's library, on its device, where that is asked for.

    Parameters
    ----------
    result : array
        NumPy's, or CuPy's. Labels that are no numbers stay NumPy's.
    X : object
        What the result was computed from, as it came in.
    """
    if not is_dispatched() or result.dtype.kind not in "biuf":
        return result
    if is_cupy(X):
        with X.device:
            return to_device(import_cupy(), result)
    other = _other_namespace(X)
    if other is None:
        return result
    try:
        return other.asarray(result, device=X.device)
    except (TypeError, ValueError):
        if result.dtype != np.float64:
            raise
        return other.asarray(result.astype(np.float32), device=X.device)  # such as Apple's GPUs


def _other_namespace(array: Any) -> ModuleType | None:
    """Give the module of an array that is neither NumPy's nor CuPy's; None for anything else."""
    if isinstance(array, np.ndarray | np.generic) or is_cupy(array):
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, getattr(torch, "Tensor", ())):
        return torch
    of_array = getattr(type(array), "__array_namespace__", None)
    return None if of_array is None else of_array(array)
