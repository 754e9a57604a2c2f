"""What the parameters of `LeNetClassifier` may be, and what follows from them."""

import os
import re
from collections.abc import Callable
from math import ceil, inf, isfinite, prod
from numbers import Integral, Real
from typing import Any

import numpy as np
from joblib.parallel import get_active_backend
from sklearn.metrics import get_scorer_names

from ._augmentation import make_augmentation
from ._backend import available_cores, total_memory
from ._engine import SHARD_SIZE, Objective
from ._images import ImageLayout
from ._network import Architecture, smallest_image
from ._optimizers import SGD, Adam, Optimizer, WeightAverage
from ._training import Settings

_POOL_SIZE = 2

# Small images are enlarged to this side, or by this factor, at most
_MOST_ENLARGED, _MOST_ZOOM = 64, 12

# Vectors as long as the parameters that a training has: gradients, averages, copies
_VECTORS = 16

Constraint = tuple[Callable[[Any], bool], str]


# Largest int of C, and of NumPy's axes
_MOST = 2**63 - 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_integer(value: Any) -> bool:
    # NumPy counts spans of time among the integers
    return isinstance(value, Integral) and not isinstance(value, bool | np.timedelta64)


def _is_real(value: Any) -> bool:
    """Tell whether a value is a real number that float can hold."""
    if not isinstance(value, Real) or isinstance(value, bool | np.timedelta64):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _integer(low: int, high: int = _MOST) -> Constraint:
    ends = f"[{low}, {'2**63' if high == _MOST else high}{')' if high == _MOST else ']'}"
    return lambda v: _is_integer(v) and low <= v <= high, f"an int in the range {ends}"


def _real(low: float, high: float = inf, *, open_low: bool = False) -> Constraint:
    def allows(value: Any) -> bool:
        if not (_is_real(value) and isfinite(value)):
            return False
        return (value > low if open_low else value >= low) and (value <= high or high == inf)

    ends = "(" if open_low else "[", ")" if high == inf else "]"
    return allows, f"a float in the range {ends[0]}{float(low)}, {float(high)}{ends[1]}"


def _one_of(*choices: str) -> Constraint:
    names = ", ".join(repr(choice) for choice in choices)
    return lambda v: isinstance(v, str) and v in choices, f"a str among {{{names}}}"


def _integers(low: int, *, may_be_empty: bool = False) -> Constraint:
    def allows(value: Any) -> bool:
        return (
            (isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1))
            and (may_be_empty or len(value) > 0)
            and all(_is_integer(v) and low <= v <= _MOST for v in value)
        )

    return allows, f"a tuple of ints in the range [{low}, 2**63)"


def _either(*constraints: Constraint) -> Constraint:
    return (
        lambda v: any(allows(v) for allows, _ in constraints),
        " or ".join(description for _, description in constraints),
    )


def is_image_shape(value: Any) -> bool:
    """Tell whether this is a shape of images, (H, W) or (C, H, W)."""
    return _integers(1)[0](value) and len(value) in (2, 3)


_NONE: Constraint = (lambda v: v is None, "None")
_CALLABLE: Constraint = (callable, "a callable")
_BOOL: Constraint = (_is_bool, "a bool")
_BELOW_1: Constraint = (lambda v: _is_real(v) and 0 <= v < 1, "a float in the range [0.0, 1.0)")

