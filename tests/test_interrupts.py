"""Interrupts leave nothing half done; more moments by `python -m tests.interrupts`."""

import os
import signal
import threading
import warnings
from contextlib import suppress

import numpy as np
import pytest

from sklearn_lenet import LeNetClassifier, _interrupts

from . import interrupts
from .test_classifier import X, Y, assert_same_bits, model
from .test_processes import run_script


def interrupt_at(epoch, first=False):
    """Give a schedule that interrupts when it is asked for this epoch's rate."""

    def schedule(number):
        if number == epoch:
            if first:
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return 0.005

    return schedule


@pytest.fixture(autouse=True)
def no_interrupt_before():
    _interrupts._times.clear()


@pytest.mark.slow
def test_moments():
    assert interrupts.run(200) == []


def test_some_moments():
    assert interrupts.run(len(interrupts.SCENARIOS), seed=1200) == []


@pytest.mark.slow
def test_moments_are_of_all_kinds():
    assert min(map(interrupts.n_moments, interrupts.SCENARIOS)) > 200


def test_first_epoch_of_a_first_fit():
    estimator = model(lr_schedule=interrupt_at(0))
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, Y)
    assert vars(estimator) == estimator.get_params()


def test_first_epoch_of_a_refit():
    estimator = model().fit(X, Y)
    before = dict(vars(estimator))
    with pytest.raises(KeyboardInterrupt):
        estimator.set_params(lr_schedule=interrupt_at(0)).fit(X, Y)
    assert vars(estimator).pop("lr_schedule") is not before.pop("lr_schedule")
    assert all(value is before[name] for name, value in vars(estimator).items())


def test_later_epoch_ends_the_fit():
    estimator = model(max_iter=9, lr_schedule=interrupt_at(2))
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator.fit(X, Y)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 2
    assert estimator.t_ == 2 * len(X)
    assert_same_bits(estimator, model(max_iter=2).fit(X, Y))


def test_within_an_epoch():
    """Steps within an epoch count as seen, and the fit can go on from them."""
    taken = []

    def augment(images, generator):
        taken.append(len(images))
        if len(taken) == 6:
            raise KeyboardInterrupt
        return images

    estimator = model(augment=augment, batch_size=16)
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator.fit(X, Y)
    assert taken == [16, 16, 16, 12, 16, 16]
    assert estimator.n_iter_ == 1
    assert estimator.t_ == 60 + 16
    estimator.set_params(augment=None, warm_start=True).fit(X, Y)
    assert estimator.t_ == 60 + 16 + 180


def test_weights_that_nobody_has_looked_at():
    """Those of an epoch that is cut may have diverged: the fit goes back to the best before."""
    taken = []

    def augment(images, generator):
        taken.append(len(images))
        if len(taken) == 7:
            raise KeyboardInterrupt
        return images * np.float32(1e30) if len(taken) > 4 else images

    estimator = model(augment=augment, solver="sgd")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        estimator.fit(X, Y)
    messages = [str(warning.message) for warning in told]
    assert "interrupted" in messages[0]
    assert "diverged" in messages[1]
    assert np.isfinite(estimator.predict_proba(X)).all()
    assert estimator.t_ == 60


def test_second_within_a_second():
    """One ends the fit, in a loop or a search the next one begins; two raise."""
    estimator = model(lr_schedule=interrupt_at(1)).fit
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator(X, Y)
    with pytest.raises(KeyboardInterrupt):
        estimator(X, Y)


def test_two_at_once():
    estimator = model(lr_schedule=interrupt_at(1, first=True))
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, Y)
    assert vars(estimator) == estimator.get_params()


def test_handler_of_a_user():
    """It is called, and nothing is raised if it does not raise."""
    calls = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: calls.append(arguments))
    try:
        estimator = model(lr_schedule=interrupt_at(1)).fit(X, Y)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(calls) == 1
    assert_same_bits(estimator, model().fit(X, Y))


def test_endless_callable():
    """It can be interrupted; the block that it is called in waits for nothing."""

    def endless(images, generator):
        while True:
            threading.Event().wait(0.01)

    main = threading.main_thread().ident
    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        LeNetClassifier(augment=endless).fit(X, Y)
    timer.join()


def test_handler_that_predicts():
    """A handler may use the model that is being fitted, and others."""
    other = model().fit(X, Y)
    expected = other.predict_proba(X)
    found = []

    def predict(*arguments):
        found.append(other.predict_proba(X))

    handler = signal.signal(signal.SIGINT, predict)
    try:
        model(lr_schedule=interrupt_at(1)).fit(X, Y)
    finally:
        signal.signal(signal.SIGINT, handler)
    np.testing.assert_array_equal(found, [expected])


def test_other_threads_leave_the_handler_alone():
    handlers = []

    def augment(images, generator):
        handlers.append(signal.getsignal(signal.SIGINT))
        return images

    thread = threading.Thread(target=model(augment=augment, max_iter=1).fit, args=(X, Y))
    thread.start()
    thread.join(60)
    assert set(handlers) == {signal.default_int_handler}


@pytest.mark.parametrize("place", ["prediction", "callable of another fit"])
def test_one_interrupt_within_two_blocks(place):
    """It is no second one: the fit around another call ends, and keeps its epochs."""

    def interrupted(images, generator):
        signal.raise_signal(signal.SIGINT)
        return images

    def schedule(epoch):
        if epoch == 2 and place == "prediction":
            with _interrupts.Uninterrupted():  # as `predict` has it
                signal.raise_signal(signal.SIGINT)
        elif epoch == 2:
            model(augment=interrupted, max_iter=1).fit(X, Y)
        return 0.005

    estimator = model(lr_schedule=schedule, max_iter=5)
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator.fit(X, Y)
    assert estimator.n_iter_ == 2


def test_callable_that_catches_interrupts():
    """The next ones reach it, too."""
    caught = []

    def schedule(epoch):
        if epoch == 1:
            for _ in range(3):
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
                    return 0.005
                caught.append(epoch)
        return 0.005

    estimator = model(lr_schedule=schedule).fit(X, Y)
    assert caught == [1, 1, 1]
    assert estimator.n_iter_ == 3


def test_handler_that_sets_another():
    def other(number, frame):
        frames.append(frame.f_lineno)

    def handler(number, frame):
        signal.signal(signal.SIGINT, other)

    frames = []
    before = signal.signal(signal.SIGINT, handler)
    try:
        model(lr_schedule=interrupt_at(1)).fit(X, Y)
        assert signal.getsignal(signal.SIGINT) is other
        model(lr_schedule=interrupt_at(1)).fit(X, Y)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(frames) == 1


def test_old_interrupts_do_not_count():
    """A KeyboardInterrupt that no signal brought is the first, whatever came before."""
    with pytest.raises(KeyboardInterrupt):
        model(lr_schedule=interrupt_at(0, first=True)).fit(X, Y)

    def schedule(epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return 0.005

    with pytest.warns(UserWarning, match="interrupted by user"):
        model(lr_schedule=schedule).fit(X, Y)


CHILD = """
import multiprocessing, os, signal, threading, time
from tests.test_classifier import X, Y, model

def job():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
    os._exit(7)

def fork():
    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    process.join()
    codes.append(process.exitcode)

codes = []
thread = threading.Thread(target=fork)
thread.start()
while thread.is_alive():
    model().fit(X, Y)
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_of_a_fork_can_be_interrupted():
    """Also where another thread forks while the main one fits."""
    finished = run_script(CHILD)
    assert finished.stdout.strip() == "[1]", finished.stderr
