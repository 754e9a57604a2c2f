"""Mini-batches: gradients and steps, the same bits for any number of workers, and tidy threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import cycle
from time import sleep

import numpy as np
import pytest
from threadpoolctl import OpenBLASController, threadpool_info, threadpool_limits

from sklearn_lenet._engine import (
    Data,
    Engine,
    MiniBatches,
    Objective,
    ShardNetwork,
    Workers,
    feature_maps,
)
from sklearn_lenet._images import ImageLayout
from sklearn_lenet._network import Network
from sklearn_lenet._optimizers import SGD, Adam

from . import naive
from .helpers import LENET, POOLINGS, assert_close, random_parameters, small_architecture

ARCHITECTURE = small_architecture(activation="tanh")
LAYOUT = ImageLayout(ARCHITECTURE.image_shape, 80, 1, ARCHITECTURE.image_shape, 0.25, 1.5)

# Longer than any test: a deadlock becomes a failure
PATIENCE = 30


def data(n_samples, n_features=80, seed=0):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n_samples, n_features)).astype(np.float32)
    return X, generator.integers(0, 3, n_samples), generator.random(n_samples) + 0.5


def make_engine(parameters=None, n_workers=2, architecture=ARCHITECTURE, layout=LAYOUT):
    if parameters is None:
        parameters = random_parameters(architecture)
    return Engine(architecture, layout, parameters, n_workers)


def train(engine, X, y, weights, order=None, batch_size=50, lr=0.1, alpha=0.0, optimizer=None):
    order = np.arange(len(X)) if order is None else order
    optimizer = optimizer or SGD(np, engine.parameters, 0.0)
    engine.objective = Objective(alpha=alpha)
    rates = np.full(-(-len(order) // batch_size), lr)
    generator = np.random.default_rng(0)
    samples, batches = Data(X, y, weights, order), MiniBatches(order, batch_size, rates)
    return engine.train_epoch(samples, batches, optimizer, generator)()


def predict(X, parameters=None, **keywords):
    with make_engine(parameters, n_workers=1, **keywords) as engine:
        return engine.predict_logits(X)


def interrupt(*arguments):
    raise KeyboardInterrupt


class Delayed(np.ndarray):
    """Rows that take their time, another one at each access: workers overtake each other."""

    delays = cycle(np.random.default_rng(0).choice([0, 0, 0.001, 0.003], 997).tolist())

    def __getitem__(self, rows):
        sleep(next(self.delays))
        return np.asarray(self)[rows]


class Broken(np.ndarray):
    """Rows of which one cannot be read."""

    def __getitem__(self, rows):
        if 70 in np.atleast_1d(np.arange(len(self))[rows]):
            raise OSError("row 70 is unreadable")
        return np.asarray(self)[rows]


def blas_threads():
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


def run_in_thread(function, *arguments, **keywords):
    thread = threading.Thread(target=function, args=arguments, kwargs=keywords, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def limit_blas(limits):
    """Set the number of BLAS' threads, from a thread that ends.

    Since 3.8, threadpoolctl lets no other thread set OpenBLAS' while the one that did is alive and
    has not left its `with` block.
    """
    run_in_thread(threadpool_limits, limits=limits, user_api="blas")


def release_blas():
    """Let any thread set the number of BLAS' threads, whatever other tests have left."""
    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread(force=True)


@pytest.fixture
def tidy():
    """BLAS has three threads, also afterwards, and Python has no more threads than before."""
    threads, original = set(threading.enumerate()), threadpool_info()
    if not blas_threads():
        pytest.skip("threadpoolctl knows no BLAS here")
    release_blas()
    limit_blas(3)
    assert blas_threads() == {3}
    libraries = threadpool_info()
    yield
    after = threadpool_info()
    release_blas()
    limit_blas(original)
    assert after == libraries
    assert set(threading.enumerate()) == threads


