"""The CUDA kernels and graphs, by the stand-in for CuPy and kernels that run on the host.

The kernels' source is the very one that a GPU gets: its arithmetic is checked here, against the
engine of the CPU. What a GPU makes of it is not: see test_gpu.py.
"""

import numpy as np
import pytest

from sklearn_lenet import _cuda
from sklearn_lenet._backend import to_host
from sklearn_lenet._cuda import CudaEngine, Kernels
from sklearn_lenet._engine import Engine, Objective
from sklearn_lenet._images import ImageLayout
from sklearn_lenet._kernels import PIXEL_TYPES
from sklearn_lenet._training import make_optimizer

from . import emulation, stand_in
from .helpers import assert_close, random_parameters, small_architecture
from .test_classifier import X, Y, assert_same_bits, model

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="needs g++ to run kernels")

ARCHITECTURES = {
    "relu, max": {},
    "tanh, avg": {"activation": "tanh", "pooling": "avg"},
    "sigmoid, avg": {"activation": "sigmoid", "pooling": "avg"},
    "sigmoid, max, colour": {"activation": "sigmoid", "image_shape": (3, 10, 8)},
    "strides": {"stride": (2, 1), "image_shape": (1, 17, 13), "pooling": "avg"},
    "second stride": {"stride": (1, 2), "image_shape": (1, 19, 16), "kernel_size": (3, 3)},
    "odd sides": {"image_shape": (2, 15, 11), "pooling": "avg"},
    "large padding": {"padding": (3, 2), "activation": "tanh"},
    "one convolution": {
        "conv_channels": (3,),
        "kernel_size": (4,),
        "stride": (3,),
        "padding": (0,),
        "image_shape": (1, 13, 12),
    },
    "three convolutions": {
        "conv_channels": (2, 3, 2),
        "kernel_size": (3, 3, 2),
        "stride": (1, 1, 1),
        "padding": (2, 2, 1),
        "activation": "tanh",
    },
    "no pooling": {"pool_size": 1, "activation": "tanh"},
    "windows of three": {"pool_size": 3, "image_shape": (1, 23, 20)},
    "kernel of one pixel": {"kernel_size": (1, 1), "padding": (0, 0), "activation": "tanh"},
    "many channels": {"conv_channels": (20, 12), "kernel_size": (3, 3), "activation": "tanh"},
    "no hidden layer": {"hidden_layer_sizes": (), "n_classes": 2},
    "three hidden layers": {"hidden_layer_sizes": (40, 7, 35), "activation": "tanh"},
    "many classes": {"n_classes": 40},
    "one class": {"n_classes": 1},
}


PLAIN = Objective()

# The other networks are for the slow tests
OFTEN = [
    "relu, max",
    "tanh, avg",
    "sigmoid, max, colour",
    "strides",
    "second stride",
    "large padding",
    "one convolution",
    "three convolutions",
    "many channels",
    "no hidden layer",
    "many classes",
]

# Networks that take less time here
SMALL = {"conv_channels": (2, 3), "hidden_layer_sizes": (9,), "device": "cuda"}


def often(names, chosen):
    """Leave those that are not chosen to the slow tests."""
    return [
        name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names
    ]


@pytest.fixture
def cupy(monkeypatch):
    cupy = stand_in.install(monkeypatch)
    yield cupy
    assert cupy.state.hidden_reads == []
    assert not any(pool.used_bytes() for pool in cupy.state.pools)


@pytest.fixture
def backwards(monkeypatch):
    """Give a function that has threads and blocks run last to first from now on."""
    return lambda: monkeypatch.setattr(emulation.Emulation, "backwards", True)


def data(architecture, n_samples=11, dtype=np.float32):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(n_samples, np.prod(architecture.image_shape))).astype(dtype)
    return X, generator.integers(0, architecture.n_classes, n_samples), generator.random(n_samples)


def layout_of(architecture):
    shape = architecture.image_shape
    return ImageLayout(shape, int(np.prod(shape)), 1, shape, 0.1, 1.3)


