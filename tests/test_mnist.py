"""The main job on all of MNIST, where its files are."""

import pytest

from sklearn_lenet import LeNetClassifier


@pytest.mark.slow
def test_accuracy(mnist):
    X, y, X_test, y_test = mnist
    assert LeNetClassifier(lr=0.005, random_state=0).fit(X, y).score(X_test, y_test) >= 0.99


def test_one_epoch(mnist):
    X, y, X_test, y_test = mnist
    assert LeNetClassifier(random_state=0, max_iter=1).fit(X, y).score(X_test, y_test) >= 0.96