class TestStep:
    """An epoch against the naive gradient and the formula of gradient descent."""

    @staticmethod
    def naive_epoch(parameters, X, y, weights, batches, lr, alpha, architecture=ARCHITECTURE):
        """Return the parameters afterwards and the loss."""
        parameters, n_weights = parameters.copy(), architecture.n_weights
        images = ((X.astype(np.float64) - LAYOUT.mean) * LAYOUT.scale).reshape(
            len(X), *architecture.image_shape
        )
        losses = []
        for rows in batches:
            total = weights[rows].sum()
            loss, gradient = naive.loss_and_gradient(
                architecture, parameters, images[rows], y[rows], weights[rows] / total
            )
            loss += alpha / 2 * np.sum(parameters[:n_weights] ** 2) / total
            gradient[:n_weights] += alpha * parameters[:n_weights] / total
            parameters -= lr * gradient
            losses.append(loss)
        return parameters, np.average(losses, weights=[weights[rows].sum() for rows in batches])

    @pytest.mark.parametrize("n_workers", [1, 2])
    @pytest.mark.parametrize("alpha", [0.0, 0.7])
    @pytest.mark.parametrize("n_samples", [1, 5, 40, 70])
    def test_one_batch(self, n_samples, alpha, n_workers):
        X, y, weights = data(n_samples)
        parameters = random_parameters(ARCHITECTURE)
        expected, expected_loss = self.naive_epoch(
            parameters, X, y, weights, [np.arange(n_samples)], 0.1, alpha
        )
        before = parameters.copy()
        with make_engine(parameters, n_workers) as engine:
            loss = train(engine, X, y, weights, batch_size=100, alpha=alpha)
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert_close(parameters - before, expected - before, 1e-10)

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_ragged_batches_of_some_rows_in_some_order(self, pooling):
        X, y, weights = data(20)
        order = np.array([3, 17, 8, 8, 0, 19, 5, 11])
        architecture = replace(ARCHITECTURE, pooling=pooling)
        parameters = random_parameters(architecture)
        batches = [order[:3], order[3:6], order[6:]]
        expected, expected_loss = self.naive_epoch(
            parameters, X, y, weights, batches, 0.1, 0.3, architecture
        )
        with make_engine(parameters, architecture=architecture) as engine:
            loss = train(engine, X, y, weights, order, batch_size=3, alpha=0.3)
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert_close(parameters, expected, 1e-11)

    def test_large_batch_has_the_mean_gradient_of_its_rows(self):
        X, y, weights = data(650)
        before = random_parameters(ARCHITECTURE)
        steps, losses = [], []
        for rows in [np.arange(650), *np.arange(650).reshape(26, 25)]:
            parameters = before.copy()
            with make_engine(parameters) as engine:
                losses.append(train(engine, X, y, weights, rows, batch_size=650))
            steps.append(parameters - before)
        totals = weights.reshape(26, 25).sum(axis=1)
        assert losses[0] == pytest.approx(np.average(losses[1:], weights=totals), rel=1e-12)
        assert_close(steps[0], np.average(steps[1:], axis=0, weights=totals), 1e-10)

    def test_nothing_is_left_of_earlier_batches(self):
        X, y, weights = data(650)
        at_once, one_by_one = random_parameters(ARCHITECTURE), random_parameters(ARCHITECTURE)
        with make_engine(at_once) as engine:
            train(engine, X, y, weights, batch_size=600)
        for rows in (np.arange(600), np.arange(600, 650)):
            with make_engine(one_by_one) as engine:
                train(engine, X, y, weights, rows, batch_size=600)
        np.testing.assert_array_equal(at_once, one_by_one)

    def test_gradient_is_averaged_once(self):
        """A batch that is duplicated, or whose weights are, has the same mean."""
        X, y, weights = data(30)
        results = []
        for order, factor in [
            (np.arange(30), 1),
            (np.tile(np.arange(30), 2), 1),
            (np.repeat(np.arange(30), 3), 1),
            (np.arange(30), 1000),
        ]:
            parameters = random_parameters(ARCHITECTURE)
            with make_engine(parameters) as engine:
                loss = train(engine, X, y, factor * weights, order, batch_size=1000)
            results.append((parameters, loss))
        for parameters, loss in results[1:]:
            assert loss == pytest.approx(results[0][1], rel=1e-12)
            assert_close(parameters, results[0][0], 1e-12)

    def test_weight_is_repetition(self):
        X, y, _ = data(30)
        weights = np.resize([1.0, 2, 0, 3], 30)
        rows = np.repeat(np.arange(30), weights.astype(int))
        weighted, repeated = random_parameters(ARCHITECTURE), random_parameters(ARCHITECTURE)
        with make_engine(weighted) as engine:
            loss = train(engine, X, y, weights, alpha=0.5)
        with make_engine(repeated) as engine:
            expected_loss = train(engine, X, y, np.ones(30), rows, alpha=0.5)
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert_close(weighted, repeated, 1e-12)

    def test_penalty_spares_the_biases(self):
        X, y, weights = data(10)
        plain, decayed = random_parameters(ARCHITECTURE), random_parameters(ARCHITECTURE)
        before = plain.copy()
        for parameters, alpha in [(plain, 0.0), (decayed, 2.0)]:
            with make_engine(parameters) as engine:
                train(engine, X, y, weights, alpha=alpha, lr=0.1)
        n_weights = ARCHITECTURE.n_weights
        expected = plain[:n_weights] - 0.1 * 2.0 / weights.sum() * before[:n_weights]
        np.testing.assert_allclose(decayed[:n_weights], expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(decayed[n_weights:], plain[n_weights:])

    def test_float32_stays_float32(self):
        X, y, weights = data(70)
        parameters = random_parameters(ARCHITECTURE, dtype=np.float32)
        optimizer = Adam(np, parameters)
        with make_engine(parameters) as engine:
            train(engine, X, y, weights, alpha=0.1, optimizer=optimizer)
            logits = engine.predict_logits(X)
        assert engine.parameters is parameters
        assert logits.dtype == parameters.dtype == optimizer.state["mean"].dtype == np.float32


class TestSameBits:
    """Who computed what, and when, does not matter: not even the last bit."""

    @staticmethod
    def result(n_workers, batch_size, n_samples, solver="sgd", X_type=np.ndarray, n_epochs=2):
        X, y, weights = data(n_samples)
        parameters = random_parameters(ARCHITECTURE, dtype=np.float32)
        optimizer = SGD(np, parameters, 0.9) if solver == "sgd" else Adam(np, parameters)
        order, losses = np.random.default_rng(1), []
        with make_engine(parameters, n_workers) as engine:
            for _ in range(n_epochs):
                losses.append(
                    train(
                        engine,
                        X.view(X_type),
                        y,
                        weights,
                        order.permutation(n_samples),
                        batch_size,
                        lr=0.01,
                        alpha=0.01,
                        optimizer=optimizer,
                    )
                )
            logits = engine.predict_logits(X.view(X_type))
        return parameters, np.array(losses), logits

    @pytest.mark.parametrize("solver", ["sgd", "adam"])
    @pytest.mark.parametrize(
        ("batch_size", "n_samples"), [(1, 40), (7, 100), (50, 230), (64, 200), (600, 1300)]
    )
    def test_any_number_of_workers(self, batch_size, n_samples, solver):
        expected = self.result(1, batch_size, n_samples, solver)
        assert np.isfinite(expected[0]).all()
        for n_workers in (2, 3, 4):
            actual = self.result(n_workers, batch_size, n_samples, solver)
            for array, expected_array in zip(actual, expected, strict=True):
                np.testing.assert_array_equal(array, expected_array)

    @pytest.mark.parametrize("batch_size", [100, 1300])
    def test_workers_that_overtake_each_other(self, batch_size):
        expected = self.result(1, batch_size, 1300, n_epochs=1)
        actual = self.result(4, batch_size, 1300, X_type=Delayed, n_epochs=1)
        for array, expected_array in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(array, expected_array)

    def test_lenet(self):
        X, y, weights = data(130, n_features=784)
        layout = ImageLayout((1, 28, 28), 784, 1, (1, 28, 28), 0.0, 1.0)
        results = []
        for n_workers in (1, 2, 3):
            parameters = random_parameters(LENET, dtype=np.float32)
            with make_engine(parameters, n_workers, LENET, layout) as engine:
                train(engine, X, y, weights, batch_size=128)
            results.append(parameters)
        for parameters in results[1:]:
            np.testing.assert_array_equal(parameters, results[0])

    def test_one_gradient(self):
        """With a learning rate of 1 and no momentum, the step is the gradient."""
        X, y, weights = data(600)
        gradients = []
        for n_workers in (1, 2, 3, 4):
            parameters = random_parameters(ARCHITECTURE)
            with make_engine(parameters, n_workers) as engine:
                train(engine, X, y, weights, batch_size=600, lr=1.0)
            gradients.append(parameters)
        for gradient in gradients[1:]:
            np.testing.assert_array_equal(gradient, gradients[0])


class TestPredictions:
    @pytest.mark.parametrize("n_workers", [1, 3])
    @pytest.mark.parametrize("n_samples", [0, 1, 31, 32, 33, 64, 100])
    def test_shapes(self, n_samples, n_workers):
        X, _, _ = data(n_samples)
        with make_engine(n_workers=n_workers) as engine:
            assert engine.predict_logits(X).shape == (n_samples, 3)
            assert engine.predict_hidden(X).shape == (
                n_samples,
                engine.architecture.hidden_layer_sizes[-1],
            )

    @pytest.mark.parametrize("hidden_layer_sizes", [(), (5,), (9, 4)])
    def test_against_naive(self, hidden_layer_sizes):
        """The logits, and the outputs of the layer before the last."""
        X, _, _ = data(40)
        images = ((X.astype(np.float64) - 0.25) * 1.5).reshape(40, *ARCHITECTURE.image_shape)
        architecture = replace(ARCHITECTURE, hidden_layer_sizes=hidden_layer_sizes)
        parameters = random_parameters(architecture)
        expected, _ = naive.forward(architecture, parameters, images)
        weights, biases = architecture.views(parameters)
        with make_engine(parameters, architecture=architecture) as engine:
            logits, hidden = engine.predict_logits(X), engine.predict_hidden(X)
        assert_close(logits, expected, 1e-12)
        assert_close(hidden @ weights[-1].T + biases[-1], expected, 1e-12)
        assert hidden.shape == (40, weights[-1].shape[1])

    def test_rows(self):
        X, _, _ = data(100)
        rows = np.random.default_rng(1).permutation(100)[:70]
        with make_engine() as engine:
            actual, expected = engine.predict_logits(X, rows), engine.predict_logits(X[rows])
            assert engine.predict_logits(X, rows[:0]).shape == (0, 3)
        np.testing.assert_array_equal(actual, expected)

    def test_parameters_are_those_of_the_last_step(self):
        X, y, weights = data(40)
        with make_engine() as engine:
            before = engine.predict_logits(X)
            train(engine, X, y, weights)
            after = engine.predict_logits(X)
            parameters = engine.parameters.copy()
        assert not np.array_equal(before, after)
        with make_engine(parameters) as other:
            np.testing.assert_array_equal(other.predict_logits(X), after)

    def test_parameters_are_only_read(self):
        X, _, _ = data(40)
        parameters = random_parameters(ARCHITECTURE)
        parameters.flags.writeable = False
        with make_engine(parameters) as engine:
            engine.predict_logits(X)


class TestFeatureMaps:
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"activation": "sigmoid", "pool_size": 1},
            # Pooling leaves a row and a column out; the second convolution reads four channels
            {
                "image_shape": (2, 11, 9),
                "conv_channels": (4, 3),
                "stride": (2, 1),
                "padding": (2, 1),
            },
            {
                "conv_channels": (5,),
                "kernel_size": (1,),
                "stride": (1,),
                "padding": (0,),
                "activation": "tanh",
            },
        ],
    )
    def test_against_loops(self, pooling, changes):
        architecture = small_architecture(pooling=pooling, **changes)
        C, H, W = shape = architecture.image_shape
        parameters, row = random_parameters(architecture), data(1, C * H * W)[0][0]
        layout = replace(LAYOUT, image_shape=shape, n_features=C * H * W, canvas_shape=shape)
        image, maps = feature_maps(architecture, layout, parameters, row)
        assert_close(image, ((row - 0.25) * 1.5).reshape(shape), 1e-7)
        _, steps = naive.forward(architecture, parameters, image[None])
        assert len(maps) == len(architecture.conv_channels)
        for (convolved, pooled), (_, a) in zip(maps, steps, strict=False):
            states = naive.each(naive.FUNCTIONS[architecture.activation], a)
            assert_close(convolved, states[0], 1e-12)
            assert_close(pooled, naive.pooling(pooling, states, architecture.pool_size)[0], 1e-12)


