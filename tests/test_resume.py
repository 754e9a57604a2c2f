"""A fit that was cut off goes on at its place, and gives the bits of one that was not."""

import copy
import importlib
import pickle
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from . import damage, stand_in, test_classifier
from .helpers import without_addresses
from .interrupts import checksum, cut_off
from .test_classifier import X, Y, assert_same_bits, images

LABELS = np.random.default_rng(0).integers(0, 3, 60)  # nothing to learn: scores go up and down


def model(**parameters):
    return test_classifier.model(**{"max_iter": 5} | parameters)


def halved(epoch):
    return 0.01 / 2**epoch


def flipped(images, generator):
    return images[..., ::-1] if generator.integers(2) else images


def interrupted(moment=14, y=LABELS, given=(), **parameters):
    """Fit, with four mini-batches an epoch, and interrupt."""
    return cut_off(lambda: model(**parameters).fit(X, y, **dict(given)), moment)


@pytest.mark.parametrize(
    "moment", [6, 14, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (9, 20))]
)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"solver": "sgd", "lr_schedule": "step"},
        {"solver": "adamw", "alpha": 0.1, "lr_schedule": halved, "ema_decay": 0.9},
        {"augment": "elastic", "lr_schedule": "cosine", "n_jobs": 2},
        {"augment": flipped, "shuffle": False, "class_weight": "balanced"},
        {"early_stopping": True, "validation_fraction": 0.4, "lr_schedule": "plateau"},
        {"early_stopping": True, "n_iter_no_change": 4, "scoring": "loss", "ema_decay": 0.9},
        {"tol": 0.01, "n_iter_no_change": 4, "lr_schedule": "plateau", "dtype": "float64"},
        {"warm_start": True, "label_smoothing": 0.1},
    ],
    ids=without_addresses,
)
def test_same_bits(parameters, moment):
    parameters = {"max_iter": 7} | parameters
    estimator = interrupted(moment, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = model(**parameters).fit(X, LABELS)
        if estimator.n_iter_ < whole.n_iter_:
            assert checksum(estimator) != checksum(whole)
        assert estimator.resume(X, LABELS) is estimator
    assert checksum(estimator) == checksum(whole)
    assert set(vars(estimator)) == set(vars(whole))


def test_it_predicts_at_once():
    """With what it has learnt, the steps of the epoch that was cut among it."""
    estimator = interrupted(14)
    assert estimator.n_iter_ == 3
    assert np.isfinite(estimator.predict_proba(X)).all()
    assert estimator.t_ == 3 * 60 + 16


def test_any_number_of_times():
    """Also where an interrupt comes before an epoch has come to its end."""
    whole = model(max_iter=6).fit(X, LABELS)
    estimator = interrupted(6, max_iter=6)
    for moment in (3, 9, 2):
        cut_off(lambda: estimator.resume(X, LABELS), moment)  # noqa: B023
        estimator = pickle.loads(pickle.dumps(estimator))
        estimator.predict(X)
    assert estimator.n_iter_ < 6
    assert checksum(estimator.resume(X, LABELS)) == checksum(whole)


@pytest.mark.parametrize("first", [{}, {"early_stopping": True}])
def test_warm_start(first):
    """The history goes on where the earlier fit ended."""

    def fitted(call):
        estimator = model(warm_start=True, max_iter=3, **first).fit(X, LABELS)
        estimator.set_params(early_stopping=True, max_iter=4)
        return call(lambda: estimator.fit(X, LABELS))

    whole = fitted(lambda fit: fit())
    estimator = fitted(lambda fit: cut_off(fit, 13))
    assert checksum(estimator.resume(X, LABELS)) == checksum(whole)
    assert len(estimator.loss_curve_) == 7


def test_from_a_file(tmp_path):
    joblib.dump(interrupted(max_iter=5), tmp_path / "model")
    for mmap_mode in (None, "r"):
        loaded = joblib.load(tmp_path / "model", mmap_mode=mmap_mode)
        whole = model(max_iter=5).fit(X, LABELS)
        assert checksum(loaded.resume(X, LABELS)) == checksum(whole)


def test_weights_and_validation_data():
    weights = np.random.default_rng(5).integers(0, 3, 60)
    X_val, y_val = images(30, seed=1)
    given = {"X_val": X_val, "y_val": y_val, "sample_weight_val": y_val + 1.0}
    given["sample_weight"] = weights
    parameters = {
        "early_stopping": True,
    }
    estimator = interrupted(12, given=given, **parameters)
    estimator.resume(X, LABELS, **given)
    assert checksum(estimator) == checksum(model(**parameters).fit(X, LABELS, **given))


@pytest.mark.parametrize(
    "form",
    [
        lambda X: X.reshape(-1, 12, 12),
        np.asfortranarray,
        lambda X: list(X),
        lambda X: pd.DataFrame(X, columns=range(144)),
        lambda X: X.astype(">f4"),
    ],
    ids=["images", "Fortran", "list", "frame", "byte order"],
)
def test_other_forms_of_the_same_data(form):
    estimator = interrupted().resume(form(X), list(LABELS))
    assert_same_bits(estimator, model().fit(X, LABELS))


def test_device(monkeypatch):
    """What ran on one goes on there, with its bits, and may go on elsewhere."""
    stand_in.install(monkeypatch)
    moments = []

    def augment(images, generator):
        moments.append(len(images))
        if len(moments) == 11:
            raise KeyboardInterrupt
        return images

    parameters = {"device": "cuda", "ema_decay": 0.9, "augment": augment}
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator = model(**parameters).fit(X, LABELS)
    whole, elsewhere = model(**parameters).fit(X, LABELS), copy.deepcopy(estimator)
    assert_same_bits(estimator.resume(X, LABELS), whole)
    assert estimator.device_ == "cuda:0"
    elsewhere.set_params(device="cpu").resume(X, LABELS)
    assert elsewhere.device_ == "cpu"
    np.testing.assert_allclose(elsewhere.predict_proba(X), whole.predict_proba(X), atol=1e-3)


def test_what_is_no_fit_that_was_cut_off():
    with pytest.raises(NotFittedError):
        model().resume(X, Y)
    estimator = interrupted()
    for call in (
        lambda: estimator.resume(X, LABELS),
        lambda: estimator.fit(X, LABELS),
        lambda: estimator.partial_fit(X, LABELS),
    ):
        call()
        with pytest.raises(ValueError, match="There is no fit to resume: the last one came to its"):
            estimator.resume(X, LABELS)


OTHER = X.copy()
OTHER[-1, -1] += 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X[:-1], LABELS[:-1]), "learnt from 60 samples.*got 59"),
        ((X[:, :121], LABELS), "X has 121 features, but LeNetClassifier is expecting 144"),
        ((X, np.where(LABELS, LABELS, 3)), "y contains labels that are not in classes"),
        ((X, np.roll(LABELS, 1)), "their values, types, labels or weights are others"),
        ((OTHER, LABELS), "their values"),
        ((X[::-1], LABELS[::-1]), "their values"),
        ((X.astype(np.float64), LABELS), "their values"),
        ((X, LABELS, np.arange(60) + 1), "their values"),
        ((X, LABELS, np.arange(60)), "learnt from 60 samples.*got 59"),
        ((X, LABELS[:3]), "inconsistent numbers of samples"),
    ],
)
def test_other_data(data, message):
    estimator = interrupted()
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match=message):
        estimator.resume(*data)
    assert vars(estimator) == before
    estimator.resume(X, LABELS)


