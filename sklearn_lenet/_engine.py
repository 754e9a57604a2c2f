"""Mini-batches through the network: shards, worker threads, gradients, steps and predictions."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil
from queue import SimpleQueue
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ._augmentation import NO_AUGMENTATION, Augmentation
from ._backend import is_cupy, single_threaded_blas, to_device, to_host, zeros
from ._images import ImageLayout, ImageLoader
from ._interrupts import interruption_point
from ._layers import ConvPool, KernelMatrix, even_slices
from ._loss import softmax_cross_entropy
from ._network import Architecture, Network
from ._optimizers import Optimizer

# Samples that go through a network at once, at most: with more, what they need leaves the cache;
# with fewer, the many calls of NumPy weigh more. A mini-batch of just as many is cut in two, so
# that there is work for two threads.
SHARD_SIZE = 64

# Shards whose gradients exist at the same time, at most: memory does not grow with the size of a
# mini-batch.
_SHARDS_AT_ONCE = 4

# Shards' networks that are kept for later use, at most, and bytes in each of them, roughly
_MOST_SPARES, _BYTES_OF_SPARE = 4, 10 * 2**20


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
        results = [self._work_off(0, work, tasks)]
        results += [self._finished.get() for _ in helpers]
        error = next(filter(None, results), None)
        try:
            if error is not None:
                raise error
        finally:
            del error, results  # an error that this frame kept would keep the frame, and so X

    def _serve(self, worker: int, inbox: SimpleQueue) -> None:
        np.seterr(all="ignore")  # each thread has its own setting; the engine holds the caller's
        while (order := inbox.get()) is not None:
            self._finished.put(self._work_off(worker, *order))

    @staticmethod
    def _work_off(
        worker: int, work: Callable[[int, int], None], tasks: list[int]
    ) -> BaseException | None:
        try:
            while tasks:
                if worker == 0:
                    interruption_point()
                try:
                    task = tasks.pop()
                except IndexError:  # another thread took the last one
                    break
                work(worker, task)
        except BaseException as error:
            tasks.clear()
            return error
        return None


@dataclass(frozen=True)
class Data:
    """What a fit learns from, or is validated on.

    Attributes
    ----------
    X : array of shape (n_samples, n_features)
        NumPy's or CuPy's.
    y : integer ndarray of shape (n_samples,)
    weights : ndarray of shape (n_samples,)
        The loss of some samples is their weighted mean.
    rows : integer ndarray
        Rows of `X` to take.
    """

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class MiniBatches:
    """The mini-batches of an epoch.

    Attributes
    ----------
    order : integer ndarray of shape (n_rows,)
        Rows of the data, of which each mini-batch takes the next ones.
    size : int
        Samples in each but the last.
    rates : ndarray of shape (n_batches,)
        Learning rate of the step after each.
    """

    order: np.ndarray
    size: int
    rates: np.ndarray


@dataclass(frozen=True)
class Objective:
    """What is learnt, beside the samples' cross-entropy.

    Attributes
    ----------
    alpha : float, default=0
        The loss of a mini-batch includes ``alpha / 2 * sum(weight**2)`` over the network's weights,
        not its biases, divided by the mini-batch's sum of sample weights.
    label_smoothing : float, default=0
    augmentation : Augmentation, default=NO_AUGMENTATION
        Of training images.
    """

    alpha: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation = NO_AUGMENTATION


# The cross-entropy alone
PLAIN = Objective()


@dataclass
class TakenRows:
    """Rows of an array, which are gathered part by part, by whoever needs them."""

    X: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: Any) -> np.ndarray:
        return self.X[self.rows[part]]


class Size(NamedTuple):
    """What the buffers of a shard's network depend on."""

    architecture: Architecture
    layout: ImageLayout
    dtype: np.dtype
    n_samples: int
    trains: bool


