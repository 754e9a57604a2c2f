"""Ordinary slips with data, and learning that fails: each is told, at once, and names its cause.

Sane data are silent: all warnings are errors here.
"""

import json
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_lenet import ImageShapeWarning, LeNetClassifier
from sklearn_lenet._engine import Data
from sklearn_lenet._validation import stratified_split
from sklearn_lenet._warnings import Deferred, warn

SMALL = {"conv_channels": (2, 3), "hidden_layer_sizes": (16,), "random_state": 0}

DIGITS, LABELS = (a[:300] for a in load_digits(return_X_y=True))


FRAMES = {
    "nullable": lambda frame: frame.convert_dtypes(),
    "objects": lambda frame: frame.astype(object),
    "narrow": lambda frame: frame.astype({0: np.float32, 1: np.float16}),
    "bool": lambda frame: frame.astype({0: "boolean"}),
    "category": lambda frame: frame.astype({3: "category"}),
}

OTHERS = {
    "0..1": lambda X: X / 255,
    "bool": lambda X: X > 127,
    "standardized": lambda X: (X - 33.3) / 78.6,
    "16 bits": lambda X: X.astype(np.uint16) * 257,
    "inverted": lambda X: 255 - X,
    "offset": lambda X: X + 1000.0,
}


def small(**parameters):
    return LeNetClassifier(**SMALL | {"max_iter": 2} | parameters)


@pytest.fixture(scope="module")
def mnist_1000(sample):
    X, y, X_test, y_test = sample
    return X[:1000], y[:1000], X_test, y_test


@pytest.fixture(scope="module")
def fitted(mnist_1000):
    X, y, *_ = mnist_1000
    return small(max_iter=1).fit(X, y)


class TestShapesOfImages:
    """`image_shape`, arrays, and rows whose shape is guessed."""

    @pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (20, 30, 4), (62, 47, 1)])
    def test_channels_last_are_refused(self, shape):
        H, W, C = shape
        X = np.zeros((4, H * W * C), np.uint8)
        with pytest.raises(ValueError, match=rf"channels last.*image_shape=\({C}, {H}, {W}\)"):
            small(image_shape=shape).fit(X, [0, 1] * 2)
        with pytest.raises(ValueError, match=r"channels last.*X.transpose\(0, 3, 1, 2\)"):
            small().fit(X.reshape(4, *shape), [0, 1] * 2)

    @pytest.mark.parametrize("shape", [(12, 1000, 1), (28, 28, 10), (40, 500, 3)])
    def test_channels_that_may_be_last_are_told(self, shape):
        C, H, W = shape
        X = np.random.default_rng(0).random((4, C * H * W), np.float32)
        message = f"read as {C} channels of {H} x {W} pixels"
        for images, parameters in [(X, {"image_shape": shape}), (X.reshape(4, *shape), {})]:
            with pytest.warns(ImageShapeWarning, match=message) as record:
                classifier = small(max_iter=1, **parameters).fit(images, [0, 1] * 2)
            assert classifier.image_shape_ == shape
            assert record[0].filename == __file__

    @pytest.mark.parametrize("shape", [(784, 1), (1, 784)])
    def test_rows_with_an_axis_too_many(self, shape):
        X = np.random.default_rng(0).random((4, *shape), np.float32)
        with pytest.warns(ImageShapeWarning, match=r"Rows of features have the shape"):
            small(max_iter=1).fit(X, [0, 1] * 2)

    def test_order_of_a_row(self):
        """Flattened from channels last, or one channel after the other: the message has both."""
        X = np.random.default_rng(0).integers(0, 256, (4, 28 * 28 * 3)).astype(np.uint8)
        with pytest.raises(ValueError, match=r"image_shape=\(3, 28, 28\)") as error:
            small().fit(X, [0, 1] * 2)
        remedy = "X.reshape(-1, 28, 28, 3).transpose(0, 3, 1, 2)"
        assert remedy in str(error.value)
        small(max_iter=1).fit(eval(remedy), [0, 1] * 2)

    @pytest.mark.parametrize(
        "pixels",
        [
            lambda X: (X * 255).astype(np.uint8),
            lambda X: np.rint(X * 255),
            lambda X: X,
            lambda X: X > 0.5,
        ],
    )
    def test_pixels_of_three_channels(self, pixels):
        X = np.random.default_rng(0).random((10, 192))
        with pytest.raises(ValueError, match="may be 8 x 8 images of 3 channels"):
            small().fit(pixels(X), [0, 1] * 5)

    @pytest.mark.parametrize("n_components", [192, 243, 300])
    def test_components_are_no_pixels(self, mnist_1000, n_components):
        X, y, *_ = mnist_1000
        rows = PCA(n_components, random_state=0).fit_transform(X)
        with pytest.warns(ImageShapeWarning, match="They are read as"):
            small(max_iter=1).fit(rows, y)

    def test_grid_over_components(self, mnist_1000):
        X, y, *_ = (a[:500] for a in mnist_1000)
        pipeline = make_pipeline(PCA(random_state=0), small(max_iter=1))
        with pytest.warns(ImageShapeWarning):
            search = GridSearchCV(pipeline, {"pca__n_components": [64, 192]}, cv=2).fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


