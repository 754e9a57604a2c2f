"""What only an NVIDIA GPU can show: `python -m pytest -m gpu`. Skipped where there is none."""

import importlib.util
from contextlib import suppress

import numpy as np
import pytest

from sklearn_lenet import LeNetClassifier, _cuda, _device_engine

from .helpers import assert_close
from .test_classifier import X, Y, assert_same_bits, model
from .test_learning import VARIANTS


def reason_to_skip():
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    import cupy

    return "" if cupy.cuda.is_available() else "there is no NVIDIA GPU"


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "there is a GPU"),
]

LENET = {"random_state": 0, "max_iter": 1, "solver": "sgd", "device": "cuda"}


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(params=["kernels", "CuPy"])
def tier(request, monkeypatch):
    """Run a test by the kernels and the graph, and by CuPy's operations."""
    if request.param == "CuPy":
        monkeypatch.setattr(_cuda, "are_covered", lambda *arguments: False)
    return request.param


def assert_same_weights(first, second, tolerance):
    for a, b in zip(
        first.coefs_ + first.intercepts_, second.coefs_ + second.intercepts_, strict=True
    ):
        assert_close(a, b, tolerance)


@pytest.mark.usefixtures("tier")
class TestParity:
    @pytest.mark.parametrize(
        "parameters",
        [
            {},
            {"pooling": "max", "activation": "tanh"},
            {"solver": "adam", "lr": 0.001},
            {"solver": "adamw", "lr": 0.001, "alpha": 0.1, "ema_decay": 0.9},
            {"alpha": 0.1, "label_smoothing": 0.1, "nesterovs_momentum": False},
        ],
    )
    def test_weights_after_twenty_steps(self, sample, parameters):
        """TensorFloat-32 would be some 1e-3 off."""
        pixels, y, X_test, _ = sample
        parameters = LENET | parameters
        on_gpu = LeNetClassifier(**parameters).fit(pixels[:1280], y[:1280])
        on_cpu = LeNetClassifier(**parameters | {"device": "cpu"}).fit(pixels[:1280], y[:1280])
        assert_same_weights(on_gpu, on_cpu, 1e-4)
        assert on_gpu.loss_ == pytest.approx(on_cpu.loss_, rel=1e-4)
        np.testing.assert_allclose(
            on_gpu.predict_proba(X_test), on_cpu.predict_proba(X_test), atol=1e-3
        )

    @pytest.mark.parametrize("name", VARIANTS)
    def test_variants(self, name):
        on_gpu = model(device="cuda", **VARIANTS[name]).fit(X, Y)
        on_cpu = model(**VARIANTS[name]).fit(X, Y)
        assert_same_weights(on_gpu, on_cpu, 1e-3)

    def test_accuracy_after_five_epochs(self, mnist):
        pixels, y, X_test, y_test = mnist
        scores = [
            LeNetClassifier(random_state=0, max_iter=5, device=device)
            .fit(pixels, y)
            .score(X_test, y_test)
            for device in ("cpu", "cuda")
        ]
        assert abs(scores[0] - scores[1]) <= 0.002

    def test_early_stopping(self):
        on_gpu = model(device="cuda", early_stopping=True).fit(X, Y)
        assert_same_weights(on_gpu, model(early_stopping=True).fit(X, Y), 1e-3)


