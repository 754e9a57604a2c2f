"""What a user of `LeNetClassifier` relies on."""

import copy
import pickle
import signal
import threading
import tracemalloc
import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_info

from sklearn_lenet import ImageShapeWarning, LeNetClassifier


def images(n_samples=60, shape=(12, 12), n_classes=3, seed=0, dtype=np.float32):
    """Make noise with one bright bar a class: quick to learn."""
    generator = np.random.default_rng(seed)
    y = np.arange(n_samples) % n_classes
    X = generator.random((n_samples, *shape))
    for i, label in enumerate(y):
        X[i, ..., 3 * label : 3 * label + 2, :] += 1
    return (X.reshape(n_samples, -1) * 100).astype(dtype), y


def noise(*shape):
    return np.random.default_rng(0).random(shape)


X, Y = images()


def model(**parameters):
    """Make a quick one, at a constant rate: then the epochs of several calls add up."""
    defaults = {"random_state": 0, "max_iter": 3, "batch_size": 16, "lr_schedule": "constant"}
    return LeNetClassifier(**(defaults | parameters))


def assert_same_bits(first, second):
    for a, b in zip(
        first.coefs_ + first.intercepts_, second.coefs_ + second.intercepts_, strict=True
    ):
        np.testing.assert_array_equal(a, b)


class TestLearning:
    def test_sample_of_mnist(self, sample):
        X, y, X_test, y_test = sample
        classifier = LeNetClassifier(lr=0.005, max_iter=6, random_state=0).fit(X, y)
        assert classifier.score(X_test, y_test) >= 0.96

    @pytest.mark.parametrize("scaling", ["raw", "0..1", "standardized"])
    def test_any_range_of_pixels(self, sample, scaling):
        X, y, X_test, y_test = sample
        X, X_test = X.astype(np.float32), X_test.astype(np.float32)
        if scaling != "raw":
            X, X_test = X / 255, X_test / 255
        if scaling == "standardized":
            mean, std = X.mean(axis=0), X.std(axis=0)
            std[std == 0] = 1
            X, X_test = (X - mean) / std, (X_test - mean) / std
        assert model(max_iter=8, batch_size=64).fit(X, y).score(X_test, y_test) >= 0.94

    @pytest.mark.slow
    def test_small_images(self):
        X, y = load_digits(return_X_y=True)
        folds = StratifiedKFold(shuffle=True, random_state=0)
        classifier = LeNetClassifier(random_state=0, dtype="float32")
        assert cross_val_score(classifier, X, y, cv=folds).mean() > 0.98

    @pytest.mark.parametrize("solver", ["sgd", "adam"])
    @pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
    @pytest.mark.parametrize("pooling", ["avg", "max"])
    def test_every_kind_of_network_learns(self, solver, activation, pooling):
        classifier = model(
            solver=solver, activation=activation, pooling=pooling, max_iter=40, batch_size=8
        ).fit(X, Y)
        assert classifier.score(X, Y) == 1
        assert classifier.loss_curve_[-1] < classifier.loss_curve_[0] / 2

    def test_lists_of_images(self):
        as_lists = model().fit([list(image) for image in X.reshape(-1, 12, 12)], list(Y))
        assert as_lists.image_shape_ == (1, 12, 12)
        assert_same_bits(as_lists, model().fit(X, Y))
        np.testing.assert_array_equal(
            as_lists.predict(list(X.reshape(-1, 12, 12))), as_lists.predict(X)
        )

    def test_channels_last_are_refused(self):
        for channels in (1, 3, 4):
            with pytest.raises(ValueError, match=r"channels last.*X.transpose\(0, 3, 1, 2\)"):
                model().fit(np.ones((4, 12, 12, channels)), [0, 1, 0, 1])

    def test_geometry_parameters(self):
        classifier = model(
            conv_channels=(3, 4, 5),
            kernel_size=(3, 2, 1),
            stride=(2, 1, 1),
            padding=1,
            hidden_layer_sizes=(),
        ).fit(X, Y)
        assert [coef.shape for coef in classifier.coefs_[:3]] == [
            (3, 1, 3, 3),
            (4, 3, 2, 2),
            (5, 4, 1, 1),
        ]
        assert len(classifier.coefs_) == len(classifier.intercepts_) == 4

    def test_default_network_is_lenet(self, sample):
        X, y, *_ = sample
        classifier = model(max_iter=1).fit(X[:100], y[:100])
        assert sum(a.size for a in classifier.coefs_ + classifier.intercepts_) == 61_706
        assert [coef.shape for coef in classifier.coefs_] == [
            (6, 1, 5, 5),
            (16, 6, 5, 5),
            (120, 400),
            (84, 120),
            (10, 84),
        ]

    def test_l2_penalty_shrinks_weights(self):
        free, held = (model(alpha=alpha, max_iter=20).fit(X, Y) for alpha in (0, 1.0))
        assert all(
            np.linalg.norm(b) < np.linalg.norm(a)
            for a, b in zip(free.coefs_, held.coefs_, strict=True)
        )

    def test_cosine_schedule_ends_slowly(self):
        steps = []
        for schedule in ("constant", "cosine"):
            curve = model(lr_schedule=schedule, max_iter=8, lr=1e-3).fit(X, Y).loss_curve_
            steps.append(np.abs(np.diff(curve[-3:])).max())
        assert steps[1] < steps[0]

    def test_diverging_training_is_an_error(self):
        with pytest.raises(ValueError, match=r"diverged: choose an 'lr' smaller than 1000000"):
            model(solver="sgd", lr=1e6).fit(X, Y)


