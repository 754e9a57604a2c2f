"""The displays: what they compute, where they draw it, and what they refuse."""

import copy
import sys
from functools import partial
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import sklearn
from matplotlib import pyplot as plt
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.inspection import (
    AugmentationDisplay,
    FeatureMapsDisplay,
    FiltersDisplay,
    LossCurveDisplay,
    MistakesDisplay,
)

from . import stand_in
from .test_classifier import X, Y, model


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    return model().fit(X, Y)


@pytest.fixture(scope="module")
def small():
    return model(conv_channels=(2, 3)).fit(X, Y)


@pytest.fixture(scope="module")
def validated():
    return model(early_stopping=True).fit(X, Y)


def shown(axes):
    """Give the images that axes show, in their order."""
    return [image.get_array().data for each in np.ravel(axes) for image in each.images]


def title(figure):
    return figure.get_suptitle()


def curve(line):
    return [*map(list, line.get_data())]


def test_matplotlib_is_needed_to_draw_alone(fitted, monkeypatch):
    for name in list(sys.modules):
        if name.startswith("sklearn_lenet.inspection"):
            monkeypatch.delitem(sys.modules, name)
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    display = import_module("sklearn_lenet.inspection").LossCurveDisplay(loss=[1.0])
    with pytest.raises(ImportError, match=r"LossCurveDisplay.plot needs matplotlib.*\[plot\]"):
        display.plot()


OF_MODELS = [
    (LossCurveDisplay,),
    (FiltersDisplay,),
    (FeatureMapsDisplay, X[0]),
]


@pytest.mark.parametrize(("display", "data"), [(display, data) for display, *data in OF_MODELS])
class TestWhatIsNoModel:
    def test_not_fitted(self, display, data):
        with pytest.raises(NotFittedError):
            display.from_estimator(LeNetClassifier(), *data)

    def test_pipeline(self, display, data, fitted):
        pipeline = make_pipeline(FunctionTransformer(), fitted)
        with pytest.raises(TypeError, match=r"Got Pipeline instead\. Of a pipeline pass the step"):
            display.from_estimator(pipeline, *data)
        display.from_estimator(pipeline[-1], *data)


class TestLossCurve:
    def test_loss(self, fitted):
        display = LossCurveDisplay.from_estimator(fitted)
        (axes,) = display.axes_
        (line,) = display.lines_
        assert curve(line) == [[1, 2, 3], fitted.loss_curve_]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
        assert [text.get_text() for text in axes.get_legend().texts] == [
            "LeNetClassifier, training"
        ]
        assert display.figure_ is axes.figure

    def test_validation(self, validated):
        display = LossCurveDisplay.from_estimator(validated, name="a")
        losses, scores = display.axes_
        epochs = [1, 2, 3]
        assert list(map(curve, display.lines_)) == [
            [epochs, validated.loss_curve_],
            [epochs, validated.validation_loss_curve_],
            [epochs, validated.validation_scores_],
        ]
        assert [line.axes for line in display.lines_] == [losses, losses, scores]
        assert [line.get_label() for line in losses.lines] == ["a, training", "a, validation"]
        assert (scores.get_xlabel(), scores.get_ylabel()) == ("epoch", "validation score")
        assert losses.lines[0].get_linestyle() != losses.lines[1].get_linestyle()

    def test_several_models(self, fitted, validated):
        first = LossCurveDisplay.from_estimator(validated, name="a")
        second = LossCurveDisplay.from_estimator(fitted, name="b", ax=first.axes_)
        assert second.figure_ is first.figure_
        assert list(second.axes_) == list(first.axes_)
        (a, _, _), (b,) = first.lines_, second.lines_
        assert a.axes is b.axes
        assert (a.get_color(), a.get_marker()) != (b.get_color(), b.get_marker())
        assert len(first.axes_[0].get_legend().texts) == 3

    def test_one_axes_has_the_losses(self, validated):
        _, axes = plt.subplots()
        display = LossCurveDisplay.from_estimator(validated, ax=axes)
        assert list(display.axes_) == [axes]
        assert len(axes.lines) == 2
        assert axes.get_xlabel() == "epoch"

    def test_validation_that_began_later(self):
        both = model(warm_start=True, max_iter=2).fit(X, Y)
        both.set_params(early_stopping=True).fit(X, Y)
        training, losses, scores = LossCurveDisplay.from_estimator(both).lines_
        assert curve(training)[0] == [1, 2, 3, 4]
        assert curve(losses) == [[3, 4], both.validation_loss_curve_]
        assert curve(scores) == [[3, 4], both.validation_scores_]

    def test_numbers_alone(self):
        display = LossCurveDisplay(loss=[3.0, 2.0])
        assert display.plot() is display
        assert curve(display.lines_[0]) == [[1, 2], [3, 2]]
        assert display.lines_[0].get_label() == "training"
        assert np.ravel(display.axes_)[0].get_ylabel() == "loss"