_CONSTRAINTS: dict[str, Constraint] = {
    "lr": _real(0, open_low=True),
    "batch_size": _integer(1),
    "max_iter": _either(_integer(1), _one_of("auto")),
    "solver": _one_of("sgd", "adam", "adamw"),
    "momentum": _real(0, 1),
    "nesterovs_momentum": _BOOL,
    "beta_1": _BELOW_1,
    "beta_2": _BELOW_1,
    "lr_schedule": _either(_one_of("constant", "step", "cosine", "plateau"), _CALLABLE),
    "alpha": _real(0),
    "ema_decay": _either(
        (lambda v: _is_real(v) and 0 < v < 1, "a float in the range (0.0, 1.0)"), _NONE
    ),
    "label_smoothing": _BELOW_1,
    "augment": _either(_one_of("affine", "elastic"), _CALLABLE, _NONE),
    "conv_channels": _integers(1),
    "kernel_size": _either(_integer(1), _integers(1)),
    "stride": _either(_integer(1), _integers(1)),
    "padding": _either(_integer(0), _integers(0)),
    "pooling": _one_of("avg", "max"),
    "hidden_layer_sizes": _either(_integer(1), _integers(1, may_be_empty=True)),
    "activation": _one_of("relu", "tanh", "sigmoid"),
    "image_shape": _either(_NONE, (is_image_shape, "a tuple (H, W) or (C, H, W)")),
    "dtype": _one_of("auto", "float32", "float64"),
    "shuffle": _BOOL,
    "tol": _either(_real(0), _NONE),
    "n_iter_no_change": _either(_integer(1), (lambda v: _is_real(v) and v == inf, "np.inf")),
    "early_stopping": _BOOL,
    "scoring": _either(
        (
            lambda v: isinstance(v, str) and (v == "loss" or v in get_scorer_names()),
            "'loss', a str among sklearn.metrics.get_scorer_names()",
        ),
        _CALLABLE,
        _NONE,
    ),
    "validation_fraction": (
        lambda v: _is_real(v) and 0 < v < 1,
        "a float in the range (0.0, 1.0)",
    ),
    "class_weight": _either((lambda v: isinstance(v, dict), "a dict"), _one_of("balanced"), _NONE),
    "warm_start": _BOOL,
    "random_state": _either(
        _NONE,
        _integer(0, 2**32 - 1),
        (
            lambda v: isinstance(v, np.random.RandomState) or v is np.random,
            "an instance of numpy.random.RandomState",
        ),
    ),
    "verbose": _either(_BOOL, _integer(0)),
    "device": (
        lambda v: isinstance(v, str) and re.fullmatch(r"cpu|auto|cuda(:[0-9]+)?", v) is not None,
        "'cpu', 'cuda', 'auto' or a str such as 'cuda:1'",
    ),
    "n_jobs": _either(
        _NONE,
        (lambda v: _is_integer(v) and v != 0 and abs(v) <= _MOST, "an int other than 0"),
    ),
}


def check_parameters(estimator: Any, *names: str) -> None:
    """Raise a ValueError that names the first parameter which has a value that isn't allowed.

    Parameters
    ----------
    estimator : LeNetClassifier
    *names : str
        Parameters to check; none means all.
    """
    for name in names or _CONSTRAINTS:
        allows, description = _CONSTRAINTS[name]
        value = getattr(estimator, name)
        if not allows(value):
            raise ValueError(
                f"The {name!r} parameter of {type(estimator).__name__} must be {description}. "
                f"Got {value!r} instead."
            )
    if names:
        return
    n_convolutions = len(estimator.conv_channels)
    for name in ("kernel_size", "stride", "padding"):
        value = getattr(estimator, name)
        if not _is_integer(value) and len(value) != n_convolutions:
            raise ValueError(
                f"The {name!r} parameter of {type(estimator).__name__} must be an int or have one "
                f"int for each of the {n_convolutions} 'conv_channels'. Got {value!r} instead."
            )


def network_design(estimator: Any) -> dict[str, Any]:
    """Give the parameters that shape the network, as `Architecture` wants them."""
    n_convolutions = len(estimator.conv_channels)

    def for_each(value: Any) -> tuple[int, ...]:
        return (int(value),) * n_convolutions if _is_integer(value) else tuple(map(int, value))

    sizes = estimator.hidden_layer_sizes
    return {
        "conv_channels": tuple(map(int, estimator.conv_channels)),
        "kernel_size": for_each(estimator.kernel_size),
        "stride": for_each(estimator.stride),
        "padding": for_each(estimator.padding),
        "pooling": estimator.pooling,
        "hidden_layer_sizes": tuple(map(int, [sizes] if _is_integer(sizes) else sizes)),
        "activation": estimator.activation,
    }