class ShardNetwork:
    """A network for shards of one size.

    Making one takes longer than a row's way through it. So small ones are kept, by `give_back`, for
    whoever next needs one of that size, for any model. What was borrowed is the caller's alone.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    size : Size
    parameters : array of shape (n_parameters,)
        To compute with, once `set_parameters` was called.
    augmentation : Augmentation

    Attributes
    ----------
    size : Size
    parameters : array of shape (n_parameters,)
        A copy where the network may be kept, else the engine's.
    network : Network
    loader : ImageLoader
    gradient : array of shape (n_parameters,) or None
        Filled by the network's `backward`; None where `size.trains` is not.
    """

    _spares: ClassVar[deque["ShardNetwork"]] = deque(maxlen=_MOST_SPARES)

    def __init__(self, xp: Any, size: Size, parameters: Any, augmentation: Augmentation) -> None:
        architecture, layout, dtype, n_samples, trains = size
        self.xp, self.size = xp, size
        n_numbers = architecture.n_numbers(n_samples) + 2 * architecture.n_parameters
        is_small = n_numbers * dtype.itemsize <= _BYTES_OF_SPARE
        self._is_kept = xp is np and is_small and augmentation is NO_AUGMENTATION
        self.parameters = zeros(xp, parameters.shape, dtype) if self._is_kept else parameters
        self.gradient = zeros(xp, parameters.shape, dtype) if trains else None
        self.network = Network(xp, architecture, self.parameters, self.gradient, n_samples)
        self.loader = ImageLoader(xp, layout, self.network.images, augmentation)
        self._is_laid_out = False

    @classmethod
    def borrow(
        cls, xp: Any, size: Size, parameters: Any, augmentation: Augmentation
    ) -> "ShardNetwork":
        """Give a spare one, or make one."""
        others = []
        try:
            while xp is np and augmentation is NO_AUGMENTATION:
                spare = cls._spares.pop()
                if spare.size == size:
                    return spare
                others.append(spare)
        except IndexError:  # there are no more
            pass
        finally:
            cls._spares.extend(reversed(others))
        return cls(xp, size, parameters, augmentation)

    def give_back(self) -> None:
        """Leave it for the next."""
        if self._is_kept:
            self._spares.append(self)

    def set_parameters(self, parameters: Any) -> None:
        """Have the network compute with these parameters."""
        is_copy = self.parameters is not parameters
        # Every step changes them, but hardly anything between two predictions
        may_be_the_same = is_copy and not self.size.trains and self._is_laid_out
        if may_be_the_same and np.array_equal(self.parameters, parameters):
            return
        self._is_laid_out = False  # until all is done, which an exception may prevent
        if is_copy:
            self.xp.copyto(self.parameters, parameters)
        self.network.lay_out()
        self._is_laid_out = True