@pytest.mark.usefixtures("tier")
class TestPromises:
    @pytest.mark.parametrize("parameters", [{}, {"pooling": "max"}, {"solver": "adam"}])
    def test_same_bits_twice(self, sample, parameters):
        pixels, y, X_test, _ = sample
        first, second = (LeNetClassifier(**LENET | parameters).fit(pixels, y) for _ in range(2))
        assert_same_bits(first, second)
        np.testing.assert_array_equal(first.predict_proba(X_test), second.predict_proba(X_test))

    def test_memory_is_given_back(self, cupy, sample):
        pixels, y, _, _ = sample
        LeNetClassifier(**LENET).fit(pixels, y)  # cuBLAS and the modules stay
        free, _ = cupy.cuda.runtime.memGetInfo()
        LeNetClassifier(**LENET).fit(pixels, y)
        assert cupy.cuda.runtime.memGetInfo()[0] >= free - 2**22

    def test_arrays_of_cupy(self, cupy, sample):
        pixels, y, X_test, y_test = sample
        on_device = cupy.asarray(X_test)
        expected = LeNetClassifier(**LENET).fit(pixels, y)
        actual = LeNetClassifier(**LENET).fit(cupy.asarray(pixels), cupy.asarray(y))
        assert_same_weights(actual, expected, 1e-3)
        proba = actual.predict_proba(on_device)
        assert isinstance(proba, cupy.ndarray)
        assert isinstance(actual.predict(on_device), cupy.ndarray)
        np.testing.assert_array_equal(cupy.asnumpy(proba), actual.predict_proba(X_test))
        assert actual.score(on_device, y_test) == actual.score(X_test, y_test)

    def test_six_epochs_are_six_epochs(self, sample):
        pixels, y, _, _ = sample
        whole = LeNetClassifier(**LENET | {"max_iter": 6}).fit(pixels, y)
        partial = LeNetClassifier(**LENET)
        for _ in range(6):
            partial.partial_fit(pixels, y, classes=np.arange(10))
        assert_same_bits(partial, whole)

    def test_data_larger_than_the_device(self, sample, monkeypatch):
        monkeypatch.setattr(_cuda, "are_covered", lambda *arguments: False)
        pixels, y, _, _ = sample
        resident = LeNetClassifier(**LENET).fit(pixels, y)
        monkeypatch.setattr(_device_engine, "_SHARE_FOR_X", 0)
        monkeypatch.setattr(_device_engine, "_PIECE", 2**18)
        assert_same_bits(LeNetClassifier(**LENET).fit(pixels, y), resident)


class TestGraph:
    def test_same_bits_as_launches_one_by_one(self, sample, monkeypatch):
        pixels, y, _, _ = sample
        replayed = LeNetClassifier(**LENET).fit(pixels, y)
        monkeypatch.setattr(_cuda.Steps, "_capture", lambda self: None)
        assert_same_bits(LeNetClassifier(**LENET).fit(pixels, y), replayed)

    def test_nodes(self, cupy, sample, monkeypatch):
        """A graph has the kernels of its steps, and nothing that allocates or copies."""
        pixels, y, _, _ = sample
        graphs, capture = [], _cuda.Steps._capture

        def record(self):
            graphs.append(capture(self))
            return graphs[-1]

        monkeypatch.setattr(_cuda.Steps, "_capture", record)
        LeNetClassifier(**LENET).fit(pixels, y)
        dot = graphs[0].debug_dot_str()
        for kernel in ("conv0_forward", "conv1_input_gradient", "dense_gradients", "optimize"):
            assert dot.count(kernel) >= _cuda._STEPS_IN_GRAPH
        assert "MEMCPY" not in dot.upper()
        assert "ALLOC" not in dot.upper()

    def test_many_predictions(self, cupy, sample, monkeypatch):
        """By kernels, which a few rows are not worth compiling for."""
        pixels, y, X_test, _ = sample
        classifier = LeNetClassifier(**LENET).fit(pixels, y)
        expected = classifier.predict_proba(X_test)
        monkeypatch.setattr(_cuda, "_MANY_ROWS", 1)
        np.testing.assert_allclose(classifier.predict_proba(X_test), expected, atol=1e-5)


class TestStandIn:
    """CuPy refuses what the stand-in refuses (stand_in.py)."""

    def test_conversions(self, cupy):
        array = cupy.zeros(3)
        with pytest.raises(TypeError, match="Implicit conversion"):
            np.asarray(array)
        with pytest.raises(TypeError, match="Unsupported type"):
            array + np.zeros(3)

    def test_reductions_are_arrays(self, cupy):
        assert isinstance(cupy.zeros(3).sum(), cupy.ndarray)
        assert isinstance(cupy.zeros(3)[0], cupy.ndarray)

    @pytest.mark.parametrize(
        "refused",
        [
            lambda cupy, array: cupy.matmul(array, array),
            lambda cupy, array: array.get(),
            lambda cupy, array: cupy.asarray(np.zeros(3)),
            lambda cupy, array: float(array[0, 0]),
        ],
    )
    def test_capturing(self, cupy, refused):
        array = cupy.ones((4, 4), np.float32)
        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.synchronize()
            stream.begin_capture()
            try:
                with pytest.raises((RuntimeError, NotImplementedError)):
                    refused(cupy, array)
            finally:
                with suppress(RuntimeError):  # what was refused may have spoilt the capture
                    stream.end_capture()