class TestShapesAtPrediction:
    """scikit-learn's sentence first, then ours."""

    @pytest.mark.parametrize(
        ("images", "told"),
        [
            (lambda image: image, r"X has 28 features, .* expecting 784.*pass image\[None\]"),
            (lambda image: image[..., None], r"28 features.*transpose\(2, 0, 1\)\[None\]"),
            (lambda image: np.stack([image] * 3, -1)[None], "2352 features.*model is grey"),
            (lambda image: np.stack([image] * 3)[None], "2352 features.*model is grey"),
            (lambda image: np.stack([image] * 4, -1), "model is grey"),
            (lambda image: image[None, :, :, None], r"Channels come first: pass X.transpose\(0, 3"),
            (
                lambda image: image[None, :20, :20],
                r"400 features.*shape \(1, 20, 20\).*\(1, 28, 28",
            ),
            (lambda image: image.reshape(1, 14, 56), r"\(1, 14, 56\).*fitted with \(1, 28, 28\)"),
            (lambda image: image.ravel(), "Expected 2D array, got 1D array"),
        ],
    )
    def test_grey_model(self, fitted, mnist_1000, images, told):
        image = mnist_1000[2][0].reshape(28, 28)
        for method in (fitted.predict, fitted.predict_proba):
            with pytest.raises(ValueError, match=f"(?s){told}"):
                method(images(image))

    def test_remedies_work(self, fitted, mnist_1000):
        image = mnist_1000[2][0].reshape(28, 28)
        expected = fitted.predict_proba(mnist_1000[2][:1])
        for remedied in (image[None], image[..., None].transpose(2, 0, 1)[None]):
            np.testing.assert_array_equal(fitted.predict_proba(remedied), expected)

    def test_picture(self, fitted, mnist_1000):
        Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
        picture = Image.fromarray(mnist_1000[2][0].reshape(28, 28))
        with pytest.raises(ValueError, match=r"X has 28 features.*pass image\[None\]"):
            fitted.predict(picture)
        fitted.predict([picture])

    @pytest.mark.parametrize(
        ("shape", "told"),
        [
            ((3, 8, 8), r"pass image\[None\]"),
            ((8, 8, 3), r"pass image.transpose\(2, 0, 1\)\[None\]"),
            ((2, 8, 8, 3), r"pass X.transpose\(0, 3, 1, 2\)"),
            ((2, 8, 8), r"64 features.*images of shape \(1, 8, 8\).*fitted with \(3, 8, 8\)"),
        ],
    )
    def test_colour_model(self, shape, told):
        X = np.random.default_rng(0).random((6, 3, 8, 8))
        classifier = small(max_iter=1).fit(X, [0, 1] * 3)
        with pytest.raises(ValueError, match=told):
            classifier.predict(np.random.default_rng(0).random(shape))

    def test_rows_that_could_be_one_image(self):
        """Rows of as many features are rows, whatever the shape of the images."""
        X = np.random.default_rng(0).random((20, 100))
        classifier = small(max_iter=1, image_shape=(1, 100)).fit(X, [0, 1] * 10)
        assert len(classifier.predict(X[:1])) == 1

    def test_later_chunks(self, fitted, mnist_1000):
        _, y, *_ = mnist_1000
        with pytest.raises(ValueError, match="model is grey"):
            fitted.partial_fit(np.zeros((2, 3, 28, 28), np.uint8), y[:2])


