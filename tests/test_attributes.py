"""What a fitted model knows is public, and enough to compute its answers elsewhere."""

import pickle
import re
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_html_repr

from sklearn_lenet import LeNetClassifier

from . import naive
from .test_classifier import X, Y, images, model


@pytest.fixture(scope="module")
def fitted():
    return model(max_iter=1, conv_channels=(2, 3), hidden_layer_sizes=(5,)).fit(X, Y)


def test_scale_of_the_pixels():
    weights = 1.0 + np.arange(len(X)) % 3
    classifier = model(max_iter=1).fit(X, Y, sample_weight=weights)
    mean = np.average(X.mean(axis=1), weights=weights)
    variance = np.average(((X - mean) ** 2).mean(axis=1), weights=weights)
    assert classifier.mean_ == pytest.approx(mean)
    assert classifier.scale_ == pytest.approx(variance**0.5)
    assert {type(classifier.mean_), type(classifier.scale_)} == {float}


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_extreme_scale(unit):
    """Where squares are out of float64's range."""
    pixels = X.astype(float)
    classifier = model(max_iter=1).fit(pixels * unit, Y)
    assert classifier.mean_ == pytest.approx(pixels.mean() * unit)
    assert classifier.scale_ == pytest.approx(pixels.std() * unit)


def test_scale_of_equal_pixels():
    with pytest.warns(UserWarning, match="images of X are all the same"):
        classifier = model(max_iter=1).fit(np.full((12, 144), 7.0), Y[:12])
    assert (classifier.mean_, classifier.scale_) == (7, 1)


def test_unfitted_has_none():
    for name in ("mean_", "scale_", "coefs_", "intercepts_"):
        with pytest.raises(NotFittedError):
            getattr(model(), name)


def test_public_attributes_give_the_answers():
    """Convolution, pooling, dense layers by plain loops, the first reading (C, H, W)."""
    rows, labels = images(shape=(2, 12, 13), dtype=np.float64)
    classifier = model(
        max_iter=2, image_shape=(2, 12, 13), conv_channels=(2, 3), hidden_layer_sizes=(5,)
    ).fit(rows, labels)
    maps = ((rows[:4] - classifier.mean_) / classifier.scale_).reshape(-1, *classifier.image_shape_)
    layers = list(zip(classifier.coefs_, classifier.intercepts_, strict=True))
    for (coef, intercept), padding in zip(layers[:2], (2, 0), strict=True):
        a = naive.convolution(maps, coef, intercept, 1, padding)
        maps = naive.pooling("avg", naive.each(naive.relu, a), 2)
    hidden = maps.reshape(len(maps), -1)  # (N, C * H * W)
    hidden = np.maximum(hidden @ layers[2][0].T + layers[2][1], 0)
    logits = hidden @ layers[3][0].T + layers[3][1]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, classifier.predict_proba(rows[:4]), rtol=1e-9)


def test_weights_that_are_written_predict(fitted):
    classifier = pickle.loads(pickle.dumps(fitted))
    classifier.coefs_[-1][...] = 0
    classifier.intercepts_[-1][...] = np.log([0.5, 0.3, 0.2])
    expected = np.tile([0.5, 0.3, 0.2], (len(X), 1))
    np.testing.assert_allclose(classifier.predict_proba(X), expected, rtol=1e-6)
    loaded = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_allclose(loaded.predict_proba(X), expected, rtol=1e-6)


def test_weights_that_are_written_train_on(fitted):
    """What PyTorch has trained can be trained on."""
    source = model(max_iter=1, conv_channels=(2, 3), hidden_layer_sizes=(5,), random_state=7)
    source.fit(X, Y)
    classifier = pickle.loads(pickle.dumps(fitted))
    for name in ("coefs_", "intercepts_"):
        for array, other in zip(getattr(classifier, name), getattr(source, name), strict=True):
            array[...] = other
    before = [coef.copy() for coef in classifier.coefs_]
    classifier.set_params(lr=1e-9).partial_fit(X, Y)
    for array, other in zip(classifier.coefs_, before, strict=True):
        np.testing.assert_allclose(array, other, atol=1e-6)


def test_files_name_the_class_as_users_do(fitted):
    assert b"_classifier" not in pickle.dumps(fitted)


def test_skops_asks_to_trust_one_type(fitted):
    skops = pytest.importorskip("skops.io", reason="saves by skops, which is not installed")
    contents = skops.dumps(fitted)
    assert skops.get_untrusted_types(data=contents) == ["sklearn_lenet.LeNetClassifier"]
    loaded = skops.loads(contents, trusted=["sklearn_lenet.LeNetClassifier"])
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))


def test_documentation_link_leads_somewhere(fitted):
    html = estimator_html_repr(fitted)
    links = re.findall(r'class="sk-estimator-doc-link[^>]*href="([^"]+)"', html)
    assert links
    for link in links:
        path = Path(url2pathname(urlparse(link).path))
        assert "LeNetClassifier" in path.read_text(encoding="utf-8")


def test_documentation_link_can_be_set(monkeypatch):
    """By whoever puts the pages on a server."""
    monkeypatch.setattr(LeNetClassifier, "_doc_link_template", "https://example.org/api.html")
    assert 'href="https://example.org/api.html"' in estimator_html_repr(model())
