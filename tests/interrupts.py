"""Keyboard interrupts at chosen moments, one or two in a row: `python -m tests.interrupts`.

A moment is a call of a Python function, or the return of a C function, in the main thread. SIGINT
is raised there while an estimator fits or predicts; then the estimator has to be as it was, or
fitted with what it learnt, and nothing else may be left behind.
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
import warnings
from functools import cache
from importlib.util import find_spec
from itertools import count

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_limits

from sklearn_lenet import LeNetClassifier, _engine, _interrupts, _warnings

from .findings import tell

MOMENTS = 3000

# What is counted, and wanted 0 times
KINDS = [
    "threads of BLAS",
    "error state of NumPy",
    "threads",
    "handler of the signal",
    "estimators that are neither",
    "counts that are not true",
    "other errors",
]

N_ROWS, N_EPOCHS = 24, 3
X = np.random.default_rng(0).integers(0, 256, (N_ROWS, 64)).astype(np.uint8)
Y = np.arange(N_ROWS) % 3
SMALL = {
    "conv_channels": (1, 2),
    "hidden_layer_sizes": (6,),
    "max_iter": N_EPOCHS,
    "batch_size": 10,
    "random_state": 0,
    "n_jobs": 2,
}


def flipped(images, generator):
    return images[..., ::-1]


def rate(epoch):
    return 0.01 / (1 + epoch)


def with_a_checkpoint(model):
    """Fit so, where scikit-learn has callbacks."""
    if find_spec("sklearn.callback") is None:
        return model.fit(X, Y)
    from sklearn_lenet.callbacks import Checkpoint

    with tempfile.TemporaryDirectory() as directory:
        return model.set_callbacks(Checkpoint(f"{directory}/model")).fit(X, Y)


# By name: parameters, whether the estimator is fitted before, or cut off, and the call
SCENARIOS = {
    "first fit": ({}, False, lambda model: model.fit(X, Y)),
    "refit": ({}, True, lambda model: model.fit(X, Y)),
    "warm start": ({"warm_start": True}, True, lambda model: model.fit(X, Y)),
    "validation": ({"early_stopping": True}, True, lambda model: model.fit(X, Y)),
    "callables": (
        {"augment": flipped, "lr_schedule": rate, "ema_decay": 0.9},
        True,
        lambda model: model.fit(X, Y),
    ),
    "scorer": (
        {"early_stopping": True, "scoring": "neg_log_loss"},
        True,
        lambda model: model.fit(X, Y),
    ),
    "checkpoint": ({}, True, with_a_checkpoint),
    "resume": ({}, "cut off", lambda model: model.resume(X, Y)),
    "first partial_fit": ({}, False, lambda model: model.partial_fit(X, Y, classes=[0, 1, 2])),
    "next partial_fit": ({}, True, lambda model: model.partial_fit(X, Y)),
    "predict_proba": ({}, True, lambda model: model.predict_proba(X)),
    "score": ({"n_jobs": 1}, True, lambda model: model.score(X, Y)),
}


def make(name):
    """Make a scenario's estimator, as it is before the call."""
    parameters, is_fitted, _ = SCENARIOS[name]
    model = LeNetClassifier(**SMALL | parameters)
    if is_fitted == "cut off":
        return cut_off(lambda: model.fit(X, Y), 7)
    return model.fit(X, Y) if is_fitted else model


def cut_off(call, moment):
    """Call, and interrupt at a moment: a shard of a mini-batch, or of what is validated on."""
    _interrupts._times.clear()
    moments, interruption_point = count(1), _engine.interruption_point

    def interrupt():
        if next(moments) == moment:
            raise KeyboardInterrupt

    _engine.interruption_point = interrupt
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Training interrupted by user")
            return call()
    finally:
        _engine.interruption_point = interruption_point


def injected(call, moments):
    """Call with an interrupt at each of the moments; give how many there were, and the error."""
    n_calls = 0

    def profile(frame, event, argument):
        nonlocal n_calls
        if event in ("call", "c_return"):
            n_calls += 1
            if n_calls in moments:
                signal.raise_signal(signal.SIGINT)

    error = None
    sys.setprofile(profile)
    try:
        call()
    except BaseException as raised:
        error = raised
    finally:
        sys.setprofile(None)
    return n_calls, error


@cache
def n_moments(name):
    """Count a scenario's moments; the first call, which imports and caches, has more."""
    call = SCENARIOS[name][2]
    injected(lambda: call(make(name)), ())
    model = make(name)
    return injected(lambda: call(model), ())[0]


def surroundings():
    """Give what a call must leave as it was, in the order of `KINDS`."""
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return (
        [library.num_threads for library in libraries],
        np.geterr(),
        set(threading.enumerate()),
        (signal.getsignal(signal.SIGINT), list(_interrupts._blocks), list(_warnings._blocks())),
    )


def checksum(model):
    return model.__getstate__()["_checksum"]


@cache
def finished(name):
    """Give the checksums of a scenario's estimator before and after an undisturbed call."""
    model = make(name)
    before = checksum(model)
    SCENARIOS[name][2](model)
    return before, checksum(model)


def run_case(seed):
    """Interrupt at moments drawn by the seed; give what was found: pairs of kind and text."""
    rng = np.random.default_rng(seed)
    name = list(SCENARIOS)[seed % len(SCENARIOS)]
    first = int(rng.integers(1, n_moments(name) + 1))
    gap = int(rng.integers(1, [30, 3000][rng.integers(2)])) if rng.integers(2) else 0
    moments = {first, first + gap}
    before, after = finished(name)
    model = make(name)
    _interrupts._times.clear()  # those of the case before
    around = surroundings()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _, error = injected(lambda: SCENARIOS[name][2](model), moments)
        found = [
            (kind, f"{was} became {now}")
            for kind, was, now in zip(KINDS, around, surroundings(), strict=False)
            if was != now
        ]
        found += look_at(model, error, before, after, told)
    return [(kind, f"seed {seed}, {name}, {sorted(moments)}: {text}") for kind, text in found]


def look_at(model, error, before, after, told):
    """Yield what is wrong with the estimator, and with how the call ended."""
    if error is not None and not isinstance(error, KeyboardInterrupt):
        yield "other errors", repr(error)
    now = checksum(model)
    was_cut = any("interrupted by user" in str(warning.message) for warning in told)
    if now not in (before, after) and not was_cut:
        yield "estimators that are neither", f"after {error!r}"
    if error is None and not was_cut and now != after:
        yield "estimators that are neither", "an interrupt was lost, and not the call's end"
    if hasattr(model, "_parameters") and now != before:
        losses = np.array([model.loss_, *model.loss_curve_])
        if not np.isfinite(losses).all() or not np.isfinite(model.predict_proba(X)).all():
            yield "estimators that are neither", "not finite"
        n_rows = model.t_ / len(model.loss_curve_) if was_cut else None
        if model.n_iter_ < 1 or losses[0] != losses[-1] or (n_rows is not None and n_rows < 1):
            yield "counts that are not true", f"{model.n_iter_}, {model.t_}, {losses}"


def run(n_cases, seed=0):
    """Run cases; give what was found."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with threadpool_limits(2, user_api="blas"):
            return [each for n in range(seed, seed + n_cases) for each in run_case(n)]
    finally:
        signal.signal(signal.SIGINT, handler)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=MOMENTS)
    parser.add_argument("--seed", type=int, default=0, help="of the first moment")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    found = run(arguments.moments, arguments.seed)
    tell(KINDS, found, faults=KINDS)
    print(f"{arguments.moments} moments in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