class TestContainers:
    """What holds images, and is no array of them; and data frames."""

    IMAGES = DIGITS[:12].reshape(-1, 8, 8)

    @staticmethod
    def objects(images):
        X = np.empty(len(images), object)
        X[:] = list(images)
        return X

    @pytest.mark.parametrize(
        "contain",
        [
            lambda images: pd.Series(list(images)),
            lambda images: pd.DataFrame({"image": list(images)}),
            lambda images: pd.Series(images.reshape(len(images), -1).tolist()),
            lambda images: TestContainers.objects(images),
            lambda images: TestContainers.objects(images)[:, None],
        ],
    )
    def test_arrays_in_rows(self, contain):
        y = [0, 1] * 6
        X = contain(self.IMAGES)
        with pytest.raises(ValueError, match=r"np.stack\(list\(...\)\).*one size"):
            small().fit(X, y)
        classifier = small(max_iter=1).fit(self.IMAGES, y)
        with pytest.raises(ValueError, match=r"np.stack\(list\(...\)\).*one size"):
            classifier.predict(X)

    def test_column_of_polars(self):
        pl = pytest.importorskip("polars", reason="needs polars")
        rows = self.IMAGES.reshape(12, 64).tolist()
        column = pl.Series(rows, dtype=pl.Array(pl.Float64, 64))
        with pytest.raises(ValueError, match=r"np.stack\(list\(...\)\)"):
            small().fit(pl.DataFrame({"image": column}), [0, 1] * 6)

    def test_pictures(self):
        Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
        pictures = [Image.fromarray(image.astype(np.uint8)) for image in self.IMAGES]
        expected = small(max_iter=1).fit(self.IMAGES.astype(np.uint8), [0, 1] * 6)
        actual = small(max_iter=1).fit(pictures, [0, 1] * 6)
        np.testing.assert_allclose(actual.coefs_[0], expected.coefs_[0], rtol=1e-4)
        with pytest.raises(ValueError, match=r"np.stack\(list\(...\)\)"):
            small().fit(pd.Series(pictures), [0, 1] * 6)
        with pytest.raises(ValueError, match=r"different shapes.*images need one size"):
            small().fit([pictures[0], pictures[1].resize((9, 9))], [0, 1])

    def test_images_beside_other_columns(self):
        frame = pd.DataFrame({"n": range(12), "image": list(self.IMAGES)})
        with pytest.raises(ValueError, match=r"first of shape \(8, 8\).*np.stack"):
            small().fit(frame, [0, 1] * 6)

    def test_images_of_several_sizes(self):
        with pytest.raises(ValueError, match=r"\(8, 8\), \(9, 8\).*images need one size"):
            small().fit([np.zeros((8, 8)), np.zeros((9, 8))], [0, 1])

    def test_column_of_numbers_is_none(self):
        X = pd.DataFrame({"a": np.arange(20.0)})
        small(max_iter=1).fit(X, [0, 1] * 10)
        small(max_iter=1).fit(X.astype(object), [0, 1] * 10)

    @pytest.mark.parametrize("name", FRAMES)
    def test_frames_of_integers_compute_in_float32(self, name):
        frame = pd.DataFrame(DIGITS.astype(np.uint8))
        expected = small().fit(frame, LABELS)
        actual = small().fit(FRAMES[name](frame), LABELS)
        assert actual.coefs_[0].dtype == np.float32
        if name in ("nullable", "objects"):
            np.testing.assert_allclose(actual.coefs_[0], expected.coefs_[0], rtol=1e-3, atol=1e-5)
            probabilities = actual.predict_proba(FRAMES[name](frame[:9]))
            np.testing.assert_allclose(probabilities, expected.predict_proba(frame[:9]), atol=1e-4)

    @pytest.mark.parametrize("dtype", [float, "Float64"])
    def test_one_column_of_float64_is_enough(self, dtype):
        frame = pd.DataFrame(DIGITS.astype(np.uint8)).convert_dtypes().astype({5: dtype})
        assert small(max_iter=1).fit(frame, LABELS).coefs_[0].dtype == np.float64

    def test_arrow(self):
        pytest.importorskip("pyarrow", reason="needs pyarrow")
        frame = pd.DataFrame(DIGITS.astype(np.uint8)).astype("uint8[pyarrow]")
        assert small(max_iter=1).fit(frame, LABELS).coefs_[0].dtype == np.float32

    def test_text(self):
        frame = pd.DataFrame(DIGITS.astype(np.uint8)).astype(str)
        assert small(max_iter=1).fit(frame, LABELS).coefs_[0].dtype == np.float64

    def test_nullable_labels(self):
        y = pd.Series(LABELS).convert_dtypes()
        assert small(max_iter=1).fit(DIGITS, y).classes_.dtype.kind == "i"

    def test_array_of_objects(self):
        X = DIGITS.astype(int)
        expected, actual = (small(max_iter=1).fit(x, LABELS) for x in (X, X.astype(object)))
        np.testing.assert_array_equal(actual.coefs_[0], expected.coefs_[0])

    def test_missing_values_are_refused(self):
        frame = pd.DataFrame(DIGITS.astype(np.uint8)).convert_dtypes()
        frame.iloc[3, 4] = pd.NA
        with pytest.raises(ValueError, match="NaN"):
            small().fit(frame, LABELS)