class TestSpares:
    @pytest.fixture(autouse=True)
    def none_at_first(self):
        ShardNetwork._spares.clear()

    @pytest.mark.parametrize("n_samples", [1, 40, 100])
    def test_networks_that_served_others_give_the_same_bits(self, n_samples):
        X, _, _ = data(n_samples)
        vectors = [random_parameters(ARCHITECTURE, seed=seed) for seed in range(3)]
        fresh = []
        for parameters in vectors:
            ShardNetwork._spares.clear()
            fresh.append(predict(X, parameters))
        for number in (0, 1, 1, 2, 0):
            np.testing.assert_array_equal(predict(X, vectors[number]), fresh[number])
        other = replace(LAYOUT, mean=LAYOUT.mean + 0.1)
        assert not np.array_equal(predict(X, vectors[0], layout=other), fresh[0])

    def test_parameters_changed_in_place(self):
        X, _, _ = data(1)
        parameters = random_parameters(ARCHITECTURE)
        with make_engine(parameters) as engine:
            before = engine.predict_logits(X)
            parameters[0] += 1  # of the first convolution, whose kernels are laid out
            within = engine.predict_logits(X)
        parameters[-1] += 1
        after = predict(X, parameters)
        assert not np.array_equal(before, within)
        ShardNetwork._spares.clear()
        np.testing.assert_array_equal(after, predict(X, parameters))

    def test_interrupted_while_it_takes_parameters(self, monkeypatch):
        """The training goes on after that, and so the network is kept."""
        X, _, _ = data(2)
        parameters = random_parameters(ARCHITECTURE, seed=1)
        expected = predict(X, parameters)
        predict(X, random_parameters(ARCHITECTURE))
        lay_out = Network.lay_out
        with make_engine(parameters, n_workers=1) as engine:
            monkeypatch.setattr(Network, "lay_out", interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.predict_logits(X)
            monkeypatch.setattr(Network, "lay_out", lay_out)
        assert len(ShardNetwork._spares) == 1
        np.testing.assert_array_equal(predict(X, parameters), expected)

    def test_few_and_small_ones_are_kept(self):
        for n_samples in range(1, 64):
            predict(data(n_samples)[0])
        assert len(ShardNetwork._spares) == 4
        wide = replace(ARCHITECTURE, hidden_layer_sizes=(3000, 1000))
        kept = list(ShardNetwork._spares)
        predict(data(1)[0], architecture=wide)
        assert list(ShardNetwork._spares) == kept

    def test_none_is_kept_after_an_exception(self):
        def fail():
            with make_engine() as engine:
                engine.predict_logits(data(3)[0])
                raise LookupError

        with pytest.raises(LookupError):
            fail()
        assert not ShardNetwork._spares

    def test_threads_never_share_one(self):
        X, _, _ = data(3)
        vectors = [random_parameters(ARCHITECTURE, seed=seed) for seed in range(3)]
        expected = [predict(X, parameters) for parameters in vectors]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda n: predict(X, vectors[n % 3]), range(300)))
        for n, logits in enumerate(found):
            np.testing.assert_array_equal(logits, expected[n % 3])


