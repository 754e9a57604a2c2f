"""Calls with sane and broken data and parameters, at random: `python -m tests.campaign`.

Each case takes an estimator from one of five starts, makes nothing, one thing or two of a sane call
into something that is out of the ordinary, and looks at what comes of it. Cases run in child
processes, a batch in each, so that a crash is one finding and not the end.
"""

import argparse
import json
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from fractions import Fraction
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError

from sklearn_lenet import ImageShapeWarning, LeNetClassifier

from .findings import tell

BATCH, SECONDS_A_CASE, MEGABYTES_A_CASE = 250, 20, 500

# What is counted, and wanted 0 times
KINDS = [
    "crashes",
    "hangs",
    "warnings of others",
    "silent non-finite results",
    "refused though sane",
    "changed state",
    "changed input",
    "memory",
    "errors of another type",
    "errors that do not name their cause",
]

N, SIDE = 24, 8
STARTS = ["unfitted", "fitted", "warm", "after partial_fit", "loaded"]
SMALL = {
    "conv_channels": (1, 2),
    "hidden_layer_sizes": (6,),
    "max_iter": 1,
    "random_state": 0,
    "batch_size": 10,
}


def pixels(rng):
    return rng.integers(0, 256, (N, SIDE * SIDE)).astype(np.uint8)


def labels(rng):
    return rng.permutation(np.arange(N) % 3)


def masked(array):
    masked = np.ma.array(array)
    masked[0] = np.ma.masked
    return masked


def with_one(value):
    def change(array):
        changed = array.astype(np.float64)
        changed.reshape(-1)[5] = value
        return changed

    return change


# What a sane call may have: from the plain array
SANE_X = {
    "array": lambda X: X,
    "float64": lambda X: X.astype(float),
    "float32": lambda X: X.astype(np.float32),
    "float16": lambda X: X.astype(np.float16),
    "int64": lambda X: X.astype(np.int64),
    "bool": lambda X: X > 127,
    "0..1": lambda X: X / 255,
    "tiny": lambda X: X * 1e-200,
    "huge": lambda X: X * 1e200,
    "big-endian": lambda X: X.astype(">f4"),
    "longdouble": lambda X: X.astype(np.longdouble),
    "objects": lambda X: X.astype(object),
    "list": lambda X: X.tolist(),
    "frame": lambda X: pd.DataFrame(X),
    "nullable frame": lambda X: pd.DataFrame(X).convert_dtypes(),
    "Fortran": lambda X: np.asfortranarray(X),
    "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "images": lambda X: X.reshape(-1, SIDE, SIDE),
    "images of one channel": lambda X: X.reshape(-1, 1, SIDE, SIDE),
    "list of images": lambda X: list(X.reshape(-1, SIDE, SIDE)),
}