def network_for(
    estimator: Any, n_features: int, n_classes: int
) -> tuple[ImageLayout, Architecture]:
    """Work out the network for images of `image_shape_`, and how it gets them, yet unscaled.

    Parameters
    ----------
    estimator : LeNetClassifier
    n_features : int
    n_classes : int

    Raises
    ------
    ValueError
        If the first kernel is larger than the padded images, if these are too small, or if the
        network would need too much memory.
    """
    design, image_shape = network_design(estimator), estimator.image_shape_
    kernel_size, stride, padding = design["kernel_size"], design["stride"], design["padding"]
    largest = min(image_shape[1:]) + 2 * padding[0]
    if kernel_size[0] > largest:
        raise ValueError(
            f"kernel_size={estimator.kernel_size!r} is larger than the padded images: they are "
            f"{image_shape[1]} x {image_shape[2]} pixels, with padding {padding[0]} on each side. "
            f"Choose a kernel_size of at most {largest}, or a larger padding."
        )
    smallest = smallest_image(kernel_size, stride, padding, _POOL_SIZE)
    if smallest > max(_MOST_ENLARGED, _MOST_ZOOM * min(image_shape[1:])):
        side = str(smallest) if smallest < 2**63 else "more than 2**63"
        raise ValueError(
            f"Images of {image_shape[1]} x {image_shape[2]} pixels are too small for "
            f"{len(kernel_size)} convolutions with kernel_size={estimator.kernel_size!r}, "
            f"stride={estimator.stride!r} and padding={estimator.padding!r}, which need a side of "
            f"{side}: images are enlarged to {_MOST_ENLARGED} pixels, or {_MOST_ZOOM} times, at "
            "most. Choose smaller kernels and strides, or fewer conv_channels."
        )
    layout = ImageLayout.fitting(
        image_shape,
        n_features,
        smallest,
        prod(stride) * _POOL_SIZE ** len(stride),
        mean=0.0,
        scale=1.0,
    )
    architecture = Architecture(
        image_shape=layout.canvas_shape, pool_size=_POOL_SIZE, n_classes=n_classes, **design
    )
    check_memory(architecture, min(int(estimator.batch_size), SHARD_SIZE))
    return layout, architecture


def check_memory(architecture: Architecture, n_samples: int) -> None:
    """Refuse a network that would need more than half of the memory, before any is taken.

    Parameters
    ----------
    architecture : Architecture
    n_samples : int
        That go through it at once.
    """
    numbers = {
        "padding, conv_channels or hidden_layer_sizes": _VECTORS * architecture.n_parameters,
        "padding, kernel_size, conv_channels or batch_size": architecture.n_numbers(n_samples),
    }
    needed, total = 4 * sum(numbers.values()), total_memory()
    if needed > total / 2:
        C, H, W = architecture.image_shape
        raise ValueError(
            f"The network would take about {needed / 2**30:.3g} GiB for each thread, of "
            f"{total / 2**30:.3g} GiB of memory in all, for {architecture.n_parameters} parameters "
            f"and images of {C} x {H} x {W}. Choose smaller {max(numbers, key=numbers.__getitem__)}"
            ", or smaller images."
        )


def check_same_network(estimator: Any, fitted: Architecture, dtype: np.dtype) -> None:
    """Refuse to go on training where a parameter asks for another network, or another `dtype`."""
    asked = network_design(estimator)
    found = {name: getattr(fitted, name) for name in asked}
    if estimator.image_shape is not None:
        asked["image_shape"] = (1, *estimator.image_shape)[-3:]
        found["image_shape"] = estimator.image_shape_
    if estimator.dtype != "auto":
        asked["dtype"], found["dtype"] = estimator.dtype, str(dtype)
    for name, value in asked.items():
        if value != found[name]:
            raise ValueError(
                f"{name}={getattr(estimator, name)!r} is not what the network was fitted with, "
                f"{found[name]!r}. Neither warm_start=True nor partial_fit can change it: use fit "
                "with warm_start=False."
            )


