"""What only an NVIDIA GPU can show: `python -m pytest -m gpu -n 0`. Skipped where there is none."""

import importlib.util
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from sklearn_lenet import LeNetClassifier
from sklearn_lenet._cuda import engine as cuda_engine
from sklearn_lenet._cuda import steps as cuda_steps

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
        monkeypatch.setattr(cuda_steps, "PIXEL_TYPES", ())
    return request.param


@pytest.fixture
def launched(monkeypatch):
    """Give the names of the kernels that have been launched, those of a graph once."""
    names, launch = [], cuda_steps.Kernels.launch

    def record(self, name, *arguments):
        names.append(name)
        launch(self, name, *arguments)

    monkeypatch.setattr(cuda_steps.Kernels, "launch", record)
    return names


def on_both(pixels, y, **parameters):
    """Fit on the GPU and on the CPU."""
    parameters = LENET | parameters
    return [
        LeNetClassifier(**parameters | {"device": device}).fit(pixels, y)
        for device in ("cuda", "cpu")
    ]


def assert_same_weights(first, second, tolerance):
    for a, b in zip(
        first.coefs_ + first.intercepts_, second.coefs_ + second.intercepts_, strict=True
    ):
        assert_close(a, b, tolerance)


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
    def test_weights_after_twenty_steps(self, tier, launched, sample, parameters):
        """Ten by CuPy's operations. TensorFloat-32 would be some 1e-3 off."""
        pixels, y, X_test, _ = sample
        n_samples = 1280 if tier == "kernels" else 640
        on_gpu, on_cpu = on_both(pixels[:n_samples], y[:n_samples], **parameters)
        assert_same_weights(on_gpu, on_cpu, 1e-4)
        assert on_gpu.loss_ == pytest.approx(on_cpu.loss_, rel=1e-4)
        np.testing.assert_allclose(
            on_gpu.predict_proba(X_test), on_cpu.predict_proba(X_test), atol=1e-3
        )
        assert set(launched) == ({"gradients", "update", "predict"} if tier == "kernels" else set())

    @pytest.mark.parametrize("batch_size", [64, 200, 600, 1024])
    def test_sizes_of_mini_batches(self, launched, sample, batch_size):
        """Two blocks for a sample, one, and several samples for one; then those that are left."""
        pixels, y, _, _ = sample
        n_samples = min(5 * batch_size + 37, len(pixels))
        on_gpu, on_cpu = on_both(pixels[:n_samples], y[:n_samples], batch_size=batch_size)
        assert_same_weights(on_gpu, on_cpu, 1e-4)
        assert on_gpu.loss_ == pytest.approx(on_cpu.loss_, rel=1e-4)
        assert "gradients" in launched

    @pytest.mark.parametrize(
        "parameters",
        [
            {"stride": (2, 2), "padding": 2},
            {"conv_channels": (6, 16, 20), "kernel_size": 3, "padding": 1},
        ],
    )
    @pytest.mark.parametrize("batch_size", [64, 200])
    def test_other_networks(self, launched, sample, parameters, batch_size):
        """With strides; with three convolutions."""
        pixels, y, X_test, _ = sample
        parameters = {"activation": "tanh", "batch_size": batch_size, **parameters}
        on_gpu, on_cpu = on_both(pixels[:1000], y[:1000], **parameters)
        assert_same_weights(on_gpu, on_cpu, 1e-4)
        np.testing.assert_allclose(
            on_gpu.predict_proba(X_test), on_cpu.predict_proba(X_test), atol=1e-3
        )
        assert set(launched) == {"gradients", "update", "predict"}

    @pytest.mark.parametrize("n_rows", [1, 5, 1000])
    def test_predictions(self, tier, launched, sample, n_rows):
        """Of one model, that the CPU has trained."""
        pixels, y, X_test, _ = sample
        classifier = LeNetClassifier(**LENET | {"device": "cpu"}).fit(pixels[:640], y[:640])
        expected = classifier.predict_proba(X_test[:n_rows])
        actual = classifier.set_params(device="cuda").predict_proba(X_test[:n_rows])
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        assert launched == (["predict"] if tier == "kernels" else [])

    @pytest.mark.usefixtures("tier")
    @pytest.mark.parametrize("name", VARIANTS)
    def test_variants(self, name):
        on_gpu = model(device="cuda", **VARIANTS[name]).fit(X, Y)
        on_cpu = model(**VARIANTS[name]).fit(X, Y)
        assert_same_weights(on_gpu, on_cpu, 1e-3)

    def test_accuracy_after_five_epochs(self, launched, mnist):
        pixels, y, X_test, y_test = mnist
        scores = [
            LeNetClassifier(random_state=0, max_iter=5, device=device)
            .fit(pixels, y)
            .score(X_test, y_test)
            for device in ("cpu", "cuda")
        ]
        assert abs(scores[0] - scores[1]) <= 0.002
        assert "gradients" in launched

    @pytest.mark.usefixtures("tier")
    def test_early_stopping(self):
        on_gpu = model(device="cuda", early_stopping=True).fit(X, Y)
        assert_same_weights(on_gpu, model(early_stopping=True).fit(X, Y), 1e-3)