class TestScale:
    @pytest.mark.parametrize("value", [1e20, 3.4e38, -1e12])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_extreme_value(self, mnist_1000, value, dtype):
        X, y, *_ = mnist_1000
        X = X.astype(dtype)
        X[7, 300] = value
        message = rf"feature 300 of row 7 is {value:.6g}".replace("+", r"\+")
        with pytest.warns(UserWarning, match=message) as record:
            small(max_iter=1).fit(X, y)
        assert record[0].filename == __file__
        with pytest.warns(UserWarning, match=message):
            small().partial_fit(X, y, classes=range(10))

    @pytest.mark.parametrize("size", [1e-300, 1e-170, 1e-60, 1e60, 1e160, 1e300])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_any_range(self, size, dtype):
        """The same model, up to rounding, and no warning of NumPy's."""
        expected = small(dtype=dtype).fit(DIGITS, LABELS)
        actual = small(dtype=dtype).fit(DIGITS * size, LABELS)
        np.testing.assert_allclose(actual.loss_curve_, expected.loss_curve_, rtol=1e-3)
        np.testing.assert_allclose(
            actual.predict_proba(DIGITS * size), expected.predict_proba(DIGITS), atol=1e-3
        )

    @pytest.mark.parametrize("size", [1e-200, 1e200])
    def test_validation_set_of_any_range(self, size):
        """Half of each class, as ever: a hash that knows one value only would take all or none."""
        X = DIGITS * size
        data = Data(X, LABELS, np.ones(300), np.arange(300))
        training, validation = stratified_split(data, 0.5, 0)
        for side in (training, validation):
            counts = np.bincount(LABELS[side.rows], minlength=10)
            np.testing.assert_allclose(counts, np.bincount(LABELS) / 2, atol=1)

    def test_float32_at_its_ends(self):
        expected = small().fit(DIGITS.astype(np.float32), LABELS)
        for size in (1e-40, 1e37):
            X = DIGITS.astype(np.float32) * np.float32(size)
            actual = small().fit(X, LABELS)
            np.testing.assert_allclose(actual.loss_curve_, expected.loss_curve_, rtol=1e-3)

    def test_what_float64_cannot_hold(self):
        with pytest.raises(ValueError, match=r"The features of X, from .* are out of the range"):
            small().fit(DIGITS * 1e-322, LABELS)
        if np.finfo(np.longdouble).max > 1e4000:
            X = DIGITS.astype(np.longdouble) * np.longdouble("1e400")
            with pytest.raises(ValueError, match=r"The features of X, from 0 to 1.6e\+401"):
                small().fit(X, LABELS)


class TestRange:
    """Other data are in another range than the fitted ones'."""

    @pytest.mark.parametrize("name", OTHERS)
    @pytest.mark.parametrize("n_rows", [1, 20, 1000])
    def test_prediction(self, fitted, mnist_1000, name, n_rows):
        other = OTHERS[name](mnist_1000[2][:n_rows])
        with pytest.warns(
            UserWarning, match=r"X has values from .* was fitted with .* 0 to 255"
        ) as w:
            fitted.predict_proba(other)
        assert [warning.filename for warning in w] == [__file__]

    @pytest.mark.parametrize("method", ["predict", "predict_log_proba"])
    def test_every_method(self, fitted, mnist_1000, method):
        with pytest.warns(UserWarning, match="X has values from 0 to 1,"):
            getattr(fitted, method)(mnist_1000[2] / 255)

    def test_score(self, fitted, mnist_1000):
        with pytest.warns(UserWarning, match="X has values from 0 to 1,") as record:
            fitted.score(mnist_1000[2] / 255, mnist_1000[3])
        assert [warning.filename for warning in record] == [__file__]

    def test_the_other_way_round(self, mnist_1000):
        X, y, X_test, _ = mnist_1000
        classifier = small(max_iter=1).fit(X / 255, y)
        with pytest.warns(UserWarning, match=r"0 to 255,.* fitted with values from 0 to 1,"):
            classifier.predict(X_test[:1])

    def test_images_of_one_value_are_none(self, fitted):
        for value in (0, 255):
            fitted.predict(np.full((1, 784), value, np.uint8))
        fitted.predict(np.full((30, 784), 1.0))

    def test_black_images_among_others(self, fitted, mnist_1000):
        X = mnist_1000[2][:40].copy()
        X[10:] = 0
        fitted.predict(X)
        with pytest.warns(UserWarning, match="X has values"):
            fitted.predict(X / 255)

    def test_later_chunk(self, mnist_1000):
        X, y, *_ = mnist_1000
        classifier = small().partial_fit(X[:100], y[:100], classes=range(10))
        with pytest.warns(UserWarning, match="X has values from 0 to 1, ") as record:
            classifier.partial_fit(X[100:200] / 255, y[100:200])
        assert record[0].filename == __file__
        assert classifier.t_ == 200

    def test_warm_start(self, mnist_1000):
        X, y, *_ = mnist_1000
        classifier = small(max_iter=1, warm_start=True).fit(X, y)
        with pytest.warns(UserWarning, match="X has values from 0 to 1, "):
            classifier.fit(X / 255, y)

    def test_chunks_of_many_kinds(self):
        """What one chunk has not shown, a later one may: a single image is far from the first."""
        generator = np.random.default_rng(0)
        X = generator.normal(100, 20, (40, 100)) + np.repeat([0, 40], [35, 5])[:, None]
        y = generator.integers(0, 2, 40)
        classifier = small(max_iter=1).partial_fit(X[:20], y[:20], classes=[0, 1])
        with pytest.warns(UserWarning, match="X has values"):
            classifier.predict(X[-1:])
        classifier.partial_fit(X[20:], y[20:]).predict(X[-1:])

    def test_validation_set(self, mnist_1000):
        X, y, X_test, y_test = mnist_1000
        with pytest.warns(UserWarning, match="X_val has values from 0 to 1, ") as record:
            small(max_iter=1, early_stopping=True).fit(X, y, X_val=X_test / 255, y_val=y_test)
        assert record[0].filename == __file__

    def test_transformed_validation_set(self, mnist_1000):
        """As the user guide says."""
        X, y, X_test, y_test = mnist_1000
        classifier = small(max_iter=1, early_stopping=True)
        from sklearn import config_context

        with config_context(enable_metadata_routing=True):
            classifier.set_fit_request(X_val=True, y_val=True)
            pipeline = make_pipeline(StandardScaler(), classifier, transform_input=["X_val"])
            pipeline.fit(X.astype(np.float32), y, X_val=X_test.astype(np.float32), y_val=y_test)


