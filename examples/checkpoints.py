"""Train, and go on where the last run was cut off: kill it at any time, and start it again.

Needs scikit-learn 1.9 or later. Run `python checkpoints.py`; the file it leaves is lenet.joblib.
"""

from pathlib import Path

import joblib

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.callbacks import Checkpoint
from sklearn_lenet.datasets import load_mnist_sample

PATH = Path("lenet.joblib")

X_train, y_train = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)

if PATH.exists():
    model = joblib.load(PATH)
    print(f"Going on after epoch {model.n_iter_}: {100 * model.score(X_test, y_test):.2f}%")
    model.set_callbacks(Checkpoint(PATH)).resume(X_train, y_train)
else:
    model = LeNetClassifier(max_iter=10, random_state=0).set_callbacks(Checkpoint(PATH))
    model.fit(X_train, y_train)

print(f"Test accuracy after epoch {model.n_iter_}: {100 * model.score(X_test, y_test):.2f}%")
