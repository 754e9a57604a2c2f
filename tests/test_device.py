"""`device=`: what a user of a CUDA device relies on, by the stand-in for CuPy (stand_in.py).

None of this shows that the package works on a GPU. test_gpu.py does, where there is one.
"""

import gc
import pickle
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import sklearn

from sklearn_lenet import LeNetClassifier, _validation
from sklearn_lenet._backend import find_device
from sklearn_lenet._cuda import engine as cuda_engine

from . import stand_in, test_classifier, test_learning
from .helpers import assert_close
from .test_classifier import X, Y, images, model
from .test_learning import VARIANTS


@pytest.fixture
def cupy(monkeypatch):
    """Have the stand-in take CuPy's place. test_cuda.py has the kernels, which are slow here.

    What a copy to the device reads must stay as it is until somebody has waited for the copy.
    """
    monkeypatch.setattr("sklearn_lenet._cuda.steps.PIXEL_TYPES", ())
    cupy = stand_in.install(monkeypatch)
    yield cupy
    assert cupy.state.torn == []


@pytest.fixture
def no_cupy(monkeypatch):
    """Have CuPy not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr("builtins.__import__", _import_without_cupy(__import__))


def _import_without_cupy(original):
    def import_(name, *arguments, **keywords):
        if name == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
        return original(name, *arguments, **keywords)

    return import_


@pytest.fixture
def on_cuda(cupy, monkeypatch):
    """Make "cuda" the default device; nothing may be read behind a user's back, or be left."""
    monkeypatch.setitem(LeNetClassifier.__init__.__kwdefaults__, "device", "cuda")
    yield
    assert cupy.state.hidden_reads == []
    assert not any(pool.used_bytes() for pool in cupy.state.pools)


def assert_same_model(first, second, tolerance=1e-4):
    """Assert that two fits differ by float32's rounding errors alone."""
    for a, b in zip(
        first.coefs_ + first.intercepts_, second.coefs_ + second.intercepts_, strict=True
    ):
        assert_close(a, b, tolerance)
    np.testing.assert_allclose(first.loss_curve_, second.loss_curve_, rtol=1e-4)


