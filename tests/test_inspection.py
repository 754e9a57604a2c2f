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
from sklearn_lenet.inspection import FiltersDisplay, LossCurveDisplay

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


OF_MODELS = [LossCurveDisplay, FiltersDisplay]


@pytest.mark.parametrize("display", OF_MODELS)
class TestWhatIsNoModel:
    def test_not_fitted(self, display):
        with pytest.raises(NotFittedError):
            display.from_estimator(LeNetClassifier())

    def test_pipeline(self, display, fitted):
        pipeline = make_pipeline(FunctionTransformer(), fitted)
        with pytest.raises(TypeError, match=r"Got Pipeline instead\. Of a pipeline pass the step"):
            display.from_estimator(pipeline)
        display.from_estimator(pipeline[-1])


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
