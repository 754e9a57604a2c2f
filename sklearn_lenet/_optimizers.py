"""Optimizers over one flat vector of parameters, in increasing order of complexity; averaging.

`step` changes the parameters in place. `state` is all that a later fit needs to go on: arrays as
long as the parameters, and numbers. `load` takes such a state.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class SGD:
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
        self.velocity = xp.zeros_like(parameters)
        self._change = xp.empty_like(parameters)

    @property
    def state(self) -> dict[str, Any]:
        """What a later fit goes on from."""
        return {"velocity": self.velocity}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.velocity[...] = self.xp.asarray(state["velocity"])

    def step(self, gradient: Any, lr: float) -> None:
        """Change the parameters; `gradient` is overwritten."""
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


class Adam:
    """Adam: steps by the ratio of the gradient's running mean to its running root mean square.

    Kingma and Ba (2015), algorithm 1, with its defaults beta_1 = 0.9, beta_2 = 0.999 and
    epsilon = 1e-8.

    With a decay, it is AdamW (Loshchilov and Hutter 2019, algorithm 2): each step also takes
    lr * decay of the weights themselves off them, whatever their gradients.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    parameters : array of shape (n_parameters,)
    decay : float, default=0
    n_weights : int, default=0
        Number of parameters, from the first, that decay.
    """

    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-8

    def __init__(
        self, xp: ModuleType, parameters: Any, decay: float = 0.0, n_weights: int = 0
    ) -> None:
        self.xp, self.parameters = xp, parameters
        self.decay, self._weights = decay, parameters[:n_weights]
        self.mean = xp.zeros_like(parameters)
        self.mean_square = xp.zeros_like(parameters)
        self.n_steps = 0
        self._change = xp.empty_like(parameters)

    @property
    def state(self) -> dict[str, Any]:
        """What a later fit goes on from."""
        return {"mean": self.mean, "mean_square": self.mean_square, "n_steps": self.n_steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.mean[...] = self.xp.asarray(state["mean"])
        self.mean_square[...] = self.xp.asarray(state["mean_square"])
        self.n_steps = state["n_steps"]

    def step(self, gradient: Any, lr: float) -> None:
        """Change the parameters; `gradient` is overwritten."""
        xp, mean, mean_square, change = self.xp, self.mean, self.mean_square, self._change
        self.n_steps += 1
        if self.decay:
            xp.multiply(self._weights, 1 - lr * self.decay, out=self._weights)
        xp.multiply(gradient, 1 - self.beta_1, out=change)
        xp.multiply(mean, self.beta_1, out=mean)
        xp.add(mean, change, out=mean)
        xp.multiply(gradient, gradient, out=gradient)
        xp.multiply(gradient, 1 - self.beta_2, out=gradient)
        xp.multiply(mean_square, self.beta_2, out=mean_square)
        xp.add(mean_square, gradient, out=mean_square)
        # mean / (1 - beta_1^t) / (sqrt(mean_square / (1 - beta_2^t)) + epsilon)
        root_correction = (1 - self.beta_2**self.n_steps) ** 0.5
        xp.sqrt(mean_square, out=change)
        xp.add(change, self.epsilon * root_correction, out=change)
        xp.divide(mean, change, out=change)
        xp.multiply(change, lr * root_correction / (1 - self.beta_1**self.n_steps), out=change)
        xp.subtract(self.parameters, change, out=self.parameters)


class WeightAverage:
    """An optimizer, and the exponential moving average of the parameters that it steps to.

    After step t = 1, 2, ..., average += (1 - d) * (parameters - average), with
    d = min(decay, t / (t + 9)): early on, the average soon forgets the initial parameters.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    optimizer : SGD or Adam
    decay : float in (0, 1)
    """

    def __init__(self, xp: ModuleType, optimizer: SGD | Adam, decay: float) -> None:
        self.xp, self.optimizer, self.decay = xp, optimizer, decay
        self.parameters = optimizer.parameters
        self.average = self.parameters.copy()
        self.n_steps = 0
        self._change = xp.empty_like(self.average)

    @property
    def state(self) -> dict[str, Any]:
        """What a later fit goes on from, beside the average."""
        return {
            "optimizer": self.optimizer.state,
            "parameters": self.parameters,
            "n_steps": self.n_steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with the optimizer's parameters for the average."""
        self.average[...] = self.parameters
        self.parameters[...] = self.xp.asarray(state["parameters"])
        self.optimizer.load(state["optimizer"])
        self.n_steps = state["n_steps"]

    def step(self, gradient: Any, lr: float) -> None:
        """Change the parameters, then their average; `gradient` is overwritten."""
        xp, change = self.xp, self._change
        self.optimizer.step(gradient, lr)
        self.n_steps += 1
        decay = min(self.decay, self.n_steps / (self.n_steps + 9))
        xp.subtract(self.parameters, self.average, out=change)
        xp.multiply(change, 1 - decay, out=change)
        xp.add(self.average, change, out=self.average)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters be the average within the block."""
        stepped_to = self.parameters.copy()
        self.parameters[...] = self.average
        try:
            yield
        finally:
            self.parameters[...] = stepped_to