class TestChoice:
    def test_cpu_is_the_default(self):
        assert model().fit(X, Y).device_ == "cpu"

    @pytest.mark.parametrize(
        ("device", "used"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("auto", "cuda:0")]
    )
    def test_device_tells_what_was_used(self, cupy, device, used):
        classifier = model(device=device).fit(X, Y)
        assert (classifier.device, classifier.device_) == (device, used)

    def test_current_device(self, cupy):
        with cupy.cuda.Device(1):
            assert model(device="cuda").fit(X, Y).device_ == "cuda:1"

    @pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", 0, None])
    def test_no_device(self, device):
        with pytest.raises(ValueError, match=r"The 'device' parameter.* must be 'cpu', 'cuda'"):
            model(device=device).fit(X, Y)

    @pytest.mark.usefixtures("no_cupy")
    def test_without_cupy(self):
        with pytest.raises(RuntimeError, match=r"device='cuda'.*CuPy is not installed.*\[gpu\]"):
            model(device="cuda").fit(X, Y)
        assert model(device="auto").fit(X, Y).device_ == "cpu"

    def test_without_driver(self, cupy, monkeypatch):
        def fail():
            raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver")

        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", fail)
        with pytest.raises(RuntimeError, match=r"no working NVIDIA driver.*InsufficientDriver"):
            model(device="cuda").fit(X, Y)
        assert model(device="auto").fit(X, Y).device_ == "cpu"

    def test_without_such_a_device(self, cupy):
        with pytest.raises(RuntimeError, match=r"no such GPU\. CuPy finds 'cuda:0', 'cuda:1'"):
            model(device="cuda:2").fit(X, Y)

    def test_broken_cupy(self, monkeypatch):
        def import_cupy():
            raise ImportError("libnvrtc is missing")

        monkeypatch.setattr("sklearn_lenet._backend.import_cupy", import_cupy)
        with pytest.raises(RuntimeError, match="importing CuPy failed: libnvrtc is missing"):
            find_device("cuda")

    @pytest.mark.usefixtures("no_cupy")
    def test_failed_fit_changes_nothing(self):
        classifier = model().fit(X, Y).set_params(device="cuda")
        before = pickle.dumps(classifier)
        for method in (classifier.fit, classifier.partial_fit):
            with pytest.raises(RuntimeError, match="CuPy is not installed"):
                method(X, Y)
        assert pickle.dumps(classifier) == before

    def test_others_are_imported_when_needed_only(self):
        others = {"cupy", "matplotlib", "onnx", "skl2onnx", "torch"}
        code = f"import sys, sklearn_lenet; assert not {others} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestParity:
    """The same as on the CPU, but for rounding errors."""

    @pytest.mark.parametrize("name", [*VARIANTS, "max", "penalty", "one batch", "small batches"])
    def test_fit(self, cupy, name):
        parameters = {
            "max": {"pooling": "max", "activation": "sigmoid"},
            "penalty": {"solver": "sgd", "alpha": 0.5, "nesterovs_momentum": False},
            "one batch": {"batch_size": 60},
            "small batches": {"batch_size": 7, "lr_schedule": "cosine"},
            **VARIANTS,
        }[name]
        weights = np.random.default_rng(0).random(len(Y))
        cpu, cuda = (
            model(device=device, **parameters).fit(X, Y, weights) for device in ("cpu", "cuda")
        )
        assert_same_model(cuda, cpu)
        assert cupy.state.hidden_reads == []

    def test_early_stopping(self, cupy):
        on_cpu, on_cuda = (
            model(early_stopping=True, max_iter=5, device=device).fit(X, Y)
            for device in ("cpu", "cuda")
        )
        assert_same_model(on_cuda, on_cpu)
        assert on_cuda.validation_scores_ == on_cpu.validation_scores_
        np.testing.assert_allclose(on_cuda.validation_loss_curve_, on_cpu.validation_loss_curve_)

    def test_minibatch_in_parts(self, cupy, monkeypatch):
        whole = model(device="cuda", batch_size=50).fit(X, Y)
        monkeypatch.setattr(cuda_engine, "_MOST_SAMPLES", 16)
        assert_same_model(model(device="cuda", batch_size=50).fit(X, Y), whole)

    @pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}])
    def test_data_larger_than_the_device(self, cupy, monkeypatch, parameters):
        """Sent in pieces; nothing but the way to the device differs."""
        parameters = {"device": "cuda", **parameters}
        resident = model(**parameters).fit(X, Y)
        cupy.state.free_bytes = 1000
        monkeypatch.setattr(cuda_engine, "_PIECE", 20 * X[0].nbytes)
        streamed = model(**parameters).fit(X, Y)
        test_classifier.assert_same_bits(streamed, resident)
        np.testing.assert_array_equal(streamed.predict_proba(X), resident.predict_proba(X))

    def test_failure_while_a_piece_is_under_way(self, cupy, monkeypatch):
        """Its pinned memory isn't given back before it has arrived, which the fixture sees."""

        def fail(*arguments):
            assert cupy.state.current.streams[-1].copies
            raise ValueError("at the first mini-batch")

        monkeypatch.setattr(cuda_engine.DeviceEngine, "_gradient", fail)
        cupy.state.free_bytes = 1000
        with pytest.raises(ValueError, match="at the first mini-batch"):
            model(device="cuda").fit(X, Y)

    def test_other_byte_order(self, cupy):
        swapped = X.astype(X.dtype.newbyteorder())
        expected = model(device="cuda").fit(X, Y)
        test_classifier.assert_same_bits(model(device="cuda").fit(swapped, Y), expected)


class TestMoving:
    """A model goes from device to device."""

    def test_fitted_on_the_cpu(self, cupy):
        classifier = model().fit(X, Y)
        expected = classifier.predict_proba(X)
        np.testing.assert_allclose(
            classifier.set_params(device="cuda").predict_proba(X), expected, rtol=1e-5, atol=1e-6
        )

    def test_training_goes_on_elsewhere(self, cupy):
        classifier = model(warm_start=True).fit(X, Y).set_params(device="cuda").fit(X, Y)
        assert_same_model(classifier, model(max_iter=6).fit(X, Y))

    def test_pickle_needs_no_cupy(self, cupy, monkeypatch):
        classifier = model(device="cuda", solver="adam", ema_decay=0.9).fit(X, Y)
        content = pickle.dumps(classifier)
        assert b"cupy" not in content
        assert b"stand_in" not in content
        expected = classifier.predict_proba(X)
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, "cupy", None)
        classifier = pickle.loads(content)
        with pytest.warns(UserWarning, match=r"CuPy is not installed.* on the CPU instead"):
            actual = classifier.predict_proba(X)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "method", ["predict", "predict_proba", "predict_log_proba", "transform"]
    )
    def test_warning_points_at_the_caller(self, cupy, method):
        classifier = model(device="cuda:1").fit(X, Y)
        cupy.state.n_devices = 1
        with pytest.warns(UserWarning, match="no such GPU") as record:
            getattr(classifier, method)(X)
        assert [warning.filename for warning in record] == [__file__]


