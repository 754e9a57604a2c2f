"""Export to ONNX: onnxruntime gives the probabilities to 1e-5, and the labels."""

import sys

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sklearn_lenet.onnx import to_onnx

from .test_classifier import X, Y, images, model

ONNX = "exports to ONNX, by onnx and onnxruntime, which are not installed"


@pytest.fixture
def skl2onnx():
    return pytest.importorskip("skl2onnx", reason="exports by skl2onnx, which is not installed")


def run(onnx_model, pixels):
    """Check a model, and give its labels and probabilities of some pixels."""
    onnx = pytest.importorskip("onnx", reason=ONNX)
    onnxruntime = pytest.importorskip("onnxruntime", reason=ONNX)
    onnx.checker.check_model(onnx_model, full_check=True)
    session = onnxruntime.InferenceSession(
        onnx_model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"X": pixels})


def assert_same_answers(onnx_model, classifier, pixels):
    labels, proba = run(onnx_model, pixels)
    np.testing.assert_allclose(proba, classifier.predict_proba(pixels), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(labels, classifier.predict(pixels))
    return labels, proba


def fitted(pixels=X, labels=Y, **parameters):
    pytest.importorskip("onnx", reason=ONNX)
    return model(**({"max_iter": 2} | parameters)).fit(pixels, labels)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"pooling": "max"},
        {"activation": "tanh"},
        {"activation": "sigmoid", "pooling": "max"},
        {"stride": (2, 1), "kernel_size": (3, 2)},
        {"padding": (3, 1)},
        {"conv_channels": (3, 4, 5), "kernel_size": (3, 2, 1), "stride": (2, 1, 1), "padding": 1},
        {"conv_channels": (4,), "kernel_size": 4, "padding": 0},
        {"hidden_layer_sizes": (20,)},
        {"hidden_layer_sizes": ()},
        {"dtype": "float64"},
    ],
)
def test_networks(parameters):
    classifier = fitted(**parameters)
    labels, proba = assert_same_answers(to_onnx(classifier), classifier, X)
    assert (labels.dtype, proba.dtype) == (classifier.classes_.dtype, np.float32)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 1, 13), (1, 8, 8), (1, 7, 9), (1, 5, 11), (1, 15, 20), (3, 12, 12), (2, 5, 7)],
)
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_shapes_of_images(shape, pooling):
    """Small ones are enlarged, and set in the middle of zeros."""
    pixels = np.random.default_rng(0).random((30, *shape), np.float32).reshape(30, -1)
    classifier = fitted(pixels, Y[:30], image_shape=shape, pooling=pooling)
    assert_same_answers(to_onnx(classifier), classifier, pixels)


@pytest.mark.parametrize("n_features", [2, 13, 50])
def test_rows_that_end_with_zeros(n_features):
    pixels = 5 + np.random.default_rng(0).random((30, n_features), np.float32)
    classifier = fitted(pixels, Y[:30])
    assert_same_answers(to_onnx(classifier), classifier, pixels)


def test_digits():
    pixels, digits = load_digits(return_X_y=True)
    pixels = pixels.astype(np.float32)
    classifier = fitted(pixels[:500], digits[:500])
    assert_same_answers(to_onnx(classifier), classifier, pixels)


@pytest.mark.parametrize(
    "names",
    [
        np.array(["one", "two", "drei é"]),
        np.array(["one", "two", "three"], object),
        np.array([-3, 7, 10**12]),
        np.array([1, 2, 200], np.uint8),
        np.array([0.0, 1.0, 5.0]),
        np.array([False, True, True]),
    ],
)
def test_labels(names):
    classifier = fitted(labels=names[Y])
    labels, _ = assert_same_answers(to_onnx(classifier), classifier, X)
    assert labels.dtype.kind == ("O" if names.dtype.kind in "UO" else names.dtype.kind)


def test_one_class():
    classifier = fitted(labels=np.zeros(60, int))
    assert_same_answers(to_onnx(classifier), classifier, X)


@pytest.mark.parametrize("change", [lambda x: x * 1e-300, lambda x: x * 1e300, lambda x: x + 1e9])
def test_pixels_that_float32_cannot_hold(change):
    """They go in as float64."""
    pixels = change(X.astype(float))
    classifier = fitted(pixels)
    assert_same_answers(to_onnx(classifier), classifier, pixels)


@pytest.mark.parametrize("unit", [1e-20, 1e-7, 1e7, 1e20])
def test_units(unit):
    pixels = X * np.float32(unit)
    classifier = fitted(pixels)
    assert_same_answers(to_onnx(classifier), classifier, pixels)


def test_number_of_images():
    classifier = fitted()
    exported = to_onnx(classifier)
    for n in (1, 7, 60):
        assert_same_answers(exported, classifier, X[:n])
    labels, proba = run(exported, X[:0])
    assert (labels.shape, proba.shape) == ((0,), (0, 3))


def test_export_changes_nothing():
    classifier = fitted()
    before, expected = dict(vars(classifier)), classifier.predict_proba(X)
    to_onnx(classifier)
    assert vars(classifier) == before
    np.testing.assert_array_equal(classifier.predict_proba(X), expected)


def test_what_cannot_be_exported():
    with pytest.raises(NotFittedError):
        to_onnx(model())
    with pytest.raises(TypeError, match=r"must be a LeNetClassifier\. Got Pipeline.*skl2onnx"):
        to_onnx(make_pipeline(model()))


def test_without_the_extra(monkeypatch):
    classifier = model(max_iter=1).fit(X, Y)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"python -m pip install '\.\[onnx\]' in a clone"):
        to_onnx(classifier)