def train(
    engine,
    X,
    y,
    weights,
    batch_size=4,
    n_epochs=1,
    solver="sgd",
    nesterov=False,
    decay=0.0,
    ema=None,
):
    """Train with an engine; returns the losses, the parameters and predictions."""
    with engine:
        optimizer = make_optimizer(
            engine.xp,
            solver,
            engine.parameters,
            momentum=0.9,
            nesterovs_momentum=nesterov,
            decay=decay,
            n_weights=engine.architecture.n_weights,
            ema_decay=ema,
        )
        order, losses = np.random.default_rng(1).permutation(len(X)), []
        rates = np.linspace(0.05, 0.01, -(-len(X) // batch_size))
        for _ in range(n_epochs):
            losses.append(
                engine.train_epoch(
                    X, y, weights, order, batch_size, optimizer, rates, np.random.default_rng(0)
                )
            )
        results = engine.parameters, engine.predict_log_proba(X, order)
        return losses, *map(to_host, results), optimizer


def both(architecture, objective=PLAIN, layout=None, dtype=np.float32, **arguments):
    """Train on the CPU and by kernels; returns both results."""
    layout = layout or layout_of(architecture)
    samples = arguments.pop("data", data(architecture))
    results = []
    for make in (
        lambda *a: Engine(*a, 1, objective),
        lambda *a: CudaEngine(*a, 0, objective),
    ):
        parameters = random_parameters(architecture, dtype=dtype)
        results.append(train(make(architecture, layout, parameters), *samples, **arguments))
    return results


def assert_same(first, second, tolerance=2e-5):
    losses, parameters, log_proba, optimizer = first
    np.testing.assert_allclose(losses, second[0], rtol=1e-5)
    assert_close(parameters, second[1], tolerance)
    assert_close(log_proba, second[2], tolerance)
    assert getattr(optimizer, "n_steps", 0) == getattr(second[3], "n_steps", 0)


class TestArithmetic:
    """Three steps, the last on fewer samples, against the CPU's engine."""

    @pytest.mark.parametrize("name", often(ARCHITECTURES, OFTEN))
    def test_every_network(self, cupy, name):
        cpu, cuda = both(small_architecture(**ARCHITECTURES[name]))
        assert_same(cuda, cpu)
        assert cupy.state.launches > 0

    @pytest.mark.parametrize("name", ["relu, max", "strides", "three hidden layers"])
    def test_order_of_threads_and_blocks(self, cupy, backwards, name):
        """A kernel that lacks a barrier reads what other threads have not written yet."""
        architecture = small_architecture(**ARCHITECTURES[name])
        arguments = {"objective": Objective(alpha=0.1), "data": data(architecture, 6)}
        _, forwards = both(architecture, **arguments)
        backwards()
        _, results = both(architecture, **arguments)
        assert results[0] == forwards[0]
        for a, b in zip(results[1:3], forwards[1:3], strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(
        "optimizer",
        [
            {"nesterov": True},
            {"solver": "adam"},
            {"solver": "adamw", "decay": 0.3},
            {"nesterov": True, "ema": 0.9},
            {"solver": "adamw", "decay": 0.3, "ema": 0.9},
        ],
    )
    def test_every_optimizer(self, cupy, optimizer):
        cpu, cuda = both(small_architecture(activation="tanh"), n_epochs=2, **optimizer)
        assert_same(cuda, cpu, 1e-4)
        average = getattr(cpu[3], "average", None)
        if average is not None:
            assert_close(cuda[3].average.get(), average, 1e-4)

    def test_objective(self, cupy):
        objective = Objective(alpha=0.5, label_smoothing=0.2)
        assert_same(*both(small_architecture(activation="tanh"), objective, n_epochs=2)[::-1])

    @pytest.mark.parametrize(
        "dtype",
        often(PIXEL_TYPES, {"bool", "uint8", "int32", "float64"}),
    )
    def test_every_type_of_pixels(self, cupy, dtype):
        architecture = small_architecture(activation="tanh")
        X, y, weights = data(architecture)
        X = (X > 0) if dtype == "bool" else (np.abs(X) * 100).astype(dtype)
        layout = ImageLayout(architecture.image_shape, 80, 1, architecture.image_shape, 50.3, 0.02)
        assert_same(*both(architecture, layout=layout, data=(X, y, weights))[::-1])

    @pytest.mark.parametrize(
        ("shape", "n_features", "zoom", "canvas"),
        [((1, 5, 4), 18, 2, (12, 9)), ((3, 4, 5), 60, 2, (10, 12)), ((1, 10, 8), 77, 1, (10, 8))],
    )
    def test_layout_of_images(self, cupy, shape, n_features, zoom, canvas):
        architecture = small_architecture(image_shape=(shape[0], *canvas))
        X, y, weights = data(architecture)
        layout = ImageLayout(shape, n_features, zoom, architecture.image_shape, 0.1, 1.3)
        samples = np.ascontiguousarray(X[:, :n_features]), y, weights
        assert_same(*both(architecture, layout=layout, data=samples)[::-1])

    def test_several_samples_in_a_block(self, cupy, monkeypatch):
        """As with large mini-batches, which would take long here."""
        initialize = Kernels.__init__
        monkeypatch.setattr(
            Kernels, "__init__", lambda self, *a: initialize(self, *a[:-1], n_samples=512)
        )
        assert_same(*both(small_architecture(), batch_size=6)[::-1])

    def test_more_samples_than_groups(self, cupy, monkeypatch):
        monkeypatch.setattr(_cuda, "_GROUPS", 3)
        assert_same(*both(small_architecture(), batch_size=8)[::-1])

    def test_predictions_in_chunks(self, cupy, monkeypatch):
        monkeypatch.setattr(_cuda, "_MANY_ROWS", 1)
        architecture = small_architecture()
        X, _, _ = data(architecture)
        parameters = random_parameters(architecture, dtype=np.float32)
        arguments = architecture, layout_of(architecture), parameters
        with Engine(*arguments, 1) as engine:
            expected = engine.predict_log_proba(X)
        results = []
        for most in (4, 100):
            monkeypatch.setattr(_cuda, "_MOST_SAMPLES", most)
            with CudaEngine(*arguments, 0, Objective()) as engine:
                results.append(engine.predict_log_proba(X).get())
            assert_close(results[-1], expected, 1e-5)
        np.testing.assert_array_equal(*results)

    def test_diverging_training_shows(self, cupy):
        architecture = small_architecture()
        X, y, weights = data(architecture)
        X[3] = np.nan
        assert np.isnan(both(architecture, data=(X, y, weights))[1][0])


class TestGraph:
    """Steps that are replayed are the steps that were captured."""

    def train(self, n_samples=163, **arguments):
        architecture = small_architecture(conv_channels=(1, 1))
        return both(architecture, data=data(architecture, n_samples), **arguments)

    def test_replays(self, cupy):
        """40 whole steps and a last one: 1 + 2 * 16 + 7 + 1; then 2 * 16 + 8 + 1."""
        cpu, cuda = self.train(n_epochs=2)
        assert_same(cuda, cpu, 1e-4)
        assert cupy.state.graph_launches == 4
        n_kernels = 8
        assert len(cupy.state.graphs) == 1
        assert len(cupy.state.graphs[0].launches) == 16 * n_kernels
        # Predictions follow, by three kernels
        assert cupy.state.launches == n_kernels * (9 + 9) + 3

    def test_same_bits_without(self, cupy, backwards):
        _, replayed = self.train(n_epochs=2)
        cupy.state.capture_fails = True
        with pytest.warns(UserWarning, match="Capturing a CUDA graph failed"):
            _, launched = self.train(n_epochs=2)
        assert cupy.state.graph_launches == 4
        assert replayed[0] == launched[0]
        np.testing.assert_array_equal(replayed[1], launched[1])

    def test_few_steps_are_not_captured(self, cupy):
        self.train(n_samples=64)
        assert cupy.state.graphs == []

    def test_loss_is_all_that_is_read(self, cupy):
        architecture = small_architecture()
        X, y, weights = data(architecture)
        engine = CudaEngine(
            architecture,
            layout_of(architecture),
            random_parameters(architecture, dtype="f"),
            0,
            Objective(),
        )
        with engine:
            optimizer = make_optimizer(
                cupy,
                "sgd",
                engine.parameters,
                momentum=0,
                nesterovs_momentum=False,
                decay=0,
                n_weights=0,
                ema_decay=None,
            )
            for _ in range(3):
                engine.train_epoch(X, y, weights, np.arange(len(X)), 4, optimizer, np.ones(3), None)
            del optimizer
        assert len(cupy.state.downloads) == 3


class TestFit:
    """Whole fits by kernels."""

    def test_lenet_after_twenty_steps(self, cupy, sample):
        """The default network on MNIST, SGD: weights within 1e-4 of the CPU's."""
        X, y, X_test, _ = sample
        cpu, cuda = (
            model(solver="sgd", max_iter=1, batch_size=4, device=device).fit(X[:80], y[:80])
            for device in ("cpu", "cuda")
        )
        for a, b in zip(cuda.coefs_ + cuda.intercepts_, cpu.coefs_ + cpu.intercepts_, strict=True):
            assert_close(a, b, 1e-4)
        assert cupy.state.graph_launches == 1
        np.testing.assert_allclose(
            cuda.predict_proba(X_test[:50]), cpu.predict_proba(X_test[:50]), atol=1e-5
        )

    @pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}, {"ema_decay": 0.9}])
    def test_same_bits_twice_and_from_the_device(self, cupy, parameters):
        parameters = SMALL | parameters
        first = model(**parameters).fit(X, Y)
        assert_same_bits(model(**parameters).fit(X, Y), first)
        assert_same_bits(model(**parameters).fit(cupy.asarray(X), Y), first)

    def test_six_epochs_are_six_epochs(self, cupy):
        parameters = SMALL | {"solver": "adam"}
        whole = model(max_iter=6, **parameters).fit(X, Y)
        warm = model(warm_start=True, **parameters).fit(X, Y).fit(X, Y)
        partial = model(**parameters)
        for _ in range(6):
            partial.partial_fit(X, Y, classes=np.arange(3))
        assert_same_bits(warm, whole)
        assert_same_bits(partial, whole)

    def test_compilation_fails(self, cupy):
        expected = model(**SMALL | {"device": "cpu"}).fit(X, Y)
        cupy.state.compilation_fails = True
        with pytest.warns(UserWarning, match="Compiling kernels failed"):
            actual = model(**SMALL).fit(X, Y)
        assert cupy.state.launches == 0
        np.testing.assert_allclose(actual.loss_curve_, expected.loss_curve_, rtol=1e-5)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"dtype": "float64"},
            {"augment": "affine"},
            {"conv_channels": (30, 400)},
            {"hidden_layer_sizes": (2000,)},
        ],
    )
    def test_what_kernels_do_not_cover(self, cupy, parameters):
        model(device="cuda", max_iter=1, **parameters).fit(X, Y)
        assert cupy.state.launches == 0

    def test_data_that_kernels_do_not_cover(self, cupy):
        model(device="cuda", max_iter=1).fit(X.astype(np.float16), Y)
        model(device="cuda", max_iter=1).fit(cupy.asarray(X).T.copy().T, Y)
        cupy.state.free_bytes = 1000
        model(device="cuda", max_iter=1).fit(X, Y)
        assert cupy.state.launches == 0


