"""What a fit leaves on the estimator: built and read here, and checked when it comes from a file.

It is NumPy arrays and plain Python values only, which are replaced and never changed. A file has
their checksum, too. What is read has to agree with it, and all of it has to fit each other: the
network's buffers are viewed by sizes that are worked out from it, and a wrong one would read, or
write, behind their ends.
Copies, and what a worker process returns, are checked likewise: whatever a fit may leave has to
pass, numbers that are not finite among it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from math import isfinite, nan, prod
from numbers import Integral, Real
from typing import Any
from zlib import crc32

import numpy as np
from sklearn.utils import check_random_state

from ._backend import rows_on_host, to_host
from ._engine import Data
from ._images import ImageLayout, PixelRanges, row_chunks
from ._network import Architecture
from ._parameters import check_memory
from ._training import Course, Epoch

# Of files. Those of another format are refused.
FORMAT = 3

# Those of scikit-learn's, of the first call, and of `trained_state`
_ATTRIBUTES = (
    "feature_names_in_",
    "n_features_in_",
    "image_shape_",
    "classes_",
    "device_",
    "_layout",
    "_architecture",
    "_ranges",
    "_generator",
    "_validation_seed",
    "_parameters",
    "_optimizer",
    "n_iter_",
    "t_",
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_loss_curve_",
    "validation_scores_",
    "best_validation_score_",
    "_cut",
)

# Of each epoch, as `Epoch` has them
_CURVES = "loss_curve_", "validation_loss_curve_", "validation_scores_"

# Arrays of a solver's state; "n_steps" counts beside them
_SOLVERS = {
    "sgd": {"velocity"},
    "adam": {"mean", "mean_square", "n_steps"},
    "adamw": {"mean", "mean_square", "n_steps"},
}


def initial_state(
    layout: ImageLayout,
    architecture: Architecture,
    ranges: PixelRanges,
    dtype: str,
    random_state: Any,
) -> dict[str, Any]:
    """Give the attributes of an estimator that has not yet been trained.

    Parameters
    ----------
    layout : ImageLayout
    architecture : Architecture
    ranges : PixelRanges
    dtype : {"float32", "float64"}
        Of the parameters.
    random_state : int, RandomState or None
        Draws the seeds of the parameters and of the validation set.
    """
    seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=2)
    generator = np.random.default_rng(int(seeds[0]))
    return {
        "_layout": asdict(layout),
        "_architecture": asdict(architecture),
        "_ranges": asdict(ranges),
        "_parameters": architecture.initial_parameters(generator, dtype),
        "_generator": generator.bit_generator.state,
        "_validation_seed": int(seeds[1]),
        "_optimizer": ("", {}),
        "t_": 0,
        "loss_curve_": [],
        "validation_loss_curve_": None,
        "validation_scores_": None,
    }


def trained_state(
    state: Mapping[str, Any],
    optimizer_name: str,
    course: Course,
    goes_on: bool,
) -> dict[str, Any]:
    """Give the attributes of an estimator after a training.

    Parameters
    ----------
    state : mapping
        Its attributes before.
    optimizer_name : str
        As `optimizer_name` gives it: the next training goes on from the state of its like only.
    course : Course
        Of the training.
    goes_on : bool
        Whether the solver's state is kept, with which a later training can go on as this one would.
    """
    epochs = course.epochs
    losses = state["loss_curve_"] + [epoch.loss for epoch in epochs]
    trained = {
        "_parameters": to_host(course.parameters),
        "_optimizer": (optimizer_name, to_host(course.optimizer.state)) if goes_on else ("", {}),
        "_generator": course.generator.bit_generator.state,
        "n_iter_": len(epochs),
        "t_": state["t_"] + course.n_samples_seen,
        "loss_curve_": losses,
        "loss_": losses[-1] if losses else nan,
    }
    if course.validation is None:
        return trained | {
            "validation_loss_curve_": None,
            "validation_scores_": None,
            "best_validation_score_": None,
            "best_loss_": min(losses, default=nan),
        }
    scores = [epoch.validation_score for epoch in epochs]
    validation_losses = [epoch.validation_loss for epoch in epochs]
    return trained | {
        "validation_loss_curve_": (state["validation_loss_curve_"] or []) + validation_losses,
        "validation_scores_": (state["validation_scores_"] or []) + scores,
        "best_validation_score_": max(scores, default=nan),
        "best_loss_": None,
    }


def cut_state(
    state: Mapping[str, Any], optimizer_name: str, origin: Callable[[], dict], course: Course
) -> dict[str, Any]:
    """Give the attribute that lets a fit go on which was cut off after whole epochs.

    Parameters
    ----------
    state : mapping
        The estimator's attributes, as they were before the training.
    optimizer_name : str
    origin : callable
        Gives a dict: from "data" to their `fingerprint`, and from "settings" to those of the fit.
    course : Course
        Of the training; it has a snapshot.
    """
    snapshot = course.snapshot
    assert snapshot is not None
    parameters = to_host(snapshot.parameters)
    is_best = snapshot.best is snapshot.parameters  # then a file has it once
    return {
        "_cut": {
            "parameters": parameters,
            "best": parameters if is_best else to_host(snapshot.best),
            "optimizer": (optimizer_name, to_host(snapshot.optimizer)),
            "generator": snapshot.generator,
            "t": state["t_"],
            **origin(),
        }
    }


def epoch_state(
    state: Mapping[str, Any], optimizer_name: str, origin: Callable[[], dict], course: Course
) -> dict[str, Any]:
    """Give the attributes that the estimator would have if its fit were cut off after this epoch.

    The parameters are those of `cut_state`. What it gives, no later step changes.
    """
    cut = cut_state(state, optimizer_name, origin, course)
    predicting = cut["_cut"]["parameters" if course.validation is None else "best"]
    return {
        **trained_state(state, optimizer_name, course, goes_on=False),
        "_parameters": predicting,
        "_optimizer": cut["_cut"]["optimizer"],
        **cut,
    }


def beginning_of(estimator: Any) -> tuple[dict[str, Any], list[Epoch]]:
    """Give what the fit that was cut off began with, and the epochs that it has run.

    The beginning is that of its history: parameters, solver and generator are those after the last
    of the epochs.
    """
    cut, n = estimator._cut, estimator.n_iter_
    curves = {name: getattr(estimator, name) for name in _CURVES}
    columns = [curve[-n:] if curve else [nan] * n for curve in curves.values()]
    state = {
        "_parameters": cut["parameters"],
        "_optimizer": cut["optimizer"],
        "_generator": cut["generator"],
        "t_": cut["t"],
        **{name: curve and curve[:-n] for name, curve in curves.items()},
    }
    return state, [Epoch(*values) for values in zip(*columns, strict=True)]


def fingerprint(data: Data, validation: Data | None) -> tuple[int, int, int]:
    """Give by what to know a fit's data: how many rows there are of each, and a checksum."""
    checksum = 0
    for part in (data, validation) if validation is not None else (data,):
        values = [part.y[part.rows], part.weights[part.rows]]
        for array in [*(rows_on_host(part.X, chunk) for chunk in row_chunks(part.rows)), *values]:
            for piece in _parts(array):
                checksum = crc32(piece, checksum)
    return len(data.rows), 0 if validation is None else len(validation.rows), checksum


