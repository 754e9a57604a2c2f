"""Damaged files are refused, more of them by `python -m tests.damage`; old ones are read."""

import pickle
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest

from sklearn_lenet import LeNetClassifier
from sklearn_lenet._state import FORMAT

from . import damage
from .test_classifier import X, Y, model

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.slow
def test_damaged_files():
    counts = Counter(kind for kind, _ in damage.run(200))
    assert not {kind: counts[kind] for kind in damage.BAD if counts[kind]}
    assert counts["refused"] > 150


@pytest.mark.parametrize("name", damage.FORMATS)
def test_sound_files(name, tmp_path):
    """What is damaged there can be loaded as it was."""
    dump, load = damage.FORMATS[name]
    fitted = damage.make()
    (tmp_path / "model").write_bytes(dump(fitted))
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.predict_proba(damage.X), fitted.predict_proba(damage.X), strict=True
    )
    np.testing.assert_array_equal(loaded.predict(damage.X), fitted.predict(damage.X))


@pytest.mark.parametrize("name", ["_parameters", "classes_", "_layout", "lr", "device", "t_"])
def test_any_other_value(name):
    """One that would fit as well is told by the checksum."""
    state = model(max_iter=1).fit(X, Y).__getstate__()
    others = {
        "_parameters": state["_parameters"] * np.float32(1.5),
        "classes_": state["classes_"] + 1,
        "_layout": {**state["_layout"], "scale": 3.0},
        "lr": 0.1,
        "device": "auto",
        "t_": 61,
    }
    estimator = LeNetClassifier.__new__(LeNetClassifier)
    with pytest.raises(ValueError, match="damaged: it is not what was written"):
        estimator.__setstate__({**state, name: others[name]})
    assert vars(estimator) == {}
    estimator.__setstate__(state)


class WithNote(LeNetClassifier):
    """A user's own, which leaves an attribute out of its files."""

    def __getstate__(self):
        state = super().__getstate__()
        del state["note_"]
        return state


def test_attributes_of_others():
    fitted = WithNote(max_iter=1, random_state=0).fit(X, Y)
    fitted.note_, fitted.other_ = object(), "kept"
    loaded = pickle.loads(pickle.dumps(fitted))
    assert loaded.other_ == "kept"
    assert not hasattr(loaded, "note_")


def test_files_of_each_format():
    """They are never written anew: what a version has written, later ones read."""
    found = sorted(GOLDEN.glob("format_*.joblib"))
    assert GOLDEN / f"format_{FORMAT}.joblib" in found
    for path in found:
        golden = joblib.load(path)
        fitted = golden["model"]
        np.testing.assert_allclose(
            fitted.predict_proba(golden["X"]), golden["proba"], rtol=1e-5, atol=1e-7
        )
        np.testing.assert_array_equal(fitted.predict(golden["X"]), golden["labels"])
        fitted.partial_fit(golden["X"], golden["labels"])


def test_size_of_a_file(sample):
    """After `fit` it is that of the weights; what is to go on keeps the solver's state."""
    rows, labels = sample[0][:200], sample[1][:200]
    fitted = LeNetClassifier(max_iter=1, random_state=0).fit(rows, labels)
    assert len(pickle.dumps(fitted)) < 1.1 * fitted._parameters.nbytes
    fitted.partial_fit(rows, labels)
    assert len(pickle.dumps(fitted)) > 2.9 * fitted._parameters.nbytes
    fitted.set_params(warm_start=True).fit(rows, labels)
    assert len(pickle.dumps(fitted)) > 2.9 * fitted._parameters.nbytes
    fitted.set_params(warm_start=False).fit(rows, labels)
    assert len(pickle.dumps(fitted)) < 1.1 * fitted._parameters.nbytes


class Wrapped:
    """A function that comes out of a file without what was around it, as joblib's may."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)

    def __reduce__(self):
        return rate_of, ()


def rate_of(epoch=None):
    return rate_of if epoch is None else 0.005


def test_parameters_that_come_back_as_others():
    fitted = model(max_iter=1, lr_schedule=Wrapped(rate_of), class_weight={np.int64(0): 2.0})
    loaded = pickle.loads(pickle.dumps(fitted.fit(X, Y)))
    assert loaded.lr_schedule is rate_of
