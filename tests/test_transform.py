"""`transform`: the activations of the last hidden layer, for whatever learns from them."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from .test_classifier import X, Y, model

SMALL = {"max_iter": 1, "conv_channels": (2, 3), "hidden_layer_sizes": (7, 5)}


@pytest.fixture(scope="module")
def fitted():
    return model(**SMALL).fit(X, Y)


@pytest.mark.parametrize("hidden_layer_sizes", [(7, 5), (7,), ()])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_last_layer_reads_it(hidden_layer_sizes, pooling):
    parameters = SMALL | {"hidden_layer_sizes": hidden_layer_sizes, "pooling": pooling}
    classifier = model(**parameters).fit(X.astype(float), Y)
    activations = classifier.transform(X.astype(float))
    logits = activations @ classifier.coefs_[-1].T + classifier.intercepts_[-1]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, classifier.predict_proba(X.astype(float)), rtol=1e-9)
    n_last = hidden_layer_sizes[-1] if hidden_layer_sizes else 3 * 1 * 1
    assert activations.shape == (60, n_last) == (60, len(classifier.get_feature_names_out()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.float16])
@pytest.mark.parametrize("network", ["float32", "float64"])
def test_type_is_that_of_probabilities(dtype, network):
    pixels = X.astype(dtype)
    classifier = model(**SMALL, dtype=network).fit(pixels, Y)
    assert classifier.transform(pixels).dtype == classifier.predict_proba(pixels).dtype


def test_forms_of_the_same_images(fitted):
    expected = fitted.transform(X)
    for form in (X.reshape(60, 12, 12), X.reshape(60, 1, 12, 12), X.tolist(), pd.DataFrame(X)):
        np.testing.assert_allclose(fitted.transform(form), expected, rtol=1e-6)


def test_number_of_threads_does_not_matter(fitted):
    many = np.tile(X, (5, 1))
    one, two = (fitted.set_params(n_jobs=n_jobs).transform(many) for n_jobs in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_result_is_the_callers(fitted):
    first = fitted.transform(X)
    expected = first.copy()
    fitted.transform(X[::-1])
    first *= 2
    np.testing.assert_array_equal(fitted.transform(X), expected)


def test_names(fitted):
    names = [f"lenetclassifier{n}" for n in range(5)]
    assert list(fitted.get_feature_names_out()) == names
    with pytest.raises(NotFittedError):
        model().get_feature_names_out()


@pytest.mark.parametrize(("library", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_set_output(library, kind):
    classifier = model(**SMALL).set_output(transform=library)
    frame = classifier.fit_transform(X, Y)
    assert isinstance(frame, kind)
    assert list(frame.columns) == list(classifier.get_feature_names_out())
    assert isinstance(classifier.predict_proba(X), np.ndarray)
    classifier.set_output(transform="default")
    np.testing.assert_array_equal(frame.to_numpy(), classifier.transform(X))


def test_frames_keep_their_index():
    frame = pd.DataFrame(X, index=np.arange(60) + 100)
    result = model(**SMALL).set_output(transform="pandas").fit_transform(frame, Y)
    assert list(result.index) == list(frame.index)


def test_unfitted():
    with pytest.raises(NotFittedError):
        model().transform(X)


def test_images_of_another_shape(fitted):
    with pytest.raises(ValueError, match="X has 100 features, but LeNetClassifier is expecting"):
        fitted.transform(X[:, :100])


def test_range_of_the_fit(fitted):
    with pytest.warns(UserWarning, match="predictions will be poor"):
        fitted.transform(X / 100)


def test_in_the_middle_of_a_pipeline():
    pipeline = make_pipeline(model(**SMALL | {"max_iter": 20}), LogisticRegression()).fit(X, Y)
    assert pipeline.score(X, Y) == 1


def test_frozen_in_a_pipeline(fitted):
    """Its weights stay; what follows learns."""
    before = fitted.coefs_[0].copy()
    pipeline = make_pipeline(FrozenEstimator(fitted), LogisticRegression(max_iter=1000))
    pipeline.fit(X, Y >= 1)
    assert list(pipeline.classes_) == [False, True]
    np.testing.assert_array_equal(fitted.coefs_[0], before)
