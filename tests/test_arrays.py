"""Arrays of PyTorch and of the array API, in and out; test_device.py has CuPy's."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from .test_classifier import X, Y, assert_same_bits, model

METHODS = ("predict", "predict_proba", "predict_log_proba", "transform")


@pytest.fixture(params=["torch", "array_api_strict", "array_api_strict on a device"])
def make(request):
    """Give a function that makes an array of another library."""
    name, _, on_device = request.param.partition(" on ")
    xp = pytest.importorskip(name, reason=f"takes arrays of {name}, which is not installed")
    device = xp.Device("device1") if on_device else None
    return lambda array: xp.asarray(array, device=device)


@pytest.fixture
def dispatched():
    with sklearn.config_context(array_api_dispatch=True):
        yield


def assert_same_kind(actual, given, expected):
    """Assert that a result is of the kind and device of what was given, and as expected."""
    assert type(actual) is type(given)
    assert actual.device == given.device
    assert str(actual.dtype).rpartition(".")[2] == str(expected.dtype)
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_array_equal(np.from_dlpack(actual), expected)


@pytest.mark.usefixtures("dispatched")
class TestDispatched:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
    def test_in_and_out(self, make, dtype):
        pixels, weights = X.astype(dtype), 1.0 + Y
        expected = model().fit(pixels, Y, weights)
        given = make(pixels)
        actual = model().fit(given, make(Y), make(weights))
        assert_same_bits(actual, expected)
        for method in METHODS:
            result = getattr(expected, method)(pixels)
            assert type(result) is np.ndarray
            assert_same_kind(getattr(actual, method)(given), given, result)
        score = actual.score(given, make(Y), make(weights))
        assert type(score) is float
        assert score == expected.score(pixels, Y, weights)

    @pytest.mark.parametrize("shape", [(60, 12, 12), (60, 1, 12, 12)])
    def test_images(self, make, shape):
        given = make(X.reshape(shape))
        actual = model().fit(given, Y)
        assert actual.image_shape_ == (1, 12, 12)
        assert_same_bits(actual, model().fit(X, Y))
        assert_same_kind(actual.predict_proba(given), given, actual.predict_proba(X))

    def test_other_data(self, make):
        """Held-out data, balanced classes, several calls."""
        stopping = {"early_stopping": True, "class_weight": "balanced"}
        expected = model(**stopping).fit(X, Y, X_val=X, y_val=Y, sample_weight_val=Y + 1.0)
        actual = model(**stopping).fit(
            make(X), make(Y), X_val=make(X), y_val=make(Y), sample_weight_val=make(Y + 1.0)
        )
        assert_same_bits(actual, expected)
        actual, expected = (
            model().partial_fit(kind(X), kind(Y), kind(np.arange(3))) for kind in (make, np.asarray)
        )
        assert_same_bits(actual, expected)

    @pytest.mark.parametrize("labels", [Y.astype(np.uint8), Y > 0, Y * 10 - 5])
    def test_labels(self, make, labels):
        given = make(X)
        actual = model().fit(given, make(labels))
        assert_same_kind(actual.predict(given), given, model().fit(X, labels).predict(X))

    def test_labels_that_are_no_numbers(self, make):
        names = np.array(["one", "two", "three"])[Y]
        given = make(X)
        actual = model().fit(given, names)
        assert type(actual.predict(given)) is np.ndarray
        assert_same_kind(actual.predict_proba(given), given, actual.predict_proba(X))
        assert actual.score(given, names) == np.mean(actual.predict(X) == names)

    def test_mixed(self, make):
        """Each array may be of another library; predictions follow X."""
        assert_same_bits(model().fit(make(X), list(Y), Y + 1.0), model().fit(X, Y, Y + 1.0))
        actual = model().fit(X, make(Y), make(Y + 1.0))
        assert type(actual.predict(X)) is np.ndarray

    def test_model_keeps_none(self, make):
        fitted = model().fit(make(X), make(Y))
        content = pickle.dumps(fitted)
        assert b"torch" not in content
        assert b"array_api" not in content
        assert type(fitted.classes_) is np.ndarray

    def test_around_it(self, make):
        given, labels = make(X), make(Y)
        pipeline = make_pipeline(MinMaxScaler(), model(max_iter=1)).fit(given, labels)
        assert type(pipeline.predict_proba(given)) is type(given)
        search = GridSearchCV(model(), {"lr": [0.005, 0.01]}, cv=2).fit(given, labels)
        expected = GridSearchCV(model(), {"lr": [0.005, 0.01]}, cv=2).fit(X, Y)
        np.testing.assert_array_equal(
            search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
        )

    def test_device_without_float64(self):
        xs = pytest.importorskip("array_api_strict", reason="takes arrays of array_api_strict")
        given = xs.asarray(X.astype(np.uint8), device=xs.Device("no_float64"))
        proba = model().fit(X, Y).predict_proba(given)
        assert (proba.device, proba.dtype) == (given.device, xs.float32)

    def test_errors_name_what_came(self, make):
        with pytest.raises(ValueError, match="X has 100 features, but LeNetClassifier"):
            model(max_iter=1).fit(X, Y).predict(make(X[:, :100]))
        with pytest.raises(ValueError, match="Input X contains NaN"):
            model().fit(make(np.where(X > 180, np.nan, X)), Y)


class TestNotDispatched:
    """Arrays go in; what is predicted is NumPy's."""

    @pytest.mark.parametrize("shape", [(60, 144), (60, 12, 12), (60, 1, 12, 12)])
    def test_in(self, make, shape):
        given = make(X.reshape(shape))
        actual = model().fit(given, make(Y), make(Y + 1.0))
        assert_same_bits(actual, model().fit(X, Y, Y + 1.0))
        for method in METHODS:
            result = getattr(actual, method)(given)
            assert type(result) is np.ndarray
            np.testing.assert_array_equal(result, getattr(actual, method)(X))
        assert actual.score(given, make(Y)) == actual.score(X, Y)


class TestTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="takes PyTorch's, which is not installed")

    def test_with_a_gradient(self, torch):
        given = torch.asarray(X).requires_grad_()
        assert_same_bits(model().fit(given, Y), model().fit(X, Y))

    def test_memory_is_shared(self, torch):
        """Neither fit nor the results write into what was given."""
        given = torch.asarray(X)
        before = given.clone()
        with sklearn.config_context(array_api_dispatch=True):
            fitted = model(max_iter=1).fit(given, Y)
            fitted.predict_proba(given).zero_()
            fitted.predict(given).zero_()
        assert torch.equal(given, before)
        assert list(fitted.classes_) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("X", lambda odd: (odd(X), Y)),
            ("y", lambda odd: (X, odd(Y))),
            ("sample_weight", lambda odd: (X, Y, odd(Y))),
        ],
    )
    def test_types_that_numpy_has_not(self, torch, name, arguments):
        def odd(array):
            return torch.asarray(array).to(torch.bfloat16)

        with pytest.raises(TypeError, match=f"{name} is an array of torch that cannot.*BFloat16"):
            model().fit(*arguments(odd))