class TestWorkers:
    @pytest.fixture
    def team(self):
        with Workers(3) as workers:
            yield workers

    @pytest.mark.parametrize("n_workers", [1, 2, 5])
    @pytest.mark.parametrize("n_tasks", [0, 1, 2, 3, 50])
    def test_each_task_is_done_once(self, n_workers, n_tasks):
        done = []
        with Workers(n_workers) as workers:
            workers.run(lambda worker, task: done.append((worker, task)), n_tasks)
        assert sorted(task for _, task in done) == list(range(n_tasks))
        assert {worker for worker, _ in done} <= set(range(n_workers))

    def test_every_worker_takes_part_as_itself(self, team):
        everyone, done = threading.Barrier(3, timeout=PATIENCE), []

        def work(worker, task):
            everyone.wait()
            done.append((worker, threading.get_ident()))

        team.run(work, 3)
        team.run(work, 3)
        assert {worker for worker, _ in done} == {0, 1, 2}
        assert len(set(done)) == 3
        assert (0, threading.get_ident()) in done

    @pytest.mark.parametrize("guilty", [0, 1, 2])
    def test_error_reaches_the_caller_and_the_team_works_on(self, team, guilty):
        for _ in range(3):
            everyone = threading.Barrier(3, timeout=PATIENCE)

            def work(worker, task, everyone=everyone):
                everyone.wait()
                if worker == guilty:
                    raise LookupError(f"worker {worker}")

            with pytest.raises(LookupError, match=f"worker {guilty}"):
                team.run(work, 3)
            done = []
            team.run(lambda worker, task, done=done: done.append(task), 20)
            assert sorted(done) == list(range(20))

    def test_error_of_one_ends_the_work_of_all(self):
        both, done = threading.Barrier(2, timeout=PATIENCE), []

        def work(worker, task):
            if task < 2:
                both.wait()
            if worker == 0:
                raise LookupError
            sleep(0.01)
            done.append(task)

        with Workers(2) as workers, pytest.raises(LookupError):
            workers.run(work, 200)
        assert 1 <= len(done) < 100

    def test_nobody_works_on_when_the_error_arrives(self, team):
        everyone, done = threading.Barrier(3, timeout=PATIENCE), []

        def work(worker, task):
            everyone.wait()
            if worker == 0:
                raise LookupError
            sleep(0.05)
            done.append(worker)

        with pytest.raises(LookupError):
            team.run(work, 3)
        assert sorted(done) == [1, 2]

    def test_threads_end_with_the_block(self):
        before = threading.active_count()
        with Workers(4):
            assert threading.active_count() == before + 3
        assert threading.active_count() == before