class TestFilters:
    def test_kernels(self, fitted):
        display = FiltersDisplay.from_estimator(fitted)
        assert display.axes_.shape == (1, 6)
        np.testing.assert_array_equal(shown(display.axes_), fitted.coefs_[0][:, 0])
        assert [axes.get_title() for axes in display.axes_[0]] == list("012345")
        assert title(display.figure_) == "Kernels of the first convolution"
        assert [axes.get_ylabel() for axes in display.figure_.axes if axes.get_ylabel()] == [
            "weight"
        ]

    def test_zero_is_grey_in_all_of_them(self, fitted):
        ranges = {
            axes.images[0].get_clim() for axes in FiltersDisplay.from_estimator(fitted).axes_.flat
        }
        largest = np.abs(fitted.coefs_[0]).max()
        assert ranges == {(-largest, largest)}

    def test_colour(self):
        kernels = np.arange(10.0 * 3 * 2 * 2).reshape(10, 3, 2, 2)
        display = FiltersDisplay(kernels=kernels).plot()
        assert display.axes_.shape == (6, 8)
        np.testing.assert_array_equal(shown(display.axes_[2]), kernels[:8, 2])
        np.testing.assert_array_equal(shown(display.axes_[4]), kernels[8:, 1])
        assert display.axes_[2, 0].get_ylabel() == "channel 2"
        assert display.axes_[3, 1].get_title() == "9"

    def test_keeps_its_numbers(self):
        other = model(max_iter=1).fit(X, Y)
        display = FiltersDisplay.from_estimator(other)
        before = display.kernels.copy()
        other.coefs_[0][...] = 0
        np.testing.assert_array_equal(display.kernels, before)

    def test_in_the_place_of_axes(self, fitted):
        figure, (left, right) = plt.subplots(1, 2)
        display = FiltersDisplay.from_estimator(fitted, ax=right)
        assert display.figure_ is figure
        assert title(display.axes_[0, 0].figure) == "Kernels of the first convolution"
        figure.canvas.draw()
        assert all(
            axes.get_window_extent().x0 > left.get_window_extent().x1 for axes in display.axes_.flat
        )

    def test_axes_that_have_no_place_in_a_grid(self, fitted):
        axes = plt.figure().add_axes((0, 0, 1, 1))
        with pytest.raises(ValueError, match=r"ax should be Axes of a grid, as plt.subplots\(\)"):
            FiltersDisplay.from_estimator(fitted, ax=axes)


