"""The CUDA kernels and graphs, by the stand-in for CuPy and kernels that run on the host.

The kernels' source is the very one that a GPU gets: its arithmetic is checked here, against the
engine of the CPU. What a GPU makes of it is not: see test_gpu.py.
"""

import threading
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from sklearn_lenet import LeNetClassifier
from sklearn_lenet._backend import to_host
from sklearn_lenet._cuda import CudaEngine
from sklearn_lenet._cuda import source as cuda_source
from sklearn_lenet._cuda import steps as cuda_steps
from sklearn_lenet._cuda.source import PIXEL_TYPES, prediction_source, training_source, wide_type
from sklearn_lenet._engine import Data, Engine, MiniBatches, Objective
from sklearn_lenet._images import ImageLayout
from sklearn_lenet._parameters import make_optimizer

from . import emulation, stand_in
from .helpers import LENET, assert_close, random_parameters, small_architecture
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
        "conv_channels": (2, 3, 1),
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
    # Of those with more than 4096 weights, the ranks each have some of the outputs
    "large dense layers": {
        "hidden_layer_sizes": (33, 130),
        "kernel_size": (3, 2),
        "pool_size": 1,
        "activation": "tanh",
        "n_classes": 40,
    },
    "a small dense layer between large ones": {
        "hidden_layer_sizes": (840, 4, 1100),
        "activation": "tanh",
    },
    "more ranks than outputs of one": {
        "hidden_layer_sizes": (840, 5),
        "activation": "tanh",
    },
}

# Smooth, so that many steps differ by no more than rounding errors
SMOOTH = small_architecture(**ARCHITECTURES["three convolutions"])

# Threads of a block, and blocks of a cluster: fewer threads than on a GPU take less time here
CUTS = {1: (64, 1), 2: (96, 2), 4: (64, 4)}

CUTS_OF_A_GPU = cuda_steps._cuts

PLAIN = Objective()

# The other networks are for the slow tests
OFTEN = {
    "relu, max",
    "sigmoid, max, colour",
    "second stride",
    "large padding",
    "one convolution",
    "three convolutions",
    "many channels",
    "large dense layers",
}

# Networks that take less time here. Their dense weights begin at no multiple of 16 bytes, but for
# what goes before the parameters.
SMALL = {"conv_channels": (1, 2), "hidden_layer_sizes": (8,), "device": "cuda"}


def often(cases, chosen):
    """Leave those that are not chosen to the slow tests; a case of several values is a tuple."""
    marks = [[] if case in chosen else [pytest.mark.slow] for case in cases]
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=m) for case, m in zip(cases, marks, strict=True)]


@pytest.fixture
def cut(monkeypatch):
    """Give a function that says how steps are cut from now on; at first, for one rank.

    It takes a number of ranks, or threads and ranks.
    """

    def cut(*numbers):
        chosen = numbers if len(numbers) == 2 else CUTS[numbers[0]]
        monkeypatch.setattr(cuda_steps, "_cuts", lambda *arguments: (chosen,))

    cut(1)
    return cut


@pytest.fixture
def without_kept_weights(monkeypatch):
    """Give a function that has the dense weights no longer kept in shared memory from now on."""
    plans = cuda_source._plans

    def forget():
        training_source.cache_clear()
        monkeypatch.setattr(
            cuda_source,
            "_plans",
            lambda *a: (plan for plan in plans(*a) if not plan.shared["KEEPS_WEIGHTS"]),
        )

    yield forget
    training_source.cache_clear()


@pytest.fixture
def cupy(monkeypatch, cut):
    cupy = stand_in.install(monkeypatch)
    yield cupy
    assert cupy.state.hidden_reads == []
    assert cupy.state.torn == []
    assert not any(pool.used_bytes() for pool in cupy.state.pools)


@pytest.fixture
def backwards(monkeypatch):
    """Give a function that has threads and blocks run last to first from now on, or not."""
    return lambda backwards=True: monkeypatch.setattr(emulation.Emulation, "backwards", backwards)


def data(architecture, n_samples=11, dtype=np.float32):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(n_samples, np.prod(architecture.image_shape))).astype(dtype)
    return X, generator.integers(0, architecture.n_classes, n_samples), generator.random(n_samples)


def layout_of(architecture):
    shape = architecture.image_shape
    return ImageLayout(shape, int(np.prod(shape)), 1, shape, 0.1, 1.3)


def optimizer_of(engine, **parameters):
    """Make the optimizer of the estimator's parameters; SGD without Nesterov's form by default."""
    defaults = {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False}
    estimator = LeNetClassifier(**defaults | parameters)
    return make_optimizer(estimator, engine.xp, engine.parameters, engine.architecture.n_weights)