@pytest.mark.usefixtures("tidy")
class TestResources:
    def test_blas_has_one_thread_within(self):
        with make_engine(n_workers=3):
            assert blas_threads() == {1}

    @pytest.mark.parametrize("n_workers", [1, 2, 4])
    def test_training_and_predicting(self, n_workers):
        X, y, weights = data(200)
        with make_engine(n_workers=n_workers) as engine:
            train(engine, X, y, weights)
            engine.predict_logits(X)

    def test_exception_in_the_block(self):
        def fail():
            with make_engine(n_workers=3):
                raise LookupError

        with pytest.raises(LookupError):
            fail()

    @pytest.mark.parametrize("n_workers", [1, 2, 4])
    def test_exception_in_a_task_and_work_after_it(self, n_workers):
        X, y, weights = data(200)
        parameters = random_parameters(ARCHITECTURE)
        with make_engine(parameters, n_workers) as engine:
            expected = engine.predict_logits(X)
            for _ in range(3):
                with pytest.raises(OSError, match="row 70 is unreadable"):
                    train(engine, X.view(Broken), y, weights, batch_size=200)
                with pytest.raises(OSError, match="row 70 is unreadable"):
                    engine.predict_logits(X.view(Broken))
            np.testing.assert_array_equal(engine.predict_logits(X), expected)
            train(engine, X, y, weights, batch_size=200)
        fresh = random_parameters(ARCHITECTURE)
        with make_engine(fresh, n_workers) as engine:
            train(engine, X, y, weights, batch_size=200)
        np.testing.assert_array_equal(parameters, fresh)

    def test_failed_batch_makes_no_step(self):
        X, y, weights = data(200)
        parameters = random_parameters(ARCHITECTURE)
        with make_engine(parameters) as engine, pytest.raises(OSError, match="unreadable"):
            train(engine, X.view(Broken), y, weights, batch_size=200)
        np.testing.assert_array_equal(parameters, random_parameters(ARCHITECTURE))

    def test_engine_may_be_entered_again(self):
        X, _, _ = data(70)
        engine, results = make_engine(), []
        for _ in range(2):
            with engine:
                results.append(engine.predict_logits(X))
        np.testing.assert_array_equal(*results)

    def test_nested(self):
        X, y, weights = data(100)
        with make_engine() as outer, make_engine() as inner:
            train(inner, X, y, weights)
            train(outer, X, y, weights)
            np.testing.assert_array_equal(inner.parameters, outer.parameters)

    def test_first_in_first_out(self):
        """Engines overlap without being nested."""
        first, second = ExitStack(), ExitStack()
        with second:
            with first:
                first.enter_context(make_engine())
                second.enter_context(make_engine())
            assert blas_threads() == {1}
        assert blas_threads() == {3}

    def test_another_thread_is_last_to_leave(self):
        entered, first_has_left = threading.Event(), threading.Event()

        def second():
            with make_engine():
                entered.set()
                assert first_has_left.wait(PATIENCE)

        thread = threading.Thread(target=second, daemon=True)
        with make_engine():
            thread.start()
            assert entered.wait(PATIENCE)
        assert blas_threads() == {1}
        first_has_left.set()
        thread.join(PATIENCE)
        assert blas_threads() == {3}

    def test_every_thread_holds_blas_at_one_thread(self):
        seen = []

        def enter():
            with make_engine():
                seen.append(blas_threads())
            seen.append(blas_threads())

        enter()
        run_in_thread(enter)
        enter()
        assert seen == [{1}, {3}] * 3

    def test_limits_of_other_threads_work_afterwards(self):
        with make_engine():
            pass
        limit_blas(2)
        assert blas_threads() == {2}
        limit_blas(3)

    def test_concurrent(self):
        X, y, weights = data(150)
        all_within = threading.Barrier(4, timeout=PATIENCE)
        results, seen = [], []

        def fit():
            for _ in range(3):
                with make_engine() as engine:
                    all_within.wait()
                    train(engine, X, y, weights)
                    seen.append(blas_threads())
                    results.append(engine.parameters)

        threads = [threading.Thread(target=fit, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(results) == 12
        for parameters in results[1:]:
            np.testing.assert_array_equal(parameters, results[0])
        assert seen == [{1}] * 12

    def test_threads_that_cannot_be_started(self, monkeypatch):
        start, started = threading.Thread.start, []

        def start_two(thread):
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_two)
        engine = make_engine(n_workers=4)
        with pytest.raises(RuntimeError, match="can't start new thread"), engine:
            pass
        assert blas_threads() == {3}
        assert not any(thread.is_alive() for thread in started)
