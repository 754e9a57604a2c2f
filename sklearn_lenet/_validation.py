"""What data may be: X, y and weights, on the host and on a device; images; the validation set."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import compute_class_weight, murmurhash3_32
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    column_or_1d,
    validate_data,
)

from ._arrays import is_dispatched, on_host
from ._backend import find_device, is_cupy, namespace, rows_on_host, to_host
from ._engine import Data
from ._images import (
    ImageLayout,
    PixelRanges,
    image_moments,
    image_spreads,
    infer_image_shape,
    is_square_colour,
    row_chunks,
)
from ._warnings import warn

# Images of fewer pixels differ too much from each other to tell another range by
_FEWEST_PIXELS = 64

# Rows whose range is looked at, roughly
_LOOKED_AT = 32

# Numbers in an array that is looked at as a whole
_SMALL = 2**17


class ImageShapeWarning(UserWarning):
    """Rows of features were laid out as images by a guess."""


def check_training_data(
    estimator: Any, X: Any, y: Any, sample_weight: Any, reset: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check X, y and weights; with `reset`, set `n_features_in_` and `image_shape_`."""
    _refuse_masks(X=X, y=y, sample_weight=sample_weight)
    X = _take_images(estimator, X)
    shape = _image_shape_of(X)
    if reset and shape is not None:
        _check_channels_first(
            shape,
            f"X has shape {tuple(X.shape)}, which",
            "pass X.transpose(0, 3, 1, 2), of shape (n_samples, C, H, W).",
        )
    y, sample_weight = on_host(y, "y"), on_host(sample_weight, "sample_weight")
    with _telling_of_shapes(X, None if reset else estimator.image_shape_):
        rows = flatten_images(X)
        if is_cupy(rows):
            rows = check_rows(estimator, rows, reset)
            y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
            y = _check_labels(y, are_known=not reset)
            check_consistent_length(rows, y)
        elif reset or not (_are_plain_rows(estimator, rows) and _are_plain_labels(y, len(rows))):
            checked, labels = validate_data(
                estimator, rows, y, reset=reset, multi_output=True, dtype="numeric"
            )
            rows, y = _as_narrow_as(rows, checked), _as_narrow_as(y, labels)
            y = _check_labels(y, are_known=not reset)
    weights = _check_weights(sample_weight, rows)
    if reset:
        estimator.image_shape_ = _resolve_image_shape(estimator, shape, rows)
    return rows, y, weights


def _check_labels(y: np.ndarray, are_known: bool = False) -> np.ndarray:
    """Check that y has one label for each sample; of known classes, whole numbers will do."""
    if y.ndim == 2 and y.shape[1] == 1:
        warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of "
            "y to (n_samples,), for example using ravel().",
            DataConversionWarning,
        )
    try:
        y = column_or_1d(y)
    except ValueError as error:
        raise ValueError(f"{error}{_remedy_of_labels(y)}") from error
    if not (are_known and y.dtype.kind in "biu"):
        check_classification_targets(y)
    return y


def _remedy_of_labels(y: np.ndarray) -> str:
    """Say what y of two axes may be, and what to pass then."""
    if y.ndim != 2 or y.dtype.kind not in "biuf":
        return ""
    if np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        return " It is one-hot encoded: pass y.argmax(axis=1), of y as an array."
    return (
        " Several labels for each sample need a classifier for each: pass LeNetClassifier to "
        "sklearn.multioutput.MultiOutputClassifier."
    )