class Engine:
    """Train and predict with one network; here on the CPU, a device's engine inherits from it.

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
    objective : Objective, default=PLAIN

    Attributes
    ----------
    xp : module
        numpy, or cupy on a device: the arrays' module.
    parameters : array of shape (n_parameters,)
    n_samples_seen : int
        In training, by steps that were taken.
    """

    xp: Any = np

    # At most: samples that go through a network, shards whose gradients exist at the same time, and
    # rows that are predicted in one go, which here need not even be gathered
    samples_at_once, shards_at_once, rows_at_once = SHARD_SIZE, _SHARDS_AT_ONCE, 2**31

    def __init__(
        self,
        architecture: Architecture,
        layout: ImageLayout,
        parameters: np.ndarray,
        n_workers: int,
        objective: Objective = PLAIN,
    ) -> None:
        self.architecture, self.layout, self.parameters = architecture, layout, parameters
        self.n_workers, self.objective = n_workers, objective
        self.n_samples_seen = 0
        # Of each worker, for each number of samples, to train or not
        self._networks: dict[tuple[int, int, bool], ShardNetwork] = {}
        # Of each shard, and one more, made when the first is wanted
        self._gradients: list[Any] = []

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            # A fit that diverges is told by its loss, once, not by a warning of every operation
            resources.enter_context(np.errstate(all="ignore"))
            self._take(resources)
            self._workers = resources.enter_context(Workers(self.n_workers))
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._resources.close()
        if exception == (None, None, None):
            for of_shard in self._networks.values():
                of_shard.give_back()
        self._networks.clear()

    def _take(self, resources: ExitStack) -> None:
        """Take what is needed within the block."""
        resources.enter_context(single_threaded_blas())

    def train_epoch(
        self,
        data: Data,
        batches: MiniBatches,
        optimizer: Optimizer,
        generator: np.random.Generator,
    ) -> Callable[[], float]:
        """Go once through rows of the data, with a step of the optimizer after each mini-batch.

        Parameters
        ----------
        data : Data
        batches : MiniBatches
        optimizer : Optimizer
            Bound to the engine's parameters.
        generator : numpy.random.Generator
            Draws the augmentation.

        Returns
        -------
        loss : callable
            Waits for the epoch, and gives its loss: the weighted mean over the mini-batches. On the
            CPU there is nothing to wait for, but a device may still be at work.
        """
        xp, alpha, size = self.xp, self.objective.alpha, batches.size
        network_weights = self.parameters[: self.architecture.n_weights]
        totals, shares = batch_weights(data.weights[batches.order], size)
        labels = to_device(xp, data.y[batches.order])
        shares = to_device(xp, shares.astype(self.parameters.dtype, copy=False))
        losses = xp.zeros(len(totals))
        for n, rows in enumerate(self._mini_batches(data.X, batches, generator)):
            part = slice(n * size, (n + 1) * size)
            # Drawn here, for the whole mini-batch: the same for any number of workers
            draws = self.objective.augmentation.draw(generator, len(rows), self.parameters.dtype)
            if draws is not None:
                draws = to_device(xp, draws)
            loss = losses[n : n + 1]
            gradient = self._gradient(rows, labels[part], shares[part], draws, loss)
            if alpha > 0:
                penalty = float(alpha / totals[n])
                gradient[: len(network_weights)] += penalty * network_weights
                loss += penalty / 2 * (network_weights @ network_weights).astype(np.float64)
            optimizer.step(gradient, float(batches.rates[n]))
            self.n_samples_seen += len(rows)
        return lambda: float(totals @ to_host(losses) / totals.sum())

    def _mini_batches(
        self, X: Any, batches: MiniBatches, generator: np.random.Generator
    ) -> Iterator[Any]:
        """Yield the rows of each mini-batch, and replace them first where that is wanted."""
        augmentation, size = self.objective.augmentation, batches.size
        if not augmentation.replaces:
            yield from self._rows(X, batches.order, size)
            return
        order = to_device(self.xp, batches.order) if is_cupy(X) else batches.order
        for begin in range(0, len(order), size):
            rows = augmentation.replace(X[order[begin : begin + size]], generator)
            yield to_device(self.xp, rows)

    def _rows(self, X: Any, rows: np.ndarray | None, size: int) -> Iterator[Any]:
        """Yield rows of `X`, all if `rows` is None, `size` of them at a time."""
        if rows is None:
            yield from (X[begin : begin + size] for begin in range(0, len(X), size))
        else:
            for begin in range(0, len(rows), size):
                yield TakenRows(X, rows[begin : begin + size])

    def _gradient(self, rows: Any, labels: Any, shares: Any, draws: Any, loss: Any) -> Any:
        """Compute the gradient of the weighted sum of the rows' losses; `loss` += that sum."""
        xp, smoothing = self.xp, self.objective.label_smoothing
        if not self._gradients:
            shape, dtype = self.parameters.shape, self.parameters.dtype
            self._gradients = [zeros(xp, shape, dtype) for _ in range(self.shards_at_once + 1)]
        losses: list[Any] = [None] * self.shards_at_once

        def work(worker: int, number: int) -> None:
            shard = group[number]
            of_shard = self._network(worker, shard.stop - shard.start, trains=True)
            of_shard.set_parameters(self.parameters)
            of_shard.loader.load(rows[shard], None if draws is None else draws[shard])
            network = of_shard.network
            network.forward()
            losses[number] = softmax_cross_entropy(
                xp, network.logits, labels[shard], shares[shard], smoothing
            )
            network.backward()
            xp.copyto(places[number], of_shard.gradient)

        # The first shard's place takes the sum: the shards after the first ones have the others
        shards = even_slices(len(rows), ceil(len(rows) / self._shard_size(len(rows))))
        total, *others = self._gradients
        for first in range(0, len(shards), self.shards_at_once):
            group = shards[first : first + self.shards_at_once]
            places = self._gradients if first == 0 else others
            self._workers.run(work, len(group))
            for number, gradient in enumerate(places[: len(group)]):
                loss += losses[number]
                if gradient is not total:
                    xp.add(total, gradient, out=total)
        return total

    def _shard_size(self, n_samples: int) -> int:
        """Give how many samples of such a mini-batch go through a network at once, at most."""
        most = self.samples_at_once
        return most // 2 if n_samples == most else most

    def predict_logits(self, X: Any, rows: np.ndarray | None = None) -> Any:
        """Compute the logits: the last layer's outputs.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            NumPy's; on a device, also CuPy's.
        rows : integer ndarray of shape (n_rows,), default=None
            Rows of `X` to take; None takes all.

        Returns
        -------
        logits : array of shape (n_rows, n_classes)
            The engine's kind of array; on a device, it does not outlive the engine's block.
        """
        return self._predict(X, rows, "logits")

    def predict_hidden(self, X: Any, rows: np.ndarray | None = None) -> Any:
        """Compute the last hidden layer's outputs, which the last layer reads.

        Parameters
        ----------
        X, rows
            As for `predict_logits`.

        Returns
        -------
        hidden : array of shape (n_rows, n_outputs)
            Likewise.
        """
        return self._predict(X, rows, "hidden")

    def _predict(self, X: Any, rows: np.ndarray | None, name: str) -> Any:
        """Take rows forward, and give what the network calls `name`."""
        n_rows = len(X) if rows is None else len(rows)
        n_outputs = self.architecture.n_classes
        if name == "hidden":
            n_outputs = self.architecture.weight_shapes()[-1][1]
        outputs = self.xp.empty((n_rows, n_outputs), self.parameters.dtype)

        def work(worker: int, number: int) -> None:
            shard = slice(
                number * self.samples_at_once, min((number + 1) * self.samples_at_once, len(batch))
            )
            of_shard = self._network(worker, shard.stop - shard.start, trains=False)
            of_shard.set_parameters(self.parameters)
            of_shard.loader.load(batch[shard])
            of_shard.network.forward()
            self.xp.copyto(outputs[begin:][shard], getattr(of_shard.network, name).T)

        begin = 0
        for batch in self._rows(X, rows, self.rows_at_once):
            self._workers.run(work, ceil(len(batch) / self.samples_at_once))
            begin += len(batch)
        return outputs

    def _network(self, worker: int, n_samples: int, trains: bool) -> ShardNetwork:
        """Return the worker's own network for `n_samples` samples, borrowed when first wanted."""
        key = worker, n_samples, trains
        if key not in self._networks:
            size = Size(self.architecture, self.layout, self.parameters.dtype, n_samples, trains)
            augmentation = self.objective.augmentation if trains else NO_AUGMENTATION
            self._networks[key] = ShardNetwork.borrow(self.xp, size, self.parameters, augmentation)
        return self._networks[key]


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


