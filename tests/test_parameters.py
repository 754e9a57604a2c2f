"""What parameters may be, under whatever type they come, and what follows from them, in bounds."""

import os
import threading
import tracemalloc

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sklearn_lenet import LeNetClassifier
from sklearn_lenet._backend import available_cores, single_threaded_blas
from sklearn_lenet._network import Network
from sklearn_lenet._parameters import check_memory, n_workers

from .helpers import LENET, small_architecture
from .test_classifier import assert_same_bits

X, Y = (a[:100] for a in load_digits(return_X_y=True))


def model(**parameters):
    defaults = {"conv_channels": (2, 3), "hidden_layer_sizes": (8,), "max_iter": 1}
    return LeNetClassifier(**{"random_state": 0} | defaults | parameters)


class TestTypes:
    @pytest.mark.parametrize(
        "name", ["nesterovs_momentum", "shuffle", "early_stopping", "warm_start", "verbose"]
    )
    @pytest.mark.parametrize("flag", [True, False])
    def test_bools_of_numpy(self, name, flag, capsys):
        expected = model(**{name: flag}).fit(X, Y)
        actual = model(**{name: np.bool_(flag)}).fit(X, Y)
        assert_same_bits(actual, expected)
        assert hasattr(actual, "partial_fit") == hasattr(expected, "partial_fit")

    def test_best_parameters_of_a_search(self):
        search = GridSearchCV(model(), {"shuffle": np.array([True, False])}, cv=2).fit(X, Y)
        clone(search.best_estimator_).set_params(**search.cv_results_["params"][0]).fit(X, Y)

    @pytest.mark.parametrize(
        ("name", "given", "same"),
        [
            ("conv_channels", np.array([2, 3]), (2, 3)),
            ("conv_channels", [2, 3], (2, 3)),
            ("kernel_size", np.array([3, 3]), 3),
            ("stride", np.int64(1), 1),
            ("padding", np.array([2, 0], np.uint8), (2, 0)),
            ("hidden_layer_sizes", 8, (8,)),
            ("hidden_layer_sizes", np.int32(8), (8,)),
            ("hidden_layer_sizes", np.array([8, 4]), (8, 4)),
            ("image_shape", np.array([8, 8]), (8, 8)),
            ("image_shape", [1, 8, 8], (8, 8)),
            ("batch_size", np.uint8(20), 20),
            ("lr", np.float32(0.01), float(np.float32(0.01))),
            ("tol", np.float64(0), 0),
            ("random_state", np.int64(0), 0),
        ],
    )
    def test_numpys_numbers_and_arrays(self, name, given, same):
        parameters = {"tol": None} | {name: given}
        if name == "tol":
            parameters["max_iter"], parameters["n_iter_no_change"] = 3, 1
        with np.errstate(all="raise"):
            actual = model(**parameters)
        expected = clone(actual).set_params(**{name: same})
        if name == "tol":
            with pytest.warns(UserWarning, match="Maximum iterations"):
                actual.fit(X, Y)
            with pytest.warns(UserWarning, match="Maximum iterations"):
                expected.fit(X, Y)
        else:
            actual.fit(X, Y), expected.fit(X, Y)
        assert_same_bits(actual, expected)
        joblib.hash(actual)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *((name, 10**400) for name in ("lr", "alpha", "tol", "momentum", "n_iter_no_change")),
            *((name, 2**63) for name in ("batch_size", "max_iter", "verbose", "n_jobs")),
            *((name, 2**63) for name in ("kernel_size", "stride", "padding", "random_state")),
            *(
                (name, np.timedelta64(3, "s"))
                for name in ("lr", "batch_size", "max_iter", "n_jobs")
            ),
            ("conv_channels", (2**63, 3)),
            ("conv_channels", np.array([2.0, 3.0])),
            ("hidden_layer_sizes", np.array([[8]])),
            ("hidden_layer_sizes", 0),
            ("image_shape", np.array([8.0, 8.0])),
            ("random_state", "0"),
            ("random_state", -1),
            ("random_state", np.random.default_rng(0)),
            ("shuffle", 1),
            ("early_stopping", np.array([True, False])),
        ],
    )
    def test_refused(self, name, value):
        """Before anything is computed, also where the model goes on."""
        with pytest.raises(ValueError, match=f"The '{name}' parameter of LeNetClassifier must be"):
            model(**{name: value}).fit(X, Y)
        fitted = model(warm_start=True).fit(X, Y)
        with pytest.raises(ValueError, match=f"The '{name}' parameter of LeNetClassifier must be"):
            fitted.set_params(**{name: value}).fit(X, Y)

    @pytest.mark.parametrize("name", ["device", "n_jobs"])
    @pytest.mark.parametrize("value", [0, "2", 1.5])
    def test_prediction_checks_what_it_takes(self, name, value):
        fitted = model().fit(X, Y).set_params(**{name: value})
        for method in ("predict", "predict_proba", "predict_log_proba"):
            with pytest.raises(ValueError, match=f"The '{name}' parameter"):
                getattr(fitted, method)(X)


