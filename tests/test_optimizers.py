"""Optimizers, number by number and against PyTorch's."""

from math import sqrt

import numpy as np
import pytest

from sklearn_lenet._optimizers import SGD, Adam

from .helpers import assert_close, import_torch

OPTIMIZERS = {
    "sgd": lambda parameters: SGD(np, parameters, 0.0),
    "momentum": lambda parameters: SGD(np, parameters, 0.9),
    "nesterov": lambda parameters: SGD(np, parameters, 0.9, nesterov=True),
    "adam": lambda parameters: Adam(np, parameters),
}
N_STEPS = 20
LR = 0.05


def gradients(n_steps=N_STEPS, dtype=np.float64):
    """Draw gradients of sizes from 1e-6 to 1e6."""
    generator = np.random.default_rng(0)
    sizes = 10.0 ** generator.integers(-6, 7, 30)
    return [(sizes * generator.normal(size=30)).astype(dtype) for _ in range(n_steps)]


def start(dtype=np.float64):
    return np.random.default_rng(1).normal(size=30).astype(dtype)


def trained(make, n_steps=N_STEPS, dtype=np.float64):
    parameters = start(dtype)
    optimizer = make(parameters)
    for gradient in gradients(n_steps, dtype):
        optimizer.step(gradient, LR)
    return parameters, optimizer


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.5, True), (0.9, True)]
)
def test_sgd_by_its_formula(momentum, nesterov):
    actual, _ = trained(lambda parameters: SGD(np, parameters, momentum, nesterov))
    expected = start()
    for i, parameter in enumerate(expected):
        velocity = 0.0
        for gradient in gradients():
            velocity = momentum * velocity + gradient[i]
            change = gradient[i] + momentum * velocity if nesterov else velocity
            parameter -= LR * change
        expected[i] = parameter
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_adam_by_algorithm_1():
    actual, _ = trained(OPTIMIZERS["adam"])
    expected = start()
    for i, parameter in enumerate(expected):
        m = v = 0.0
        for t, gradient in enumerate(gradients(), start=1):
            m = 0.9 * m + (1 - 0.9) * gradient[i]
            v = 0.999 * v + (1 - 0.999) * gradient[i] ** 2
            m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
            parameter -= LR * m_hat / (sqrt(v_hat) + 1e-8)
        expected[i] = parameter
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_gradient_changes_nothing(name):
    parameters = start()
    optimizer = OPTIMIZERS[name](parameters)
    for _ in range(3):
        optimizer.step(np.zeros(30), LR)
    np.testing.assert_array_equal(parameters, start())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rate_may_change_from_step_to_step(name):
    (gradient,) = gradients(1)
    once, stopped = start(), start()
    for parameters, rates in [(once, (LR,)), (stopped, (LR, 0.0, 0.0))]:
        optimizer = OPTIMIZERS[name](parameters)
        for lr in rates:
            optimizer.step(gradient.copy(), lr)
    np.testing.assert_array_equal(stopped, once)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_all_that_a_later_fit_needs(name):
    expected, _ = trained(OPTIMIZERS[name])
    parameters, first = trained(OPTIMIZERS[name], n_steps=8)
    second = OPTIMIZERS[name](parameters)
    second.load(first.state)
    for gradient in gradients()[8:]:
        second.step(gradient, LR)
    np.testing.assert_array_equal(parameters, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loaded_state_belongs_to_the_optimizer(name):
    _, optimizer = trained(OPTIMIZERS[name], n_steps=8)
    before = {key: np.copy(value) for key, value in optimizer.state.items()}
    other = OPTIMIZERS[name](start())
    other.load(optimizer.state)
    for gradient in gradients():
        other.step(gradient, LR)
    for key, value in optimizer.state.items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_stays_float32(name):
    parameters, optimizer = trained(OPTIMIZERS[name], dtype=np.float32)
    expected, _ = trained(OPTIMIZERS[name])
    arrays = [value for value in optimizer.state.values() if isinstance(value, np.ndarray)]
    assert {array.dtype for array in [parameters, *arrays]} == {np.dtype(np.float32)}
    np.testing.assert_allclose(parameters, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_against_torch(name):
    torch = import_torch()
    expected = torch.tensor(start(), requires_grad=True)
    settings = {
        "sgd": {},
        "momentum": {"momentum": 0.9},
        "nesterov": {"momentum": 0.9, "nesterov": True},
        "adam": {},
    }
    kind = torch.optim.Adam if name == "adam" else torch.optim.SGD
    optimizer = kind([expected], lr=LR, **settings[name])
    for gradient in gradients():
        expected.grad = torch.tensor(gradient)
        optimizer.step()
    actual, _ = trained(OPTIMIZERS[name])
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-10)
    assert_close(actual, expected.detach().numpy(), 1e-10)
