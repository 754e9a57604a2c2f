"""The displays: what they compute, where they draw it, and what they refuse."""

import sys
from importlib import import_module

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.inspection import FeatureMapsDisplay, FiltersDisplay, LossCurveDisplay

from .test_classifier import X, Y, model


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    return model().fit(X, Y)


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


OF_MODELS = [(LossCurveDisplay,), (FiltersDisplay,), (FeatureMapsDisplay, X[0])]


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
    def test_image_and_maps(self, fitted):
        display = FeatureMapsDisplay.from_estimator(fitted, X[0])
        (first, pooled), (second, last) = display.maps
        shapes = [maps.shape for maps in (display.image, first, pooled, second, last)]
        assert shapes == [(1, 12, 12), (6, 12, 12), (6, 6, 6), (16, 2, 2), (16, 1, 1)]
        assert display.axes_.shape == (1 + 1 + 1 + 2 + 2, 8)
        np.testing.assert_array_equal(shown(display.axes_[0]), display.image)
        np.testing.assert_array_equal(shown(display.axes_[2]), pooled)
        np.testing.assert_array_equal(shown(display.axes_[3:5]), second)
        label = f"pooling 1\n6 x 6\n{pooled.min():.2g} to {pooled.max():.2g}"
        assert display.axes_[2, 0].get_ylabel() == label
        assert display.axes_[2, 0].images[0].get_clim() == (pooled.min(), pooled.max())
        assert title(display.figure_) == "One image in the convolutions"

    def test_lead_to_the_prediction(self, fitted):
        (_, (_, maps)) = FeatureMapsDisplay.from_estimator(fitted, X[0]).maps
        states = maps.ravel()
        for weight, bias in list(zip(fitted.coefs_, fitted.intercepts_, strict=True))[2:-1]:
            states = np.maximum(weight @ states + bias, 0)
        logits = fitted.coefs_[-1] @ states + fitted.intercepts_[-1]
        proba = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(proba, fitted.predict_proba(X[:1])[0], rtol=1e-4)

    @pytest.mark.parametrize("image", [X[:1], X[0].reshape(12, 12), X[0].reshape(1, 12, 12)])
    def test_forms_of_an_image(self, fitted, image):
        display = FeatureMapsDisplay.from_estimator(fitted, image)
        other = FeatureMapsDisplay.from_estimator(fitted, X[0])
        np.testing.assert_array_equal(display.maps[1][1], other.maps[1][1])

    def test_small_images_are_enlarged(self):
        small = model(max_iter=1).fit(X[:, :16], Y)
        image = FeatureMapsDisplay.from_estimator(small, X[0, :16]).image
        assert image.shape == (1, 12, 12)
        assert len(np.unique(image)) == 16

    @pytest.mark.parametrize("image", [X[:2], X[0, :100], X[0].reshape(12, 12, 1), 3.0])
    def test_what_is_not_one_image(self, fitted, image):
        message = r"of shape \(144,\) or \(1, 12, 12\) or \(12, 12\), as.*Got shape"
        with pytest.raises(ValueError, match=message):
            FeatureMapsDisplay.from_estimator(fitted, image)

    def test_another_range(self, fitted):
        with pytest.warns(UserWarning, match="image has values from .* fitted with values"):
            FeatureMapsDisplay.from_estimator(fitted, X[0] / 100)

    def test_colour(self):
        colours = np.tile(X.reshape(60, 1, 12, 12), (1, 3, 1, 1))
        display = FeatureMapsDisplay.from_estimator(model(max_iter=1).fit(colours, Y), colours[0])
        (image,) = shown(display.axes_[0])
        assert image.shape == (12, 12, 3)
        assert (image.min(), image.max()) == (0, 1)