class TestDivergence:
    @pytest.mark.parametrize(
        "parameters",
        [
            {"lr": 1e20},
            {"lr": 1e20, "solver": "sgd"},
            {"lr": 1e20, "solver": "adamw", "alpha": 0.1},
            {"lr": 1e20, "solver": "sgd", "ema_decay": 0.9},
            {"lr": 1e15, "dtype": "float64", "hidden_layer_sizes": (8,) * 20},
            {"alpha": 1e300, "solver": "sgd"},
        ],
    )
    def test_last_step(self, parameters):
        """The loss came before it, and is finite; partial_fit changes nothing."""
        classifier = small(batch_size=300, **parameters)
        with pytest.raises(ValueError, match=r"in epoch 1. The training diverged"):
            classifier.partial_fit(DIGITS, LABELS, classes=range(10))
        assert not hasattr(classifier, "classes_")
        classifier = small(batch_size=300).partial_fit(DIGITS, LABELS, classes=range(10))
        before = joblib.hash(vars(classifier.set_params(**parameters)))
        if not {"dtype", "hidden_layer_sizes"} & set(parameters):
            with pytest.raises(ValueError, match=r"in epoch 1. The training diverged"):
                classifier.partial_fit(DIGITS, LABELS)
            assert joblib.hash(vars(classifier)) == before

    @pytest.mark.parametrize("early_stopping", [False, True])
    @pytest.mark.parametrize("ema_decay", [None, 0.5])
    def test_later_epoch(self, early_stopping, ema_decay):
        """The weights are those of the best epoch before, and the fit goes on being one."""
        rate = {4: 1e30}
        parameters = {"early_stopping": early_stopping, "ema_decay": ema_decay}
        classifier = small(
            max_iter=9, lr_schedule=lambda epoch: rate.get(epoch, 0.005), **parameters
        )
        with pytest.warns(
            ConvergenceWarning, match=r"in epoch 5. .*'lr_schedule' returned .* 1e\+30.*epoch 4"
        ) as record:
            classifier.fit(DIGITS, LABELS)
        assert record[0].filename == __file__
        assert classifier.n_iter_ == len(classifier.loss_curve_) == 4
        expected = small(max_iter=4, lr_schedule=lambda epoch: 0.005, **parameters)
        expected.fit(DIGITS, LABELS)
        np.testing.assert_array_equal(classifier.coefs_[0], expected.coefs_[0])
        assert classifier.loss_curve_ == expected.loss_curve_
        rate.clear()
        assert np.isfinite(classifier.set_params(warm_start=True).fit(DIGITS, LABELS).loss_)

    def test_schedule_is_asked_once_an_epoch(self):
        asked = []

        def schedule(epoch):
            asked.append(epoch)
            return 1e30 if epoch == 2 else 0.005

        with pytest.warns(ConvergenceWarning, match=r"'lr_schedule' returned .*1e\+30"):
            small(max_iter=9, lr_schedule=schedule).fit(DIGITS, LABELS)
        assert asked == [0, 1, 2]

    def test_epoch_of_least_loss(self):
        rates = [0.005, 0.005, 0.3, 1e30]
        classifier = small(max_iter=4, lr_schedule=lambda epoch: rates[epoch], solver="sgd")
        with pytest.warns(ConvergenceWarning, match="those of epoch") as record:
            classifier.fit(DIGITS, LABELS)
        best = int(np.argmin(classifier.loss_curve_)) + 1
        assert f"those of epoch {best}," in str(record[0].message)
        assert np.isfinite(classifier.predict_proba(DIGITS)).all()

    @pytest.mark.parametrize(
        ("parameters", "cause"),
        [
            ({"lr": 1e30, "solver": "sgd"}, r"choose an 'lr' smaller than 1e\+30"),
            ({"solver": "adamw", "alpha": 1e10}, r"choose an 'alpha' smaller than 1e\+10"),
            ({"solver": "sgd", "alpha": 1e10}, r"choose an 'alpha' smaller than 1e\+10"),
            ({"lr_schedule": lambda epoch: 1e30}, r"'lr_schedule' returned .*1e\+30"),
            ({"augment": lambda images, generator: images * 1e30, "solver": "sgd"}, "'augment'"),
        ],
    )
    def test_causes(self, parameters, cause):
        with pytest.raises(ValueError, match=rf"The training diverged: .*{cause}"):
            small(**parameters).fit(DIGITS.astype(np.float32), LABELS)

    def test_outputs_that_are_not_finite(self):
        """No range is told of so few pixels; the network's numbers overflow."""
        pixels = DIGITS.reshape(-1, 8, 8)[:, :7, :7].reshape(-1, 49)
        classifier = small().fit(pixels, LABELS)
        with pytest.warns(UserWarning, match="Not all outputs are finite") as record:
            classifier.predict(pixels * 1e307)
        assert record[0].filename == __file__
        classifier.coefs_[-1][0, 0] = np.nan
        for method in (classifier.predict, classifier.predict_proba, classifier.score):
            with pytest.warns(UserWarning, match="the model's weights"):
                method(*((pixels, LABELS) if method == classifier.score else (pixels,)))

    def test_weights_that_are_changed_meanwhile(self):
        """They are those that `fit` was given."""
        weights = 1.0 + LABELS % 3
        expected = small(augment=lambda images, generator: images).fit(DIGITS, LABELS, weights)
        changed = weights.copy()

        def change(images, generator):
            changed[:] = 1
            return images

        actual = small(augment=change).fit(DIGITS, LABELS, changed)
        assert actual.loss_curve_ == expected.loss_curve_

    def test_weights(self):
        with pytest.raises(ValueError, match="sample_weight, times class_weight, must have a fin"):
            small().fit(DIGITS, LABELS, np.full(300, 1e307))
        with pytest.raises(ValueError, match=r"larger sample weights: their mean is 1e-200"):
            small(alpha=1.0, solver="sgd").fit(DIGITS, LABELS, np.full(300, 1e-200))

    def test_candidate_of_a_search_has_a_score(self):
        search = GridSearchCV(
            small(max_iter=3),
            {"lr_schedule": ["cosine", lambda epoch: 1e30 if epoch else 0.005]},
            cv=2,
        )
        with pytest.warns(ConvergenceWarning, match="diverged"):
            search.fit(DIGITS, LABELS)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