class TestInput:
    def test_images_of_three_and_four_axes_are_the_same_as_rows(self):
        rows = model().fit(X, Y)
        for shape in ((12, 12), (1, 12, 12)):
            as_images = X.reshape(-1, *shape)
            other = model().fit(as_images, Y)
            assert_same_bits(rows, other)
            for name in ("predict", "predict_proba"):
                expected = getattr(rows, name)(X)
                np.testing.assert_array_equal(getattr(other, name)(as_images), expected)
                np.testing.assert_array_equal(getattr(other, name)(X), expected)
        assert rows.image_shape_ == other.image_shape_ == (1, 12, 12)
        assert other.n_features_in_ == 144

    def test_colour(self):
        X, y = images(shape=(3, 12, 12))
        colour = model().fit(X.reshape(-1, 3, 12, 12), y)
        assert colour.image_shape_ == (3, 12, 12)
        assert_same_bits(colour, model(image_shape=(3, 12, 12)).fit(X, y))

    def test_rows_that_may_be_colour_images_are_refused(self):
        with pytest.raises(ValueError, match=r"pass image_shape=\(3, 8, 8\)"):
            model().fit(np.ones((4, 192)), [0, 1, 0, 1])

    @pytest.mark.parametrize(
        ("n_features", "shape"),
        [(1, (1, 1)), (3, (2, 2)), (10, (4, 3)), (30, (6, 5)), (64, (8, 8))],
    )
    def test_shape_of_flat_rows(self, n_features, shape):
        classifier = model(max_iter=1).fit(noise(6, n_features), [0, 1] * 3)
        assert classifier.image_shape_ == (1, *shape)

    def test_guess_of_a_large_shape_warns(self):
        with pytest.warns(
            ImageShapeWarning, match=r"2914 features.*54 x 54.*image_shape=\(H, W\)"
        ) as w:
            model(max_iter=1).fit(noise(6, 2914), [0, 1] * 3)
        assert w[0].filename == __file__
        classifier = model(max_iter=1, image_shape=(62, 47)).fit(noise(6, 2914), [0, 1] * 3)
        assert classifier.image_shape_ == (1, 62, 47)

    @pytest.mark.parametrize("shape", [(8, 8, 1), (4, 16), (3, 8, 8)])
    def test_images_of_another_shape_are_refused(self, shape):
        classifier = model(max_iter=1).fit(noise(6, 8, 8), [0, 1] * 3)
        with pytest.raises(ValueError, match=r"fitted with \(1, 8, 8\)|channels last"):
            classifier.predict(noise(2, *shape))

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float16, np.float32, bool])
    def test_types_of_pixels(self, dtype):
        pixels = X > 120 if dtype is bool else X.astype(np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            classifier = model().fit(pixels.astype(dtype), Y)
        assert {a.dtype for a in classifier.coefs_} == {np.dtype(np.float32)}
        expected = np.float32 if dtype is np.float32 else np.float64
        assert classifier.predict_proba(pixels.astype(dtype)).dtype == expected
        other = model().fit(pixels.astype(np.float32), Y)
        np.testing.assert_allclose(classifier.coefs_[0], other.coefs_[0], rtol=1e-3, atol=1e-5)

    def test_float64_trains_in_float64_unless_told(self):
        assert model().fit(X.astype(float), Y).coefs_[0].dtype == np.float64
        classifier = model(dtype="float32").fit(X.astype(float), Y)
        assert classifier.coefs_[0].dtype == np.float32
        assert classifier.predict_proba(X.astype(float)).dtype == np.float64
        assert model(dtype="float64").fit(X, Y).coefs_[0].dtype == np.float64

    @pytest.mark.slow
    def test_integers_are_not_copied(self, sample):
        X, y, *_ = sample
        tall = np.broadcast_to(X[:64], (2000, 64, 784)).reshape(-1, 784)  # 100 MB
        labels = np.tile(y[:64], 2000)
        tracemalloc.start()
        model(max_iter=1, n_jobs=1, batch_size=64).fit(tall[:64000], labels[:64000])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40e6

    def test_labels_of_any_type(self):
        names = np.array(["seven", "one", "nine"])
        by_name = model().fit(X, names[Y])
        assert list(by_name.classes_) == ["nine", "one", "seven"]
        assert set(by_name.predict(X)) <= set(names)
        gaps = model().fit(X, np.array([-5, 300, 7], np.int32)[Y])
        assert list(gaps.classes_) == [-5, 7, 300]

    @pytest.mark.parametrize("constant", [0.0, 7.0, -1e9])
    def test_constant_features(self, constant):
        with pytest.warns(ConvergenceWarning, match="images of X are all the same"):
            classifier = model().fit(np.full((8, 16), constant), [0, 1] * 4)
        assert np.isfinite(classifier.predict_proba(np.full((2, 16), constant))).all()

    def test_far_offset_does_not_hide_the_images(self):
        shifted = X.astype(float) + 1e9
        classifier = model(dtype="float32", max_iter=40).fit(shifted, Y)
        assert classifier.score(shifted, Y) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value", "allowed"),
        [
            ("lr", 0, r"a float in the range \(0\.0, inf\)"),
            ("lr", float("nan"), "a float"),
            ("lr", "fast", "a float"),
            ("lr", True, "a float"),
            ("batch_size", 0, r"an int in the range \[1, 2\*\*63\)"),
            ("batch_size", 2.5, "an int"),
            ("max_iter", 0, "an int"),
            ("max_iter", "many", r"an int in the range .* or a str among \{'auto'\}"),
            ("solver", "lbfgs", r"a str among \{'sgd', 'adam', 'adamw'\}"),
            ("momentum", 1.5, r"a float in the range \[0\.0, 1\.0\]"),
            ("nesterovs_momentum", "yes", "a bool"),
            ("beta_1", 1.0, r"a float in the range \[0\.0, 1\.0\)"),
            ("beta_2", -0.1, r"a float in the range \[0\.0, 1\.0\)"),
            ("lr_schedule", "exponential", "a str among"),
            ("alpha", -1, "a float"),
            ("conv_channels", (), "a tuple of ints"),
            ("conv_channels", 6, "a tuple of ints"),
            ("kernel_size", 0, "an int in the range .* or a tuple of ints"),
            ("kernel_size", (5, 5, 5), "one int for each of the 2 'conv_channels'"),
            ("stride", 0, "an int"),
            ("padding", -1, "an int"),
            ("pooling", "median", r"a str among \{'avg', 'max'\}"),
            ("hidden_layer_sizes", (0,), "a tuple of ints"),
            ("activation", "softplus", "a str among"),
            ("image_shape", (12,), r"None or a tuple \(H, W\) or \(C, H, W\)"),
            ("dtype", "float16", "a str among"),
            ("shuffle", 1, "a bool"),
            ("tol", -1e-3, "a float in .* or None"),
            ("ema_decay", 1, r"a float in the range \(0\.0, 1\.0\) or None"),
            ("label_smoothing", 1.0, r"a float in the range \[0\.0, 1\.0\)"),
            ("augment", "flip", r"a str among \{'affine', 'elastic'\} or a callable or None"),
            ("n_iter_no_change", 0, r"an int in the range \[1, 2\*\*63\) or np.inf"),
            ("early_stopping", "loss", "a bool"),
            ("scoring", "losses", r"'loss', a str among .* or a callable or None"),
            ("validation_fraction", 1.0, r"a float in the range \(0\.0, 1\.0\)"),
            ("class_weight", "auto", "a dict or a str among"),
            ("warm_start", None, "a bool"),
            ("verbose", -1, "a bool or an int"),
            ("n_jobs", 0, "None or an int other than 0"),
        ],
    )
    def test_parameters(self, name, value, allowed):
        estimator = model(**{name: value})
        before = dict(vars(estimator))
        message = rf"The '{name}' parameter of LeNetClassifier must .*{allowed}.*Got .* instead"
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, Y)
        assert vars(estimator) == before

    def test_random_state(self):
        with pytest.raises(ValueError, match="The 'random_state' parameter"):
            model(random_state="zero").fit(X, Y)

    def test_kernel_larger_than_the_image(self):
        with pytest.raises(
            ValueError, match="kernel_size=9 is larger than the padded images: they are 4 x 4"
        ):
            model(kernel_size=9).fit(noise(6, 4, 4), [0, 1] * 3)

    def test_image_shape_of_another_size(self):
        with pytest.raises(
            ValueError, match=r"image_shape=\(11, 13\) is 143 features.*X has 144 features"
        ):
            model(image_shape=(11, 13)).fit(X, Y)
        with pytest.raises(ValueError, match=r"X has images of shape \(1, 12, 12\)"):
            model(image_shape=(9, 16)).fit(X.reshape(-1, 12, 12), Y)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (np.zeros(60), "at least one non-zero"),
            (-np.ones(60), "[Nn]egative"),
            (np.full(60, np.nan), "NaN"),
            (np.ones(59), "inconsistent"),
            (np.ones((60, 2)), "1D"),
        ],
    )
    def test_sample_weights(self, weights, message):
        with pytest.raises(ValueError, match=message):
            model().fit(X, Y, sample_weight=weights)

    def test_not_fitted(self):
        for method in ("predict", "predict_proba", "predict_log_proba"):
            with pytest.raises(NotFittedError):
                getattr(model(), method)(X)
        assert not hasattr(model(), "coefs_")

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    @pytest.mark.parametrize("fitted", [False, True])
    @pytest.mark.parametrize(
        ("bad_X", "bad_y"),
        [(X[:, :100], Y), (X, Y[:-1]), (np.where(X > 90, np.nan, X), Y), (X, None), (X, Y / 7.5)],
        ids=["features", "length", "nan", "no y", "continuous"],
    )
    def test_failed_call_changes_nothing(self, method, fitted, bad_X, bad_y):
        estimator = model(warm_start=True)
        if fitted:
            estimator.fit(X, Y)
        before = copy.deepcopy(vars(estimator))
        arguments = {"classes": [0, 1, 2]} if method == "partial_fit" else {}
        if not fitted and bad_X is not X and bad_X.shape[1] == 100:
            bad_X = bad_X[0]
        with pytest.raises(ValueError):  # noqa: PT011 (scikit-learn's own messages)
            getattr(estimator, method)(bad_X, bad_y, **arguments)
        after = vars(estimator)
        assert before.keys() == after.keys()
        np.testing.assert_equal(after, before)

    def test_diverging_fit_changes_nothing(self):
        estimator = model(solver="sgd").fit(X, Y)
        before = copy.deepcopy(vars(estimator)) | {"lr": 1e6}
        with pytest.raises(ValueError, match="diverged"):
            estimator.set_params(lr=1e6).fit(X, Y)
        np.testing.assert_equal(vars(estimator), before)


