"""Checkpoints: whole at any time, they predict at once, and a fit goes on from them."""

import importlib
import os
import pickle
import threading
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from . import kills, stand_in
from .helpers import without_addresses
from .interrupts import checksum
from .test_classifier import X, Y, assert_same_bits, images
from .test_resume import LABELS, flipped, halved, model

pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
callbacks = importlib.import_module("sklearn_lenet.callbacks")


class Stop:
    """Ends a fit after an epoch by an error; notes what lies in a directory by then."""

    def __init__(self, epoch, path):
        self.epoch, self.path = epoch, path

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        if (context.task_name, context.task_id) == ("epoch", self.epoch):
            self.there = sorted(path.name for path in self.path.parent.iterdir())
            raise RuntimeError("on purpose")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lenet.joblib"


def cut_off(path, epoch=2, every=1, given=(), **parameters):
    """Fit, with checkpoints, to an error at the end of an epoch; give the last checkpoint."""
    stop = Stop(epoch, path)
    estimator = model(**parameters).set_callbacks(callbacks.Checkpoint(path, every), stop)
    with pytest.raises(RuntimeError, match="on purpose"):
        estimator.fit(X, LABELS, **dict(given))
    assert not estimator.__sklearn_is_fitted__()
    assert stop.there == ["lenet.joblib", "lenet.joblib.lock"]
    assert os.listdir(path.parent) == ["lenet.joblib"]
    return joblib.load(path)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"solver": "sgd", "lr_schedule": halved, "augment": flipped},
        {"ema_decay": 0.9, "lr_schedule": "cosine", "augment": "affine"},
        {"early_stopping": True, "scoring": "loss", "lr_schedule": "plateau"},
        {"warm_start": True, "tol": 0, "n_iter_no_change": 3},
    ],
    ids=without_addresses,
)
def test_resumed(parameters, path):
    loaded = cut_off(path, **parameters)
    assert loaded.n_iter_ == 3
    assert np.isfinite(loaded.predict_proba(X)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tol
        whole = model(**parameters).fit(X, LABELS)
        assert checksum(loaded.resume(X, LABELS)) == checksum(whole)


def test_every(path):
    assert cut_off(path, epoch=2, every=2).n_iter_ == 2
    assert cut_off(path, epoch=3, every=2).n_iter_ == 4


def test_after_the_fit(path):
    """There is what the fit has left, however many epochs it had."""
    checkpoint = callbacks.Checkpoint(path, every=4)
    estimator = model().set_callbacks(checkpoint).fit(X, Y)
    loaded = joblib.load(path)
    assert checksum(loaded) == checksum(estimator) == checksum(model().fit(X, Y))
    assert path.stat().st_size < 1.1 * estimator._parameters.nbytes
    assert os.listdir(path.parent) == ["lenet.joblib"]
    with pytest.raises(ValueError, match="There is no fit to resume"):
        loaded.resume(X, Y)


def test_after_the_last_epoch(path):
    """A checkpoint of it has yet to be finished: that runs no epoch."""
    loaded = cut_off(path, epoch=4)
    assert loaded.n_iter_ == 5
    assert checksum(loaded.resume(X, LABELS)) == checksum(model().fit(X, LABELS))


def test_after_early_stopping_has_come_to_its_end(path):
    parameters = {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 50}
    whole = model(**parameters).fit(X, LABELS)
    loaded = cut_off(path, epoch=whole.n_iter_ - 1, **parameters)
    assert checksum(loaded.resume(X, LABELS)) == checksum(whole)


def test_after_an_interrupt(path):
    """The file is what the estimator has become, which can go on."""
    estimator = model(lr_schedule=Interrupting()).set_callbacks(callbacks.Checkpoint(path))
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator.fit(X, Y)
    loaded = joblib.load(path)
    assert checksum(loaded) == checksum(estimator)
    loaded.lr_schedule.at = None
    assert checksum(loaded.resume(X, Y)) == checksum(model(lr_schedule=halved).fit(X, Y))


class Interrupting:
    at = 2

    def __call__(self, epoch):
        if epoch == self.at:
            raise KeyboardInterrupt
        return halved(epoch)


def test_resumed_fits_have_checkpoints(path):
    loaded = cut_off(path, epoch=1)
    loaded.set_callbacks(callbacks.Checkpoint(path, every=2), Stop(3, path))
    with pytest.raises(RuntimeError, match="on purpose"):
        loaded.resume(X, LABELS)
    again = joblib.load(path)
    assert again.n_iter_ == 4
    assert checksum(again.resume(X, LABELS)) == checksum(model().fit(X, LABELS))


def test_validation_data(path):
    X_val, y_val = images(30, seed=1)
    given = {"X_val": X_val, "y_val": y_val, "sample_weight": np.arange(60)}
    loaded = cut_off(path, given=given, early_stopping=True)
    loaded.resume(X, LABELS, **given)
    assert checksum(loaded) == checksum(model(early_stopping=True).fit(X, LABELS, **given))


def test_device(path, monkeypatch):
    stand_in.install(monkeypatch)
    loaded = cut_off(path, device="cuda", ema_decay=0.9)
    assert all(type(value) is not np.ndarray or value.flags.owndata for value in vars(loaded))
    assert_same_bits(loaded.resume(X, LABELS), model(device="cuda", ema_decay=0.9).fit(X, LABELS))


def test_in_a_pipeline(path):
    network = model().set_callbacks(callbacks.Checkpoint(path))
    pipeline = make_pipeline(StandardScaler(), network).fit(X, Y)
    scaled = pipeline[0].transform(X)
    np.testing.assert_array_equal(joblib.load(path).predict(scaled), pipeline.predict(X))


def test_size(path):
    """The weights, the solver's two averages, and the best weights, where they are others."""
    n_bytes = cut_off(path)._parameters.nbytes
    assert 2.9 * n_bytes < path.stat().st_size < 4.2 * n_bytes
    cut_off(path, ema_decay=0.9)
    assert path.stat().st_size < 5.3 * n_bytes


def failing_once(name, error):
    """Give a function of `os` that fails where it is called first."""
    function, calls = getattr(os, name), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise error
        return function(*arguments)

    return failing


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_full_disk(name, path, monkeypatch):
    """The old checkpoint stays whole, nothing beside it, and the fit goes on."""
    joblib.dump(model(max_iter=2).fit(X, Y), path)
    old = path.read_bytes()
    error = OSError(28, "No space left on device")
    monkeypatch.setattr(os, name, failing_once(name, error))
    estimator = model(max_iter=1).set_callbacks(callbacks.Checkpoint(path, every=1))
    seen = []
    estimator.set_callbacks(*estimator._skl_callbacks, Seeing(path, seen))
    with pytest.warns(UserWarning, match=r"could not be written after epoch 1: .*No space left"):
        estimator.fit(X, Y)
    assert seen[0] == (old, ["lenet.joblib", "lenet.joblib.lock"])
    assert checksum(joblib.load(path)) == checksum(estimator)


class Seeing(Stop):
    def __init__(self, path, seen):
        super().__init__(None, path)
        self.seen = seen

    def on_fit_task_end(self, estimator, context):
        there = sorted(path.name for path in self.path.parent.iterdir())
        self.seen.append((self.path.read_bytes(), there))


def test_file_that_is_only_partly_written(path):
    """Here the disk is really full: the file system refuses what is longer than that."""
    resource = pytest.importorskip("resource", reason="limits the size of files")
    signal = pytest.importorskip("signal")
    joblib.dump(model(max_iter=2).fit(X, Y), path)
    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    estimator = model().set_callbacks(callbacks.Checkpoint(path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.warns(UserWarning, match="could not be written after epoch 1") as told:
            estimator.fit(X, Y)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(told) == 1
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["lenet.joblib"]
    assert_same_bits(estimator, model().fit(X, Y))


def test_read_only_directory(path, monkeypatch):
    """Where nothing can be opened to write, there is no lock, either."""

    def refuse(file, *arguments, **keywords):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(callbacks, "open", refuse, raising=False)
    monkeypatch.setattr(callbacks.os, "open", refuse)
    estimator = model().set_callbacks(callbacks.Checkpoint(path))
    with pytest.warns(UserWarning, match="could not be written after epoch 1.*Permission denied"):
        estimator.fit(X, Y)
    assert_same_bits(estimator, model().fit(X, Y))


def test_interrupt_while_it_is_written(path, monkeypatch):
    cut_off(path, epoch=0)
    old = path.read_bytes()
    monkeypatch.setattr(os, "fsync", failing_once("fsync", KeyboardInterrupt()))
    estimator = model().set_callbacks(callbacks.Checkpoint(path, every=2))
    seen = []
    estimator.set_callbacks(Seeing(path, seen), *estimator._skl_callbacks)
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator.fit(X, LABELS)
    assert {data for data, _ in seen} == {old}
    assert checksum(joblib.load(path)) == checksum(estimator)
    assert checksum(estimator.resume(X, LABELS)) == checksum(model().fit(X, LABELS))


@pytest.mark.parametrize("name", ["augment", "lr_schedule"])
def test_what_cannot_be_pickled(name, path):
    """It is refused before anything is trained."""
    functions = {"augment": lambda images, generator: 1 / 0, "lr_schedule": lambda epoch: 1 / 0}
    estimator = model(**{name: functions[name]}).set_callbacks(callbacks.Checkpoint(path))
    with pytest.raises(ValueError, match=f"Checkpoint cannot save {name}=<function"):
        estimator.fit(X, Y)
    assert os.listdir(path.parent) == []


def test_attribute_that_cannot_be_pickled(path):
    estimator = model().set_callbacks(callbacks.Checkpoint(path))
    estimator.note_ = threading.Lock()
    with pytest.raises(ValueError, match=r"Checkpoint cannot save note_=.*cannot pickle"):
        estimator.fit(X, Y)


def test_what_is_no_place(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "lenet.joblib", tmp_path, tmp_path / "file" / "lenet.joblib"):
        estimator = model().set_callbacks(callbacks.Checkpoint(path))
        with pytest.raises(ValueError, match="There can be no checkpoint '"):
            estimator.fit(X, Y)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "1"])
def test_what_is_no_number_of_epochs(every):
    with pytest.raises(ValueError, match=r"'every' must be an int in the range \[1, inf\). Got"):
        callbacks.Checkpoint("lenet.joblib", every)


def test_other_estimators(path):
    pipeline = make_pipeline(StandardScaler(), model()).set_callbacks(callbacks.Checkpoint(path))
    with pytest.raises(TypeError, match="not a Pipeline: set it on that step"):
        pipeline.fit(X, Y)


def test_two_fits_at_a_time(path):
    """The second is refused, whether it has the same object or another of this path."""
    checkpoint = callbacks.Checkpoint(path)
    ready, go_on = threading.Event(), threading.Event()

    def wait(images, generator):
        ready.set()
        go_on.wait()
        return images

    first = model(augment=waiting).set_callbacks(checkpoint)
    waits[:] = [wait]
    thread = threading.Thread(target=first.fit, args=(X, Y))
    thread.start()
    ready.wait()
    try:
        for another in (checkpoint, callbacks.Checkpoint(path), callbacks.Checkpoint(str(path))):
            with pytest.raises(ValueError, match="Another fit is writing its checkpoints to"):
                model().set_callbacks(another).fit(X, Y)
        model().set_callbacks(callbacks.Checkpoint(path.with_name("other"))).fit(X, Y)
    finally:
        go_on.set()
        thread.join()
    assert_same_bits(joblib.load(path), first)
    model().set_callbacks(checkpoint).fit(X, Y)  # now it is free
    assert sorted(os.listdir(path.parent)) == ["lenet.joblib", "other"]


waits: list = []


def waiting(images, generator):
    return waits[0](images, generator)


def test_search(path):
    """Its folds, one after the other, write over each other's files; the refit is the last."""
    network = model(max_iter=2).set_callbacks(callbacks.Checkpoint(path))
    search = GridSearchCV(network, {"lr": [0.01, 0.02]}, cv=2).fit(X, Y)
    assert checksum(joblib.load(path)) == checksum(search.best_estimator_)


def test_pickled_with_the_model(path):
    estimator = model(max_iter=1).set_callbacks(callbacks.Checkpoint(path, every=3)).fit(X, Y)
    (loaded,) = pickle.loads(pickle.dumps(estimator))._skl_callbacks
    assert (loaded.path, loaded.every) == (path, 3)


def test_left_by_a_killed_process(path):
    """The lock and a half-written file are in nobody's way."""
    for suffix in (".lock", ".tmp"):
        Path(f"{path}{suffix}").write_bytes(b"left")
    estimator = model(max_iter=1).set_callbacks(callbacks.Checkpoint(path)).fit(X, Y)
    assert_same_bits(joblib.load(path), estimator)
    assert os.listdir(path.parent) == ["lenet.joblib"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_kills():
    assert kills.run(3) == []