NO_MAP = {"zipmap": False}


class TestSkl2onnx:
    """`skl2onnx.to_onnx(estimator, X[:1])`."""

    @pytest.mark.parametrize(
        "estimator",
        [
            make_pipeline(StandardScaler(), model(max_iter=1)),
            make_pipeline(MinMaxScaler(), model(max_iter=1)),
            make_pipeline(PCA(20, random_state=0), model(max_iter=1)),
            CalibratedClassifierCV(model(max_iter=1), cv=2),
            GridSearchCV(model(max_iter=1), {"lr": [0.005, 0.01]}, cv=2),
            GridSearchCV(
                make_pipeline(StandardScaler(), model(max_iter=1)),
                {"lenetclassifier__pooling": ["avg", "max"]},
                cv=2,
            ),
        ],
    )
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_around_it(self, skl2onnx, estimator, dtype):
        pixels = X.astype(dtype)
        estimator.fit(pixels, Y)
        exported = skl2onnx.to_onnx(estimator, pixels[:1], options=NO_MAP)
        _, proba = assert_same_answers(exported, estimator, pixels)
        assert proba.dtype == dtype

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, bool, np.float32, np.float64])
    @pytest.mark.parametrize("shape", [(60, 144), (60, 12, 12), (60, 1, 12, 12)])
    def test_types_and_shapes(self, skl2onnx, dtype, shape):
        pixels = (X > 100 if dtype is bool else X).astype(dtype).reshape(shape)
        classifier = fitted(pixels, max_iter=1)
        exported = skl2onnx.to_onnx(classifier, pixels[:1], options=NO_MAP)
        assert_same_answers(exported, classifier, pixels)

    def test_digits_far_from_zero(self, skl2onnx):
        pixels = X.astype(np.int64) + 10**9
        classifier = fitted(pixels)
        exported = skl2onnx.to_onnx(classifier, pixels[:1], options=NO_MAP)
        assert_same_answers(exported, classifier, pixels)

    @pytest.mark.parametrize("names", [np.array(["one", "two", "three"]), np.array([True, False])])
    def test_labels(self, skl2onnx, names):
        classifier = fitted(labels=names[Y % len(names)])
        exported = skl2onnx.to_onnx(classifier, X[:1], options=NO_MAP)
        assert_same_answers(exported, classifier, X)

    def test_options(self, skl2onnx):
        names = np.array(["one", "three", "two"])
        classifier = fitted(labels=names[Y])
        expected = classifier.predict_proba(X)
        labels, maps = run(skl2onnx.to_onnx(classifier, X[:1]), X)
        assert list(labels) == list(classifier.predict(X))
        np.testing.assert_allclose([[m[name] for name in names] for m in maps], expected, atol=1e-5)

        columns = run(skl2onnx.to_onnx(classifier, X[:1], options={"zipmap": "columns"}), X)
        np.testing.assert_allclose(np.column_stack(columns[1:]), expected, atol=1e-5)

        asked = {"zipmap": False, "output_class_labels": True}
        assert list(run(skl2onnx.to_onnx(classifier, X[:1], options=asked), X)[2]) == list(names)

        numbers = run(skl2onnx.to_onnx(classifier, X[:1], options={"nocl": True} | NO_MAP), X)[0]
        np.testing.assert_array_equal(numbers, expected.argmax(axis=1))

    @pytest.mark.parametrize("options", [None, NO_MAP])
    @pytest.mark.parametrize("steps", [[LogisticRegression()], [StandardScaler(), PCA(2)]])
    def test_in_the_middle_of_a_pipeline(self, skl2onnx, steps, options):
        """Four activations, as labels and three probabilities would be four numbers."""
        pipeline = make_pipeline(model(max_iter=1, hidden_layer_sizes=4), *steps).fit(X, Y)
        with pytest.raises(NotImplementedError, match="in its middle cannot be exported"):
            skl2onnx.to_onnx(pipeline, X[:1], options=options)

    def test_pixels_in_several_inputs(self, skl2onnx):
        columns = [(name, skl2onnx.common.data_types.FloatTensorType([None, 72])) for name in "ab"]
        with pytest.raises(RuntimeError, match=r"at most 1 input.*got 2"):
            skl2onnx.to_onnx(fitted(), initial_types=columns)

    def test_colour(self, skl2onnx):
        pixels, labels = images(shape=(3, 12, 12))
        classifier = fitted(pixels, labels, image_shape=(3, 12, 12))
        exported = skl2onnx.to_onnx(classifier, pixels[:1], options=NO_MAP)
        assert_same_answers(exported, classifier, pixels)


@pytest.mark.parametrize("offset", [20, 80, 300, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_far_from_zero(offset, dtype):
    """Such as temperatures in kelvin: their differences are few of float32's steps."""
    pixels = (np.random.default_rng(0).random((60, 784)) + offset).astype(dtype)
    classifier = fitted(pixels, np.arange(60) % 3, dtype="float32")
    onnx_model = to_onnx(classifier)
    is_double = onnx_model.graph.input[0].type.tensor_type.elem_type == 11
    _, proba = run(onnx_model, pixels.astype(np.float64 if is_double else np.float32))
    np.testing.assert_allclose(proba, classifier.predict_proba(pixels), rtol=0, atol=1e-5)


def test_labels_that_are_no_int64(skl2onnx):
    labels = np.array([1, 2, 2**64 - 1], np.uint64)[np.arange(len(X)) % 3]
    with pytest.raises(ValueError, match="skl2onnx has labels of int64 alone"):
        skl2onnx.to_onnx(fitted(labels=labels), X[:1], options={"zipmap": False})