# Parameters that say how a fit runs, not what comes of it, and what its beginning has used up
_OF_THE_RUN = {"n_jobs", "verbose", "device", "warm_start", "random_state"}


def fit_settings(estimator: Any) -> dict[str, str]:
    """Describe the parameters that determine what comes of a fit; one callable is as another."""
    return {
        name: "a callable" if callable(value) else repr(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in _OF_THE_RUN
    }


def check_same_settings(estimator: Any, begun: dict[str, str]) -> None:
    """Refuse other parameters than those that a fit was begun with, as `fit_settings` has them."""
    for name, found in fit_settings(estimator).items():
        if begun.get(name, found) != found:
            raise ValueError(
                f"{name}={found} is not what the fit was begun with that was cut off, "
                f"{begun[name]}. resume ends it as it was begun; to go on in another way, use fit "
                "with warm_start=True."
            )


def network_dtype(estimator: Any, X: Any) -> str:
    """Give the type in which to compute."""
    if estimator.dtype != "auto":
        return estimator.dtype
    return "float64" if X.dtype == np.float64 else "float32"


def training_settings(estimator: Any, n_samples: int, partial: bool) -> Settings:
    """Give the parameters that steer training; `partial_fit` runs one epoch at `lr`."""
    max_iter = epochs_for(n_samples) if estimator.max_iter == "auto" else int(estimator.max_iter)
    return Settings(
        lr=float(estimator.lr),
        lr_schedule="constant" if partial else estimator.lr_schedule,
        batch_size=int(estimator.batch_size),
        max_iter=1 if partial else max_iter,
        shuffle=estimator.shuffle,
        tol=None if estimator.tol is None else float(estimator.tol),
        n_iter_no_change=estimator.n_iter_no_change,
        decay=_decay(estimator),
        is_partial=partial,
        verbose=estimator.verbose,
    )


def epochs_for(n_samples: int) -> int:
    """Give the number of epochs that `max_iter="auto"` stands for."""
    return min(max(20, ceil(100_000 / n_samples)), 100)


def training_objective(estimator: Any) -> Objective:
    """Give what is learnt; AdamW decays the weights itself, without a penalty."""
    return Objective(
        0.0 if estimator.solver == "adamw" else float(estimator.alpha),
        float(estimator.label_smoothing),
        make_augmentation(estimator.augment, estimator.image_shape_),
    )


def _decay(estimator: Any) -> float:
    return float(estimator.alpha) if estimator.solver == "adamw" else 0.0


def optimizer_name(estimator: Any) -> str:
    """Name the optimizer, so that a later fit knows its state."""
    return estimator.solver if estimator.ema_decay is None else f"{estimator.solver}, averaged"


def make_optimizer(estimator: Any, xp: Any, parameters: Any, n_weights: int) -> Optimizer:
    """Make the optimizer that the parameters ask for.

    Parameters
    ----------
    estimator : LeNetClassifier
    xp : module
        numpy or cupy.
    parameters : array of shape (n_parameters,)
        Changed in place by its steps.
    n_weights : int
        Number of them, from the first, that are no biases.
    """
    optimizer: Optimizer
    if estimator.solver == "sgd":
        momentum, nesterov = float(estimator.momentum), estimator.nesterovs_momentum
        optimizer = SGD(xp, parameters, momentum, nesterov)
    else:
        beta_1, beta_2 = float(estimator.beta_1), float(estimator.beta_2)
        optimizer = Adam(xp, parameters, beta_1, beta_2, _decay(estimator), n_weights)
    if estimator.ema_decay is None:
        return optimizer
    return WeightAverage(xp, optimizer, float(estimator.ema_decay))


def n_workers(estimator: Any) -> int:
    """Give the number of threads that `n_jobs` stands for: no more than there are CPUs."""
    n_jobs = estimator.n_jobs
    if n_jobs is None:
        n_jobs = get_active_backend()[1]  # what joblib.parallel_config was given
    if n_jobs is None or n_jobs < 0:
        return max(1, available_cores() + 1 + int(n_jobs or -1))
    return 1 if n_jobs == 1 else min(int(n_jobs), os.cpu_count() or 1)