def check_same_data(found: tuple[int, int, int], begun: tuple[int, int, int]) -> None:
    """Refuse other data than those that a fit was begun with.

    Parameters
    ----------
    found, begun : tuples
        As `fingerprint` gives them.
    """
    if found != begun:
        what = "their values, types, labels or weights are others"
        if found[:2] != begun[:2]:
            what = (
                f"it learnt from {begun[0]} samples and was validated on {begun[1]}, got "
                f"{found[0]} and {found[1]}"
            )
        raise ValueError(
            f"X, y, sample_weight or X_val are not those of the fit that was cut off: {what}. Pass "
            "the same, or begin anew with fit."
        )


def architecture_of(estimator: Any) -> Architecture:
    """Read the network's architecture off a fitted estimator."""
    return Architecture(**estimator._architecture)


def layout_of(estimator: Any) -> ImageLayout:
    """Read off a fitted estimator how rows become images."""
    return ImageLayout(**estimator._layout)


def ranges_of(estimator: Any) -> PixelRanges:
    """Read off a fitted estimator in which range its images were."""
    return PixelRanges(**estimator._ranges)


def generator_of(estimator: Any) -> np.random.Generator:
    """Make a generator that goes on where the last training's ended."""
    generator = np.random.default_rng()
    generator.bit_generator.state = estimator._generator
    return generator


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give an estimator's attributes as they go to a file, with a format and a checksum.

    Parameters
    ----------
    state : mapping
        By the attributes' names.
    """
    return {**state, "_format": FORMAT, "_checksum": _checksum(state)}


def unsealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give the attributes back that `sealed` was given.

    Raises
    ------
    ValueError
        If they are of another format, are not what was written, or do not fit each other.
    """
    attributes = dict(state)
    written = attributes.pop("_format", 1)  # the first files do not say it
    checksum = attributes.pop("_checksum", None)
    if written != FORMAT:
        raise ValueError(
            f"This LeNetClassifier is of the file format {written!r}; this version of "
            f"sklearn_lenet reads format {FORMAT}."
        )
    try:
        _require(checksum == _checksum(attributes), "it is not what was written")
        if "_parameters" in attributes:
            _check_fitted(attributes)
    except _Damaged as damage:
        raise ValueError(f"This LeNetClassifier's file is damaged: {damage}.") from None
    except Exception as error:
        raise ValueError(
            f"This LeNetClassifier's file is damaged: {type(error).__name__}: {error}."
        ) from error
    return attributes


