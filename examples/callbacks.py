"""End a fit by callbacks of scikit-learn's kind: early stopping on own data, and a time limit.

Needs scikit-learn 1.9 or later. Run `python callbacks.py`.
"""

import time

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample


class Callback:
    """The four methods of a callback, which do nothing."""

    def setup(self, estimator, context):
        """Get ready for a fit."""

    def on_fit_task_begin(self, estimator, context):
        """Learn that a fit begins, or an epoch of it."""

    def on_fit_task_end(self, estimator, context):
        """Learn that it ended, and return whether the fit is to end."""

    def teardown(self, estimator, context):
        """Clean up after a fit."""


class EarlyStopping(Callback):
    """End a fit when `patience` epochs in a row have not raised the accuracy on these images."""

    def __init__(self, X, y, patience):
        self.X, self.y, self.patience = X, y, patience

    def setup(self, estimator, context):
        """Forget the last fit."""
        self.scores = []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Score the model as it is after this epoch."""
        if context.task_name != "epoch":
            return False
        self.scores.append(fitted_estimator.score(self.X, self.y))
        print(f"Epoch {context.task_id + 1}: accuracy {100 * self.scores[-1]:.2f}%")
        best = self.scores.index(max(self.scores))
        return len(self.scores) - 1 - best >= self.patience


class TimeLimit(Callback):
    """End a fit after the epoch in which its time runs out."""

    def __init__(self, seconds):
        self.seconds = seconds

    def setup(self, estimator, context):
        """Look at the clock."""
        self.end = time.monotonic() + self.seconds

    def on_fit_task_end(self, estimator, context):
        """Look at it again."""
        return time.monotonic() > self.end


X_train, y_train = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
X_train, y_train, X_val, y_val = X_train[:-500], y_train[:-500], X_train[-500:], y_train[-500:]

model = LeNetClassifier(max_iter=30, random_state=0)
model.set_callbacks(EarlyStopping(X_val, y_val, patience=3), TimeLimit(seconds=60))
model.fit(X_train, y_train)
print(f"Ended after {model.n_iter_} epochs")
print(f"Test accuracy: {100 * model.score(X_test, y_test):.2f}%")