class TestEmulation:
    """What the emulation finds out."""

    def run(self, body, n_shared=64):
        source = f"""
            extern __shared__ float shared[];
            extern "C" __global__ void kernel(float* out) {{ int t = threadIdx.x; {body} }}"""
        out = np.zeros(64, np.float32)
        emulated = emulation.Emulation.of(source)
        emulated.launch("kernel", (1,), (64,), [np.uintp(out.ctypes.data)], 4 * n_shared)
        return out

    def test_barrier(self):
        out = self.run("shared[63 - t] = t; __syncthreads(); out[t] = shared[t];")
        np.testing.assert_array_equal(out, np.arange(64)[::-1])

    def test_missing_barrier(self, backwards):
        body = "shared[63 - t] = t; out[t] = shared[t];"
        assert np.isnan(self.run(body)[0])
        first = self.run(body)
        backwards()
        assert not np.array_equal(first, self.run(body), equal_nan=True)

    def test_shuffle(self):
        out = self.run("out[t] = __shfl_xor_sync(0xffffffffu, (float)t, 16);")
        np.testing.assert_array_equal(out, np.arange(64) ^ 16)

    def test_barrier_that_some_never_reach(self):
        with pytest.raises(RuntimeError, match="wait for each other"):
            self.run("if (t == 0) __syncthreads(); else out[t] = __shfl_xor_sync(~0u, 1.0f, 1);")

    def test_writing_behind_the_end(self):
        with pytest.raises(RuntimeError, match="behind its shared memory"):
            self.run("shared[t] = 0;", n_shared=63)