class TestContinuing:
    @pytest.mark.parametrize("solver", ["sgd", "adam"])
    @pytest.mark.parametrize("reload", [False, True])
    def test_six_epochs_are_six_epochs(self, solver, reload, tmp_path):
        def reloaded(estimator):
            if not reload:
                return estimator
            joblib.dump(estimator, tmp_path / "model.joblib")
            return joblib.load(tmp_path / "model.joblib")

        weights = np.random.default_rng(0).random(len(Y))
        whole = model(solver=solver, max_iter=6).fit(X, Y, sample_weight=weights)
        warm = model(solver=solver, max_iter=3, warm_start=True).fit(X, Y, sample_weight=weights)
        warm = reloaded(warm).fit(X, Y, sample_weight=weights)
        partial = model(solver=solver)
        for _ in range(6):
            partial = reloaded(partial).partial_fit(X, Y, [0, 1, 2], sample_weight=weights)
        assert_same_bits(whole, warm)
        assert_same_bits(whole, partial)
        assert whole.loss_curve_ == warm.loss_curve_ == partial.loss_curve_
        assert (whole.n_iter_, warm.n_iter_, partial.n_iter_) == (6, 3, 1)
        assert whole.t_ == warm.t_ == partial.t_ == 6 * 60

    def test_partial_fit_after_loading_a_memory_map(self, tmp_path):
        joblib.dump(model().fit(X, Y), tmp_path / "model.joblib")
        mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r").partial_fit(X, Y)
        assert_same_bits(mapped, model().fit(X, Y).partial_fit(X, Y))

    def test_second_fit_begins_anew(self):
        estimator = model()
        first = copy.deepcopy(estimator.fit(X, Y))
        assert_same_bits(first, estimator.fit(X, Y))

    def test_first_chunk_without_some_class(self):
        estimator = model().partial_fit(X[Y < 2], Y[Y < 2], classes=[0, 1, 2])
        estimator.partial_fit(X, Y)
        assert estimator.predict_proba(X).shape == (60, 3)
        warm = model(warm_start=True).fit(X, Y).fit(X[Y < 2], Y[Y < 2])
        assert list(warm.classes_) == [0, 1, 2]

    def test_classes_of_partial_fit(self):
        with pytest.raises(ValueError, match="classes must be passed on the first call"):
            model().partial_fit(X, Y)
        estimator = model().partial_fit(X, Y, classes=[0, 1, 2])
        with pytest.raises(ValueError, match="is not the same as on last call to partial_fit"):
            estimator.partial_fit(X, Y, classes=[0, 1])
        with pytest.raises(ValueError, match="y contains labels that are not in classes"):
            estimator.partial_fit(X, Y + 1)

    @pytest.mark.parametrize("parameters", [{"early_stopping": True}, {"class_weight": "balanced"}])
    def test_no_partial_fit_where_all_data_are_needed(self, parameters):
        with pytest.raises(AttributeError) as error:
            model(**parameters).partial_fit(X, Y, classes=[0, 1, 2])
        assert "not support" in str(error.value.__cause__)

    def test_network_cannot_change(self):
        estimator = model(warm_start=True).fit(X, Y).set_params(hidden_layer_sizes=(10,))
        for method in ("fit", "partial_fit"):
            with pytest.raises(
                ValueError, match=r"hidden_layer_sizes=\(10,\) is not what the network"
            ):
                getattr(estimator, method)(X, Y)
        estimator.set_params(warm_start=False).fit(X, Y)
        for parameters in ({"image_shape": (9, 16)}, {"dtype": "float64"}):
            (name,) = parameters
            with pytest.raises(ValueError, match=f"{name}=.* is not what the network was fitted"):
                clone(estimator).fit(X, Y).set_params(**parameters).partial_fit(X, Y)

    def test_predictions_do_not_follow_set_params(self):
        estimator = model().fit(X, Y)
        expected = estimator.predict_proba(X)
        estimator.set_params(kernel_size=3, activation="tanh", image_shape=(9, 16))
        np.testing.assert_array_equal(estimator.predict_proba(X), expected)