class TestArrays:
    """CuPy's arrays as input."""

    def test_fit_and_predict(self, cupy):
        expected = model(device="cuda").fit(X, Y, Y + 1)
        on_device = cupy.asarray(X)
        for y, weights in ((Y, Y + 1), (cupy.asarray(Y), cupy.asarray(Y + 1))):
            classifier = model(device="cuda").fit(on_device, y, weights)
            assert_same_model(classifier, expected)
        for method in ("predict", "predict_proba", "predict_log_proba", "transform"):
            result = getattr(classifier, method)(on_device)
            assert isinstance(result, cupy.ndarray)
            expected_result = getattr(expected, method)(X)
            assert result.dtype == expected_result.dtype
            np.testing.assert_allclose(result.get(), expected_result, rtol=1e-4, atol=1e-5)
        assert classifier.score(on_device, cupy.asarray(Y)) == classifier.score(X, Y)
        assert not isinstance(classifier.predict(X), cupy.ndarray)

    @pytest.mark.parametrize("device", ["cpu", "cuda:1"])
    def test_dispatched(self, cupy, device):
        """With scikit-learn's array_api_dispatch, also where the CPU computes."""
        expected = model(device=device).fit(X, Y, Y + 1)
        with cupy.cuda.Device(1), sklearn.config_context(array_api_dispatch=True):
            on_device = cupy.asarray(X)
            actual = model(device=device).fit(on_device, cupy.asarray(Y), cupy.asarray(Y + 1))
            assert_same_model(actual, expected)
            for method in ("predict", "predict_proba", "predict_log_proba", "transform"):
                result = getattr(actual, method)(on_device)
                assert isinstance(result, cupy.ndarray)
                assert result.device.id == 1
                np.testing.assert_allclose(result.get(), getattr(actual, method)(X), rtol=1e-5)
            assert actual.score(on_device, cupy.asarray(Y)) == expected.score(X, Y)

    def test_pixels_stay_on_the_device(self, cupy):
        pixels, y = images(600)
        on_device = cupy.asarray(pixels)
        model(device="cuda", early_stopping=True).fit(on_device, y).predict_proba(on_device)
        assert max(cupy.state.downloads) < pixels.nbytes / 4  # the parameters, 60 kB

    def test_results_outlive_the_memory_pool(self, cupy):
        classifier = model(device="cuda").fit(X, Y)
        proba = classifier.predict_proba(cupy.asarray(X))
        assert proba._memory in cupy.state.default_pool._in_use

    def test_images(self, cupy):
        images_ = cupy.asarray(X.reshape(-1, 12, 12))
        classifier = model(device="cuda").fit(images_, Y)
        assert classifier.image_shape_ == (1, 12, 12)
        test_classifier.assert_same_bits(classifier, model(device="cuda").fit(cupy.asarray(X), Y))

    def test_labels_that_are_no_numbers(self, cupy):
        names = np.array(["one", "two", "three"])[Y]
        classifier = model(device="cuda").fit(cupy.asarray(X), names)
        predicted = classifier.predict(cupy.asarray(X))
        assert isinstance(predicted, np.ndarray)
        assert classifier.score(cupy.asarray(X), names) == np.mean(predicted == names)

    def test_partial_fit(self, cupy):
        on_device = cupy.asarray(X)
        classifier = model(device="cuda")
        for _ in range(3):
            classifier.partial_fit(on_device, cupy.asarray(Y), classes=cupy.asarray(np.arange(3)))
        test_classifier.assert_same_bits(classifier, model(device="cuda").fit(on_device, Y))

    def test_callable_that_augments(self, cupy):
        """A callable gets the kind of array that X is."""

        def brighten(images, generator):
            kinds.add(type(images))
            return images * generator.random()

        kinds = set()
        first = model(device="cuda", augment=brighten).fit(cupy.asarray(X), Y)
        assert kinds == {cupy.ndarray}
        assert_same_model(first, model(device="cuda", augment=brighten).fit(X, Y))
        assert kinds == {cupy.ndarray, np.ndarray}

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_device_that_is_not_current(self, cupy, method):
        """Whatever computes does so on the estimator's device, and the current one stays."""
        pixels = X.astype(float)
        columns_first = np.ascontiguousarray(pixels.reshape(-1, 12, 12).swapaxes(1, 2))
        with cupy.cuda.Device(1):
            images_ = cupy.asarray(columns_first).swapaxes(1, 2)  # whose rows are a copy
            y, weights = cupy.asarray(Y), cupy.asarray(Y + 1)
        keywords = {"classes": np.arange(3)} if method == "partial_fit" else {}
        classifier = model(device="cuda:1", early_stopping=method == "fit", dtype="float32")
        getattr(classifier, method)(images_, y, sample_weight=weights, **keywords)
        assert classifier.device_ == "cuda:1"
        for name in ("predict", "predict_proba", "predict_log_proba"):
            result = getattr(classifier, name)(images_)
            assert result.device.id == 1
            with cupy.cuda.Device(1):
                np.testing.assert_array_equal(result.get(), getattr(classifier, name)(pixels))
        assert classifier.score(images_, y, weights) == classifier.score(pixels, Y, Y + 1)
        assert cupy.cuda.runtime.getDevice() == 0

    @pytest.mark.parametrize(
        "arrange",
        [
            lambda cupy: cupy.asarray(np.ascontiguousarray(X.T)).T,
            lambda cupy: cupy.asarray(np.repeat(X, 2, axis=1))[:, ::2],
        ],
    )
    def test_rows_in_another_order(self, cupy, monkeypatch, arrange):
        """The kernels, which read C order alone, get a copy, and only one."""
        taken, on_device = [], cuda_engine.DeviceEngine.on_device

        def record(self, X):
            taken.append(on_device(self, X))
            return taken[-1]

        monkeypatch.setattr(cuda_engine.DeviceEngine, "on_device", record)
        expected, arranged = model(device="cuda").fit(X, Y), arrange(cupy)
        taken.clear()
        test_classifier.assert_same_bits(model(device="cuda").fit(arranged, Y), expected)
        assert taken[0].flags.c_contiguous
        assert all(array is taken[0] for array in taken)
        cupy.state.free_bytes = 1000  # no room: CuPy's operations take it as it is
        taken.clear()
        test_classifier.assert_same_bits(model(device="cuda").fit(arranged, Y), expected)
        assert all(array is arranged for array in taken)

    @pytest.mark.parametrize("device", ["cpu", "cuda:1"])
    @pytest.mark.parametrize("method", ["fit", "predict"])
    def test_other_device(self, cupy, device, method):
        classifier = model(device="cuda").fit(X, Y).set_params(device=device)
        arguments = (Y,) if method == "fit" else ()
        with pytest.raises(ValueError, match=f"X is .*device='{device}'"):
            getattr(classifier, method)(cupy.asarray(X), *arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda X: X[0], "Expected 2D array, got 1D array instead"),
            (lambda X: X[:0], r"0 sample\(s\)"),
            (lambda X: X[:, :0], r"0 feature\(s\)"),
            (lambda X: X * np.nan, "Input X contains NaN or infinity"),
            (lambda X: X + np.inf, "Input X contains NaN or infinity"),
            (lambda X: X * 1j, "Complex data not supported"),
        ],
    )
    def test_errors(self, cupy, change, message):
        with np.errstate(all="ignore"):
            bad = change(cupy.asarray(X))
        with pytest.raises(ValueError, match=message):
            model(device="cuda").fit(bad, Y[: bad.shape[0]])
        if bad.ndim == 2:
            with pytest.raises(ValueError, match=message):
                model(device="cuda").fit(X, Y).predict(bad)

    def test_large_numbers_are_finite(self, cupy):
        huge = X.astype(float)
        huge[:, :2] = 1.5e308, 1.7e308
        with np.errstate(over="ignore"):
            _validation.check_device_rows(cupy.asarray(huge), 0, "cuda")

    def test_other_number_of_features(self, cupy):
        classifier = model(device="cuda").fit(cupy.asarray(X), Y)
        with pytest.raises(ValueError, match="has 100 features, but LeNetClassifier is expecting"):
            classifier.predict(cupy.asarray(X[:, :100]))

    def test_other_number_of_labels(self, cupy):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            model(device="cuda").fit(cupy.asarray(X), Y[:50])