@pytest.mark.usefixtures("tier")
class TestPromises:
    @pytest.mark.parametrize("parameters", [{}, {"pooling": "max"}, {"solver": "adam"}])
    def test_same_bits_twice(self, sample, parameters):
        pixels, y, X_test, _ = sample
        first, second = (
            LeNetClassifier(**LENET | parameters).fit(pixels[:2000], y[:2000]) for _ in range(2)
        )
        assert_same_bits(first, second)
        np.testing.assert_array_equal(first.predict_proba(X_test), second.predict_proba(X_test))

    def test_same_bits_in_two_threads(self, sample):
        """Each with a stream, memory and a graph of its own."""
        pixels, y, X_test, _ = sample

        def fit(seed):
            classifier = LeNetClassifier(**LENET | {"random_state": seed})
            classifier.fit(pixels[:2000], y[:2000])
            return classifier, classifier.predict_log_proba(X_test)

        alone = [fit(seed) for seed in range(2)]
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(fit, range(2)))
        for (first, of_first), (second, of_second) in zip(alone, together, strict=True):
            assert_same_bits(second, first)
            np.testing.assert_array_equal(of_second, of_first)

    def test_memory_is_given_back(self, cupy, sample):
        pixels, y, _, _ = sample
        pixels, y = pixels[:2000], y[:2000]
        LeNetClassifier(**LENET).fit(pixels, y)  # cuBLAS and the modules stay
        free, _ = cupy.cuda.runtime.memGetInfo()
        LeNetClassifier(**LENET).fit(pixels, y)
        assert cupy.cuda.runtime.memGetInfo()[0] >= free - 2**22

    def test_arrays_of_cupy(self, cupy, sample):
        """The scale of the pixels and exp are CuPy's for them: those may round otherwise."""
        pixels, y, X_test, y_test = sample
        pixels, y = pixels[:1280], y[:1280]
        on_device = cupy.asarray(X_test)
        expected = LeNetClassifier(**LENET).fit(pixels, y)
        actual = LeNetClassifier(**LENET).fit(cupy.asarray(pixels), cupy.asarray(y))
        assert_same_weights(actual, expected, 1e-3)
        log_proba, proba = actual.predict_log_proba(on_device), actual.predict_proba(on_device)
        assert isinstance(log_proba, cupy.ndarray)
        assert isinstance(proba, cupy.ndarray)
        assert isinstance(actual.predict(on_device), cupy.ndarray)
        np.testing.assert_array_equal(cupy.asnumpy(log_proba), actual.predict_log_proba(X_test))
        np.testing.assert_allclose(cupy.asnumpy(proba), actual.predict_proba(X_test), atol=1e-6)
        assert actual.score(on_device, y_test) == actual.score(X_test, y_test)

    def test_six_epochs_are_six_epochs(self, sample):
        pixels, y, _, _ = sample
        pixels, y, parameters = pixels[:1280], y[:1280], LENET | {"lr_schedule": "constant"}
        whole = LeNetClassifier(**parameters | {"max_iter": 6}).fit(pixels, y)
        partial = LeNetClassifier(**parameters)
        for _ in range(6):
            partial.partial_fit(pixels, y, classes=np.arange(10))
        assert_same_bits(partial, whole)


