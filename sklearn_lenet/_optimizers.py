"""Optimizers over one flat vector of parameters, in increasing order of complexity; averaging."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np


class Optimizer(ABC):
    """What a training steps by.

    Attributes
    ----------
    parameters : array of shape (n_parameters,)
        Changed in place by each step.
    average : array of shape (n_parameters,) or None
        What predicts in the parameters' place, if the optimizer averages them.
    rule : {"SGD", "NESTEROV", "ADAM"}
        Name of the step in `training.cu`.
    momentum, beta_1, beta_2 : float
        Constants of the rule; 0 where it has none.
    moments : tuple of arrays of shape (n_parameters,)
        What it keeps of earlier gradients.
    """

    parameters: Any
    average: Any = None
    rule: str
    momentum = beta_1 = beta_2 = 0.0
    moments: tuple[Any, ...]

    @property
    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that a later fit needs to go on: arrays as long as the parameters, and numbers."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""

    @abstractmethod
    def step(self, gradient: Any, lr: float) -> None:
        """Change the parameters; `gradient` is overwritten."""

    @abstractmethod
    def count_steps(self, rates: np.ndarray) -> dict[str, np.ndarray]:
        """Count steps that a device takes, and give what changes from one to the next.

        Parameters
        ----------
        rates : ndarray of shape (n_steps,)
            Their learning rates.

        Returns
        -------
        factors : dict of ndarrays of shape (n_steps,)
            By the names that `Schedule` in `training.cu` has for them.
        """

    @property
    def predicting(self) -> Any:
        """The vector that predicts."""
        return self.parameters if self.average is None else self.average

    @contextmanager
    def replaced(self, parameters: Any) -> Iterator[None]:
        """Let the parameters be others within the block."""
        if parameters is self.parameters:
            yield
            return
        stepped_to = self.parameters.copy()
        self.parameters[...] = parameters
        try:
            yield
        finally:
            self.parameters[...] = stepped_to


class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov's) momentum.

    velocity = momentum * velocity + gradient; parameters -= lr * velocity. Nesterov's form, as
    simplified by Bengio, Boulanger-Lewandowski and Pascanu (2013, section 3.5), steps along
    gradient + momentum * velocity instead.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    parameters : array of shape (n_parameters,)
    momentum : float in [0, 1]
    nesterov : bool
    """

    def __init__(
        self, xp: ModuleType, parameters: Any, momentum: float, nesterov: bool = False
    ) -> None:
        self.xp, self.parameters = xp, parameters
        self.momentum, self.nesterov = momentum, nesterov
        self.rule = "NESTEROV" if nesterov else "SGD"
        self.velocity = xp.zeros_like(parameters)
        self.moments = (self.velocity,)
        self._change = xp.empty_like(parameters)

    @property
    def state(self) -> dict[str, Any]:
        return {"velocity": self.velocity}

    def load(self, state: dict[str, Any]) -> None:
        self.velocity[...] = self.xp.asarray(state["velocity"])

    def step(self, gradient: Any, lr: float) -> None:
        xp, velocity, change = self.xp, self.velocity, self._change
        xp.multiply(velocity, self.momentum, out=velocity)
        xp.add(velocity, gradient, out=velocity)
        if self.nesterov:
            xp.multiply(velocity, self.momentum, out=change)
            xp.add(change, gradient, out=change)
            xp.multiply(change, lr, out=change)
        else:
            xp.multiply(velocity, lr, out=change)
        xp.subtract(self.parameters, change, out=self.parameters)

    def count_steps(self, rates: np.ndarray) -> dict[str, np.ndarray]:
        return {"rate": rates}