class TestMemory:
    def test_error_keeps_nothing(self, cupy, monkeypatch):
        """Nor has the garbage collector to come first: somebody may try again with less."""
        classifier = model(device="cuda").fit(X, Y)

        def fail(self, rows, draws=None):
            raise MemoryError

        monkeypatch.setattr("sklearn_lenet._images.ImageLoader.load", fail)
        gc.collect()
        gc.disable()
        try:
            with suppress(MemoryError):
                classifier.predict(X)
            with suppress(MemoryError):
                classifier.fit(X, Y)
            assert not any(pool.used_bytes() for pool in cupy.state.pools)
        finally:
            gc.enable()

    def test_is_taken_and_given_back(self, cupy, monkeypatch):
        """Pixels lie on the device once, whoever reads them, and nothing stays."""
        used = []
        step = cuda_engine.DeviceEngine._gradient

        def record(self, *arguments):
            used.append(cupy.state.pools[-1].used_bytes())
            return step(self, *arguments)

        monkeypatch.setattr(cuda_engine.DeviceEngine, "_gradient", record)
        monkeypatch.setattr(cuda_engine, "_MOST_SAMPLES", 60)
        peaks = []
        for n_samples in (600, 2400):
            pixels, y = images(n_samples)
            used.clear()
            model(device="cuda", early_stopping=True, batch_size=60).fit(pixels, y)
            peaks.append(max(used))
        growth = peaks[1] - peaks[0]
        assert 1 < growth / (1800 * pixels[0].nbytes) < 1.2
        assert [pool.used_bytes() for pool in cupy.state.pools] == [0, 0]

    @pytest.mark.parametrize("augment", [None, lambda images, generator: images])
    @pytest.mark.parametrize("on_device", [False, True])
    def test_no_data_stay_pinned(self, cupy, on_device, augment):
        """More data have CuPy pin no more memory.

        The stand-in knows what goes by way of that memory, not that it stays, as it does on a GPU.
        """
        pinned = []
        for n_samples in (320, 640):
            pixels, y = images(n_samples)
            X = cupy.asarray(pixels) if on_device else pixels
            cupy.state.left_pinned.clear()
            model(device="cuda", augment=augment).fit(X, y).predict_proba(X)
            pinned.append(sum(cupy.state.left_pinned))
        assert pinned[0] == pinned[1]

    def test_failed_fit(self, cupy):
        with pytest.raises(ValueError, match="diverged"):
            model(device="cuda", lr=1e20).fit(X, Y)
        assert [pool.used_bytes() for pool in cupy.state.pools] == [0]


# The tests of test_classifier.py and test_learning.py, with "cuda" for the default device


@pytest.mark.usefixtures("on_cuda")
class TestContinuing(test_classifier.TestContinuing):
    pass


@pytest.mark.usefixtures("on_cuda")
class TestStopping(test_classifier.TestStopping):
    pass


@pytest.mark.usefixtures("on_cuda")
class TestWeights(test_classifier.TestWeights):
    pass


@pytest.mark.usefixtures("on_cuda")
class TestPrediction(test_classifier.TestPrediction):
    pass


@pytest.mark.usefixtures("on_cuda")
class TestPromises(test_learning.TestPromises):
    pass


@pytest.mark.usefixtures("on_cuda")
class TestValidationData(test_learning.TestValidationData):
    pass


@pytest.mark.slow
@pytest.mark.usefixtures("on_cuda")
class TestLearning(test_classifier.TestLearning):
    pass


@pytest.mark.slow
@pytest.mark.usefixtures("on_cuda")
class TestInput(test_classifier.TestInput):
    test_integers_are_not_copied = None  # the device, which is host memory here, has a copy


@pytest.mark.slow
@pytest.mark.usefixtures("on_cuda")
class TestErrors(test_classifier.TestErrors):
    pass