class TestStopping:
    @pytest.mark.parametrize(
        ("n_samples", "epochs"),
        [
            (40, 100),
            pytest.param(3000, 34, marks=pytest.mark.slow),
            pytest.param(6000, 20, marks=pytest.mark.slow),
        ],
    )
    def test_small_sets_get_more_epochs(self, n_samples, epochs):
        X, y = noise(n_samples, 4), np.arange(n_samples) % 2
        estimator = model(max_iter="auto", batch_size=1000, conv_channels=(1, 1)).fit(X, y)
        assert estimator.n_iter_ == epochs
        assert estimator.t_ == epochs * n_samples

    def test_tol_and_n_iter_no_change(self):
        estimator = model(max_iter=50, tol=1e9, n_iter_no_change=4).fit(X, Y)
        assert estimator.n_iter_ == 5  # the first is better than nothing
        assert model(max_iter=20, n_iter_no_change=1).fit(X, Y).n_iter_ == 20  # without tol

    def test_convergence_warning(self):
        with pytest.warns(ConvergenceWarning, match=r"iterations \(2\) reached") as w:
            model(max_iter=2, tol=1e-4).fit(X, Y)
        assert w[0].filename == __file__
        model(tol=1e-4).partial_fit(X, Y, classes=[0, 1, 2])

    def test_attributes_without_early_stopping(self):
        estimator = model().fit(X, Y)
        assert len(estimator.loss_curve_) == estimator.n_iter_ == 3
        assert estimator.loss_ == estimator.loss_curve_[-1]
        assert estimator.best_loss_ == min(estimator.loss_curve_)
        assert estimator.validation_scores_ is estimator.validation_loss_curve_ is None
        assert estimator.best_validation_score_ is None

    def test_early_stopping(self):
        generator = np.random.default_rng(0)
        noise = generator.random((200, 144)).astype(np.float32)
        labels = generator.integers(2, size=200)  # nothing to learn: the score soon stops rising
        estimator = model(early_stopping=True, max_iter=100, n_iter_no_change=5).fit(noise, labels)
        assert estimator.n_iter_ < 100
        assert len(estimator.validation_scores_) == estimator.n_iter_
        assert len(estimator.validation_loss_curve_) == estimator.n_iter_
        assert estimator.best_validation_score_ == max(estimator.validation_scores_)
        assert estimator.best_loss_ is None

    def test_early_stopping_restores_the_best_weights(self):
        """With the weights of the best epoch, the run repeated up to there agrees to the bit."""
        generator = np.random.default_rng(0)
        noise = generator.random((200, 144)).astype(np.float32)
        labels = generator.integers(2, size=200)
        long = model(early_stopping=True, max_iter=30, n_iter_no_change=6).fit(noise, labels)
        best = int(np.argmax(long.validation_scores_)) + 1
        assert best < long.n_iter_
        assert_same_bits(long, model(early_stopping=True, max_iter=best).fit(noise, labels))

    def test_validation_set_is_not_learnt_from(self):
        estimator = model(early_stopping=True, validation_fraction=0.5, max_iter=2).fit(X, Y)
        assert estimator.t_ == 2 * 30

    def test_early_stopping_needs_two_samples(self):
        with pytest.raises(ValueError, match=r"two different samples of a class.* Got 1 sample"):
            model(early_stopping=True).fit(X[:1], Y[:1])

    @pytest.mark.parametrize("early_stopping", [False, True])
    def test_keyboard_interrupt_keeps_the_weights_so_far(self, early_stopping):
        before = threading.active_count()
        estimator = model(max_iter=100_000, n_iter_no_change=np.inf, n_jobs=2)
        estimator.set_params(early_stopping=early_stopping)
        main = threading.main_thread().ident
        timer = threading.Timer(1.0, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.warns(UserWarning, match="interrupted by user"):
            estimator.fit(X, Y)
        timer.join()
        assert 0 < estimator.n_iter_ < 100_000
        assert len(estimator.loss_curve_) == estimator.n_iter_
        assert estimator.score(X, Y) == 1
        assert threading.active_count() == before


class TestWeights:
    def test_weight_two_is_the_sample_twice_in_one_batch(self):
        weights = np.random.default_rng(0).integers(0, 3, len(Y))
        rows = np.repeat(np.arange(len(Y)), weights)
        parameters = {"batch_size": 200, "dtype": "float64", "alpha": 1.0}
        weighted = model(**parameters).fit(X, Y, sample_weight=weights)
        repeated = model(**parameters).fit(X[rows], Y[rows])
        np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9)

    def test_samples_of_weight_zero_are_left_out(self):
        weights = (Y != 2).astype(float)
        estimator = model().fit(X, Y, sample_weight=weights)
        assert list(estimator.classes_) == [0, 1]
        assert_same_bits(estimator, model().fit(X[Y != 2], Y[Y != 2]))

    @pytest.mark.parametrize("early_stopping", [False, True])
    def test_class_weight_is_sample_weight(self, early_stopping):
        by_class = {0: 1.0, 1: 5.0, 2: 0.5}
        weights = np.vectorize(by_class.get)(Y)
        parameters = {"early_stopping": early_stopping}
        assert_same_bits(
            model(class_weight=by_class, **parameters).fit(X, Y),
            model(**parameters).fit(X, Y, sample_weight=weights),
        )

    def test_class_weights_that_leave_nothing(self):
        with pytest.raises(ValueError, match=r"class_weight=.* leaves no sample"):
            model(class_weight={0: 0, 1: 0, 2: 0}).fit(X, Y)

    def test_balanced_counts_by_weight(self):
        weights = np.where(Y == 0, 3.0, 1.0)
        balanced = model(class_weight="balanced").fit(X, Y, sample_weight=weights)
        np.testing.assert_allclose(
            balanced.predict_proba(X), model().fit(X, Y).predict_proba(X), rtol=1e-3, atol=1e-5
        )

    def test_score_takes_weights(self):
        estimator = model(max_iter=1).fit(X, Y)
        wrong = estimator.predict(X) != Y
        assert estimator.score(X, Y, sample_weight=np.where(wrong, 0, 1)) == 1


