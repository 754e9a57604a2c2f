"""Damaged files are refused, more of them by `python -m tests.damage`; old ones are read."""

import pickle
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest

from sklearn_lenet import LeNetClassifier
from sklearn_lenet._state import FORMAT, _checksum

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


@pytest.mark.parametrize("name", ["_parameters", "classes_", "_layout", "t_"])
def test_any_other_value(name):
    """One that would fit as well is told by the checksum."""
    state = model(max_iter=1).fit(X, Y).__getstate__()
    others = {
        "_parameters": state["_parameters"] * np.float32(1.5),
        "classes_": state["classes_"] + 1,
        "_layout": {**state["_layout"], "scale": 3.0},
        "t_": 61,
    }
    estimator = LeNetClassifier.__new__(LeNetClassifier)
    with pytest.raises(ValueError, match="damaged: it is not what was written"):
        estimator.__setstate__({**state, name: others[name]})
    assert vars(estimator) == {}
    estimator.__setstate__(state)


class Pruned(LeNetClassifier):
    """A user's own, which leaves out of its files what can't be pickled."""

    def __getstate__(self):
        state = super().__getstate__() | {"augment": None}
        del state["note_"]
        return state


def test_attributes_of_others():
    fitted = Pruned(max_iter=1, random_state=0, augment=lambda images, generator: images).fit(X, Y)
    fitted.note_, fitted.other_ = object(), "kept"
    loaded = pickle.loads(pickle.dumps(fitted))
    assert loaded.other_ == "kept"
    assert loaded.augment is None
    assert not hasattr(loaded, "note_")


def test_checksum_does_not_depend_on_the_machine():
    """On its byte order, or on what its Python holds to be printable."""
    state = {"feature_names_in_": np.array(["\U0001fae8", "\ud800"], object)}
    state |= {"classes_": np.arange(3, dtype=">i8"), "t_": np.int64(3), "loss_": np.float64(0.1)}
    same = state | {"classes_": np.arange(3, dtype="<i8"), "t_": 3, "loss_": 0.1}
    assert _checksum(state) == _checksum(same) == 3567830710


def test_file_written_within_a_fit():
    files = []

    class Schedule:
        def __call__(self, epoch):
            files.append(pickle.dumps(estimator))
            return 0.005

        def __reduce__(self):
            return str, ()

    estimator = model(lr_schedule=Schedule())
    estimator.fit(X, Y)
    assert all(len(pickle.loads(file).predict(X)) == len(X) for file in files)


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