class TestFeatureMaps:
    def test_image_and_maps(self, small):
        display = FeatureMapsDisplay.from_estimator(small, X[0])
        (first, pooled), (second, last) = display.maps
        shapes = [maps.shape for maps in (display.image, first, pooled, second, last)]
        assert shapes == [(1, 12, 12), (2, 12, 12), (2, 6, 6), (3, 2, 2), (3, 1, 1)]
        assert display.axes_.shape == (5, 3)
        np.testing.assert_array_equal(shown(display.axes_[0]), display.image)
        np.testing.assert_array_equal(shown(display.axes_[2]), pooled)
        np.testing.assert_array_equal(shown(display.axes_[3]), second)
        label = f"pooling 1\n6 x 6\n{pooled.min():.2g} to {pooled.max():.2g}"
        assert display.axes_[2, 0].get_ylabel() == label
        assert display.axes_[2, 0].images[0].get_clim() == (pooled.min(), pooled.max())
        assert title(display.figure_) == "One image in the convolutions"

    def test_many_maps(self):
        first, last = np.random.default_rng(0).random((9, 2, 2)), np.zeros((9, 1, 1))
        display = FeatureMapsDisplay(image=np.ones((1, 4, 4)), maps=[(first, last)]).plot()
        assert display.axes_.shape == (1 + 2 + 2, 8)
        np.testing.assert_array_equal(shown(display.axes_[1:3]), first)

    def test_lead_to_the_prediction(self, small):
        (_, (_, maps)) = FeatureMapsDisplay.from_estimator(small, X[0]).maps
        states = maps.ravel()
        for weight, bias in list(zip(small.coefs_, small.intercepts_, strict=True))[2:-1]:
            states = np.maximum(weight @ states + bias, 0)
        logits = small.coefs_[-1] @ states + small.intercepts_[-1]
        proba = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(proba, small.predict_proba(X[:1])[0], rtol=1e-4)

    @pytest.mark.parametrize("image", [X[:1], X[0].reshape(12, 12), X[0].reshape(1, 12, 12)])
    def test_forms_of_an_image(self, small, image):
        display = FeatureMapsDisplay.from_estimator(small, image)
        other = FeatureMapsDisplay.from_estimator(small, X[0])
        np.testing.assert_array_equal(display.maps[1][1], other.maps[1][1])

    def test_small_images_are_enlarged(self):
        enlarging = model(max_iter=1, conv_channels=(1, 1)).fit(X[:, :16], Y)
        image = FeatureMapsDisplay.from_estimator(enlarging, X[0, :16]).image
        assert image.shape == (1, 12, 12)
        assert len(np.unique(image)) == 16

    @pytest.mark.parametrize("image", [X[:2], X[0, :100], X[0].reshape(12, 12, 1), 3.0])
    def test_what_is_not_one_image(self, small, image):
        message = r"of shape \(144,\) or \(1, 12, 12\) or \(12, 12\), as.*Got shape"
        with pytest.raises(ValueError, match=message):
            FeatureMapsDisplay.from_estimator(small, image)

    def test_another_range(self, small):
        with pytest.warns(UserWarning, match="image has values from .* fitted with values"):
            FeatureMapsDisplay.from_estimator(small, X[0] / 100)

    def test_colour(self):
        colours = np.tile(X.reshape(60, 1, 12, 12), (1, 3, 1, 1))
        coloured = model(max_iter=1, conv_channels=(1, 1)).fit(colours, Y)
        display = FeatureMapsDisplay.from_estimator(coloured, colours[0])
        (image,) = shown(display.axes_[0])
        assert image.shape == (12, 12, 3)
        assert (image.min(), image.max()) == (0, 1)


class Answers(ClassifierMixin, BaseEstimator):
    """Answer with these labels, of these probabilities, whatever is asked."""

    def __init__(self, answers, sureness, classes):
        self.answers, self.sureness, self.classes = answers, sureness, classes

    def fit(self, X, y):
        self.classes_ = np.array(self.classes)
        return self

    def predict(self, X):
        return self.classes_[self.answers]

    def predict_proba(self, X):
        proba = np.full((len(X), len(self.classes)), np.nan)
        proba[np.arange(len(X)), self.answers] = self.sureness
        return proba