class TestPrediction:
    def test_probabilities(self):
        estimator = model().fit(X, Y)
        proba = estimator.predict_proba(X)
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(
            estimator.classes_[proba.argmax(axis=1)], estimator.predict(X)
        )
        np.testing.assert_allclose(np.log(proba), estimator.predict_log_proba(X), atol=1e-5)
        assert log_loss(Y, proba) < np.log(3)

    def test_log_probabilities_are_finite(self):
        estimator = model(max_iter=40).fit(X, Y)
        with pytest.warns(UserWarning, match="X has values from") as record:
            assert np.isfinite(estimator.predict_log_proba(X * 1e4)).all()
        assert len(record) == 1

    def test_threads_may_share_a_model(self):
        estimator = model().fit(X, Y)
        expected = estimator.predict_proba(X)
        results = joblib.Parallel(n_jobs=8, backend="threading")(
            joblib.delayed(estimator.predict_proba)(X) for _ in range(40)
        )
        assert all(np.array_equal(result, expected) for result in results)

    def test_predict_adds_nothing_to_the_pickle(self):
        estimator = model().fit(X, Y)
        size = len(pickle.dumps(estimator))
        estimator.predict(X)
        assert len(pickle.dumps(estimator)) == size
        n_parameters = sum(a.size for a in estimator.coefs_ + estimator.intercepts_)
        assert size < 3 * 4 * n_parameters + 10_000  # weights, and two averages of Adam

    def test_pickle_holds_arrays_and_plain_values_only(self):
        kinds = (int, float, str, bool, type(None), np.ndarray, np.random.RandomState)

        def check(value):
            if isinstance(value, dict):
                value = [*value.keys(), *value.values()]
            if isinstance(value, list | tuple):
                for item in value:
                    check(item)
            else:
                assert type(value) in kinds

        for value in vars(model(early_stopping=True).fit(X, Y)).values():
            check(value)