def feature_maps(
    architecture: Architecture, layout: ImageLayout, parameters: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Take one image through the convolutions, and give all of their maps.

    Training and prediction compute only what pooling reads, in an order of their own.

    Parameters
    ----------
    architecture : Architecture
    layout : ImageLayout
    parameters : ndarray of shape (n_parameters,)
    row : ndarray of shape (n_features,)

    Returns
    -------
    image : ndarray of shape (C, H, W)
        As the first convolution reads it, scaled and enlarged.
    maps : list of pairs of ndarrays of shape (C, H, W)
        For each convolution, behind the activation and behind pooling.
    """
    C, H, W = architecture.image_shape
    image = zeros(np, (H, C, W, 1), parameters.dtype)
    ImageLoader(np, layout, image).load(row[None])
    weights, biases = architecture.views(parameters)
    images, all_maps = image, []
    for shape, weight, bias in zip(architecture.convolutions(), weights, biases, strict=False):
        whole = replace(shape, pool_size=1)
        padded = zeros(np, (*whole.padded_shape, 1), parameters.dtype)
        inner = slice(shape.padding, shape.padding + shape.height)
        padded[inner, :, shape.padding : shape.padding + shape.width] = images
        maps = zeros(
            np, (whole.out_height, whole.out_channels, whole.out_width, 1), parameters.dtype
        )
        kernels = KernelMatrix(np, whole, weight, bias, None, None)
        kernels.lay_out()
        of_architecture = architecture.pooling, architecture.activation
        ConvPool(np, kernels, *of_architecture, padded, None, maps, None).forward()
        side, (Y, X) = shape.pool_size, (shape.out_height, shape.out_width)
        windows = maps[: Y * side, :, : X * side].reshape(Y, side, -1, X, side, 1)
        pool = np.mean if architecture.pooling == "avg" else np.max
        images = pool(windows, axis=(1, 4))
        all_maps.append((_channels_first(maps), _channels_first(images)))
    return _channels_first(image), all_maps


def _channels_first(images: np.ndarray) -> np.ndarray:
    """Give a network's one image, of shape (H, C, W, 1), as (C, H, W)."""
    return images[..., 0].transpose(1, 0, 2)