class TestMistakes:
    def test_the_surest_first(self):
        answering = Answers([0, 1, 2, 1, 0], [0.6, 0.99999, 0.8, 0.7, 1.0], ["a", "b", "c"])
        truth = ["a", "c", "a", "c", "b"]
        display = MistakesDisplay.from_estimator(answering.fit(X, Y), X[:5], truth)
        assert (display.n_mistakes, display.n_samples) == (4, 5)
        assert list(display.y_true) == ["b", "c", "a", "c"]
        assert list(display.y_pred) == ["a", "b", "c", "b"]
        assert list(display.confidence) == [1.0, 0.99999, 0.8, 0.7]
        np.testing.assert_array_equal(shown(display.axes_), X[[4, 1, 2, 3]].reshape(-1, 12, 12))
        titles = [axes.get_title() for axes in display.axes_.flat]
        assert titles[:2] == ["a, not b\n100.0 %", "b, not c\n99.9 %"]
        assert title(display.figure_) == "4 of 5 images mistaken, the surest first"

    def test_model(self, fitted):
        truth = np.where(np.arange(60) < 11, (Y + 1) % 3, Y)
        right = fitted.predict(X) == Y
        assert right[:11].all()
        display = MistakesDisplay.from_estimator(fitted, X, truth, n_images=10)
        assert display.n_mistakes == 11 + np.count_nonzero(~right)
        assert display.axes_.shape == (2, 8)
        assert len(shown(display.axes_)) == len(display.images) == 10
        assert (np.diff(display.confidence) <= 0).all()

    def test_no_mistakes(self):
        answering = Answers([0, 1], [0.5, 0.5], [0, 1]).fit(X, Y)
        display = MistakesDisplay.from_estimator(answering, X[:2], [0, 1])
        assert title(display.figure_) == "0 of 2 images mistaken"
        assert shown(display.axes_) == []

    @pytest.mark.parametrize("rows", [X, X.reshape(60, 12, 12), X.tolist(), pd.DataFrame(X)])
    def test_pipeline_and_forms_of_images(self, rows, fitted):
        def flat(rows):
            return np.asarray(rows).reshape(60, -1)

        pipeline = make_pipeline(FunctionTransformer(flat), fitted)
        display = MistakesDisplay.from_estimator(pipeline, rows, (Y + 1) % 3, n_images=1)
        assert display.images.shape == (1, 1, 12, 12)
        assert any((display.images.ravel() == row).all() for row in X)

    @pytest.mark.parametrize(
        ("n_features", "image_shape", "shape"),
        [
            (192, None, (3, 8, 8)),
            (192, (12, 16), (1, 12, 16)),
            (192, (2, 8, 12), (2, 8, 12)),
            (15, None, (1, 4, 4)),
        ],
    )
    def test_shape_of_flat_rows(self, n_features, image_shape, shape):
        rows = np.random.default_rng(0).random((1, n_features))
        answering = Answers([0], [0.5], [0, 1]).fit(X, Y)
        display = MistakesDisplay.from_estimator(answering, rows, [1], image_shape=image_shape)
        assert display.images.shape == (1, *shape)
        np.testing.assert_array_equal(display.images.ravel()[:n_features], rows[0])

    def test_shape_of_the_model(self):
        oblong = model(max_iter=1, image_shape=(9, 16)).fit(X, Y)
        display = MistakesDisplay.from_estimator(oblong, X, (Y + 1) % 3, n_images=2)
        assert display.images.shape == (2, 1, 9, 16)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_images": 0}, "n_images == 0, must be >= 1"),
            *(
                ({"image_shape": shape}, "features of X, 144, as their product. Got .* instead")
                for shape in [
                    (3, 4),
                    (13, 13),
                    (1, 1, 12, 12),
                    (-12, -12),
                    (144.0, 1),
                    (True, 144),
                    144,
                    "12",
                ]
            ),
            ({"y": Y[:-1]}, "inconsistent numbers of samples"),
            ({"y": Y.astype(str)}, "Mix of label input types"),
        ],
    )
    def test_what_is_refused(self, fitted, changes, message):
        with pytest.raises(ValueError, match=message):
            MistakesDisplay.from_estimator(fitted, **({"X": X, "y": (Y + 1) % 3} | changes))

    def test_pixels_that_are_missing_do_not_blank_the_others(self):
        holed = X[:2].astype(float)
        holed[0, :5] = np.nan
        answering = Answers([0, 0], [0.5, 0.6], [0, 1]).fit(X, Y)
        display = MistakesDisplay.from_estimator(answering, holed, [1, 1])
        for axes in display.axes_.flat:
            assert axes.images[0].get_clim() == (np.nanmin(holed), np.nanmax(holed))

    def test_not_fitted(self):
        with pytest.raises(NotFittedError):
            MistakesDisplay.from_estimator(LeNetClassifier(), X, Y)


@pytest.mark.parametrize("display", [FiltersDisplay, LossCurveDisplay])
def test_what_is_no_axes(display, fitted):
    with pytest.raises(TypeError, match=r"ax must be matplotlib Axes or None\. Got str instead"):
        display.from_estimator(fitted, ax="here")