class TestCallables:
    @pytest.mark.parametrize(
        ("parameters", "told"),
        [
            ({"lr_schedule": lambda: 0.1}, "'lr_schedule' must be a callable of 1 argument"),
            ({"lr_schedule": lambda a, b: 0.1}, "'lr_schedule' must be a callable of 1 argument"),
            ({"augment": lambda images: images}, "'augment' must be a callable of 2 arguments"),
        ],
    )
    def test_wrong_number_of_arguments(self, parameters, told):
        with pytest.raises(TypeError, match=told):
            model(**parameters).fit(X, Y)

    @pytest.mark.parametrize(
        ("parameters", "told"),
        [
            ({"lr_schedule": lambda epoch: np.array([0.1])}, "'lr_schedule' must return a float"),
            ({"lr_schedule": lambda epoch: np.nan}, "'lr_schedule' must return a float"),
            ({"lr_schedule": lambda epoch: "fast"}, "'lr_schedule' must return a float"),
            ({"augment": lambda images, generator: None}, "'augment' must return an array"),
            ({"augment": lambda images, generator: images[1:]}, "'augment' must return an array"),
            (
                {"augment": lambda images, generator: images * np.nan},
                "'augment' must return finite",
            ),
            (
                {"augment": lambda images, generator: images + np.inf},
                "'augment' must return finite",
            ),
        ],
    )
    def test_wrong_results(self, parameters, told):
        with pytest.raises(ValueError, match=told):
            model(**parameters).fit(X, Y)

    def test_own_errors_come_as_they_are(self):
        def fails(epoch):
            return len(epoch)

        with pytest.raises(TypeError, match=r"^object of type 'int' has no len"):
            model(lr_schedule=fails).fit(X, Y)


class TestBounds:
    """What follows from parameters is refused before it is allocated."""

    @pytest.mark.parametrize(
        ("parameters", "told"),
        [
            ({"stride": 100}, r"too small for 2 convolutions .*stride=100"),
            ({"stride": 2**62}, r"stride=.* need a side of more than 2\*\*63"),
            ({"kernel_size": (5, 60)}, r"kernel_size=\(5, 60\).* need a side of 122"),
            ({"conv_channels": (2,) * 2000, "padding": 0}, r"too small for 2000 convolutions"),
            ({"padding": 1000}, r"would take about .* GiB .* smaller padding"),
            ({"padding": 2**60}, r"would take about .* GiB .* smaller padding"),
            ({"hidden_layer_sizes": (10**9,)}, r"GiB .* hidden_layer_sizes"),
            ({"hidden_layer_sizes": (10**6, 10**6)}, r"GiB .* hidden_layer_sizes"),
            ({"conv_channels": (10**7, 6)}, r"GiB .* conv_channels"),
        ],
    )
    def test_refused(self, parameters, told):
        with pytest.raises(ValueError, match=told):
            model(**parameters).fit(X, Y)

    def test_enlargement_that_stays(self):
        """One pixel is enough for LeNet, and 64 are the bound."""
        assert model().fit(X[:, 10:11], Y).image_shape_ == (1, 1, 1)
        classifier = model(kernel_size=(5, 29), padding=0).fit(X, Y)
        assert max(classifier._architecture["image_shape"]) == 64

    def test_loaded_state(self):
        fitted = model().fit(X, Y)
        fitted._architecture = {**fitted._architecture, "padding": (2**40, 0)}
        with pytest.raises(ValueError, match="damaged: ValueError: The network would take"):
            LeNetClassifier().__setstate__(fitted.__getstate__())

    @pytest.mark.parametrize("pooling", ["avg", "max"])
    @pytest.mark.parametrize(
        "changes", [{}, {"image_shape": (3, 40, 40), "conv_channels": (9, 20)}]
    )
    def test_estimate_of_the_buffers(self, pooling, changes):
        """Within a third of what a network has."""
        architecture = small_architecture(**LENET.__dict__ | {"pooling": pooling} | changes)
        parameters = np.zeros(architecture.n_parameters, np.float32)
        gradient = parameters.copy()
        tracemalloc.start()
        network = Network(np, architecture, parameters, gradient, 64)
        n_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 2 / 3 < n_bytes / (4 * architecture.n_numbers(64)) < 4 / 3
        del network
        check_memory(architecture, 64)

    def test_huge_mini_batches(self):
        assert_same_bits(model(batch_size=2**62).fit(X, Y), model(batch_size=100).fit(X, Y))


class TestThreads:
    def test_many(self):
        assert n_workers(model(n_jobs=10**9)) <= os.cpu_count()
        before = threading.active_count()
        model(n_jobs=10**9).fit(X, Y).predict(X)
        assert threading.active_count() == before

    def test_one_rule_for_all_but_some(self):
        cores = available_cores()
        for n_jobs in (-1, -2, -3, -(10**9)):
            assert n_workers(model(n_jobs=n_jobs)) == max(1, cores + 1 + n_jobs)
        assert n_workers(model()) == cores

    def test_parallel_config(self):
        with joblib.parallel_config(n_jobs=1):
            assert n_workers(model()) == 1
        with joblib.parallel_config(backend="threading"):
            assert n_workers(model()) == available_cores()

    def test_cores_while_another_fit_is_at_work(self):
        expected = available_cores()
        with single_threaded_blas(), single_threaded_blas():
            assert available_cores() == expected
        assert available_cores() == expected

    def test_unfitted_model_says_so(self):
        for name in ("coefs_", "intercepts_"):
            assert not hasattr(model(), name)
            with pytest.raises(AttributeError, match="not fitted yet"):
                getattr(model(), name)