class TestData:
    """Where the pixels are."""

    def test_data_larger_than_the_device(self, sample, monkeypatch):
        monkeypatch.setattr(cuda_steps, "PIXEL_TYPES", ())
        pixels, y, _, _ = sample
        resident = LeNetClassifier(**LENET).fit(pixels, y)
        monkeypatch.setattr(cuda_engine, "_SHARE_FOR_X", 0)
        monkeypatch.setattr(cuda_engine, "_PIECE", 2**18)
        assert_same_bits(LeNetClassifier(**LENET).fit(pixels, y), resident)

    @pytest.mark.parametrize(
        "arrange",
        [
            lambda cupy, pixels: cupy.asarray(np.ascontiguousarray(pixels.T)).T,
            lambda cupy, pixels: cupy.asarray(np.repeat(pixels, 2, axis=1))[:, ::2],
        ],
    )
    def test_rows_in_another_order(self, cupy, launched, sample, arrange):
        """They are copied, and go through the kernels."""
        pixels, y, X_test, _ = sample
        expected = LeNetClassifier(**LENET).fit(cupy.asarray(pixels[:640]), y[:640])
        launched.clear()
        actual = LeNetClassifier(**LENET).fit(arrange(cupy, pixels[:640]), y[:640])
        assert_same_bits(actual, expected)
        np.testing.assert_array_equal(
            cupy.asnumpy(actual.predict_log_proba(arrange(cupy, X_test))),
            actual.predict_log_proba(X_test),
        )
        # A fit looks at its answers
        assert Counter(launched) == {"gradients": 10, "update": 10, "predict": 1 + 2}

    def test_rows_far_from_the_first(self, cupy, launched, sample):
        """They begin more than 2^31 bytes behind it. Rows that weigh nothing change nothing."""
        if cupy.cuda.runtime.memGetInfo()[0] < 8 * 2**30:
            pytest.skip("the GPU has less than 8 GB of free memory")
        pixels, y, _, _ = sample
        near, n_rows = cupy.asarray(pixels[:640]), 2_800_000
        far = cupy.zeros((n_rows, near.shape[1]), np.uint8)
        assert far[-640:].data.ptr - far.data.ptr > 2**31
        far[-640:] = near
        labels, weights = np.zeros(n_rows, y.dtype), np.zeros(n_rows)
        labels[-640:], weights[-640:] = y[:640], 1
        try:
            expected = LeNetClassifier(**LENET).fit(near, y[:640])
            actual = LeNetClassifier(**LENET).fit(far, labels, weights)
            assert_same_bits(actual, expected)
            log_proba = actual.predict_log_proba(far)
            np.testing.assert_array_equal(
                cupy.asnumpy(log_proba[-640:]), cupy.asnumpy(expected.predict_log_proba(near))
            )
            assert len(set(map(bytes, cupy.asnumpy(log_proba[:1000])))) == 1
        finally:
            del far
            cupy.get_default_memory_pool().free_all_blocks()
        n_parts = -(-n_rows // cuda_steps._ROWS_AT_ONCE)
        assert Counter(launched) == {"gradients": 20, "update": 20, "predict": 2 + n_parts + 1}


class TestGraph:
    def test_same_bits_as_launches_one_by_one(self, sample, monkeypatch):
        pixels, y, _, _ = sample
        replayed = LeNetClassifier(**LENET).fit(pixels, y)
        monkeypatch.setattr(cuda_steps.Steps, "_capture", lambda self: None)
        assert_same_bits(LeNetClassifier(**LENET).fit(pixels, y), replayed)

    def test_launches(self, launched, sample):
        """Of 78 whole steps and a last one, 64 in a graph of 16; two predictions, one by fit."""
        pixels, y, X_test, _ = sample
        assert len(pixels) == 5000
        LeNetClassifier(**LENET).fit(pixels, y).predict(X_test)
        n_steps = 1 + 16 + (77 - 64) + 1
        assert Counter(launched) == {"gradients": n_steps, "update": n_steps, "predict": 2}

    def test_nodes(self, sample, monkeypatch):
        """A graph has the kernels of its steps, and nothing that allocates or copies."""
        pixels, y, _, _ = sample
        graphs, capture = [], cuda_steps.Steps._capture

        def record(self):
            graphs.append(capture(self))
            return graphs[-1]

        monkeypatch.setattr(cuda_steps.Steps, "_capture", record)
        LeNetClassifier(**LENET).fit(pixels, y)
        dot = graphs[0].debug_dot_str()
        for kernel in ("gradients", "update"):
            assert dot.count(kernel) >= cuda_steps._STEPS_IN_GRAPH
        assert "MEMCPY" not in dot.upper()
        assert "ALLOC" not in dot.upper()

    def test_compilation_fails(self, launched, sample, monkeypatch):
        """CuPy's operations take over."""
        pixels, y, X_test, _ = sample
        with monkeypatch.context() as without_kernels:
            without_kernels.setattr(cuda_steps, "PIXEL_TYPES", ())
            expected = LeNetClassifier(**LENET).fit(pixels[:640], y[:640])
            expected_proba = expected.predict_proba(X_test)
        monkeypatch.setattr(cuda_steps, "OPTIONS", ("--no-such-option",))
        with pytest.warns(UserWarning, match="Compiling kernels failed.*no-such-option"):
            actual = LeNetClassifier(**LENET).fit(pixels[:640], y[:640])
        assert_same_bits(actual, expected)
        with pytest.warns(UserWarning, match="Compiling kernels failed.*no-such-option"):
            np.testing.assert_array_equal(actual.predict_proba(X_test), expected_proba)
        assert launched == []


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
