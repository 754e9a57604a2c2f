"""Mini-batches through the network: shards, worker threads, gradients, steps and predictions."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np

from ._augmentation import Augmentation, call_augment
from ._backend import single_threaded_blas, zeros
from ._images import ImageLayout, ImageLoader
from ._layers import even_slices
from ._loss import log_softmax, softmax_cross_entropy
from ._network import Architecture, Network

# Samples that go through a network at once, at most: with more, what they need leaves the cache;
# with fewer, the many calls of NumPy weigh more. A mini-batch of no more, but more than half as
# many, is cut in two, so that there is work for two threads.
SHARD_SIZE = 64

# Shards whose networks exist at the same time, at most: memory does not grow with the size of a
# mini-batch.
_SHARDS_AT_ONCE = 4


class Workers:
    """Threads that share tasks, the calling thread among them; a context manager ends them.

    Parameters
    ----------
    n_workers : int
        The caller included: 1 starts no thread.
    """

    def __init__(self, n_workers: int) -> None:
        self._inboxes: list[SimpleQueue] = [SimpleQueue() for _ in range(n_workers - 1)]
        self._finished: SimpleQueue = SimpleQueue()
        self._threads: list[threading.Thread] = []
        try:
            for worker, inbox in enumerate(self._inboxes, start=1):
                thread = threading.Thread(target=self._serve, args=(worker, inbox), daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: Any) -> None:
        """End the threads, after the tasks that they are at."""
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    def run(self, work: Callable[[int, int], None], n_tasks: int) -> None:
        """Call ``work(worker, task)`` once for each task, and wait for all of them.

        Raises
        ------
        BaseException
            What `work` raised first in any thread.
        """
        tasks = list(range(n_tasks - 1, -1, -1))
        helpers = self._inboxes[: n_tasks - 1]
        for inbox in helpers:
            inbox.put((work, tasks))
        errors = [self._work_off(0, work, tasks)]
        errors += [self._finished.get() for _ in helpers]
        for error in errors:
            if error is not None:
                raise error

    def _serve(self, worker: int, inbox: SimpleQueue) -> None:
        np.seterr(all="ignore")  # each thread has its own setting; the engine holds the caller's
        while (order := inbox.get()) is not None:
            self._finished.put(self._work_off(worker, *order))

    @staticmethod
    def _work_off(
        worker: int, work: Callable[[int, int], None], tasks: list[int]
    ) -> Exception | None:
        try:
            while tasks:
                try:
                    task = tasks.pop()
                except IndexError:  # another thread took the last one
                    break
                work(worker, task)
        except Exception as error:
            tasks.clear()
            return error
        return None


@dataclass(frozen=True)
class Objective:
    """What is learnt, beside the samples' cross-entropy.

    Attributes
    ----------
    alpha : float, default=0
        The loss of a mini-batch includes ``alpha / 2 * sum(weight**2)`` over the network's weights,
        not its biases, divided by the mini-batch's sum of sample weights.
    label_smoothing : float, default=0
    augment : Augmentation or callable, default=None
        Distorts training images. A callable is called with the images of a mini-batch, an array of
        shape (n, C, H, W) of the type of `X`, and a generator, and returns such an array.
    """

    alpha: float = 0.0
    label_smoothing: float = 0.0
    augment: Augmentation | Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None


class Engine:
    """Train and predict with one network on the CPU.

    Every mini-batch is cut into shards of nearly equal size, each of which a worker takes through a
    network, forward and back. The cut, and the order in which the shards' gradients are added,
    depend on the mini-batch alone: results are the same to the bit for any number of workers. Use
    as a context manager, which holds the threads.

    Parameters
    ----------
    architecture : Architecture
    layout : ImageLayout
    parameters : ndarray of shape (n_parameters,)
        Changed in place by an optimizer that is bound to it.
    n_workers : int
    objective : Objective, default=Objective()
    """

    xp: ModuleType = np

    def __init__(
        self,
        architecture: Architecture,
        layout: ImageLayout,
        parameters: np.ndarray,
        n_workers: int,
        objective: Objective = Objective(),
    ) -> None:
        self.objective = objective
        self.architecture, self.layout, self.parameters = architecture, layout, parameters
        self.n_workers = n_workers
        self._training_networks: dict[tuple[int, int], tuple[Network, ImageLoader]] = {}
        self._predicting_networks: dict[tuple[int, int], tuple[Network, ImageLoader]] = {}
        # Vectors as long as the parameters, made when the first gradient is wanted
        self._worker_gradients: list[np.ndarray] = []
        self._gradients: list[np.ndarray] = []

    def __enter__(self) -> "Engine":
        with ExitStack() as resources:
            # A fit that diverges is told by its loss, once, not by a warning of every operation
            resources.enter_context(np.errstate(all="ignore"))
            resources.enter_context(single_threaded_blas())
            self._workers = resources.enter_context(Workers(self.n_workers))
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._resources.close()

    def train_epoch(
        self,
        X: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        order: np.ndarray,
        batch_size: int,
        optimizer: Any,
        rates: np.ndarray,
        generator: np.random.Generator,
    ) -> Callable[[], float]:
        """Go once through rows of `X`, with a step of the optimizer after each mini-batch.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        y : integer ndarray of shape (n_samples,)
        weights : ndarray of shape (n_samples,)
            A mini-batch's loss is its weighted mean.
        order : integer ndarray of shape (n_rows,)
            Rows of `X` to take, in this order.
        batch_size : int
        optimizer : SGD, Adam or WeightAverage
        rates : ndarray of shape (n_batches,)
            Learning rate of each step.
        generator : numpy.random.Generator
            Draws the augmentation.

        Returns
        -------
        loss : callable
            Waits for the epoch, and gives its loss: the weighted mean over the mini-batches. Here
            there is nothing to wait for, but a device may still be at work.
        """
        alpha = self.objective.alpha
        network_weights = self.parameters[: self.architecture.n_weights]
        totals, shares = batch_weights(weights[order], batch_size)
        labels, shares = y[order], shares.astype(self.parameters.dtype, copy=False)
        losses = np.empty(len(totals))
        for batch, rate in enumerate(rates):
            part = slice(batch * batch_size, (batch + 1) * batch_size)
            gradient, loss = self._gradient(X, order[part], labels[part], shares[part], generator)
            if alpha > 0:
                penalty = float(alpha / totals[batch])
                gradient[: len(network_weights)] += penalty * network_weights
                loss += penalty / 2 * float(network_weights @ network_weights)
            optimizer.step(gradient, float(rate))
            losses[batch] = loss
        loss = float(totals @ losses / totals.sum())
        return lambda: loss

    def _gradient(
        self,
        X: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, float]:
        """Compute the gradient of the weighted sum of the rows' losses, and that sum."""
        # Drawn here, for the whole mini-batch: the same for any number of workers
        augmented = draws = None
        if isinstance(self.objective.augment, Augmentation):
            draws = self.objective.augment.draw(generator, len(rows), self.parameters.dtype)
        elif self.objective.augment is not None:
            augmented = call_augment(
                self.objective.augment, self.layout.image_shape, X[rows], generator
            )

        if not self._gradients:
            self._make_vectors()
        losses = [0.0] * _SHARDS_AT_ONCE

        def work(worker: int, number: int) -> None:
            shard = group[number]
            network, loader = self._training_network(worker, shard.stop - shard.start)
            images = X[rows[shard]] if augmented is None else augmented[shard]
            loader.load(images, None if draws is None else draws[shard])
            network.forward()
            loss = softmax_cross_entropy(
                np, network.logits, labels[shard], weights[shard], self.objective.label_smoothing
            )
            network.backward()
            losses[number] = float(loss)
            np.copyto(places[number], self._worker_gradients[worker])

        # The first shard's place takes the sum: the shards after the first ones have the others
        shards, sum_of_losses = _cut(len(rows)), 0.0
        total, *others = self._gradients
        for first in range(0, len(shards), _SHARDS_AT_ONCE):
            group = shards[first : first + _SHARDS_AT_ONCE]
            places = self._gradients if first == 0 else others
            self._workers.run(work, len(group))
            sum_of_losses += sum(losses[: len(group)])
            for gradient in places[: len(group)]:
                if gradient is not total:
                    np.add(total, gradient, out=total)
        return total, sum_of_losses

    def predict_log_proba(self, X: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Compute the logarithms of the class probabilities.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        rows : integer ndarray of shape (n_rows,), default=None
            Rows of `X` to take; None takes all.

        Returns
        -------
        log_proba : ndarray of shape (n_rows, n_classes)
        """
        n_rows = len(X) if rows is None else len(rows)
        log_proba = np.empty((n_rows, self.architecture.n_classes), self.parameters.dtype)

        def work(worker: int, shard: int) -> None:
            part = slice(shard * SHARD_SIZE, min((shard + 1) * SHARD_SIZE, n_rows))
            network, loader = self._predicting_network(worker, part.stop - part.start)
            loader.load(X[part] if rows is None else X[rows[part]])
            network.forward()
            log_softmax(np, network.logits)
            log_proba[part] = network.logits.T

        self._workers.run(work, ceil(n_rows / SHARD_SIZE))
        return log_proba

    def _make_vectors(self) -> None:
        """Make a vector for the gradient of each worker, of each shard, and one more."""

        def vectors(n: int) -> list[np.ndarray]:
            shape, dtype = self.parameters.shape, self.parameters.dtype
            return [zeros(np, shape, dtype) for _ in range(n)]

        self._worker_gradients = vectors(min(self.n_workers, _SHARDS_AT_ONCE))
        self._gradients = vectors(_SHARDS_AT_ONCE + 1)

    def _training_network(self, worker: int, n_samples: int) -> tuple[Network, ImageLoader]:
        """Return the worker's own network for `n_samples` samples, made when first wanted."""
        key = worker, n_samples
        if key not in self._training_networks:
            network = Network(
                np, self.architecture, self.parameters, self._worker_gradients[worker], n_samples
            )
            augment = self.objective.augment
            augmentation = augment if isinstance(augment, Augmentation) else None
            loader = ImageLoader(np, self.layout, network.images, augmentation)
            self._training_networks[key] = network, loader
        return self._training_networks[key]

    def _predicting_network(self, worker: int, n_samples: int) -> tuple[Network, ImageLoader]:
        """Return the worker's own network for `n_samples` samples, made when first wanted."""
        key = worker, n_samples
        if key not in self._predicting_networks:
            network = Network(np, self.architecture, self.parameters, None, n_samples)
            loader = ImageLoader(np, self.layout, network.images)
            self._predicting_networks[key] = network, loader
        return self._predicting_networks[key]


def batch_weights(weights: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute each mini-batch's sum of weights, and each sample's share of it.

    Parameters
    ----------
    weights : ndarray of shape (n_samples,)
        In the order of the samples.
    batch_size : int

    Returns
    -------
    totals : ndarray of shape (n_batches,)
    shares : ndarray of shape (n_samples,)
    """
    batches = np.repeat(np.arange(ceil(len(weights) / batch_size)), batch_size)[: len(weights)]
    totals = np.bincount(batches, weights)
    return totals, weights / totals[batches]


def _cut(n_samples: int) -> list[slice]:
    """Cut a mini-batch into shards."""
    size = SHARD_SIZE if n_samples > SHARD_SIZE else SHARD_SIZE // 2
    return even_slices(n_samples, ceil(n_samples / size))