class TestOneAnswer:
    """A network that answers all images alike."""

    def test_too_large_steps(self):
        with pytest.warns(ConvergenceWarning, match=r"same answer.*'lr' smaller than 5.0,") as w:
            classifier = small(lr=5.0, max_iter=10).fit(DIGITS, LABELS)
        assert w[0].filename == __file__
        assert len(set(classifier.predict(DIGITS))) == 1

    @pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
    def test_saturated_units(self, mnist_1000, activation):
        X, y, *_ = mnist_1000
        classifier = LeNetClassifier(lr=0.5, activation=activation, max_iter=4, random_state=0)
        with pytest.warns(ConvergenceWarning, match="same answer"):
            classifier.fit(X, y)

    def test_one_certain_class(self):
        """Outputs that vary, but by so much that the probabilities do not."""
        with pytest.warns(ConvergenceWarning, match="same answer"):
            small(lr=1e5, alpha=1e10, batch_size=20).fit(DIGITS[:60], LABELS[:60])

    def test_penalty(self):
        with pytest.warns(ConvergenceWarning, match=r"same answer.*'alpha' smaller than 10000000"):
            small(alpha=1e7, lr=0.02, max_iter=30).fit(DIGITS, LABELS)

    def test_constant_images(self):
        with pytest.warns(ConvergenceWarning, match=r"The images of X are all the same"):
            small().fit(np.ones((20, 64)), [0, 1] * 10)

    def test_what_is_none(self):
        small(lr=1e-9).fit(DIGITS, LABELS)
        generator = np.random.default_rng(0)
        small().fit(DIGITS, generator.integers(0, 10, 300))
        noise = generator.integers(0, 256, (20_000, 784)).astype(np.uint8)
        LeNetClassifier(max_iter=1, random_state=0).fit(noise, generator.integers(0, 10, 20_000))
        small().fit(DIGITS, np.zeros(300))  # one class
        small().fit(DIGITS[:1], [0])
        small(max_iter=1).partial_fit(np.ones((20, 64)), [0, 1] * 10, classes=[0, 1])