def test_other_validation_data():
    X_val, y_val = images(30, seed=1)
    given = {"X_val": X_val, "y_val": y_val}
    estimator = interrupted(12, given=given, early_stopping=True)
    for other in ({}, {"X_val": X_val + 1, "y_val": y_val}, {**given, "sample_weight_val": y_val}):
        with pytest.raises(ValueError, match="are not those of the fit that was cut off"):
            estimator.resume(X, LABELS, **other)
    estimator.resume(X, LABELS, **given)


@pytest.mark.parametrize(
    "parameters",
    [
        {"lr": 0.1},
        {"max_iter": 9},
        {"batch_size": 8},
        {"solver": "sgd"},
        {"ema_decay": 0.5},
        {"early_stopping": True},
        {"scoring": "loss"},
        {"lr_schedule": halved},
        {"pooling": "max"},
        {"class_weight": {0: 2}},
    ],
    ids=without_addresses,
)
def test_other_parameters(parameters):
    (name,) = parameters
    estimator = interrupted().set_params(**parameters)
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match=f"^{name}=.* is not what the fit was begun with"):
        estimator.resume(X, LABELS)
    assert vars(estimator) == before


def test_what_may_be_another():
    """How many threads there are, and what is shown, changes nothing."""
    estimator = interrupted().set_params(n_jobs=2, verbose=0, random_state=7)
    assert_same_bits(estimator.resume(X, LABELS), model().fit(X, LABELS))


