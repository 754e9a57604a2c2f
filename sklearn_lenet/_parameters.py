"""What the parameters of `LeNetClassifier` may be."""

import re
from collections.abc import Callable
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

Constraint = tuple[Callable[[Any], bool], str]


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _integer(low: int) -> Constraint:
    return lambda v: _is_integer(v) and v >= low, f"an int in the range [{low}, inf)"


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
            isinstance(value, tuple | list)
            and (may_be_empty or len(value) > 0)
            and all(_is_integer(v) and v >= low for v in value)
        )

    return allows, f"a tuple of ints in the range [{low}, inf)"


def _either(*constraints: Constraint) -> Constraint:
    return (
        lambda v: any(allows(v) for allows, _ in constraints),
        " or ".join(description for _, description in constraints),
    )


_NONE: Constraint = (lambda v: v is None, "None")
_CALLABLE: Constraint = (callable, "a callable")
_BOOL: Constraint = (lambda v: isinstance(v, bool), "a bool")

_CONSTRAINTS: dict[str, Constraint] = {
    "lr": _real(0, open_low=True),
    "batch_size": _integer(1),
    "max_iter": _either(_integer(1), _one_of("auto")),
    "solver": _one_of("sgd", "adam", "adamw"),
    "momentum": _real(0, 1),
    "nesterovs_momentum": _BOOL,
    "lr_schedule": _either(_one_of("constant", "step", "cosine", "plateau"), _CALLABLE),
    "alpha": _real(0),
    "ema_decay": _either(
        (lambda v: _is_real(v) and 0 < v < 1, "a float in the range (0.0, 1.0)"), _NONE
    ),
    "label_smoothing": (lambda v: _is_real(v) and 0 <= v < 1, "a float in the range [0.0, 1.0)"),
    "augment": _either(_one_of("affine", "elastic"), _CALLABLE, _NONE),
    "conv_channels": _integers(1),
    "kernel_size": _either(_integer(1), _integers(1)),
    "stride": _either(_integer(1), _integers(1)),
    "padding": _either(_integer(0), _integers(0)),
    "pooling": _one_of("avg", "max"),
    "hidden_layer_sizes": _integers(1, may_be_empty=True),
    "activation": _one_of("relu", "tanh", "sigmoid"),
    "image_shape": _either(
        _NONE, (lambda v: _integers(1)[0](v) and len(v) in (2, 3), "a tuple (H, W) or (C, H, W)")
    ),
    "dtype": _one_of("auto", "float32", "float64"),
    "shuffle": _BOOL,
    "tol": _either(_real(0), _NONE),
    "n_iter_no_change": _either(_integer(1), (lambda v: _is_real(v) and v == inf, "np.inf")),
    "early_stopping": _BOOL,
    "validation_fraction": (
        lambda v: _is_real(v) and 0 < v < 1,
        "a float in the range (0.0, 1.0)",
    ),
    "class_weight": _either((lambda v: isinstance(v, dict), "a dict"), _one_of("balanced"), _NONE),
    "warm_start": _BOOL,
    "verbose": _either(_BOOL, _integer(0)),
    "device": (
        lambda v: isinstance(v, str) and re.fullmatch(r"cpu|auto|cuda(:[0-9]+)?", v) is not None,
        "'cpu', 'cuda', 'auto' or a str such as 'cuda:1'",
    ),
    "n_jobs": _either(_NONE, (lambda v: _is_integer(v) and v != 0, "an int other than 0")),
}


def check_parameters(estimator: Any) -> None:
    """Raise a ValueError that names the first parameter which has a value that isn't allowed.

    `random_state` is left to `sklearn.utils.check_random_state`.
    """
    for name, (allows, description) in _CONSTRAINTS.items():
        value = getattr(estimator, name)
        if not allows(value):
            raise ValueError(
                f"The {name!r} parameter of {type(estimator).__name__} must be {description}. "
                f"Got {value!r} instead."
            )
    n_convolutions = len(estimator.conv_channels)
    for name in ("kernel_size", "stride", "padding"):
        value = getattr(estimator, name)
        if not _is_integer(value) and len(value) != n_convolutions:
            raise ValueError(
                f"The {name!r} parameter of {type(estimator).__name__} must be an int or have one "
                f"int for each of the {n_convolutions} 'conv_channels'. Got {value!r} instead."
            )


def for_each(value: Any, n_convolutions: int) -> tuple[int, ...]:
    """Give an int, or one for each convolution, as a tuple of one for each."""
    return (int(value),) * n_convolutions if _is_integer(value) else tuple(map(int, value))