def check_scoring_data(y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Check labels that predictions are compared with, and weights; gives them on the host."""
    y, sample_weight = on_host(y, "y"), on_host(sample_weight, "sample_weight")
    _refuse_masks(y=y, sample_weight=sample_weight)
    y = _check_labels(check_array(y, dtype=None, ensure_2d=False, input_name="y"))
    if sample_weight is not None:
        sample_weight = _check_weights(sample_weight, y)
        check_sum_of_weights(sample_weight)
    return y, sample_weight


def _refuse_masks(**arrays: Any) -> None:
    """Refuse arrays of which values are masked: what is behind the mask would be taken."""
    for name, array in arrays.items():
        if np.ma.is_masked(array):
            raise ValueError(
                f"{name} is a masked array that masks values, which LeNetClassifier does not "
                "support. Pass its filled() array, or leave those samples out."
            )


def _check_weights(sample_weight: Any, X: Any) -> np.ndarray:
    """Check the samples' weights; None weighs all alike."""
    if sample_weight is None:
        return np.ones(len(X))
    try:
        weights = check_array(
            sample_weight,
            ensure_2d=False,
            dtype=np.float64,
            ensure_non_negative=True,
            input_name="sample_weight",
        )
    except (TypeError, ValueError) as error:
        name = "" if "sample_weight" in str(error) else "sample_weight: "
        raise type(error)(f"{name}{error}") from error
    if weights.ndim != 1:
        raise ValueError(
            f"Sample weights must be a 1D array, got a {weights.ndim}D array. "
            f"Expected shape ({len(X)},)."
        )
    check_consistent_length(X, weights)
    if not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def check_rows(estimator: Any, X: Any, reset: bool) -> Any:
    """Check X alone; CuPy's stays on its device, where scikit-learn does not look at it."""
    if not reset and _are_plain_rows(estimator, X):
        return X
    if is_cupy(X):
        check_device_rows(X, find_device(estimator.device), estimator.device)
        return validate_data(estimator, X, reset=reset, skip_check_array=True)
    return _as_narrow_as(X, validate_data(estimator, X, reset=reset, dtype="numeric"))


def check_images(estimator: Any, X: Any) -> Any:
    """Check what a fitted estimator is to predict; gives rows."""
    _refuse_masks(X=X)
    X = _take_images(estimator, X)
    with _telling_of_shapes(X, estimator.image_shape_):
        return check_rows(estimator, flatten_images(X), reset=False)


def check_validation_data(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Data | None:
    """Check the data that `fit` was given to validate on."""
    if X is None and y is None and sample_weight is None:
        return None
    if X is None or y is None:
        raise ValueError("X_val and y_val must be passed together, sample_weight_val with them.")
    if not estimator.early_stopping:
        raise ValueError("X_val and y_val are for early_stopping=True. Got False instead.")
    with _renamed(X="X_val", y="y_val", sample_weight="sample_weight_val"):
        X, y, weights = check_training_data(estimator, X, y, sample_weight, reset=False)
        rows = np.flatnonzero(weights)
        y = encode_labels(y, estimator.classes_, rows)
    return Data(X, y, weights, rows)


@contextmanager
def _renamed(**names: str) -> Iterator[None]:
    """Let errors speak of arrays by other names."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error).replace("Sample weights", "sample_weight")
        for old, new in names.items():
            message = re.sub(rf"(?<![\w(]){old}\b", new, message)
        if not any(new in message for new in names.values()):
            message = f"{', '.join(names.values())}: {message}"
        raise type(error)(message) from error


def _are_plain_rows(estimator: Any, X: Any) -> bool:
    """Tell at once of a small array that it has what scikit-learn would check: rows as in the fit.

    Its checks take longer than a row takes through the network.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and 0 < X.size <= _SMALL
        and X.shape[1] == estimator.n_features_in_
        and X.dtype.char in "?bBhHiIlLqQefd"
        and not hasattr(estimator, "feature_names_in_")
        and bool(np.isfinite(X).all())
    )


def _are_plain_labels(y: Any, n_samples: int) -> bool:
    """Tell at once of labels that they are whole numbers, one for each sample."""
    return type(y) is np.ndarray and y.shape == (n_samples,) and y.dtype.kind in "biu"


def check_range(
    X: Any, rows: np.ndarray | None, layout: ImageLayout, fitted: PixelRanges, name: str = "X"
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Warn if images lie in another range than those of the fit.

    They do where the median of their means is far outside of the fitted images' means, or the
    median of their standard deviations far off the fitted ones'. Images of one value, which any
    range may have, do not count.

    Parameters
    ----------
    X : array of shape (n_samples, n_features)
        NumPy's or CuPy's.
    rows : integer ndarray of shape (n_rows,) or None
        Rows of `X`; None is all. Some of them, evenly spread, are looked at.
    layout : ImageLayout
    fitted : PixelRanges
    name : str, default="X"
        What the warning calls `X`.

    Returns
    -------
    images, means, deviations : ndarrays, or None
        What was looked at, if it can be told, and is in range; mean and standard deviation of each.
    """
    images = _some_of(X, rows)
    if layout.n_features < _FEWEST_PIXELS or fitted.deviations[1] == 0 or len(images) == 0:
        return None
    means, deviations = image_moments(images, layout)
    if np.minimum.reduce(deviations) < 1e-3:
        varied = images.max(axis=1) != images.min(axis=1)
        if not varied.any():
            return None
        images, means, deviations = images[varied], means[varied], deviations[varied]
    if not _are_far(means, deviations, fitted) or not _are_far(
        # A few pixels that no image had before, as with features that were constant, are no range
        image_moments(np.clip(images.astype(np.float64), *fitted.values), layout)[0],
        np.minimum(deviations, image_spreads(images, layout)),
        fitted,
    ):
        return images, means, deviations
    low, high = fitted.values
    warn(
        f"{name} has values from {images.min():.6g} to {images.max():.6g}, {images.mean():.4g} on "
        f"average, but LeNetClassifier was fitted with values from {low:.6g} to {high:.6g}, "
        f"{layout.mean:.4g} on average: predictions will be poor. Scale all data in the same way."
    )
    return None


def _are_far(means: np.ndarray, deviations: np.ndarray, fitted: PixelRanges) -> bool:
    """Tell whether the medians of these means, or deviations, are far from the fitted images'."""
    mean, deviation = (sorted(v.tolist())[len(v) // 2] for v in (means, deviations))
    (lowest, highest), (least, greatest) = fitted.means, fitted.deviations
    off = max(lowest - mean, mean - highest)
    is_off = off > max((highest - lowest) / 2, 0.5)
    return is_off or not least / 5 <= deviation <= 5 * greatest


def _some_of(X: Any, rows: np.ndarray | None) -> np.ndarray:
    """Take some of the rows, evenly spread, to the host."""
    if rows is None:
        return to_host(X[:: max(1, len(X) // _LOOKED_AT)])
    return rows_on_host(X, rows[:: max(1, len(rows) // _LOOKED_AT)])


def warn_of_extreme(row: int, feature: int, value: float) -> None:
    """Warn of a feature that drowns all others."""
    warn(
        f"X has an extreme value: feature {feature} of row {row} is {value:.6g}, and makes, with "
        "at most one feature in 10,000, more than half of the variance of X. All others are scaled "
        "to almost nothing. Replace values that stand for missing ones."
    )


def _resolve_image_shape(
    estimator: Any, array_shape: tuple[int, int, int] | None, X: Any
) -> tuple[int, int, int]:
    """Find what shape of image a row of features has."""
    n_features, asked = X.shape[1], estimator.image_shape
    if asked is not None:
        C, H, W = (1, *map(int, asked))[-3:]
        if array_shape is None and len(asked) == 3:
            remedy = f"pass image_shape=({W}, {C}, {H}).{_order_of_rows(C, H, W)}"
            _check_channels_first((C, H, W), f"image_shape={asked!r}", remedy)
        if n_features != C * H * W or (array_shape and array_shape != (C, H, W)):
            came = f"images of shape {array_shape}" if array_shape else f"{n_features} features"
            raise ValueError(
                f"image_shape={asked!r} is {C * H * W} features, as {C} x {H} x {W} pixels, but X "
                f"has {came}."
            )
        return C, H, W
    if array_shape:
        return array_shape
    shape = infer_image_shape(n_features)
    ends = "" if prod(shape) == n_features else " with zeros at the end"
    read = f"They are read as {shape[1]} x {shape[2]} pixels{ends}"
    if is_square_colour(n_features):
        side = int((n_features // 3) ** 0.5)
        message = (
            f"X has {n_features} features, which may be {side} x {side} images of 3 channels: pass "
            f"image_shape=(3, {side}, {side}), or the (H, W) of grey images."
        )
        if _has_pixels(X):
            raise ValueError(message + _order_of_rows(side, side, 3))
        warn(f"{message} {read}.", ImageShapeWarning)
    elif ends and n_features > 64:
        warn(
            f"X has {n_features} features, which are no square image. {read}. Pass "
            "image_shape=(H, W).",
            ImageShapeWarning,
        )
    return shape


def _order_of_rows(H: int, W: int, C: int) -> str:
    """Say in which order a row has the features of an image."""
    if C == 1:
        return ""
    return (
        " A row has one channel after the other. If yours have each pixel's channels together, "
        f"as flattened from an array of shape (n, {H}, {W}, {C}), pass "
        f"X.reshape(-1, {H}, {W}, {C}).transpose(0, 3, 1, 2) instead."
    )


def _has_pixels(X: Any) -> bool:
    """Tell whether X has whole numbers from 0 to 255, or numbers from 0 to 1, alone."""
    low, high = X.min().item(), X.max().item()
    if low < 0 or high > 255:
        return False
    return high <= 1 or X.dtype.kind in "biu" or (namespace(X).rint(X) == X).all().item()


def _check_channels_first(shape: tuple[int, int, int], what: str, remedy: str) -> None:
    """Refuse a shape that has its channels last; warn where it may have, or no channels at all."""
    C, H, W = shape
    if W <= 4 < C and max(C, H) <= 4 * min(C, H):
        raise ValueError(
            f"{what} looks like images with their channels last. Channels come first: {remedy}"
        )
    if C > 4 and (W <= 4 or C == H != W):
        warn(
            f"{what} is read as {C} channels of {H} x {W} pixels. Channels come first.",
            ImageShapeWarning,
        )
    elif C == 1 and min(H, W) == 1 and max(H, W) >= _FEWEST_PIXELS:
        warn(
            f"{what} is read as images of {H} x {W} pixels. Rows of features have the shape "
            "(n_samples, n_features).",
            ImageShapeWarning,
        )


def check_classes(estimator: Any, classes: Any) -> np.ndarray:
    """Find the labels that `partial_fit` may meet, and keep to those of its earlier calls."""
    fitted = estimator.classes_ if estimator.__sklearn_is_fitted__() else None
    if classes is None:
        if fitted is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return fitted
    given = on_host(classes, "classes")
    try:
        labels = check_array(given, dtype=None, ensure_2d=False, input_name="classes")
        classes = unique_labels(column_or_1d(labels))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"classes must be the labels that y may have, in an array. Got {given!r}: {error}"
        ) from error
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
    check_sum_of_weights(weights)
    if class_weight is not None:
        of_classes = compute_class_weight(
            class_weight, classes=classes, y=classes[y], sample_weight=weights
        )
        with np.errstate(over="ignore"):
            weights = weights * of_classes[y]
        check_sum_of_weights(weights)
    else:
        weights = weights.copy()  # whoever passed them may change them
    rows = np.flatnonzero(weights)
    if len(rows) == 0:
        raise ValueError(
            f"class_weight={class_weight!r} leaves no sample of a weight other than 0."
        )
    return Data(X, y, weights, rows)


def check_sum_of_weights(weights: np.ndarray) -> None:
    """Refuse weights whose sum is infinite: means could not be taken."""
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError(
            "sample_weight, times class_weight, must have a finite sum. Got weights of up to "
            f"{weights.max():.6g}."
        )


def _image_shape_of(X: Any) -> tuple[int, int, int] | None:
    """Give the shape (C, H, W) of an array of images; None for anything else."""
    shape = tuple(getattr(X, "shape", ()))
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        return None
    C, H, W = (1, *map(int, shape[1:]))[-3:]
    return C, H, W


def _take_images(estimator: Any, X: Any) -> Any:
    """Turn X into an array to compute with; leave frames, and CuPy's where a device computes."""
    if not is_cupy(X) or (is_dispatched() and find_device(estimator.device) is None):
        X = on_host(X, "X")
    return as_array(X)


def as_array(X: Any) -> Any:
    """Turn lists and pictures into an array; leave arrays, frames, and what is none of them.

    Raises
    ------
    ValueError
        If each row of `X` is an array by itself.
    """
    if isinstance(X, list | tuple):
        try:
            return check_array(
                X,
                dtype=None,
                ensure_2d=False,
                allow_nd=True,
                ensure_min_samples=0,
                ensure_all_finite=False,
            )
        except ValueError as error:
            shapes = {_shape_within(image) for image in X} - {()}
            if len(shapes) > 1:
                raise ValueError(
                    f"{error} X is a list of arrays of different shapes, {sorted(shapes)[:3]}: "
                    "images need one size."
                ) from error
            raise
    if hasattr(X, "__array_interface__") and not hasattr(X, "shape"):
        return np.asarray(X)  # a picture of Pillow's
    _refuse_arrays_in_rows(X)
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 2:
        inferred = np.array(X.tolist())
        return inferred if inferred.dtype.kind in "biu" and inferred.shape == X.shape else X
    return X


def _refuse_arrays_in_rows(X: Any) -> None:
    """Refuse columns, or an array of objects, that have an array in each row."""
    shape = getattr(X, "shape", None)
    if not isinstance(shape, tuple) or len(shape) not in (1, 2) or 0 in shape or issparse(X):
        return
    if is_cupy(X) or (isinstance(X, np.ndarray) and X.dtype != object):
        return
    try:
        first = np.asarray(X[:1], dtype=object).reshape(-1)
    except (TypeError, ValueError, KeyError, IndexError):
        return
    shapes = [_shape_within(value) for value in first]
    if any(shapes):
        raise ValueError(
            f"X has an array in each row, the first of shape {next(filter(None, shapes))}. Pass "
            "one array, np.stack(list(...)) of them: images need one size."
        )


def _shape_within(value: Any) -> tuple[int, ...]:
    """Give the shape of what may be an image; () for anything else."""
    if isinstance(value, list | tuple) or hasattr(value, "__array_interface__"):
        with suppress(ValueError):
            return np.shape(value)
    return tuple(getattr(value, "shape", ()))


def _as_narrow_as(given: Any, checked: np.ndarray) -> np.ndarray:
    """Give checked data the type that a frame's columns, or a Series, had.

    scikit-learn makes float64 of pandas' nullable, Arrow and object columns, whatever they hold.
    """
    if checked.dtype != np.float64 or not hasattr(given, "infer_objects"):
        return checked
    try:
        types = {_numpy_type(dtype) for dtype in np.atleast_1d(given.infer_objects().dtypes)}
    except TypeError:  # text, for example
        return checked
    if not all(dtype.kind in "biu" or dtype in (np.float16, np.float32) for dtype in types):
        return checked
    dtype = np.result_type(*types)
    return checked.astype(np.float32 if dtype.kind == "f" else dtype)


def _numpy_type(dtype: Any) -> np.dtype:
    """Give the type of the values of a column of pandas'."""
    if hasattr(dtype, "categories"):
        dtype = dtype.categories.dtype
    return np.dtype(getattr(dtype, "numpy_dtype", dtype))


def flatten_images(X: Any) -> Any:
    """Turn an array of images into rows; leave anything else."""
    if _image_shape_of(X) is None:
        return X
    return (X if is_cupy(X) else np.asarray(X)).reshape(len(X), -1)


@contextmanager
def _telling_of_shapes(X: Any, fitted: tuple[int, int, int] | None) -> Iterator[None]:
    """Where X does not have the images of the fit, say so in their terms, and what may help.

    Parameters
    ----------
    X : array-like
        As it came.
    fitted : tuple (C, H, W) or None
        None before a fit: any shape will do.
    """
    shape = tuple(getattr(X, "shape", ()))
    told = "" if fitted is None else _misfit(shape, fitted)
    try:
        yield
    except ValueError as error:
        if not told:
            raise
        raise ValueError(f"{error} {told}") from error
    if told:
        raise ValueError(told)


def _misfit(shape: tuple[int, ...], fitted: tuple[int, int, int]) -> str:
    """Say how an array is not of images of the fitted shape; "" where it is, or may be."""
    C, H, W = fitted
    one = "This looks like one image: pass {}[None], an array of one."
    if len(shape) == 2:
        return one.format("image") if shape == (H, W) and shape[1] != C * H * W else ""
    images = (1, *shape[1:])[-3:]
    if len(shape) not in (3, 4) or images == fitted:
        return ""
    if shape == fitted:
        return one.format("image")
    if shape == (H, W, C):
        return one.format("image.transpose(2, 0, 1)")
    told = (
        f"X has images of shape {images} (channels, height, width), but LeNetClassifier was fitted "
        f"with {fitted}."
    )
    if images == (H, W, C):
        return f"{told} Channels come first: pass X.transpose(0, 3, 1, 2)."
    if C == 1 and (H, W) in (images[:2], images[1:], shape[:2]) and {images[0], images[2]} & {3, 4}:
        return f"{told} The model is grey: convert the images to grey."
    return told


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
    largest = abs(projections).max()
    if not 1e-30 < largest < 1e30 and largest > 0:
        projections = projections / largest  # float32 could not tell them apart
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
