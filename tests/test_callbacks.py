"""scikit-learn's callbacks: what they see, that they change nothing, and that nothing stays."""

import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_lenet import _interrupts

from . import stand_in
from .test_classifier import X, Y, assert_same_bits, model

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")

LABELS = np.array(["a", "b", "c"])[Y]


class Recorder:
    """Notes what it is told."""

    def __init__(self):
        self.told, self.fitted = [], []

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.told.append(f"{context.task_name} {context.task_id} begins")

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.told.append(f"{context.task_name} {context.task_id} ends")
        self.X, self.y, self.metadata = X, y, metadata
        self.fitted.append(fitted_estimator)
        return self.answer(context)

    def answer(self, context):
        return None


class Failing(Recorder):
    """Raises an error at the end of one epoch."""

    error: BaseException = RuntimeError("on purpose")

    def answer(self, context):
        if context.task_name == "epoch" and context.task_id == 1:
            raise self.error


class Stopping(Recorder):
    """Ends any fit after its second epoch; set it on the outermost object."""

    max_propagation_depth = None

    def answer(self, context):
        return context.task_name == "epoch" and context.task_id == 1


@pytest.fixture(autouse=True)
def no_interrupt_before():
    _interrupts._times.clear()


def threads():
    """Give those there are, but for scikit-learn's that listen, which a closed socket may leave."""
    theirs = "(_accept)", "(_handle)"
    return {thread for thread in threading.enumerate() if not thread.name.endswith(theirs)}


def assert_ended_since(there):
    """No thread stays that was not there; one that is told to end may take its moment."""
    deadline = time.monotonic() + 10
    while not threads() <= there and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() <= there


def test_what_they_are_told():
    recorder, weights = Recorder(), np.arange(1.0, 61)
    estimator = model(max_iter=2).set_callbacks(recorder).fit(X, LABELS, sample_weight=weights)
    assert recorder.told == [
        "setup",
        "fit 0 begins",
        *("epoch 0 begins", "epoch 0 ends", "epoch 1 begins", "epoch 1 ends"),
        "fit 0 ends",
        "teardown",
    ]
    assert recorder.X is X
    assert recorder.y is LABELS
    assert recorder.metadata == {"sample_weight": weights}
    assert_same_bits(recorder.fitted[-1], estimator)


def test_without_weights():
    recorder = Recorder()
    model(max_iter=1).set_callbacks(recorder).fit(X, Y)
    assert recorder.metadata is None


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"solver": "sgd", "augment": "elastic"},
        {"ema_decay": 0.9},
        {"early_stopping": True, "lr_schedule": "cosine", "scoring": "neg_log_loss"},
        {"tol": 1e-4, "n_iter_no_change": 1, "lr_schedule": "plateau"},
    ],
)
def test_bits_are_those_without(parameters):
    recorder = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        watched = model(**parameters).set_callbacks(recorder).fit(X, Y)
        alone = model(**parameters).fit(X, Y)
    assert_same_bits(watched, alone)
    assert watched.loss_curve_ == alone.loss_curve_
    assert watched.n_iter_ == len(recorder.fitted) - 1
    del watched._skl_callbacks
    assert pickle.dumps(watched) == pickle.dumps(alone)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_fitted_estimators(ema_decay):
    """Each is as a fit of so many epochs, for good."""
    recorder = Recorder()
    model(ema_decay=ema_decay).set_callbacks(recorder).fit(X, Y)
    for n_epochs, fitted in enumerate(recorder.fitted[:-1], start=1):
        expected = model(ema_decay=ema_decay, max_iter=n_epochs).fit(X, Y)
        assert_same_bits(fitted, expected)
        for name in ("n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "device_"):
            assert getattr(fitted, name) == getattr(expected, name)
        loaded = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(loaded.predict(X), expected.predict(X))
        assert not any("callback" in name for name in vars(loaded))


def test_fitted_estimators_with_early_stopping():
    """They have the best weights so far, as a fit of so many epochs leaves them."""
    recorder, labels = Recorder(), np.random.default_rng(0).integers(0, 3, 60)
    stopping = {"early_stopping": True, "validation_fraction": 0.4}
    model(max_iter=6, **stopping).set_callbacks(recorder).fit(X, labels)
    for n_epochs, fitted in enumerate(recorder.fitted[:-1], start=1):
        expected = model(max_iter=n_epochs, **stopping).fit(X, labels)
        assert_same_bits(fitted, expected)
        assert fitted.validation_scores_ == expected.validation_scores_
        assert fitted.best_validation_score_ == expected.best_validation_score_


def test_a_callback_ends_the_fit():
    stopping = Stopping()
    estimator = model(max_iter=9, tol=1e-9).set_callbacks(stopping).fit(X, Y)
    assert estimator.n_iter_ == 2
    assert stopping.told[-2:] == ["fit 0 ends", "teardown"]
    assert_same_bits(estimator, model(max_iter=2).fit(X, Y))


@pytest.mark.parametrize("backend", [pytest.param("loky", marks=pytest.mark.slow), "threading"])
def test_search(backend):
    """A callback set on it reaches the network, within a pipeline and other processes."""
    pipeline = make_pipeline(StandardScaler(), model(max_iter=5, n_jobs=1))
    search = GridSearchCV(pipeline, {"lenetclassifier__lr": [0.01, 0.02]}, cv=2, n_jobs=2)
    with parallel_config(backend=backend):
        search.set_callbacks(Stopping()).fit(X, Y)
        expected = clone(search).set_callbacks().set_params(estimator__lenetclassifier__max_iter=2)
        expected.fit(X, Y)
    assert search.best_estimator_[-1].n_iter_ == 2
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )


@pytest.mark.parametrize("backend", [pytest.param("loky", marks=pytest.mark.slow), "threading"])
def test_monitor_in_a_search(backend):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    network = model(max_iter=2, n_jobs=1).set_callbacks(monitor)
    search = GridSearchCV(make_pipeline(StandardScaler(), network), {}, cv=2, n_jobs=2)
    with parallel_config(backend=backend):
        search.fit(X, Y)
    rows = monitor.get_logs().data
    epochs = [row for row in rows if row["task_name"] == "epoch"]
    assert len(epochs) == 3 * 2  # two folds, and all data
    assert max(row["accuracy"] for row in epochs) > 0.4


def test_monitor_weighs():
    monitor, weights = callback.ScoringMonitor(scoring="accuracy"), np.arange(1.0, 61)
    estimator = model(max_iter=2).set_callbacks(monitor).fit(X, LABELS, sample_weight=weights)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "fit"]
    assert scores == [estimator.score(X, LABELS, weights)]


def test_cross_validation():
    recorder = Recorder()
    network = model(max_iter=2).set_callbacks(recorder)
    scores = cross_val_score(network, X, Y, cv=2)
    np.testing.assert_array_equal(scores, cross_val_score(model(max_iter=2), X, Y, cv=2))
    assert recorder.told.count("setup") == recorder.told.count("teardown") == 2


def test_progress_bar(capsys):
    pytest.importorskip("rich", reason="scikit-learn's progress bar needs rich")
    bar = callback.ProgressBar()
    estimator = model().set_callbacks(bar).fit(X, Y)
    assert "LeNetClassifier - fit" in capsys.readouterr().out
    assert_same_bits(estimator, model().fit(X, Y))


@pytest.mark.parametrize("parameters", [{}, {"n_jobs": 2, "device": "cuda"}])
def test_error_of_a_callback(parameters, monkeypatch):
    """It comes as it is; the estimator is as it was, and no thread stays."""
    stand_in.install(monkeypatch)
    monitor, failing = callback.ScoringMonitor(scoring="accuracy"), Failing()
    estimator = model(**parameters).fit(X, Y).set_callbacks(monitor, failing)
    before, there = dict(vars(estimator)), threads()
    with pytest.raises(RuntimeError, match="on purpose"):
        estimator.fit(X, Y)
    assert failing.told[-1] == "teardown"
    assert vars(estimator) == before
    assert_ended_since(there)


def progress_bars():
    pytest.importorskip("rich", reason="scikit-learn's progress bar needs rich")
    return [callback.ProgressBar()]


@pytest.mark.parametrize("how", ["error", "divergence", "interrupt", "invalid"])
def test_progress_bar_ends(how, capsys):
    """Its thread, with the fit, however that ends."""
    if how == "interrupt":
        Failing.error = KeyboardInterrupt()
    there = threads()
    parameters = {"divergence": {"lr": 1e10, "solver": "sgd"}, "invalid": {"lr": -1}}
    failing = [Failing()] if how in ("error", "interrupt") else []
    estimator = model(**parameters.get(how, {})).set_callbacks(*progress_bars(), *failing)
    try:
        if how == "interrupt":
            with pytest.warns(UserWarning, match="interrupted by user"):
                estimator.fit(X, Y)
            assert estimator.n_iter_ == 2
        else:
            with pytest.raises((RuntimeError, ValueError)):
                estimator.fit(X, Y)
            assert not estimator.__sklearn_is_fitted__()
    finally:
        Failing.error = RuntimeError("on purpose")
    assert_ended_since(there)
    assert not {"_callback_fit_ctx", "_skl_callbacks_to_teardown"} & set(vars(estimator))


def test_divergence_after_an_epoch():
    """The epoch that diverged has no end to tell of; the fit has."""
    recorder = Recorder()
    rate = lambda epoch: 0.005 if epoch < 2 else 1e30  # noqa: E731
    with pytest.warns(ConvergenceWarning, match="diverged"):
        estimator = model(lr_schedule=rate, solver="sgd").set_callbacks(recorder).fit(X, Y)
    assert recorder.told[-4:] == ["epoch 1 ends", "epoch 2 begins", "fit 0 ends", "teardown"]
    assert_same_bits(recorder.fitted[-1], estimator)


def test_interrupt_when_all_is_done():
    """The fit has ended, and is kept."""

    class Interrupting(Recorder):
        def answer(self, context):
            if context.task_name == "fit":
                signal.raise_signal(signal.SIGINT)

    estimator = model().set_callbacks(Interrupting())
    with pytest.warns(UserWarning, match="Callbacks interrupted by user"):
        estimator.fit(X, Y)
    assert_same_bits(estimator, model().fit(X, Y))


def test_partial_fit_calls_none():
    recorder = Recorder()
    model().set_callbacks(recorder).partial_fit(X, Y, classes=[0, 1, 2])
    assert recorder.told == []


def test_model_with_a_monitor_is_pickled():
    monitor = callback.ScoringMonitor(scoring="accuracy")
    estimator = model(max_iter=1).set_callbacks(monitor).fit(X, Y)
    loaded = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))