# Out of the ordinary, and what the error has to speak of
BROKEN_X = {
    "NaN": with_one(np.nan),
    "infinite": with_one(np.inf),
    "one value": lambda X: 5,
    "one row": lambda X: X[0],
    "none": lambda X: X[:0],
    "no features": lambda X: X[:, :0],
    "fewer rows": lambda X: X[:-1],
    "complex": lambda X: X.astype(complex),
    "text": lambda X: np.full(X.shape, "a"),
    "sparse": lambda X: scipy.sparse.csr_array(X),
    "masked": masked,
    "channels last": lambda X: X.reshape(-1, SIDE, SIDE, 1),
    "five axes": lambda X: X.reshape(-1, 1, 1, SIDE, SIDE),
    "series of images": lambda X: pd.Series(list(X.reshape(-1, SIDE, SIDE))),
    "images of two sizes": lambda X: [np.zeros((8, 8)), np.zeros((9, 8))] * (N // 2),
    "None": lambda X: None,
    "a dict": lambda X: {"a": 1},
}

SANE_Y = {
    "array": lambda y: y,
    "text": lambda y: np.array(["b", "a", "c"])[y],
    "objects": lambda y: np.array(["b", "a", "c"], object)[y],
    "bool": lambda y: y > 0,
    "list": lambda y: y.tolist(),
    "series": lambda y: pd.Series(y),
    "nullable": lambda y: pd.Series(y).convert_dtypes(),
    "category": lambda y: pd.Series(y).astype("category"),
    "gaps": lambda y: 100 * y - 7,
    "whole floats": lambda y: y.astype(float),
    "column": lambda y: y[:, None],
}

BROKEN_Y = {
    "NaN": lambda y: np.where(y > 1, np.nan, y),
    "floats": lambda y: y + 0.5,
    "one-hot": lambda y: np.eye(3)[y],
    "several": lambda y: np.column_stack([y, y + 1]),
    "fewer": lambda y: y[:-1],
    "None": lambda y: None,
    "one value": lambda y: 3,
    "masked": lambda y: masked(y.astype(int)),
    "mixed": lambda y: np.array([1, "a", None] * (N // 3), object),
}

SANE_WEIGHTS = {
    "None": lambda w: None,
    "ones": lambda w: w,
    "floats": lambda w: w * np.linspace(0.5, 2, N),
    "zeros among them": lambda w: w * (np.arange(N) > 4),
    "huge": lambda w: w * 1e300,
    "tiny": lambda w: w * 1e-300,
    "list": lambda w: w.tolist(),
    "ints": lambda w: w.astype(int),
}

BROKEN_WEIGHTS = {
    "zeros": lambda w: w * 0,
    "negative": lambda w: -w,
    "NaN": with_one(np.nan),
    "infinite sum": lambda w: w * 1e308,
    "fewer": lambda w: w[:-1],
    "two axes": lambda w: np.ones((N, 2)),
    "text": lambda w: np.full(N, "a"),
}

CALLABLE = (lambda *a: 1 / 0, lambda: 1, lambda *a: None, lambda *a: "a", lambda *a: np.nan)
NONSENSE = (None, "a", -1, 0, np.nan, np.inf, -np.inf, 10**400, 2**63, 2**70, [], (), {}, 1.5, True)
NONSENSE += (
    np.timedelta64(3, "s"),
    np.array([1.5]),
    b"a",
    object(),
    1j,
    Fraction(1, 3),
    CALLABLE[0],
)

SANE_PARAMETERS = {
    "lr": (1e-300, 1e-9, 0.001, 0.1, np.float32(0.01), Fraction(1, 100), 1),
    "batch_size": (1, 7, 24, 100, 2**62, np.int8(5)),
    "max_iter": (1, 2, "auto", np.int64(1)),
    "solver": ("sgd", "adam", "adamw"),
    "momentum": (0, 0.5, 1.0, np.float64(0.9)),
    "nesterovs_momentum": (True, False, np.bool_(True)),
    "beta_1": (0, 0.5, 0.9, np.float32(0.8)),
    "beta_2": (0.0, 0.95, 0.999999, Fraction(9, 10)),
    "lr_schedule": ("constant", "step", "cosine", "plateau", lambda epoch: 0.01),
    "alpha": (0, 1e-300, 1e-3, 1.0),
    "ema_decay": (None, 0.5, 0.999, np.float32(0.9)),
    "label_smoothing": (0, 0.3, 0.999),
    "augment": (None, "affine", "elastic", lambda images, generator: images[..., ::-1]),
    "conv_channels": ((1, 2), [2, 2], np.array([1, 3])),
    "kernel_size": (1, 2, 5, (3, 2), np.array([3, 3])),
    "stride": (1, 2, (2, 1)),
    "padding": (0, 1, (2, 0), (3, 3)),
    "pooling": ("avg", "max"),
    "hidden_layer_sizes": ((), 4, (5,), [4, 3], np.array([3])),
    "activation": ("relu", "tanh", "sigmoid"),
    "image_shape": (None, (8, 8), (1, 8, 8), (4, 16), [2, 32], np.array([8, 8]), (4, 4, 4)),
    "dtype": ("auto", "float32", "float64"),
    "shuffle": (True, False, np.bool_(False)),
    "tol": (None, 0, 1e-4, np.float64(0.1)),
    "n_iter_no_change": (1, 10, np.inf),
    "early_stopping": (False, True, np.bool_(True)),
    "scoring": (None, "loss", "accuracy", lambda estimator, X, y: 0.5),
    "validation_fraction": (0.1, 0.5, 0.9),
    "class_weight": (None, "balanced", {}),
    "warm_start": (False, True, np.bool_(True)),
    "random_state": (None, 0, 2**32 - 1, np.int64(3), np.random.RandomState(0)),
    "verbose": (0, False),
    "n_jobs": (None, 1, 2, -1, -2, 10**9),
    "device": ("cpu", "auto"),
}

# The package's own, which a case may well earn
WARNINGS = (ImageShapeWarning, ConvergenceWarning, DataConversionWarning)
MESSAGES = re.compile(r"has values from|has an extreme value|feature names|outputs are finite")
ERRORS = (ValueError, TypeError, NotFittedError, AttributeError, ZeroDivisionError)
NAMES = re.compile(
    r"\bX\b|\by\b|X_val|y_val|[Ww]eight|classes|features|images|samples?\b|array|sparse|diverged|"
    r"Unknown label|Complex data|partial_fit|" + "|".join(SANE_PARAMETERS)
)


class TooLong(BaseException):
    """A case took longer than it may."""


def choose(rng, things):
    return list(things)[rng.integers(len(things))]


def make_case(seed):
    """Make a case: the estimator, the call, and what is broken in it."""
    rng = np.random.default_rng(seed)
    X, y, weights = pixels(rng), labels(rng), np.ones(N)
    start = choose(rng, STARTS)
    call = choose(rng, ["fit", "fit", "partial_fit", "predict_proba", "predict_log_proba", "score"])
    if start == "unfitted" and call not in ("fit", "partial_fit"):
        call = "fit"
    parameters = dict(SMALL)
    for name in rng.choice(sorted(SANE_PARAMETERS), rng.integers(0, 4), replace=False):
        parameters[name] = choose(rng, SANE_PARAMETERS[name])
    what = {"X": choose(rng, SANE_X), "y": "array", "weights": choose(rng, SANE_WEIGHTS)}
    if start == "unfitted":
        what["y"] = choose(rng, SANE_Y)
    given = {
        "X": SANE_X[what["X"]](X),
        "y": SANE_Y[what["y"]](y),
        "weights": SANE_WEIGHTS[what["weights"]](weights),
    }
    broken = []
    for _ in range(rng.choice([0, 1, 2], p=[0.4, 0.5, 0.1])):
        kind = choose(rng, ["X", "y", "weights", "parameter"])
        if kind == "parameter":
            name = choose(rng, SANE_PARAMETERS)
            parameters[name] = choose(rng, NONSENSE)
            broken.append(name)
        else:
            table, plain = {
                "X": (BROKEN_X, X),
                "y": (BROKEN_Y, y),
                "weights": (BROKEN_WEIGHTS, weights),
            }[kind]
            what[kind] = "broken: " + (variant := choose(rng, table))
            given[kind] = table[variant](plain)
            broken.append(kind)
    held_out = {}
    if call == "fit" and parameters.get("early_stopping") and rng.random() < 0.5:
        held_out = {"X_val": given["X"], "y_val": given["y"]}
    return start, call, parameters, given, held_out, broken, what


def make_estimator(start, rng):
    """Make an estimator as it stands before the call."""
    if start == "unfitted":
        return LeNetClassifier(**SMALL)
    estimator = LeNetClassifier(**SMALL, warm_start=start == "warm")
    X, y = pixels(rng), labels(rng)
    if start == "after partial_fit":
        return estimator.partial_fit(X, y, classes=[0, 1, 2])
    estimator.fit(X, y)
    return pickle.loads(pickle.dumps(estimator)) if start == "loaded" else estimator


def fingerprint(value):
    """Hash a value, without its identity."""
    if isinstance(value, np.ma.MaskedArray):
        value = np.asarray(value), np.ma.getmaskarray(value)
    return joblib.hash(value) if not callable(value) else repr(value)


def invoke(estimator, call, given, held_out):
    X, y, weights = given["X"], given["y"], given["weights"]
    if call == "fit":
        return estimator.fit(X, y, weights, **held_out)
    if call == "partial_fit":
        first = not hasattr(estimator, "classes_")
        classes = list(pd.unique(np.asarray(y).ravel())) if first and y is not None else None
        return estimator.partial_fit(X, y, classes, weights)
    if call == "score":
        return estimator.score(X, y, weights)
    return getattr(estimator, call)(X)


def run_case(seed):
    """Run a case; gives what it found: pairs of a kind and a description."""
    try:
        start, call, parameters, given, held_out, broken, what = make_case(seed)
    except (ValueError, TypeError, OverflowError):  # nonsense that NumPy cannot even make
        return []
    estimator = make_estimator(start, np.random.default_rng(seed))
    estimator.set_params(**parameters)
    state = {name: fingerprint(value) for name, value in vars(estimator).items()}
    inputs = {name: fingerprint(value) for name, value in given.items()}
    told = f"seed {seed}: {start}, {call}, {what}, broken {broken}, " + repr(
        {k: v for k, v in parameters.items() if k not in SMALL or v is not SMALL[k]}
    )
    found = []

    def report(kind, text=""):
        found.append((kind, f"{told[:600]} {text[:300]}"))

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = result = None
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            result = invoke(estimator, call, given, held_out)
        except TooLong:
            report("hangs")
        except Exception as raised:
            error = raised
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory > 1024 * MEGABYTES_A_CASE:
        report("memory")
    for warning in record:
        if not issubclass(warning.category, WARNINGS) and not MESSAGES.search(str(warning.message)):
            report("warnings of others", f"{warning.category.__name__}: {warning.message}")
    if any(fingerprint(value) != inputs[name] for name, value in given.items()):
        report("changed input")
    if error is not None:
        check_error(error, broken, what, parameters, report)
        after = {name: fingerprint(value) for name, value in vars(estimator).items()}
        # A RandomState goes on, whatever comes of the call
        if {k: v for k, v in after.items() if k != "random_state"} != {
            k: v for k, v in state.items() if k != "random_state"
        }:
            report("changed state")
    elif not record:
        check_result(estimator, call, result, report)
    return found


def check_error(error, broken, what, parameters, report):
    """Look whether an error is of a type that users expect, and names what is broken."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ZeroDivisionError) and any(map(callable, parameters.values())):
        return  # a user's own error comes as it is
    if not isinstance(error, ERRORS):
        report("errors of another type", text)
    if not broken:
        sane = "kernel_size", "image_shape", "early_stopping", "class_weight", "partial_fit"
        sane += "diverged", "not what the network", "labels that are not", "warm_start", "GiB"
        if not any(name in text for name in sane):
            report("refused though sane", text)
    elif not NAMES.search(text):
        report("errors that do not name their cause", text)
    elif len(broken) == 1 and broken[0] in SANE_PARAMETERS and broken[0] not in text:
        value = parameters[broken[0]]
        follows = "kernel_size", "conv_channels", "diverged", "GiB", "partial_fit", "convolutions"
        if not callable(value) and not any(name in text for name in follows):
            report("errors that do not name their cause", text)


def check_result(estimator, call, result, report):
    """Look whether what came without an error or a warning is finite."""
    if call in ("fit", "partial_fit"):
        values = [*estimator.coefs_, *estimator.intercepts_, np.array(estimator.loss_)]
    else:
        values = [np.asarray(result, dtype=float)]
    if not all(np.isfinite(value).all() for value in values):
        report("silent non-finite results")
    if call == "predict_proba" and abs(values[0].sum(axis=1) - 1).max() > 1e-6:
        report("silent non-finite results", "rows do not sum to 1")


def run_batch(first, n_cases):
    """Run cases in this process; print what is found, and how far it has come."""

    def too_long(*arguments):
        raise TooLong

    signal.signal(signal.SIGALRM, too_long)
    for seed in range(first, first + n_cases):
        print(json.dumps(["begin", seed]), flush=True)
        signal.alarm(SECONDS_A_CASE)
        for kind, text in run_case(seed):
            print(json.dumps([kind, text]), flush=True)
        signal.alarm(0)


def run(n_cases, seed=0):
    """Run cases in child processes; gives the findings."""
    found = []
    command = [sys.executable, "-m", "tests.campaign", "--batch"]
    first = seed
    while first < seed + n_cases:
        n = min(BATCH, seed + n_cases - first)
        child = subprocess.run(
            [*command, str(first), str(n)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        found += [line for line in lines if line[0] != "begin"]
        last = max((line[1] for line in lines if line[0] == "begin"), default=first)
        if child.returncode:
            found.append(["crashes", f"seed {last}: {child.returncode} {child.stderr[-300:]}"])
            first = last + 1
        else:
            first += n
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--batch", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.batch:
        run_batch(*arguments.batch)
        return
    begin = time.perf_counter()
    found = run(arguments.cases, arguments.seed)
    tell(KINDS, found, faults=KINDS)
    print(f"{arguments.cases} cases in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