def test_error():
    """The estimator is as it was, and can still be resumed."""
    fails = [False]

    def augment(images, generator):
        if fails[0]:
            raise RuntimeError("on purpose")
        return images

    estimator = interrupted(augment=augment)
    before, fails[0] = dict(vars(estimator)), True
    with pytest.raises(RuntimeError, match="on purpose"):
        estimator.resume(X, LABELS)
    assert vars(estimator) == before
    fails[0] = False
    assert_same_bits(estimator.resume(X, LABELS), model(augment=augment).fit(X, LABELS))


def test_divergence_that_was_to_come():
    def rate(epoch):
        return 0.005 if epoch < 4 else 1e30

    parameters = {"lr_schedule": rate, "solver": "sgd", "max_iter": 7}
    with pytest.warns(ConvergenceWarning, match=r"in epoch 5.*those of epoch") as expected:
        whole = model(**parameters).fit(X, Y)
    estimator = cut_off(lambda: model(**parameters).fit(X, Y), 13)
    with pytest.warns(ConvergenceWarning) as found:
        estimator.resume(X, Y)
    assert str(found[0].message) == str(expected[0].message)
    assert checksum(estimator) == checksum(whole)


def test_size():
    """A file has what is to go on only while it is to."""
    estimator = interrupted()
    n_bytes = estimator._parameters.nbytes
    assert len(pickle.dumps(estimator)) < 7 * n_bytes
    estimator.resume(X, LABELS)
    assert len(pickle.dumps(estimator)) < 1.1 * n_bytes
    assert len(pickle.dumps(estimator)) == len(pickle.dumps(model().fit(X, LABELS)))


def test_progress_bar_goes_on(capsys):
    estimator = interrupted(max_iter=5).set_params(verbose=1)
    estimator.resume(X, LABELS)
    shown = capsys.readouterr().err
    assert "3/5" in shown
    assert "5/5" in shown
    assert "images/s=" in shown


def test_clone_knows_nothing():
    with pytest.raises(NotFittedError):
        clone(interrupted()).resume(X, LABELS)


@pytest.mark.parametrize("name", damage.FORMATS)
def test_files_of_any_kind(name, tmp_path):
    dump, load = damage.FORMATS[name]
    (tmp_path / "model").write_bytes(dump(interrupted()))
    loaded = load(tmp_path / "model")
    assert checksum(loaded.resume(X, LABELS)) == checksum(model().fit(X, LABELS))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parameters", lambda p: p[:-1]),
        ("best", lambda p: p.astype(np.float64)),
        ("optimizer", lambda o: ("sgd", o[1])),
        ("optimizer", lambda o: ("", {})),
        ("optimizer", lambda o: (o[0], {**o[1], "mean": o[1]["mean"][1:]})),
        ("generator", lambda g: {}),
        ("t", lambda t: -1),
        ("data", lambda d: d[:2]),
        ("settings", lambda s: {**s, "lr": 0.1}),
        ("more", lambda m: 1),
    ],
)
def test_damage(name, value):
    estimator = interrupted()
    estimator._cut = {**estimator._cut, name: value(estimator._cut.get(name))}
    with pytest.raises(ValueError, match="This LeNetClassifier's file is damaged: "):
        pickle.loads(pickle.dumps(estimator))


@pytest.mark.parametrize("n_epochs", [0, 99, 1.0])
def test_damaged_count(n_epochs):
    estimator = interrupted()
    estimator.n_iter_ = n_epochs
    with pytest.raises(ValueError, match="damaged: n_iter_ is no count"):
        pickle.loads(pickle.dumps(estimator))


def test_scikit_learn_without_callbacks(monkeypatch):
    """What needs them says so; nothing else does."""
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    monkeypatch.delitem(sys.modules, "sklearn_lenet.callbacks", raising=False)
    with pytest.raises(ImportError, match=r"needs scikit-learn 1\.9 or later\. Got \d"):
        importlib.import_module("sklearn_lenet.callbacks")