def train(engine, X, y, weights, batch_size=4, n_epochs=1, **parameters):
    """Train with an engine; returns the losses, the parameters and logits."""
    with engine:
        optimizer = optimizer_of(engine, **parameters)
        order, losses = np.random.default_rng(1).permutation(len(X)), []
        rates = np.linspace(0.05, 0.01, -(-len(X) // batch_size))
        samples, batches = Data(X, y, weights, order), MiniBatches(order, batch_size, rates)
        for _ in range(n_epochs):
            generator = np.random.default_rng(0)
            losses.append(engine.train_epoch(samples, batches, optimizer, generator)())
        results = engine.parameters, engine.predict_logits(X, order)
        return losses, *map(to_host, results), optimizer


def both(architecture, objective=PLAIN, layout=None, dtype=np.float32, **arguments):
    """Train on the CPU and by kernels; returns both results."""
    layout = layout or layout_of(architecture)
    samples = arguments.pop("data", data(architecture))
    if emulation.COMPILER and dtype == np.float32:  # beside the kernels of training
        source = prediction_source(architecture, layout, samples[0].dtype.name)
        threading.Thread(target=emulation.Emulation.of, args=(source.text,)).start()
    results = []
    for make in (
        lambda *a: Engine(*a, 1, objective),
        lambda *a: CudaEngine(*a, 0, objective),
    ):
        parameters = random_parameters(architecture, dtype=dtype)
        results.append(train(make(architecture, layout, parameters), *samples, **arguments))
    return results


def assert_same(first, second, tolerance=2e-5):
    losses, parameters, logits, optimizer = first
    np.testing.assert_allclose(losses, second[0], rtol=1e-5)
    assert_close(parameters, second[1], tolerance)
    assert_close(logits, second[2], tolerance)
    assert getattr(optimizer, "n_steps", 0) == getattr(second[3], "n_steps", 0)


def assert_same_results(first, second):
    """Assert that two trainings have the same bits."""
    assert first[0] == second[0]
    for a, b in zip(first[1:3], second[1:3], strict=True):
        np.testing.assert_array_equal(a, b)


def bytes_of_a_block(architecture, ranks):
    """Count the shared memory that a block needs at least: in training, and in prediction."""
    training = min(4 * plan.size for plan in cuda_source._plans(architecture, (CUTS[ranks],)))
    prediction = prediction_source(architecture, layout_of(architecture), "float32")
    return training, prediction.shared_bytes["predict"]


class TestCut:
    """How many blocks take a sample together."""

    @pytest.mark.parametrize(
        ("batch_size", "capability", "ranks"),
        [(64, "90", 2), (66, "90", 2), (67, "90", 1), (1, "89", 1), (1, "75", 1), (1, "100", 2)],
    )
    def test_two_blocks_where_there_are_enough(self, batch_size, capability, ranks):
        attributes = {"MultiProcessorCount": 132}
        device = SimpleNamespace(compute_capability=capability, attributes=attributes)
        cuts = cuda_steps._cuts(batch_size, device)
        assert cuts[0][1] == ranks
        assert all(threads % 32 == 0 for threads, _ in cuts)
        assert (2 in [ranks for _, ranks in cuts]) == (int(capability) >= 90)

    def test_is_the_steps(self, cupy, monkeypatch):
        """The device is asked, and the grid has a cluster for each sample."""
        grids, launch = [], cuda_steps.Kernels.launch

        def record(self, name, grid, *arguments):
            grids.append((name, grid, self.source.threads[name]))
            launch(self, name, grid, *arguments)

        asked = []

        def cuts(batch_size, device):
            asked.append((batch_size, device.id, device.compute_capability))
            return (CUTS[2],)

        monkeypatch.setattr(cuda_steps, "_cuts", cuts)
        monkeypatch.setattr(cuda_steps.Kernels, "launch", record)
        both(small_architecture())
        assert asked == [(4, 0, "90")]
        assert [g for g in grids if g[0] == "gradients"] == [
            ("gradients", (n,), 96) for n in (8, 8, 6)
        ]

    @pytest.mark.parametrize(
        ("n_kib", "capability", "expected"),
        [
            (227, "90", (512, 2, True)),
            (163, "80", (512, 1, False)),
            (99, "89", (512, 1, False)),
            (99, "120", (512, 2, False)),
            (64, "75", None),
        ],
    )
    def test_default_network_trains_on_most_devices(self, n_kib, capability, expected):
        """H100, A100, RTX 40, RTX 50 and T4: with less memory in a smaller block, or not at all."""
        attributes = {"MultiProcessorCount": 132}
        device = SimpleNamespace(compute_capability=capability, attributes=attributes)
        plans = cuda_source._plans(LENET, cuda_steps._cuts(64, device))
        fitting = [plan for plan in plans if 4 * plan.size <= n_kib * 1024]
        first = fitting[0] if fitting else None
        found = first and (first.threads, first.ranks, bool(first.shared["KEEPS_WEIGHTS"]))
        assert found == expected

    def test_a_larger_mini_batch_takes_another_cut(self):
        """Where one block for a sample has no room, but two have."""
        architecture = replace(LENET, image_shape=(3, 32, 32), conv_channels=(16, 16))
        attributes = {"MultiProcessorCount": 132}
        device = SimpleNamespace(compute_capability="90", attributes=attributes)
        layout = layout_of(architecture)
        for batch_size in (64, 128, 1024):
            cuts = cuda_steps._cuts(batch_size, device)
            arguments = architecture, layout, "uint8", "ADAM", False, cuts, 227 * 1024
            assert training_source(*arguments) is not None


class TestArithmetic:
    """Three steps, the last on fewer samples, against the CPU's engine."""

    @pytest.mark.parametrize(
        ("name", "ranks"),
        often(
            [*product(ARCHITECTURES, [1, 2])],
            {*product(OFTEN, [2]), ("relu, max", 1)},
        ),
    )
    def test_every_network(self, cupy, cut, name, ranks):
        cut(ranks)
        cpu, cuda = both(small_architecture(**ARCHITECTURES[name]))
        assert_same(cuda, cpu)
        assert cupy.state.launches == 2 * 3 + 1

    @pytest.mark.parametrize("name", often(ARCHITECTURES, {"large dense layers"}))
    def test_four_ranks(self, cupy, cut, name):
        """Some of which have nothing to do in some layers."""
        cut(4)
        assert_same(*both(small_architecture(**ARCHITECTURES[name]))[::-1])

    @pytest.mark.parametrize("name", often(ARCHITECTURES, {"relu, max", "large dense layers"}))
    def test_dense_weights_that_do_not_fit_in_shared_memory(
        self, cupy, cut, without_kept_weights, name
    ):
        """They are read from elsewhere; nothing else differs."""
        cut(2)
        architecture = small_architecture(**ARCHITECTURES[name])
        _, expected = both(architecture)
        without_kept_weights()
        _, actual = both(architecture)
        assert cupy.state.launches == 2 * 7
        assert_same_results(actual, expected)

    def test_dense_weights_are_in_shared_memory_where_they_fit(self):
        """And where several blocks share them."""
        plans = {
            ranks: list(cuda_source._plans(small_architecture(), (CUTS[ranks],)))
            for ranks in (1, 2)
        }
        assert not any(plan.shared["KEEPS_WEIGHTS"] for plan in plans[1])
        kept, _, _, plain, _, _ = plans[2]
        sizes = ((6, 5), (5, 3))
        assert kept.size - plain.size == sum(a * b + -a * b % 4 for a, b in sizes)

    def test_less_memory(self, cupy, cut):
        """Parts of sums are fewer then, and nothing but rounding differs."""
        cut(2)
        architecture = small_architecture(conv_channels=(6, 8))
        sizes = [4 * plan.size for plan in cuda_source._plans(architecture, (CUTS[2],))]
        assert sizes[0] > sizes[2] > sizes[5]
        for size in (sizes[2], sizes[5]):
            cupy.state.launches, cupy.state.shared_bytes = 0, size
            assert_same(*both(architecture)[::-1])
            assert cupy.state.launches == 2 * 3 + 1

    @pytest.mark.parametrize(
        ("name", "ranks"),
        often(
            [*product(ARCHITECTURES, [1, 2])],
            {
                *product(OFTEN, [2]),
                ("relu, max", 1),
                ("a small dense layer between large ones", 2),
            },
        ),
    )
    def test_order_of_threads_and_blocks(self, cupy, cut, backwards, name, ranks):
        """A kernel that lacks a barrier reads what other threads have not written yet."""
        self.check_order(cut, backwards, name, CUTS[ranks])

    @pytest.mark.parametrize(
        ("name", "threads", "ranks"),
        often(
            [*product(["large dense layers", "three convolutions"], [256, 512], [1, 2])],
            {("large dense layers", 512, 2)},
        ),
    )
    def test_order_of_many_threads(self, cupy, cut, backwards, name, threads, ranks):
        self.check_order(cut, backwards, name, (threads, ranks))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name", ["large dense layers", "more ranks than outputs of one", "three convolutions"]
    )
    def test_order_of_four_blocks(self, cupy, cut, backwards, name):
        self.check_order(cut, backwards, name, CUTS[4])

    def check_order(self, cut, backwards, name, numbers):
        cut(*numbers)
        architecture = small_architecture(**ARCHITECTURES[name])
        arguments = {"objective": Objective(alpha=0.1), "data": data(architecture, 6)}
        cpu, forwards = both(architecture, **arguments)
        assert_same(forwards, cpu)
        backwards()
        _, results = both(architecture, **arguments)
        assert_same_results(results, forwards)

    @pytest.mark.parametrize(
        "optimizer",
        [
            pytest.param({"nesterovs_momentum": True}, marks=pytest.mark.slow),
            {"solver": "adam", "beta_1": 0.8, "beta_2": 0.95},
            {"solver": "adamw", "alpha": 0.3},
            {"nesterovs_momentum": True, "ema_decay": 0.9},
            pytest.param(
                {"solver": "adamw", "alpha": 0.3, "ema_decay": 0.9}, marks=pytest.mark.slow
            ),
        ],
    )
    def test_every_optimizer(self, cupy, cut, optimizer):
        cut(2)
        cpu, cuda = both(SMOOTH, n_epochs=2, **optimizer)
        assert_same(cuda, cpu, 1e-4)
        average = getattr(cpu[3], "average", None)
        if average is not None:
            assert_close(cuda[3].average.get(), average, 1e-4)

    def test_objective(self, cupy, cut):
        cut(2)
        objective = Objective(alpha=0.5, label_smoothing=0.2)
        assert_same(*both(SMOOTH, objective, n_epochs=2)[::-1])

    @pytest.mark.parametrize(
        "dtype",
        often(PIXEL_TYPES, {"int64"}),
    )
    def test_every_type_of_pixels(self, cupy, dtype):
        architecture = small_architecture(activation="tanh")
        X, y, weights = data(architecture)
        X = (X > 0) if dtype == "bool" else (np.abs(X) * 100).astype(dtype)
        mean = 50.3
        if wide_type(dtype) == "double":  # whose digits are needed far from zero
            X, mean = X + np.array(10**9, dtype), mean + 10**9
        layout = ImageLayout(architecture.image_shape, 80, 1, architecture.image_shape, mean, 0.02)
        assert_same(*both(architecture, layout=layout, data=(X, y, weights))[::-1])

    @pytest.mark.parametrize(
        ("shape", "n_features", "zoom", "canvas"),
        [
            ((3, 4, 5), 58, 2, (10, 12)),
            pytest.param((1, 5, 4), 18, 2, (12, 9), marks=pytest.mark.slow),
            pytest.param((1, 10, 8), 77, 1, (10, 8), marks=pytest.mark.slow),
        ],
    )
    def test_layout_of_images(self, cupy, shape, n_features, zoom, canvas):
        architecture = small_architecture(image_shape=(shape[0], *canvas))
        X, y, weights = data(architecture)
        layout = ImageLayout(shape, n_features, zoom, architecture.image_shape, 0.1, 1.3)
        samples = np.ascontiguousarray(X[:, :n_features]), y, weights
        assert_same(*both(architecture, layout=layout, data=samples)[::-1])

    @pytest.mark.parametrize("ranks", [1, 2])
    @pytest.mark.parametrize("name", ["relu, max", "large dense layers"])
    def test_several_samples_for_a_cluster(self, cupy, cut, monkeypatch, backwards, name, ranks):
        """8 samples for 3 clusters, then 3; and with these, 5 and 2."""
        cut(ranks)
        monkeypatch.setattr(cuda_steps, "_GROUPS", 3)
        architecture = small_architecture(**ARCHITECTURES[name])
        for batch_size in (8, 9):
            backwards(False)
            cpu, forwards = both(architecture, batch_size=batch_size)
            assert_same(forwards, cpu)
            backwards()
            assert_same_results(both(architecture, batch_size=batch_size)[1], forwards)

    @pytest.mark.parametrize("ranks", [1, 2])
    def test_one_sample_in_a_mini_batch(self, cupy, cut, ranks):
        cut(ranks)
        assert_same(*both(small_architecture(), batch_size=1)[::-1])

    def test_epochs_on_other_data(self, cupy):
        """The steps of one epoch serve the next only if that has the same data, and optimizer."""
        architecture = small_architecture()
        samples = data(architecture)
        others = {"X": samples[0] + 1, "y": (samples[1] + 1) % 3, "weights": samples[2] + 1}
        results = []
        for make in (lambda *a: Engine(*a, 1), lambda *a: CudaEngine(*a, 0, Objective())):
            parameters = random_parameters(architecture, dtype=np.float32)
            with make(architecture, layout_of(architecture), parameters) as engine:
                first, second = (optimizer_of(engine, momentum=m) for m in (0.9, 0.1))
                whole = Data(*samples, np.arange(11))
                epochs = [(whole, whole.rows, 4, first)]
                epochs += [
                    (replace(whole, **{name: value}), whole.rows, 4, first)
                    for name, value in others.items()
                ]
                epochs += [(whole, np.arange(8), 4, first), (whole, whole.rows, 3, first)]
                epochs += [(whole, whole.rows, 3, second)]
                losses = []
                for samples_of_epoch, order, size, optimizer in epochs:
                    batches = MiniBatches(order, size, np.full(-(-len(order) // size), 0.05))
                    losses.append(engine.train_epoch(samples_of_epoch, batches, optimizer, None)())
                results.append((losses, to_host(engine.parameters)))
                del first, second, epochs, optimizer
        np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
        assert_close(results[1][1], results[0][1], 1e-4)

    def test_diverging_training_shows(self, cupy):
        architecture = small_architecture()
        X, y, weights = data(architecture)
        X[3] = np.nan
        assert np.isnan(both(architecture, data=(X, y, weights))[1][0])


class TestPredictions:
    """Of any rows, by one kernel, against the CPU's engine."""

    def predict(self, architecture, X, rows=None):
        """Predict by both engines, and compare; returns the kernels' result."""
        parameters = random_parameters(architecture, dtype=np.float32)
        arguments = architecture, layout_of(architecture), parameters
        with Engine(*arguments, 1) as engine:
            expected = engine.predict_logits(X, rows)
        with CudaEngine(*arguments, 0, Objective()) as engine:
            actual = engine.predict_logits(X, rows).get()
        assert_close(actual, expected, 1e-5)
        return actual

    @pytest.mark.parametrize("n_rows", [1, 3, 4, 5, 8, 37])
    @pytest.mark.parametrize("n_multiprocessors", [1, 132])
    def test_numbers_of_rows(self, cupy, n_rows, n_multiprocessors):
        """A block takes four rows at a time; with one multiprocessor, four blocks take all."""
        cupy.state.n_multiprocessors = n_multiprocessors
        architecture = small_architecture()
        self.predict(architecture, data(architecture, n_rows)[0])
        assert cupy.state.launches == 1

    @pytest.mark.parametrize("n_multiprocessors", [1, 132])
    def test_chosen_rows(self, cupy, n_multiprocessors):
        cupy.state.n_multiprocessors = n_multiprocessors
        architecture = small_architecture()
        rows = np.random.default_rng(0).integers(0, 20, 23)
        X, _, _ = data(architecture, 20)
        actual = self.predict(architecture, X, rows)
        np.testing.assert_array_equal(actual, self.predict(architecture, X)[rows])
        assert cupy.state.launches == 2

    @pytest.mark.parametrize("name", ["relu, max", "large dense layers", "three convolutions"])
    def test_order_of_threads_and_blocks(self, cupy, backwards, name):
        cupy.state.n_multiprocessors = 1
        architecture = small_architecture(**ARCHITECTURES[name])
        X, _, _ = data(architecture, 19)
        forwards = self.predict(architecture, X)
        backwards()
        np.testing.assert_array_equal(self.predict(architecture, X), forwards)

    def test_sample_that_is_not_finite(self, cupy):
        """One pixel is enough; samples that go through the dense layers together stay apart."""
        architecture = small_architecture(kernel_size=(1, 1), padding=(0, 0))
        X, _, _ = data(architecture, 8)
        expected = self.predict(architecture, X)
        X[2, 9] = np.nan  # the last of a pooling window
        parameters = random_parameters(architecture, dtype=np.float32)
        with CudaEngine(
            architecture, layout_of(architecture), parameters, 0, Objective()
        ) as engine:
            actual = engine.predict_logits(X).get()
        assert np.isnan(actual[2]).all()
        np.testing.assert_array_equal(np.delete(actual, 2, 0), np.delete(expected, 2, 0))


class TestGraph:
    """Steps that are replayed are the steps that were captured."""

    def train(self, n_samples=163, **arguments):
        architecture = small_architecture()
        return both(architecture, data=data(architecture, n_samples), **arguments)

    def test_replays(self, cupy):
        """40 whole steps and a last one: 1 + 2 * 16 + 7 + 1; then 2 * 16 + 8 + 1."""
        cpu, cuda = self.train(n_epochs=2)
        assert_same(cuda, cpu, 1e-4)
        assert cupy.state.graph_launches == 4
        assert len(cupy.state.graphs) == 1
        assert len(cupy.state.graphs[0].launches) == 16 * 2
        # A prediction follows
        assert cupy.state.launches == 2 * (9 + 9) + 1

    def test_same_bits_without(self, cupy):
        _, replayed = self.train(n_epochs=2)
        cupy.state.capture_fails = True
        with pytest.warns(UserWarning, match="Capturing a CUDA graph failed"):
            _, launched = self.train(n_epochs=2)
        assert cupy.state.graph_launches == 4
        assert_same_results(launched, replayed)

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
            optimizer = optimizer_of(engine)
            samples = Data(X, y, weights, np.arange(len(X)))
            batches = MiniBatches(samples.rows, 4, np.ones(3))
            for n in range(3):
                loss = engine.train_epoch(samples, batches, optimizer, None)
                assert len(cupy.state.downloads) == n
                loss()
                assert len(cupy.state.downloads) == n + 1
            del optimizer, loss


class TestFit:
    """Whole fits by kernels."""

    def test_lenet_after_twenty_steps(self, cupy, sample, monkeypatch):
        """The default network on MNIST, SGD: weights within 1e-4 of the CPU's. As cut on a GPU."""
        X, y, X_test, _ = sample
        monkeypatch.setattr(cuda_steps, "_cuts", CUTS_OF_A_GPU)
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
        n_launches = cupy.state.launches
        for on_device in (cupy.asarray(X), cupy.asarray(np.ascontiguousarray(X.T)).T):
            assert_same_bits(model(**parameters).fit(on_device, Y), first)
        assert cupy.state.launches == 2 * n_launches

    def test_six_epochs_are_six_epochs(self, cupy):
        parameters = SMALL | {"solver": "adam"}
        whole = model(max_iter=6, **parameters).fit(X, Y)
        warm = model(warm_start=True, **parameters).fit(X, Y).fit(X, Y)
        partial = model(**parameters)
        for _ in range(6):
            partial.partial_fit(X, Y, classes=np.arange(3))
        assert_same_bits(warm, whole)
        assert_same_bits(partial, whole)

    @pytest.mark.parametrize(
        "error",
        [
            lambda cuda: cuda.compiler.CompileException("syntax error"),
            lambda cuda: cuda.runtime.CUDARuntimeError("cudaErrorInvalidValue"),
            lambda cuda: RuntimeError("CuPy failed to load nvrtc"),
        ],
    )
    def test_compilation_fails(self, cupy, error):
        """It says so once a fit, and goes on without."""
        expected = model(**SMALL | {"device": "cpu"}).fit(X, Y)
        cupy.state.compilation_fails = error(cupy.cuda)
        message = rf"Compiling kernels failed.*{cupy.state.compilation_fails}"
        with pytest.warns(UserWarning, match=message) as record:
            actual = model(**SMALL).fit(X, Y)
        assert len(record) == 1
        assert cupy.state.launches == 0
        np.testing.assert_allclose(actual.loss_curve_, expected.loss_curve_, rtol=1e-5)
        with pytest.warns(UserWarning, match=message):
            proba = actual.predict_proba(X)
        cupy.state.compilation_fails = None  # it refers to the engine
        np.testing.assert_allclose(proba, expected.predict_proba(X), atol=1e-4)

    def test_our_own_errors_are_no_failing_compilation(self, cupy):
        cupy.state.compilation_fails = NameError("name 'kernels' is not defined")
        with pytest.raises(NameError, match="kernels"):
            model(**SMALL).fit(X, Y)
        cupy.state.compilation_fails = None  # it refers to the engine

    @pytest.mark.parametrize(
        "parameters", [{"dtype": "float64"}, {"hidden_layer_sizes": (600, 450)}]
    )
    def test_what_kernels_do_not_cover(self, cupy, parameters):
        """CuPy's operations take over, and nobody is told."""
        parameters = {"max_iter": 1, **parameters}
        cuda = model(device="cuda", **parameters).fit(X, Y)
        cuda.predict(X)
        assert cupy.state.launches == 0
        cpu = model(**parameters).fit(X, Y)
        np.testing.assert_allclose(cuda.loss_curve_, cpu.loss_curve_, rtol=1e-4)

    def test_augmented_training_is_not_covered(self, cupy):
        classifier = model(augment="affine", **SMALL | {"max_iter": 1}).fit(X, Y)
        assert cupy.state.launches == 1  # the look at the answers, when all is done
        classifier.predict(X)
        assert cupy.state.launches == 2

    @pytest.mark.parametrize("ranks", [1, 2])
    def test_shared_memory_that_does_not_suffice(self, cupy, cut, ranks):
        """For training, or for predictions as well; nobody is told."""
        cut(ranks)
        architecture = small_architecture()
        training, prediction = bytes_of_a_block(architecture, ranks)
        assert prediction < training
        for least, n_launches in [(training, 7), (training - 1, 1), (prediction, 1)]:
            cupy.state.launches, cupy.state.shared_bytes = 0, least
            assert_same(*both(architecture)[::-1])
            assert cupy.state.launches == n_launches
        cupy.state.launches, cupy.state.shared_bytes = 0, prediction - 1
        assert_same(*both(architecture)[::-1])
        assert cupy.state.launches == 0

    def test_failed_fit_keeps_nothing_on_the_device(self, cupy):
        """Not even as long as somebody keeps its error: a notebook does."""
        with pytest.raises(ValueError, match="diverged") as error:
            model(**SMALL | {"lr": 1e30, "solver": "sgd"}).fit(X, Y)
        assert sum(pool.used_bytes() for pool in cupy.state.pools) < X.nbytes / 4
        del error

    @pytest.mark.parametrize("scale", [1e-300, 1e-60, 1, 1e60])
    def test_scale_of_sample_weights_does_not_matter(self, cupy, scale):
        weights = scale * np.where(np.arange(len(X)) < 30, 1e-60, 1.0)
        cpu, cuda = (
            model(**SMALL | {"device": device, "batch_size": 7}).fit(X, Y, weights)
            for device in ("cpu", "cuda")
        )
        np.testing.assert_allclose(cuda.loss_curve_, cpu.loss_curve_, rtol=1e-4)

    def test_error_on_entering(self, cupy, monkeypatch):
        """The device and the stream are those from before."""
        classifier = model(**SMALL).fit(X, Y)
        before = [list(stack) for stack in vars(cupy.state.current).values()]

        def fail(*arguments):
            raise MemoryError

        monkeypatch.setattr(cupy, "zeros", fail)
        with pytest.raises(MemoryError):
            classifier.predict(X)
        assert [list(stack) for stack in vars(cupy.state.current).values()] == before

    def test_interrupt_while_capturing(self, cupy, monkeypatch):
        launch = cuda_steps.Kernels.launch

        def interrupted(self, *arguments):
            if cupy.cuda.get_current_stream().is_capturing():
                raise KeyboardInterrupt
            launch(self, *arguments)

        monkeypatch.setattr(cuda_steps.Kernels, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model(**SMALL | {"batch_size": 2}).fit(X, Y)

    def test_data_that_kernels_do_not_cover(self, cupy):
        """Their type, or that there is no room for them: as they are, or in C order."""
        parameters = SMALL | {"max_iter": 1}
        expected = model(**parameters | {"device": "cpu"}).fit(X, Y)
        halves = np.round(X / 10).astype(np.float16)
        model(**parameters).fit(halves, Y).predict(halves)
        cupy.state.free_bytes = 1000
        for rows in (X, cupy.asarray(np.ascontiguousarray(X.T)).T):
            actual = model(**parameters).fit(rows, Y)
            np.testing.assert_allclose(actual.loss_curve_, expected.loss_curve_, rtol=1e-5)
        assert cupy.state.launches == 0

    def test_network_that_is_just_covered(self, cupy, monkeypatch):
        n_parameters = small_architecture().n_parameters
        for least, n_launches in [(n_parameters, 7), (n_parameters - 1, 0)]:
            monkeypatch.setattr(cuda_steps, "_MOST_PARAMETERS", least)
            cupy.state.launches = 0
            both(small_architecture())
            assert cupy.state.launches == n_launches


class TestEmulation:
    """What the emulation finds out."""

    def run(self, body, n_shared=64, n_threads=64, n_blocks=1, ranks=1):
        source = f"""
            constexpr int RANKS = {ranks};
            extern __shared__ float shared[];
            extern "C" __global__ void __cluster_dims__(RANKS, 1, 1) __launch_bounds__(1024, 1)
            kernel(float* out) {{
                int t = threadIdx.x, block = blockIdx.x, rank = block % RANKS;
                out += block * blockDim.x;
                {body}
            }}"""
        out = np.zeros(n_blocks * n_threads, np.float32)
        emulated = emulation.Emulation.of(source)
        address = np.uintp(out.ctypes.data)
        emulated.launch("kernel", (n_blocks,), (n_threads,), [address], 4 * n_shared)
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

    def test_shuffle_with_lanes_that_have_ended(self):
        out = self.run("if (t % 2) return; out[t] = __shfl_xor_sync(~0u, 1.0f, 1);")
        np.testing.assert_array_equal(out, np.tile([np.nan, 0], 32))

    def test_barrier_that_some_never_reach(self):
        stuck = "if (t == 0) __syncthreads(); else out[t] = __shfl_xor_sync(~0u, 1.0f, 1);"
        body = f"if (t == 1) out[0] = 1; {stuck}"
        for _ in range(2):  # the second launch begins anew
            with pytest.raises(RuntimeError, match="wait for each other"):
                self.run(body)

    @pytest.mark.parametrize("n_shared", [63, 227 * 256 - 1])
    def test_writing_behind_the_end(self, n_shared):
        with pytest.raises(RuntimeError, match="behind its shared memory"):
            self.run(f"shared[{n_shared} - 63 + t] = 0;", n_shared=n_shared)

    def test_large_shared_memory(self):
        n = 227 * 256
        body = f"""
            for (int i = t; i < {n}; i += 64) shared[{n - 1} - i] = i;
            __syncthreads();
            out[t] = 0;
            for (int i = t; i < {n}; i += 64) out[t] += shared[i] == {n - 1} - i;"""
        np.testing.assert_array_equal(self.run(body, n_shared=n), np.full(64, n / 64))
        with pytest.raises(RuntimeError, match="too much shared memory"):
            self.run(body, n_shared=n + 1)

    def test_sizes_of_blocks(self, backwards):
        """One library runs blocks of any size, large and small in turn."""
        body = "shared[t] = t; __syncthreads(); out[t] = shared[blockDim.x - 1 - t];"
        for n_threads in (1024, 33, 1024, 1, 512):
            for _ in range(2):
                out = self.run(body, 1024, n_threads, n_blocks=2)
                np.testing.assert_array_equal(out, np.tile(np.arange(n_threads)[::-1], 2))
                backwards()
        with pytest.raises(RuntimeError, match="too many threads"):
            self.run(body, 1025, 1025)

    # Each block of two gives its numbers to the other
    SENT = """
        float* there = shared_of(shared + t, 1 - rank);
        cluster_barrier();  // both have begun
        *there = 100 * block + t;
        cluster_barrier();
        out[t] = shared[t];"""
    FETCHED = """
        shared[t] = 100 * block + t;
        cluster_barrier();
        out[t] = *shared_of(shared + t, 1 - rank);
        cluster_barrier();  // both have read"""

    @pytest.mark.parametrize("body", [SENT, FETCHED])
    @pytest.mark.parametrize("n_threads", [20, 64])
    def test_cluster(self, backwards, body, n_threads):
        expected = 100 * np.array([[1], [0], [3], [2], [5], [4]]) + np.arange(n_threads)
        for _ in range(2):
            out = self.run(body, n_threads=n_threads, n_blocks=6, ranks=2)
            np.testing.assert_array_equal(out, expected.ravel())
            backwards()

    @pytest.mark.parametrize("left", [0, 1])
    @pytest.mark.parametrize("body", [SENT, FETCHED])
    @pytest.mark.parametrize("instead", ["", "__syncthreads();"])
    def test_missing_cluster_barrier(self, backwards, body, left, instead):
        before, middle, after = body.split("cluster_barrier();")
        barriers = ["cluster_barrier();" if left == i else instead for i in range(2)]
        body = before + barriers[0] + middle + barriers[1] + after
        first = self.run(body, n_blocks=4, ranks=2)
        backwards()
        second = self.run(body, n_blocks=4, ranks=2)
        assert np.isnan(first).any() or np.isnan(second).any()
        assert not np.array_equal(first, second, equal_nan=True)

    def test_barriers_of_blocks_in_a_cluster(self):
        """A block does not wait for another at its own barriers."""
        body = """
            for (int i = 0; i <= rank; i++) { shared[t] = i; __syncthreads(); }
            cluster_barrier();
            out[t] = *shared_of(shared + 63 - t, (rank + 1) % RANKS);
            cluster_barrier();"""
        out = self.run(body, n_blocks=4, ranks=4)
        np.testing.assert_array_equal(out, np.repeat([1, 2, 3, 0], 64))

    def test_cluster_barrier_that_some_never_reach(self):
        with pytest.raises(RuntimeError, match="wait for each other"):
            self.run("if (rank && t) __syncthreads(); else cluster_barrier();", ranks=2, n_blocks=2)

    def test_grid_of_clusters(self):
        with pytest.raises(RuntimeError, match="whole number of clusters"):
            self.run("out[t] = 0;", ranks=2, n_blocks=3)

    @pytest.mark.parametrize("place", ["shared, 2", "shared - 1, 0", "out, 0"])
    def test_place_that_there_is_not(self, place):
        with pytest.raises(RuntimeError, match="that there is not"):
            self.run(f"out[t] = *shared_of({place});", ranks=2, n_blocks=2)

    @pytest.mark.parametrize("size", [2, 4])
    def test_vectors(self, size):
        body = f"""
            using Vector = float{size};
            shared[t] = t;
            __syncthreads();
            float* place = shared + t / {size} * {size};
            const Vector read = *reinterpret_cast<const Vector*>(place);
            out[t] = t % 2 ? read.y : read.x;
            *reinterpret_cast<Vector*>(place) = read;"""
        out = self.run(body)
        np.testing.assert_array_equal(out, np.arange(64) // size * size + np.arange(64) % 2)
        for access in ("const Vector*>(place", "<Vector*>(place"):
            with pytest.raises(RuntimeError, match="multiple of its size"):
                self.run(body.replace(access, f"{access} + {size // 2}"))