class TestAugmentation:
    @pytest.mark.parametrize(
        ("images", "error", "message"),
        [
            (None, ValueError, "Expected 2D array, got scalar array"),
            (5, ValueError, "Expected 2D array, got scalar array"),
            (sparse.coo_array(X), TypeError, "Sparse data was passed for X"),
            (sparse.csr_array(X), TypeError, "Sparse data was passed for X"),
        ],
    )
    def test_what_is_no_array_of_images(self, images, error, message):
        with pytest.raises(error, match=message):
            AugmentationDisplay.from_estimator(LeNetClassifier(augment="affine"), images)

    def test_callable(self):
        def invert_some(images, generator):
            assert images.shape[1:] == (1, 12, 12)
            return (
                np.where(generator.random(len(images)) < 0.5, 255, 0)[:, None, None, None] - images
            )

        inverting = LeNetClassifier(augment=invert_some)
        show = partial(AugmentationDisplay.from_estimator, inverting, X, n_images=2, n_versions=3)
        display = show(random_state=0)
        assert display.axes_.shape == (2, 4)
        assert display.augmented.shape == (3, 2, 1, 12, 12)
        np.testing.assert_array_equal(display.images, X[:2].reshape(2, 1, 12, 12))
        np.testing.assert_array_equal(shown(display.axes_[:, 0]), display.images[:, 0])
        np.testing.assert_array_equal(shown(display.axes_[:, 2]), display.augmented[1, :, 0])
        assert np.isin(display.augmented + display.images, (0, 255)).all()
        assert title(display.figure_) == "Training images as they are, and distorted"
        np.testing.assert_array_equal(show(random_state=0).augmented, display.augmented)
        assert (show(random_state=1).augmented != display.augmented).any()

    @pytest.mark.parametrize("augment", ["affine", "elastic"])
    def test_distortions(self, augment):
        estimator = LeNetClassifier(augment=augment)
        before = vars(estimator).copy()
        display = AugmentationDisplay.from_estimator(estimator, X.reshape(60, 12, 12))
        assert display.axes_.shape == (4, 8)
        versions = display.augmented
        assert len(np.unique(versions.reshape(28, -1), axis=0)) == 28
        low, high = X.min(), X.max()
        assert versions.min() >= low
        assert versions.max() <= high
        # The bright bar of each class stays about where it is
        for image, others in zip(
            display.images[:, 0], versions[:, :, 0].swapaxes(0, 1), strict=True
        ):
            for other in others:
                assert np.corrcoef(image.ravel(), other.ravel())[0, 1] > 0.3
        assert vars(estimator) == before

    def test_rows_of_a_shape(self):
        estimator = LeNetClassifier(augment="affine", image_shape=(9, 16))
        display = AugmentationDisplay.from_estimator(estimator, X, n_images=1, n_versions=1)
        assert display.augmented.shape == (1, 1, 1, 9, 16)

    @pytest.mark.parametrize(
        ("parameters", "changes", "message"),
        [
            ({}, {}, "shows what 'augment' does, which is None. Set it"),
            ({"augment": "blur"}, {}, "The 'augment' parameter of LeNetClassifier must be"),
            ({"augment": "affine"}, {"n_images": 0}, "n_images == 0, must be >= 1"),
            ({"augment": "affine"}, {"n_versions": 0}, "n_versions == 0, must be >= 1"),
            ({"augment": "affine"}, {"X": np.full((2, 9), np.nan)}, "Input X contains NaN"),
            ({"augment": lambda images, _: images[:1]}, {}, "'augment' must return an array"),
        ],
    )
    def test_what_is_refused(self, parameters, changes, message):
        with pytest.raises(ValueError, match=message):
            AugmentationDisplay.from_estimator(
                LeNetClassifier(**parameters), **({"X": X} | changes)
            )

    def test_what_is_no_model(self):
        with pytest.raises(TypeError, match=r"AugmentationDisplay shows a LeNetClassifier\. Got"):
            AugmentationDisplay.from_estimator(make_pipeline(LeNetClassifier()), X)


@pytest.mark.parametrize("dispatch", [False, True])
def test_arrays_of_other_libraries(fitted, small, dispatch):
    xp = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    rows, labels = xp.asarray(X), xp.asarray((Y + 1) % 3)
    with sklearn.config_context(array_api_dispatch=dispatch):
        mistakes = MistakesDisplay.from_estimator(fitted, rows, labels, n_images=3)
        maps = FeatureMapsDisplay.from_estimator(small, rows[0, :]).maps
        augmenting = LeNetClassifier(augment="affine")
        augmented = AugmentationDisplay.from_estimator(
            augmenting, rows, n_images=1, n_versions=1, random_state=0
        )
    expected = MistakesDisplay.from_estimator(fitted, X, (Y + 1) % 3, n_images=3)
    np.testing.assert_array_equal(mistakes.images, expected.images)
    np.testing.assert_array_equal(
        maps[1][1], FeatureMapsDisplay.from_estimator(small, X[0]).maps[1][1]
    )
    np.testing.assert_array_equal(augmented.images.reshape(1, -1), X[:1])


def test_arrays_on_a_device(fitted, small, monkeypatch):
    cupy = stand_in.install(monkeypatch)
    on_device = copy.copy(fitted).set_params(device="cuda")
    rows, labels = cupy.asarray(X), cupy.asarray((Y + 1) % 3)
    mistakes = MistakesDisplay.from_estimator(on_device, rows, labels, n_images=3)
    expected = MistakesDisplay.from_estimator(fitted, X, (Y + 1) % 3, n_images=3)
    assert type(mistakes.images) is np.ndarray
    np.testing.assert_allclose(mistakes.confidence, expected.confidence, rtol=1e-4)
    assert mistakes.n_mistakes == expected.n_mistakes
    np.testing.assert_array_equal(
        FeatureMapsDisplay.from_estimator(small, rows[0]).image,
        FeatureMapsDisplay.from_estimator(small, X[0]).image,
    )
    augmenting = LeNetClassifier(augment="affine")
    augmented = AugmentationDisplay.from_estimator(augmenting, rows, n_images=1, n_versions=1)
    np.testing.assert_array_equal(augmented.images.reshape(1, -1), X[:1])
