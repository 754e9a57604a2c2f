"""scikit-learn's own checks: all pass, none skipped, none expected to fail, no warning.

But for three, with `warm_start`: a second fit goes on, and is not the first one's like.
"""

import warnings

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_estimator,
    check_inplace_ensure_writeable,
    parametrize_with_checks,
)

from sklearn_lenet import LeNetClassifier

VARIANTS = {
    "max pooling": {"pooling": "max"},
    "sgd": {"solver": "sgd"},
    "early stopping": {"early_stopping": True},
    # a second fit goes on training: it agrees with the first only where that one was at its goal
    "warm start": {
        "warm_start": True,
        "lr_schedule": "constant",
        "max_iter": 100,
        "label_smoothing": 0.02,
    },
    "class weights": {"class_weight": "balanced"},
    "sigmoid": {"activation": "sigmoid"},
    "tanh": {"activation": "tanh"},
    "constant rate": {"lr_schedule": "constant"},
    "adamw": {"solver": "adamw"},
    "average": {"ema_decay": 0.9},
    "label smoothing": {"label_smoothing": 0.1},
}

# These fit twice, and compare activations, which go on changing when the answers no longer do
FAILING = {
    "warm start": dict.fromkeys(
        (
            "check_pipeline_consistency",
            "check_transformer_data_not_an_array",
            "check_transformer_general",
        ),
        "warm_start=True goes on training",
    )
}

SLOW = pytest.mark.slow


@parametrize_with_checks([LeNetClassifier()])
def test_default_instance(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "early stopping" else SLOW) for name in VARIANTS],
)
def test_variants(name):
    failing = FAILING.get(name, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = LeNetClassifier(**({"max_iter": 20} | VARIANTS[name]))
        results = check_estimator(estimator, on_skip=None, expected_failed_checks=failing)
    assert len(results) > 55
    assert {r["check_name"] for r in results if r["status"] != "passed"} == set(failing)


@pytest.mark.parametrize(
    "check", [check_dataframe_column_names_consistency, check_inplace_ensure_writeable]
)
def test_checks_that_are_not_yielded(check):
    check("LeNetClassifier", LeNetClassifier())


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3])
def test_margin_of_the_accuracy_check(n_classes):
    """The data of check_classifiers_train, which asks for 0.83 with one seed; over ten seeds."""
    X, y = make_blobs(n_samples=300, random_state=0)
    X = StandardScaler().fit_transform(X)
    X, y = X[y < n_classes], y[y < n_classes]
    scores = [LeNetClassifier(random_state=seed).fit(X, y).score(X, y) for seed in range(10)]
    assert np.min(scores) >= 0.88