def _checksum(state: Mapping[str, Any]) -> int:
    """Compute the CRC-32 of what was learnt: parameters, and what others have set, are theirs."""
    checksum = 0
    for name in _ATTRIBUTES:
        for part in _parts(state[name]) if name in state else ():
            checksum = crc32(part, crc32(name.encode(), checksum))
    return checksum


def _parts(value: Any) -> Iterator[bytes]:
    """Give what a value consists of, the same for any Python, byte order and kind of memory."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        yield f"array {value.dtype.str} {value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, np.ndarray):
        yield from _parts(value.tolist())
    elif isinstance(value, Mapping):
        yield b"mapping"
        yield from _parts([part for item in value.items() for part in item])
    elif isinstance(value, list | tuple):
        yield f"sequence of {len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    else:
        yield repr(value).encode() if isinstance(value, Real) else b"object"


class _Damaged(Exception):
    """Say what does not fit."""


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _Damaged(what)


def _check_fitted(state: Mapping[str, Any]) -> None:
    architecture = _check_architecture(state["_architecture"])
    layout = _check_layout(state["_layout"], architecture)
    _require(state["image_shape_"] == layout.image_shape, "image_shape_ is another")
    _require(state["n_features_in_"] == layout.n_features, "n_features_in_ is another")
    ranges = state["_ranges"]
    _require(set(ranges) == {field.name for field in fields(PixelRanges)}, "the ranges are others")
    for pair in ranges.values():
        is_pair = isinstance(pair, tuple) and len(pair) == 2 and all(map(_is_real, pair))
        _require(is_pair, "a range is no pair of numbers")
    classes = state["classes_"]
    _require(
        isinstance(classes, np.ndarray) and classes.shape == (architecture.n_classes,),
        "classes_ has another length than the network's output",
    )
    _require(np.array_equal(np.unique(classes), classes), "classes_ are not in order")
    parameters = state["_parameters"]
    _require(
        isinstance(parameters, np.ndarray) and parameters.dtype in (np.float32, np.float64),
        "the parameters are no array of float32 or float64 in this machine's byte order",
    )
    _check_vector(parameters, architecture.n_parameters, parameters.dtype, "the parameters")
    name, solver = state["_optimizer"]
    if name:
        _check_solver(name, solver, parameters)
    np.random.default_rng().bit_generator.state = state["_generator"]
    seed = state["_validation_seed"]
    _require(_is_integer(seed, 0) and seed < 2**31, "the validation set's seed is out of range")
    _require(_is_integer(state["t_"], 0), "t_ is no count")
    for name in _CURVES:
        history = state[name]
        is_list = isinstance(history, list) and all(map(_is_real, history))
        _require(is_list or (history is None and name != "loss_curve_"), f"{name} is no history")
    if "_cut" in state:
        _check_cut(state["_cut"], state)


def _check_architecture(values: Any) -> Architecture:
    """Check what is known of the network; the sizes that follow are positive."""
    _require(set(values) == {field.name for field in fields(Architecture)}, "another network")
    architecture = Architecture(**values)
    for name in ("image_shape", "conv_channels", "kernel_size", "stride"):
        _require(_are_integers(values[name], 1), f"{name} has no positive ints")
    for name in ("padding", "hidden_layer_sizes"):
        _require(_are_integers(values[name], 0), f"{name} has no ints")
    _require(0 not in architecture.hidden_layer_sizes, "hidden_layer_sizes has a 0")
    for name in ("pool_size", "n_classes"):
        _require(_is_integer(values[name], 1), f"{name} is no positive int")
    _require(len(architecture.image_shape) == 3, "image_shape is no (C, H, W)")
    n_convolutions = len(architecture.conv_channels)
    _require(n_convolutions > 0, "there is no convolution")
    for name in ("kernel_size", "stride", "padding"):
        _require(len(values[name]) == n_convolutions, f"{name} has another length")
    _require(architecture.pooling in ("avg", "max"), "pooling is unknown")
    _require(architecture.activation in ("relu", "tanh", "sigmoid"), "activation is unknown")
    for shape in architecture.convolutions():
        sizes = shape.height, shape.width, shape.out_height, shape.out_width
        _require(min(sizes) > 0, "a convolution has no output")
    check_memory(architecture, 1)
    return architecture


def _check_layout(values: Any, architecture: Architecture) -> ImageLayout:
    """Check how rows become images, which must be those of the network."""
    _require(set(values) == {field.name for field in fields(ImageLayout)}, "another layout")
    layout = ImageLayout(**values)
    _require(_are_integers(layout.image_shape, 1), "image_shape has no positive ints")
    _require(len(layout.image_shape) == 3, "image_shape is no (C, H, W)")
    C, H, W = layout.image_shape
    _require(_is_integer(layout.zoom, 1), "zoom is no positive int")
    _require(
        _is_integer(layout.n_features, 1) and layout.n_features <= prod(layout.image_shape),
        "n_features is more than the image has",
    )
    _require(layout.canvas_shape == architecture.image_shape, "the network's images are others")
    channels, height, width = layout.canvas_shape
    _require(
        channels == C and height >= H * layout.zoom and width >= W * layout.zoom,
        "the images are larger than the network's",
    )
    for name in ("mean", "scale"):
        value = values[name]
        _require(_is_real(value) and isfinite(value), f"the pixels' {name} is no finite number")
    return layout


def _check_solver(name: str, solver: Any, parameters: np.ndarray) -> None:
    """Check the state of a solver, and of the average around it."""
    name, _, averages = name.partition(", ")
    _require(name in _SOLVERS and averages in ("", "averaged"), "the solver is unknown")
    arrays = dict(solver)
    if averages:
        _require(set(arrays) == {"optimizer", "parameters", "n_steps"}, "the average is another")
        _check_solver(name, arrays.pop("optimizer"), parameters)
    else:
        _require(set(arrays) == _SOLVERS[name], "the solver's state is another's")
    _require(_is_integer(arrays.pop("n_steps", 0), 0), "n_steps is no count")
    for key, array in arrays.items():
        _check_vector(array, len(parameters), parameters.dtype, f"the solver's {key}")


def _check_cut(cut: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Check what a fit can go on with that was cut off."""
    parts = {"parameters", "best", "optimizer", "generator", "t", "data", "settings"}
    _require(set(cut) == parts, "what is left of the fit is another")
    parameters = state["_parameters"]
    for key in ("parameters", "best"):
        _check_vector(cut[key], len(parameters), parameters.dtype, f"the fit's {key}")
    name, solver = cut["optimizer"]
    _check_solver(name, solver, parameters)
    np.random.default_rng().bit_generator.state = cut["generator"]
    _require(_is_integer(cut["t"], 0), "the fit's t is no count")
    _require(_are_integers(cut["data"], 0) and len(cut["data"]) == 3, "the data are unknown")
    settings = cut["settings"]
    texts = [*settings.keys(), *settings.values()]
    _require(all(isinstance(text, str) for text in texts), "the settings are unknown")
    n_epochs, curves = state["n_iter_"], [state[name] for name in _CURVES]
    _require(
        _is_integer(n_epochs, 1) and all(not curve or n_epochs <= len(curve) for curve in curves),
        "n_iter_ is no count of epochs",
    )


def _check_vector(array: Any, length: int, dtype: Any, name: str) -> None:
    _require(
        isinstance(array, np.ndarray) and array.shape == (length,) and array.dtype == dtype,
        f"{name} should be {length} numbers of type {dtype}",
    )
    _require(array.flags.c_contiguous, f"{name} do not lie one behind the other")


def _are_integers(values: Any, low: int) -> bool:
    return isinstance(values, tuple) and all(_is_integer(value, low) for value in values)


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