class TestLabels:
    ONE_HOT = np.eye(10, dtype=int)[LABELS]

    @pytest.mark.parametrize(
        "encode",
        [
            lambda y: y,
            lambda y: y.astype(float),
            lambda y: y.astype(bool),
            lambda y: pd.DataFrame(y),
            lambda y: pd.get_dummies(pd.Series(y.argmax(axis=1))),
            lambda y: y.tolist(),
        ],
    )
    def test_one_hot(self, encode):
        y, told = encode(self.ONE_HOT), r"one-hot encoded: pass y.argmax\(axis=1\)"
        with pytest.raises(ValueError, match=told):
            small().fit(DIGITS, y)
        with pytest.raises(ValueError, match=told):
            small().partial_fit(DIGITS, y, classes=range(10))
        fitted = small().fit(DIGITS, LABELS)
        with pytest.raises(ValueError, match=told):
            fitted.score(DIGITS, y)
        with pytest.raises(ValueError, match=told.replace("y.", "y_val.", 1)):
            small(early_stopping=True).fit(DIGITS, LABELS, X_val=DIGITS, y_val=y)

    def test_several_labels(self):
        y = np.column_stack([LABELS % 2, LABELS > 4, LABELS > 2])
        for labels in (y, np.column_stack([LABELS, LABELS])):
            with pytest.raises(ValueError, match=r"sklearn.multioutput.MultiOutputClassifier"):
                small().fit(DIGITS, labels)
        MultiOutputClassifier(small(max_iter=1)).fit(DIGITS, y)

    def test_column_at_score(self):
        fitted = small().fit(DIGITS, LABELS)
        with pytest.warns(DataConversionWarning):
            score = fitted.score(DIGITS, LABELS[:, None])
        assert score == fitted.score(DIGITS, LABELS)

    @pytest.mark.parametrize(
        ("classes", "told"),
        [
            (np.eye(3), "classes must be the labels"),
            ([], "classes must be the labels"),
            ([0, 1, np.nan], "classes must be the labels.*Input classes contains NaN"),
            (5, "classes must be the labels"),
        ],
    )
    def test_classes(self, classes, told):
        with pytest.raises(ValueError, match=told):
            small().partial_fit(DIGITS, LABELS, classes=classes)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"X_val": DIGITS[:, :60]}, "X_val has 60 features"),
            ({"X_val": np.full((300, 64), np.nan)}, "Input X_val contains NaN"),
            ({"X_val": DIGITS[:5]}, r"X_val, y_val, sample_weight_val: .* inconsistent"),
            ({"y_val": LABELS + 0.5}, "y_val|Unknown label type"),
            ({"y_val": LABELS + 3}, "y_val contains labels"),
            ({"sample_weight_val": np.zeros(300)}, "sample_weight_val must contain"),
            ({"sample_weight_val": -np.ones(300)}, "sample_weight_val"),
            ({"sample_weight_val": np.ones((300, 2))}, "sample_weight_val must be a 1D"),
            (
                {"X_val": DIGITS.reshape(-1, 8, 8)[:, :6]},
                r"X_val has 48 features.*X_val has images",
            ),
        ],
    )
    def test_faults_of_the_validation_set(self, changes, told):
        held_out = {"X_val": DIGITS, "y_val": LABELS} | changes
        with pytest.raises(ValueError, match=told):
            small(early_stopping=True).fit(DIGITS, LABELS, **held_out)


class TestMasks:
    def test_masked_values_are_refused(self):
        X, y, weights = (np.ma.array(a) for a in (DIGITS, LABELS, np.ones(300)))
        fitted = small(max_iter=1).fit(X, y, weights)
        fitted.predict(X)
        X[3, 4] = np.ma.masked
        for call in (lambda: small().fit(X, LABELS), lambda: fitted.predict(X)):
            with pytest.raises(ValueError, match="X is a masked array"):
                call()
        y[0] = weights[0] = np.ma.masked
        with pytest.raises(ValueError, match="y is a masked array"):
            small().fit(DIGITS, y)
        with pytest.raises(ValueError, match="sample_weight is a masked array"):
            small().fit(DIGITS, LABELS, weights)
        with pytest.raises(ValueError, match="X_val is a masked array"):
            small(early_stopping=True).fit(DIGITS, LABELS, X_val=X, y_val=LABELS)


class TestProbabilities:
    """Of float64, as scikit-learn's, unless X is float32."""

    @pytest.mark.parametrize("n_classes", [1, 2, 10, 100])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float32])
    def test_sum_to_one(self, n_classes, dtype):
        X = np.vstack([DIGITS] * 2).astype(dtype)
        fitted = small(max_iter=1).fit(X, np.arange(600) % n_classes)
        proba, log_proba = fitted.predict_proba(X), fitted.predict_log_proba(X)
        expected = np.float32 if dtype is np.float32 else np.float64
        assert proba.dtype == log_proba.dtype == expected
        tolerance = 1e-6 if dtype is np.float32 else 1e-15
        assert abs(proba.sum(axis=1) - 1).max() <= tolerance
        np.testing.assert_allclose(np.exp(log_proba), proba, rtol=1e-6)
        assert proba.flags.c_contiguous

    def test_are_plain_numbers_to_others(self):
        X = DIGITS.astype(np.uint8)
        proba = small(max_iter=1).fit(X, LABELS).predict_proba(X)
        assert json.loads(json.dumps({"p": proba[0, 0]}))["p"] == proba[0, 0]
        for row in proba:
            assert np.random.default_rng(0).multinomial(100, row).sum() == 100


