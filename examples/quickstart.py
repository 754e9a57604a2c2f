"""Train LeNet-5 on the packaged sample of MNIST, save it, and look at what it predicts.

Takes less than a minute on two cores. Writes `quickstart.png` to the working directory.
"""

import tempfile
from pathlib import Path

import joblib
import numpy as np
from matplotlib import pyplot as plt
from sklearn.metrics import accuracy_score, classification_report

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample
from sklearn_lenet.inspection import LossCurveDisplay, MistakesDisplay

FIGURE = Path("quickstart.png")


def main():
    """Fit, report, save, reload, draw."""
    X, y = load_mnist_sample(subset="train", return_X_y=True)
    X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
    print(f"{len(X)} images to train on, {len(X_test)} to test on, {X.shape[1]} pixels each")

    model = LeNetClassifier(lr=0.005, random_state=0, verbose=1).fit(X, y)
    predicted = model.predict(X_test)
    print(f"\nTest accuracy: {accuracy_score(y_test, predicted):.2%}\n")
    print(classification_report(y_test, predicted))

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "lenet.joblib"
        joblib.dump(model, path)
        same = np.array_equal(joblib.load(path).predict_proba(X_test), model.predict_proba(X_test))
        size = path.stat().st_size / 1000
    print(f"Saved to {size:.0f} kB and reloaded: {'equal' if same else 'DIFFERENT'} predictions")

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 4.4), width_ratios=(1, 2), layout="constrained"
    )
    LossCurveDisplay.from_estimator(model, name="LeNet-5", ax=left)
    MistakesDisplay.from_estimator(model, X_test, y_test, ax=right)
    figure.savefig(FIGURE, dpi=80, pil_kwargs={"optimize": True})
    print(f"Wrote {FIGURE.resolve()}")


if __name__ == "__main__":
    main()
