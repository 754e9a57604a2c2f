"""Early stopping by another measure than the accuracy: `scoring`."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, make_scorer

from sklearn_lenet import LeNetClassifier

from . import stand_in
from .test_classifier import X, Y, assert_same_bits, images, model

X_VAL, Y_VAL = images(30, seed=1)
HELD_OUT = {"X_val": X_VAL, "y_val": Y_VAL}


def stopping(**parameters):
    return model(**{"early_stopping": True, "max_iter": 5} | parameters)


def test_loss():
    estimator = stopping(scoring="loss").fit(X, Y, **HELD_OUT)
    losses = estimator.validation_loss_curve_
    assert estimator.validation_scores_ == [-loss for loss in losses]
    assert estimator.best_validation_score_ == -min(losses)
    found = log_loss(Y_VAL, estimator.predict_proba(X_VAL))
    assert found == pytest.approx(min(losses), rel=1e-5)


def test_default_is_the_accuracy():
    assert_same_bits(stopping(scoring="accuracy").fit(X, Y), stopping().fit(X, Y))


@pytest.mark.parametrize("scoring", ["loss", "neg_log_loss", "roc_auc_ovr", "f1_macro"])
def test_best_weights_are_restored(scoring):
    """By the measure: it is another epoch than the accuracy's."""
    labels = np.random.default_rng(0).integers(0, 3, 60)
    long = stopping(scoring=scoring, max_iter=12).fit(X, labels, **HELD_OUT)
    best = 1 + int(np.argmax(long.validation_scores_))
    assert_same_bits(long, stopping(scoring=scoring, max_iter=best).fit(X, labels, **HELD_OUT))


def test_stops_by_the_measure():
    """Here the number falls from epoch to epoch, whatever the accuracy does."""
    calls = []

    def falling(estimator, X, y):
        calls.append((type(estimator), X.shape, list(y), estimator.predict(X).shape))
        return -len(calls)

    estimator = stopping(scoring=falling, n_iter_no_change=3, max_iter=50)
    estimator.fit(X, np.array(["a", "b", "c"])[Y])
    assert estimator.n_iter_ == 4
    assert estimator.validation_scores_ == [-1, -2, -3, -4]
    kind, shape, labels, predicted = calls[0]
    assert kind is LeNetClassifier
    assert shape == (len(labels), 144)
    assert predicted == (len(labels),)
    assert set(labels) == {"a", "b", "c"}
    assert_same_bits(estimator, stopping(max_iter=1).fit(X, Y))


def test_weights_reach_the_scorer():
    weights = np.arange(1.0, 31)
    scorer = make_scorer(balanced_accuracy_score)
    estimator = stopping(scoring=scorer, max_iter=2)
    estimator.fit(X, Y, **HELD_OUT, sample_weight_val=weights)
    best = 1 + int(np.argmax(estimator.validation_scores_))
    expected = scorer(model(max_iter=best).fit(X, Y), X_VAL, Y_VAL, sample_weight=weights)
    assert estimator.best_validation_score_ == expected


def test_bits_do_not_depend_on_the_measure():
    rising = iter(range(5))
    watched = stopping(scoring=lambda estimator, X, y: next(rising))
    assert_same_bits(watched.fit(X, Y, **HELD_OUT), model(max_iter=5).fit(X, Y))


def test_data_frames():
    """Their names of features are not missed."""
    frame = pd.DataFrame(X).rename(columns=str)
    stopping(scoring="neg_log_loss", max_iter=2).fit(frame, Y)


def test_on_a_device(monkeypatch):
    cupy = stand_in.install(monkeypatch)
    estimator = stopping(scoring="neg_log_loss", max_iter=2, device="cuda")
    estimator.fit(cupy.asarray(X), Y, X_val=cupy.asarray(X_VAL), y_val=Y_VAL)
    np.testing.assert_allclose(
        estimator.validation_scores_, np.negative(estimator.validation_loss_curve_), rtol=1e-5
    )


@pytest.mark.parametrize("scoring", ["losses", 3, ["loss"], ("accuracy", "f1_macro"), {}, b"loss"])
def test_what_is_none(scoring):
    with pytest.raises(ValueError, match="The 'scoring' parameter of LeNetClassifier must be"):
        stopping(scoring=scoring).fit(X, Y)


@pytest.mark.parametrize("value", [None, np.nan, "0.5", {"accuracy": 1.0}, np.ones(1)])
def test_scorer_that_returns_none(value):
    estimator = stopping(scoring=lambda estimator, X, y: value)
    with pytest.raises(ValueError, match=r"'scoring' must return a number. Got "):
        estimator.fit(X, Y)
    assert not estimator.__sklearn_is_fitted__()


def test_scorer_of_other_arguments():
    with pytest.raises(TypeError, match="'scoring' must be a callable of 3 arguments"):
        stopping(scoring=lambda y_true, y_pred: 1.0).fit(X, Y)


def test_scorer_that_takes_no_weights():
    with pytest.raises(TypeError, match=r"'scoring'.*sample_weight"):
        stopping(scoring=lambda e, X, y: 1.0).fit(X, Y, **HELD_OUT, sample_weight_val=Y_VAL + 1)


def test_error_of_a_scorer():
    def fail(estimator, X, y):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        stopping(scoring=fail).fit(X, Y)


def test_plateau_goes_by_it():
    """Two epochs in a row that bring no higher number lower the rate."""
    scores = iter([0.5, 0.4, 0.3, 0.2])
    falling = stopping(scoring=lambda *_: next(scores), lr_schedule="plateau", max_iter=4)
    rising = stopping(scoring="loss", lr_schedule="plateau", max_iter=4)
    falling.fit(X, Y, **HELD_OUT)
    rising.fit(X, Y, **HELD_OUT)
    assert falling.loss_curve_[:3] == rising.loss_curve_[:3]
    assert falling.loss_curve_[3] != rising.loss_curve_[3]


def test_files_that_know_no_scoring():
    """Those of earlier versions are read; the parameter has its default."""
    fitted = model(max_iter=1).fit(X, Y)
    del fitted.scoring
    assert pickle.loads(pickle.dumps(fitted)).get_params()["scoring"] is None