class TestWarnings:
    """They come once the state is stored, and point at the user's line."""

    @pytest.mark.parametrize(
        ("parameters", "arguments", "category"),
        [
            ({"tol": 0.0}, (DIGITS, LABELS), ConvergenceWarning),
            ({}, (DIGITS, LABELS[:, None]), DataConversionWarning),
            ({}, (np.hstack([DIGITS, DIGITS[:, :9]]), LABELS), ImageShapeWarning),
            ({}, (np.ones((300, 64)), LABELS), ConvergenceWarning),
            ({"lr_schedule": lambda e: 1e30 if e else 0.01}, (DIGITS, LABELS), ConvergenceWarning),
        ],
    )
    def test_as_errors(self, parameters, arguments, category):
        classifier, expected = small(**parameters), small(**parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected.fit(*arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(category):
                classifier.fit(*arguments)
        np.testing.assert_array_equal(classifier.coefs_[0], expected.coefs_[0])
        assert classifier.n_iter_ == expected.n_iter_

    def test_point_at_the_user(self):
        pipeline = make_pipeline(StandardScaler(), small(tol=0.0))
        with pytest.warns(ConvergenceWarning) as record:
            pipeline.fit(DIGITS, LABELS)
        assert record[0].filename == __file__
        with pytest.warns(ConvergenceWarning) as record:
            cross_val_score(pipeline, DIGITS, LABELS, cv=2)
        assert {warning.filename for warning in record} == {__file__}

    def test_block_that_raises_warns_of_nothing(self):
        def block():
            with Deferred():
                warn("never seen")
                raise KeyError

        with pytest.raises(KeyError):
            block()

    def test_blocks_within_each_other(self):
        seen = []

        def blocks(record):
            with Deferred():
                with Deferred():
                    warn("inner")
                seen.append(len(record))

        with pytest.warns(UserWarning, match="inner") as record:
            blocks(record)
        assert seen == [0]


class TestSaneDataAreSilent:
    @pytest.mark.parametrize("scale", [lambda X: X, lambda X: X / 255, lambda X: X.astype(float)])
    def test_mnist(self, mnist_1000, scale):
        X, y, X_test, _ = mnist_1000
        classifier = small(max_iter=1).fit(scale(X), y)
        classifier.predict(scale(X_test))
        for n in range(20):
            classifier.predict(scale(X_test[n : n + 1]))

    def test_standardized_by_feature(self, mnist_1000):
        X, y, X_test, y_test = mnist_1000
        make_pipeline(StandardScaler(), small()).fit(X, y).score(X_test, y_test)

    @pytest.mark.parametrize("load", [load_digits, load_iris])
    def test_bundled_sets(self, load):
        X, y = load(return_X_y=True)
        classifier = small(max_iter=1).fit(X[::2], y[::2])
        classifier.predict(X[1::2])
        for n in range(1, 60, 2):
            classifier.predict(X[n : n + 1])

    def test_chunks_of_20(self, mnist_1000):
        X, y, X_test, _ = mnist_1000
        classifier = small()
        for begin in range(0, 400, 20):
            part = slice(begin, begin + 20)
            classifier.partial_fit(X[part], y[part], classes=range(10))
            classifier.predict(X_test[part])

    def test_steps_in_front(self, mnist_1000):
        X, y, X_test, _ = mnist_1000
        make_pipeline(PCA(49, random_state=0), small()).fit(X, y).predict(X_test)
        crop = X.reshape(-1, 28, 28)[:, 4:24, 4:24]
        small().fit(crop, y).predict(X_test.reshape(-1, 28, 28)[:, 4:24, 4:24])

    @pytest.mark.parametrize("dtype", [bool, np.int16, np.uint16, np.float16, np.float32])
    def test_narrow_types_give_the_same_bits(self, dtype):
        """As the user guide says; wider ones agree up to rounding."""
        pixels = (DIGITS > 8).astype(np.uint8) if dtype is bool else DIGITS.astype(np.uint8)
        expected = small().fit(pixels, LABELS)
        actual = small().fit(pixels.astype(dtype), LABELS)
        np.testing.assert_array_equal(actual.coefs_[0], expected.coefs_[0])
        wide = small().fit(pixels.astype(np.int64), LABELS)
        np.testing.assert_allclose(wide.coefs_[0], expected.coefs_[0], rtol=1e-3, atol=1e-4)