class Adam(Optimizer):
    """Adam: steps by the ratio of the gradient's running mean to its running root mean square.

    Kingma and Ba (2015), algorithm 1, with its epsilon = 1e-8.

    With a decay, it is AdamW (Loshchilov and Hutter 2019, algorithm 2): each step also takes
    lr * decay of the weights themselves off them, whatever their gradients.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    parameters : array of shape (n_parameters,)
    beta_1, beta_2 : float, default=0.9 and 0.999, as in the paper
        What stays of the mean, and of the mean square, at each step; from 0 to less than 1.
    decay : float, default=0
    n_weights : int, default=0
        Number of parameters, from the first, that decay.
    """

    rule = "ADAM"
    epsilon = 1e-8

    def __init__(
        self,
        xp: ModuleType,
        parameters: Any,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        decay: float = 0.0,
        n_weights: int = 0,
    ) -> None:
        self.xp, self.parameters = xp, parameters
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.decay, self._weights = decay, parameters[:n_weights]
        self.mean = xp.zeros_like(parameters)
        self.mean_square = xp.zeros_like(parameters)
        self.moments = self.mean, self.mean_square
        self.n_steps = 0
        self._change = xp.empty_like(parameters)

    @property
    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "mean_square": self.mean_square, "n_steps": self.n_steps}

    def load(self, state: dict[str, Any]) -> None:
        self.mean[...] = self.xp.asarray(state["mean"])
        self.mean_square[...] = self.xp.asarray(state["mean_square"])
        self.n_steps = state["n_steps"]

    def step(self, gradient: Any, lr: float) -> None:
        xp, mean, mean_square, change = self.xp, self.mean, self.mean_square, self._change
        self.n_steps += 1
        rate, epsilon, keep = self._factors(self.n_steps, lr)
        if self.decay:
            xp.multiply(self._weights, keep, out=self._weights)
        xp.multiply(gradient, 1 - self.beta_1, out=change)
        xp.multiply(mean, self.beta_1, out=mean)
        xp.add(mean, change, out=mean)
        xp.multiply(gradient, gradient, out=gradient)
        xp.multiply(gradient, 1 - self.beta_2, out=gradient)
        xp.multiply(mean_square, self.beta_2, out=mean_square)
        xp.add(mean_square, gradient, out=mean_square)
        xp.sqrt(mean_square, out=change)
        xp.add(change, epsilon, out=change)
        xp.divide(mean, change, out=change)
        xp.multiply(change, rate, out=change)
        xp.subtract(self.parameters, change, out=self.parameters)

    def _factors(self, t: Any, lr: Any) -> tuple[Any, Any, Any]:
        """Give the rate, epsilon and the share of the weights that stays, of step t = 1, 2, ...

        With the corrections of the moments worked into them: mean / (1 - beta_1^t) / (sqrt(
        mean_square / (1 - beta_2^t)) + epsilon), times lr, is
        rate * mean / (sqrt(mean_square) + epsilon_t).
        """
        root_correction = (1 - self.beta_2**t) ** 0.5
        rate = lr * root_correction / (1 - self.beta_1**t)
        return rate, self.epsilon * root_correction, 1 - lr * self.decay

    def count_steps(self, rates: np.ndarray) -> dict[str, np.ndarray]:
        t = self.n_steps + np.arange(1, len(rates) + 1)
        self.n_steps += len(rates)
        return dict(zip(("rate", "epsilon", "keep"), self._factors(t, rates), strict=True))


class WeightAverage(Optimizer):
    """An optimizer, and the exponential moving average of the parameters that it steps to.

    After step t = 1, 2, ..., average += (1 - d) * (parameters - average), with
    d = min(decay, t / (t + 9)): early on, the average soon forgets the initial parameters.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    optimizer : Optimizer
    decay : float in (0, 1)
    """

    def __init__(self, xp: ModuleType, optimizer: Optimizer, decay: float) -> None:
        self.xp, self.optimizer, self.decay = xp, optimizer, decay
        self.parameters, self.rule = optimizer.parameters, optimizer.rule
        self.momentum, self.moments = optimizer.momentum, optimizer.moments
        self.beta_1, self.beta_2 = optimizer.beta_1, optimizer.beta_2
        self.average = self.parameters.copy()
        self.n_steps = 0
        self._change = xp.empty_like(self.average)

    @property
    def state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state,
            "parameters": self.parameters,
            "n_steps": self.n_steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        # What a fit leaves, and this one began with, is the average
        self.average[...] = self.parameters
        self.parameters[...] = self.xp.asarray(state["parameters"])
        self.optimizer.load(state["optimizer"])
        self.n_steps = state["n_steps"]

    def step(self, gradient: Any, lr: float) -> None:
        xp, change = self.xp, self._change
        self.optimizer.step(gradient, lr)
        self.n_steps += 1
        xp.subtract(self.parameters, self.average, out=change)
        xp.multiply(change, float(self._rate(self.n_steps)), out=change)
        xp.add(self.average, change, out=self.average)

    def _rate(self, t: Any) -> Any:
        """Give the rate at which the average follows the parameters after step t: 1 - d."""
        return 1 - np.minimum(self.decay, t / (t + 9))

    def count_steps(self, rates: np.ndarray) -> dict[str, np.ndarray]:
        factors = self.optimizer.count_steps(rates)
        factors["average_rate"] = self._rate(self.n_steps + np.arange(1, len(rates) + 1))
        self.n_steps += len(rates)
        return factors
