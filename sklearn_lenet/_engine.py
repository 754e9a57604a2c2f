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
from ._backend import single_threaded_blas
from ._images import ImageLayout, ImageLoader
from ._loss import log_softmax, softmax_cross_entropy
from ._network import Architecture, Network

# Samples that go through the network at once: a worker's buffers then stay in its level 2 cache.
SHARD_SIZE = 32

# Gradients that are kept apart before they are added up, in this order whoever computed them: so
# many workers can share one mini-batch, and memory does not grow with its size.
_MAX_PARTS = 16


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
        while (order := inbox.get()) is not None:
            self._finished.put(self._work_off(worker, *order))

    @staticmethod
    def _work_off(
        worker: int, work: Callable[[int, int], None], tasks: list[int]
    ) -> Exception | None:
        try:
            with np.errstate(all="ignore"):  # as in `train`: each thread has its own setting
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

    Every mini-batch is cut into shards of nearly equal size, `SHARD_SIZE` at most. The cut, and the
    order in which the shards' gradients are added, depend on the mini-batch alone: results are the
    same to the bit for any number of workers. Use as a context manager, which holds the threads.

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
        self._networks: dict[tuple[int, int, bool], tuple[ImageLoader, Network]] = {}
        self._gradients = [np.empty(0)] * n_workers
        self._parts = np.empty((0, len(parameters)), parameters.dtype)

    def __enter__(self) -> "Engine":
        with ExitStack() as resources:
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
    ) -> float:
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
        loss : float
            Weighted mean over the mini-batches.
        """
        alpha = self.objective.alpha
        network_weights = self.parameters[: self.architecture.n_weights]
        sum_of_losses = sum_of_weights = 0.0
        for batch, begin in enumerate(range(0, len(order), batch_size)):
            rows = order[begin : begin + batch_size]
            batch_weights = weights[rows]
            total = float(batch_weights.sum())
            gradient, loss = self._gradient(X, y, rows, batch_weights / total, generator)
            if alpha > 0:
                gradient[: len(network_weights)] += alpha / total * network_weights
                loss += alpha / total / 2 * float(network_weights @ network_weights)
            optimizer.step(gradient, float(rates[batch]))
            sum_of_losses += total * loss
            sum_of_weights += total
        return sum_of_losses / sum_of_weights

    def _gradient(
        self,
        X: np.ndarray,
        y: np.ndarray,
        rows: np.ndarray,
        weights: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, float]:
        """Compute the gradient of the weighted sum of the rows' losses, and that sum."""
        n_shards = ceil(len(rows) / SHARD_SIZE)
        n_parts = min(n_shards, _MAX_PARTS)
        if len(self._parts) < n_parts:
            self._parts = np.empty((n_parts, self._parts.shape[1]), self._parts.dtype)
        weights = weights.astype(self.parameters.dtype, copy=False)
        losses = [0.0] * n_parts
        # Drawn here, for the whole mini-batch: the same for any number of workers
        augmented = draws = None
        if isinstance(self.objective.augment, Augmentation):
            draws = self.objective.augment.draw(generator, len(rows), self.parameters.dtype)
        elif self.objective.augment is not None:
            augmented = call_augment(
                self.objective.augment, self.layout.image_shape, X[rows], generator
            )

        def work(worker: int, part: int) -> None:
            first, last = (n * n_shards // n_parts for n in (part, part + 1))
            for shard in range(first, last):
                begin, end = (n * len(rows) // n_shards for n in (shard, shard + 1))
                loader, network = self._network(worker, end - begin, trains=True)
                loader.load(
                    X[rows[begin:end]] if augmented is None else augmented[begin:end],
                    None if draws is None else draws[begin:end],
                )
                network.forward()
                losses[part] += float(
                    softmax_cross_entropy(
                        np,
                        network.logits,
                        y[rows[begin:end]],
                        weights[begin:end],
                        self.objective.label_smoothing,
                    )
                )
                network.backward()
                if shard == first:
                    np.copyto(self._parts[part], self._gradients[worker])
                else:
                    np.add(self._parts[part], self._gradients[worker], out=self._parts[part])

        self._workers.run(work, n_parts)
        gradient = self._parts[0]
        for part in self._parts[1:n_parts]:
            np.add(gradient, part, out=gradient)
        return gradient, sum(losses)

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
            loader, network = self._network(worker, part.stop - part.start, trains=False)
            loader.load(X[part] if rows is None else X[rows[part]])
            network.forward()
            log_softmax(np, network.logits)
            log_proba[part] = network.logits.T

        self._workers.run(work, ceil(n_rows / SHARD_SIZE))
        return log_proba

    def _network(self, worker: int, n_samples: int, trains: bool) -> tuple[ImageLoader, Network]:
        """Return the worker's own network for `n_samples` samples, made when first wanted."""
        key = worker, n_samples, trains
        if key not in self._networks:
            if trains and len(self._gradients[worker]) == 0:
                self._gradients[worker] = np.empty_like(self.parameters)
            gradient = self._gradients[worker] if trains else None
            network = Network(np, self.architecture, self.parameters, gradient, n_samples)
            augment = self.objective.augment if trains else None
            augmentation = augment if isinstance(augment, Augmentation) else None
            loader = ImageLoader(np, self.layout, network.images, augmentation)
            self._networks[key] = loader, network
        return self._networks[key]