class TestResources:
    @pytest.mark.parametrize("parameters", [{}, {"pooling": "max", "solver": "sgd"}])
    def test_same_bits_for_any_number_of_workers(self, parameters):
        X, y = images(300)
        models = [
            model(n_jobs=n_jobs, batch_size=100, **parameters).fit(X, y)
            for n_jobs in (1, 2, 3, 4, None, -1)
        ]
        for other in models[1:]:
            assert_same_bits(models[0], other)
            np.testing.assert_array_equal(models[0].predict_proba(X), other.predict_proba(X))

    def test_threads_and_blas_are_left_as_they_were(self):
        def settings():
            return [(lib["filepath"], lib["num_threads"]) for lib in threadpool_info()]

        threads, blas = threading.active_count(), settings()
        model(n_jobs=3).fit(X, Y)
        assert (threading.active_count(), settings()) == (threads, blas)
        with pytest.raises(ValueError, match="diverged"):
            model(n_jobs=3, solver="sgd", lr=1e6).fit(X, Y)
        assert (threading.active_count(), settings()) == (threads, blas)

    def test_global_generator_is_left_alone(self):
        state = np.random.get_state()[1].copy()  # noqa: NPY002 (the one to leave alone)
        model().fit(X, Y)
        np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002

    def test_random_state_decides(self):
        first, same, other = (model(random_state=seed).fit(X, Y) for seed in (0, 0, 1))
        assert_same_bits(first, same)
        assert not np.array_equal(first.coefs_[0], other.coefs_[0])
        generators = (model(random_state=np.random.RandomState(3)).fit(X, Y) for _ in range(2))
        assert_same_bits(*generators)

    def test_without_shuffling_the_order_is_the_users(self):
        assert_same_bits(model(shuffle=False).fit(X, Y), model(shuffle=False).fit(X, Y))
        reverse = model(shuffle=False).fit(X[::-1], Y[::-1])
        assert not np.array_equal(reverse.coefs_[0], model(shuffle=False).fit(X, Y).coefs_[0])


class TestVerbosity:
    def test_progress_bar(self, capsys):
        model(verbose=1, early_stopping=True).fit(X, Y)
        shown = capsys.readouterr().err
        assert "3/3" in shown
        assert "epoch" in shown
        assert "loss=" in shown
        assert "val_score=" in shown

    def test_silence(self, capsys):
        model().fit(X, Y).predict(X)
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""


class TestEcosystem:
    def test_grid_search_in_a_pipeline_with_processes(self):
        pipeline = make_pipeline(FunctionTransformer(np.sqrt), model())
        search = GridSearchCV(
            pipeline,
            {"lenetclassifier__lr": [1e-6, 0.01], "lenetclassifier__batch_size": [8, 16]},
            cv=2,
            n_jobs=2,
        ).fit(X, Y)
        assert search.best_params_["lenetclassifier__lr"] == 0.01
        assert search.best_score_ > 0.6
        alone = clone(pipeline).set_params(**search.best_params_).fit(X, Y)
        assert_same_bits(search.best_estimator_[-1], alone[-1])

    def test_metadata_routing_knows_sample_weight(self):
        assert "sample_weight" in model().get_metadata_routing().fit.requests
