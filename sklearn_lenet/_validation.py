"""What data may be: X, y and weights, on the host and on a device; images; the validation set."""

import warnings
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from sklearn.utils import compute_class_weight, murmurhash3_32
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    column_or_1d,
    validate_data,
)

from ._backend import find_device, is_cupy, namespace, to_host
from ._engine import Data
from ._images import infer_image_shape, is_square_colour, row_chunks


class ImageShapeWarning(UserWarning):
    """Rows of features were laid out as images by a guess."""


def check_training_data(
    estimator: Any, X: Any, y: Any, sample_weight: Any, reset: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check X, y and weights; with `reset`, set `n_features_in_` and `image_shape_`."""
    given = X = as_array(X)
    X = flatten_images(X, None if reset else estimator.image_shape_)
    y, sample_weight = to_host(y), to_host(sample_weight)
    if is_cupy(X):
        X = check_rows(estimator, X, reset)
        y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
        check_consistent_length(X, y)
    else:
        X, y = validate_data(estimator, X, y, reset=reset, multi_output=True, dtype="numeric")
    y = column_or_1d(y, warn=True)
    check_classification_targets(y)
    if sample_weight is None:
        weights = np.ones(len(X))
    else:
        weights = check_array(
            sample_weight,
            ensure_2d=False,
            dtype=np.float64,
            ensure_non_negative=True,
            input_name="sample_weight",
        )
        if weights.ndim != 1:
            raise ValueError(
                f"Sample weights must be a 1D array, got a {weights.ndim}D array. "
                f"Expected shape ({len(X)},)."
            )
        check_consistent_length(X, weights)
        if not weights.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
    if reset:
        estimator.image_shape_ = _resolve_image_shape(estimator, given, X.shape[1])
    return X, y, weights


def check_rows(estimator: Any, X: Any, reset: bool) -> Any:
    """Check X alone; CuPy's stays on its device, where scikit-learn does not look at it."""
    if not is_cupy(X):
        return validate_data(estimator, X, reset=reset, dtype="numeric")
    check_device_rows(X, find_device(estimator.device), estimator.device)
    return validate_data(estimator, X, reset=reset, skip_check_array=True)


def check_validation_data(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Data | None:
    """Check the data that `fit` was given to validate on."""
    if X is None and y is None and sample_weight is None:
        return None
    if X is None or y is None:
        raise ValueError("X_val and y_val must be passed together, sample_weight_val with them.")
    if not estimator.early_stopping:
        raise ValueError("X_val and y_val are for early_stopping=True. Got False instead.")
    X, y, weights = check_training_data(estimator, X, y, sample_weight, reset=False)
    rows = np.flatnonzero(weights)
    return Data(X, encode_labels(y, estimator.classes_, rows), weights, rows)


def _resolve_image_shape(estimator: Any, X: Any, n_features: int) -> tuple[int, int, int]:
    """Find what shape of image a row of features has."""
    array_shape = _image_shape_of(X)
    if estimator.image_shape is not None:
        C, H, W = (1, *estimator.image_shape)[-3:]
        if n_features != C * H * W or (array_shape and array_shape != (C, H, W)):
            came = f"images of shape {array_shape}" if array_shape else f"{n_features} features"
            raise ValueError(
                f"image_shape={estimator.image_shape!r} is {C * H * W} features, as {C} x {H} x "
                f"{W} pixels, but X has {came}."
            )
        return C, H, W
    if array_shape:
        return array_shape
    if is_square_colour(n_features):
        side = int((n_features // 3) ** 0.5)
        raise ValueError(
            f"X has {n_features} features, which may be {side} x {side} images of 3 channels: "
            f"pass image_shape=(3, {side}, {side}), or the (H, W) of grey images."
        )
    shape = infer_image_shape(n_features)
    if prod(shape) != n_features and n_features > 64:
        warnings.warn(
            f"X has {n_features} features, which are no square image: they are read as "
            f"{shape[1]} x {shape[2]} pixels with zeros at the end. Pass image_shape=(H, W).",
            ImageShapeWarning,
            stacklevel=4,
        )
    return shape


def check_classes(estimator: Any, classes: Any) -> np.ndarray:
    """Find the labels that `partial_fit` may meet, and keep to those of its earlier calls."""
    fitted = estimator.classes_ if estimator.__sklearn_is_fitted__() else None
    if classes is None:
        if fitted is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return fitted
    classes = unique_labels(to_host(classes))
    if fitted is not None and not np.array_equal(classes, fitted):
        raise ValueError(
            f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {fitted!r}"
        )
    return classes


def encode_labels(y: np.ndarray, classes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Turn the rows' labels into their places in `classes`; other rows' places are 0."""
    unseen = np.setdiff1d(y[rows], classes)
    if len(unseen):
        raise ValueError(f"y contains labels that are not in classes={classes!r}: {unseen!r}")
    codes = np.zeros(len(y), np.intp)
    codes[rows] = np.searchsorted(classes, y[rows])
    return codes


def weigh_classes(
    class_weight: Any, classes: np.ndarray, X: Any, y: np.ndarray, weights: np.ndarray
) -> Data:
    """Multiply the samples' weights by their classes', and take the rows that weigh."""
    of_classes = compute_class_weight(
        class_weight, classes=classes, y=classes[y], sample_weight=weights
    )
    weights = weights * of_classes[y]
    rows = np.flatnonzero(weights)
    if len(rows) == 0:
        raise ValueError(
            f"class_weight={class_weight!r} leaves no sample of a weight other than 0."
        )
    return Data(X, y, weights, rows)


def _image_shape_of(X: Any) -> tuple[int, int, int] | None:
    """Give the shape (C, H, W) of an array of images; None for anything else."""
    shape = getattr(X, "shape", ())
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        return None
    C, H, W = (1, *map(int, shape[1:]))[-3:]
    if W in (1, 3, 4) and C > 4:
        raise ValueError(
            f"X has shape {tuple(shape)}, which looks like images with their channels last. "
            "Channels come first, (n_samples, C, H, W): pass X.transpose(0, 3, 1, 2)."
        )
    return C, H, W


def as_array(X: Any) -> Any:
    """Turn lists, which may be of images, into an array; leave anything else."""
    if isinstance(X, list | tuple):
        return check_array(
            X,
            dtype=None,
            ensure_2d=False,
            allow_nd=True,
            ensure_min_samples=0,
            ensure_all_finite=False,
        )
    return X


def flatten_images(X: Any, image_shape: tuple[int, int, int] | None) -> Any:
    """Turn an array of images (of `image_shape`, if given) into rows; leave anything else."""
    array_shape = _image_shape_of(X)
    if array_shape is None:
        return X
    if image_shape is not None and array_shape != image_shape:
        raise ValueError(
            f"X has images of shape {array_shape} (channels, height, width), but LeNetClassifier "
            f"was fitted with {image_shape}."
        )
    return (X if is_cupy(X) else np.asarray(X)).reshape(len(X), -1)


def stratified_split(data: Data, fraction: float, seed: int) -> tuple[Data, Data]:
    """Split rows into those to learn from and those to validate on.

    A hash of its features decides on which side a row comes to stand: copies of a sample stand on
    one side, and the same data are split the same way in any order, at every warm start, and with
    samples weighted or repeated.

    Parameters
    ----------
    data : Data
    fraction : float
        Share of each class, by weight, to validate on. Any class that has two different samples
        comes to stand on both sides.
    seed : int

    Returns
    -------
    training, validation : Data

    Raises
    ------
    ValueError
        If no class has two different samples.
    """
    X, y, weights, rows = data.X, data.y, data.weights, data.rows
    xp = namespace(X)
    direction = xp.asarray(np.random.default_rng(seed).standard_normal(X.shape[1]))
    projections = np.concatenate(
        [to_host((X[xp.asarray(chunk)] * direction).sum(axis=1)) for chunk in row_chunks(rows)]
    )
    hashes = murmurhash3_32(projections.astype(np.float32).view(np.int32), seed=seed)
    is_validated = np.zeros(len(rows), bool)
    for label in np.unique(y[rows]):
        members = np.flatnonzero(y[rows] == label)
        members = members[np.argsort(hashes[members], kind="stable")]
        ordered = hashes[members]
        total = np.cumsum(weights[rows[members]])
        weight_before = np.append(0, total)[np.searchsorted(ordered, ordered)]
        is_validated[members] = (weight_before < fraction * total[-1]) & (ordered != ordered[-1])
    if not is_validated.any():
        raise ValueError(
            "early_stopping=True needs two different samples of a class, one to learn from and one "
            f"to validate on. Got {len(rows)} sample{'s' if len(rows) > 1 else ''}."
        )
    return replace(data, rows=rows[~is_validated]), replace(data, rows=rows[is_validated])


def check_device_rows(X: Any, device: int | None, asked: str) -> None:
    """Check CuPy's rows of features as scikit-learn checks NumPy's, where they are.

    Parameters
    ----------
    X : cupy.ndarray
    device : int or None
        Number of the device that will compute; None is the CPU.
    asked : str
        The estimator's parameter `device`.

    Raises
    ------
    ValueError
        If `X` is on another device, not of shape (n_samples, n_features), both at least 1, not of
        real numbers, or not finite.
    """
    if device is None:
        raise ValueError(
            f"X is a CuPy array, but device={asked!r} computes on the CPU. Set device='cuda', or "
            "pass X.get()."
        )
    if X.device.id != device:
        raise ValueError(
            f"X is on the device 'cuda:{X.device.id}', but device={asked!r} is 'cuda:{device}'."
        )
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: X has shape {X.shape}. Reshape it to "
            "(n_samples, n_features), or pass images of shape (n, H, W) or (n, C, H, W)."
        )
    for name, count in zip(("sample", "feature"), X.shape, strict=True):
        if count == 0:
            raise ValueError(
                f"Found array with 0 {name}(s) (shape={X.shape}) while a minimum of 1 is required."
            )
    if X.dtype.kind == "c":
        raise ValueError("Complex data not supported")
    if X.dtype.kind not in "biuf":
        raise ValueError(f"X must have numbers. Got an array of type {X.dtype}.")
    # A finite sum needs no array of its size; an infinite one may also be an overflow
    xp = namespace(X)
    if (
        X.dtype.kind == "f"
        and not xp.isfinite(X.sum(dtype=np.float64)).item()
        and not xp.isfinite(X).all().item()
    ):
        raise ValueError("Input X contains NaN or infinity.")
