"""Softmax cross-entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_lenet._loss import log_softmax, softmax_cross_entropy

from . import naive
from .helpers import assert_close, by_example, import_torch, numbers, seeds


def loss_and_gradient(logits, labels, weights):
    """Take and return arrays whose rows are the samples."""
    gradient = logits.T.copy()
    loss = softmax_cross_entropy(np, gradient, np.asarray(labels), np.asarray(weights))
    return loss, gradient.T


def log_probabilities(logits):
    result = logits.T.copy()
    log_softmax(np, result)
    return result.T


@settings(by_example, max_examples=100)
@given(st.integers(1, 6), st.integers(1, 5), seeds)
def test_against_naive(n_classes, n_samples, seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=3, size=(n_samples, n_classes))
    labels, weights = generator.integers(0, n_classes, n_samples), generator.random(n_samples)
    loss, gradient = loss_and_gradient(logits, labels, weights)
    expected_loss, expected = naive.softmax_cross_entropy(logits, labels, weights)
    assert loss == pytest.approx(expected_loss, rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-14)


def test_numerical_gradient():
    logits, direction = numbers(0, (4, 3), (4, 3))
    labels, weights = [0, 2, 1, 1], [0.5, 1, 2, 0]
    _, gradient = loss_and_gradient(logits, labels, weights)
    after, before = (
        loss_and_gradient(logits + step * direction, labels, weights)[0] for step in (1e-5, -1e-5)
    )
    assert np.sum(gradient * direction) == pytest.approx((after - before) / 2e-5, rel=1e-8)


def test_equal_logits_are_equal_probabilities():
    loss, gradient = loss_and_gradient(np.full((1, 4), 7.0), [2], [3.0])
    assert loss == pytest.approx(3 * np.log(4))
    np.testing.assert_allclose(gradient, [[0.75, 0.75, -2.25, 0.75]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits(size, dtype):
    logits = np.array([[size, -size, 0], [size, -size, 0], [-size, -size, -size]], dtype)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        loss, gradient = loss_and_gradient(logits, [0, 1, 2], np.ones(3, dtype))
    assert loss == pytest.approx(2 * size + np.log(3), rel=1e-6)
    third = 1 / 3
    np.testing.assert_allclose(
        gradient, [[0, 0, 0], [1, -1, 0], [third, third, third - 1]], rtol=1e-6
    )


@pytest.mark.parametrize("shift", [1.0, -300.0, 1e4])
def test_constant_changes_nothing(shift):
    (logits,) = numbers(0, (5, 4))
    labels, weights = [0, 1, 2, 3, 0], np.full(5, 0.2)
    loss, gradient = loss_and_gradient(logits, labels, weights)
    shifted_loss, shifted_gradient = loss_and_gradient(logits + shift, labels, weights)
    assert shifted_loss == pytest.approx(loss, rel=1e-10)
    np.testing.assert_allclose(shifted_gradient, gradient, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        log_probabilities(logits + shift), log_probabilities(logits), rtol=0, atol=1e-11
    )


def test_gradient_sums_to_zero_over_the_classes():
    (logits,) = numbers(0, (6, 5))
    _, gradient = loss_and_gradient(logits, [0, 1, 2, 3, 4, 0], np.arange(6.0))
    np.testing.assert_allclose(gradient.sum(axis=1), np.zeros(6), atol=1e-14)
    assert not gradient[0].any()
    assert gradient[1:].any(axis=1).all()


def test_mean_of_the_batch_divides_by_the_number_of_samples_once():
    (logits,) = numbers(0, (4, 3))
    labels = np.array([0, 1, 2, 1])
    loss, gradient = loss_and_gradient(logits, labels, np.full(4, 1 / 4))
    losses, gradients = zip(
        *(loss_and_gradient(logits[[n]], labels[[n]], np.ones(1)) for n in range(4)), strict=True
    )
    assert loss == pytest.approx(np.mean(losses))
    np.testing.assert_allclose(gradient, np.concatenate(gradients) / 4, rtol=1e-12)


def test_log_softmax_is_a_distribution():
    (logits,) = numbers(0, (6, 5))
    log_proba = log_probabilities(100 * logits)
    np.testing.assert_allclose(np.exp(log_proba).sum(axis=1), np.ones(6))
    np.testing.assert_allclose(
        log_proba - log_proba[:, :1], 100 * (logits - logits[:, :1]), atol=1e-11
    )


def test_float32_stays_float32():
    logits = np.zeros((3, 4), np.float32)
    weights = np.full(4, 0.25, np.float32)
    loss = softmax_cross_entropy(np, logits, np.array([0, 1, 2, 0]), weights)
    assert loss.dtype == logits.dtype == np.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_against_torch(dtype, tolerance):
    torch = import_torch()
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=5, size=(20, 10)).astype(dtype)
    labels, weights = generator.integers(0, 10, 20), generator.random(20).astype(dtype)
    loss, gradient = loss_and_gradient(logits, labels, weights)

    tensor = torch.tensor(logits, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(tensor, torch.tensor(labels), reduction="none")
    expected = losses @ torch.tensor(weights)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=tolerance)
    assert_close(gradient, tensor.grad.numpy(), tolerance)
