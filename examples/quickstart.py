"""Train LeNet-5 on the packaged sample of MNIST, save it, and look at what it predicts.

Takes less than a minute on two cores. Writes `quickstart.png` to the working directory.
"""

import tempfile
from pathlib import Path

import joblib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, classification_report

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

FIGURE = Path("quickstart.png")
RIGHT, WRONG = "black", "tab:red"


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

    sureness = model.predict_proba(X_test).max(axis=1)
    draw(model.loss_curve_, X_test, y_test, predicted, sureness).savefig(
        FIGURE, dpi=80, pil_kwargs={"optimize": True}
    )
    print(f"Wrote {FIGURE.resolve()}")


def draw(losses, X, y, predicted, sureness):
    """Draw the loss of each epoch, the first images, and the surest mistakes."""
    mistakes = np.flatnonzero(predicted != y)
    mistakes = mistakes[np.argsort(-sureness[mistakes])]
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3), wspace=0.04)
    first, mistaken = right.subfigures(2, 1, hspace=0.04)

    left.suptitle("Training loss")
    axes = left.subplots()
    axes.semilogy(range(1, len(losses) + 1), losses, marker="o", markersize=4)
    axes.set(xlabel="epoch", xticks=range(0, len(losses) + 1, 5))
    axes.grid(alpha=0.3)

    first.suptitle("The first test images, and what they are taken for")
    draw_digits(first, X[:16], y[:16], predicted[:16])
    mistaken.suptitle(
        f"Of the {len(y)} test images, {len(mistakes)} are mistaken. The surest mistakes:"
    )
    draw_digits(mistaken, X[mistakes[:16]], y[mistakes[:16]], predicted[mistakes[:16]])
    return figure


def draw_digits(figure, X, y, predicted):
    """Draw up to 16 images below their predictions, the wrong ones in colour."""
    all_axes = figure.subplots(2, 8).ravel()
    for axes in all_axes:
        axes.axis("off")
    for axes, pixels, label, prediction in zip(all_axes, X, y, predicted, strict=False):
        axes.imshow(pixels.reshape(28, 28), cmap="gray_r")
        if prediction == label:
            axes.set_title(prediction, color=RIGHT, fontsize=10, pad=3)
        else:
            axes.set_title(f"{prediction}, not {label}", color=WRONG, fontsize=10, pad=3)


if __name__ == "__main__":
    main()
