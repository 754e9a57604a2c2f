"""Learn new classes from ten images of each, on top of what a network has learnt from others.

`LeNetClassifier` learns the digits 0 to 6 of the packaged sample. Then a logistic regression learns
the digits 7, 8 and 9 from ten images each: once from their pixels, once from the 84 activations of
the network's last hidden layer, `transform(X)`. It prints the accuracies, over ten draws of the
images, and draws a map of all ten digits by those activations. Takes less than a minute on two
cores. Writes `new_classes.png` to the working directory.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

FIGURE = Path("new_classes.png")
NEW = {7: "#0072b2", 8: "#d55e00", 9: "black"}  # colours that colour-blind readers tell apart


def main():
    """Learn the old digits, then the new ones, and draw the map."""
    X, y = load_mnist_sample(subset="train", return_X_y=True)
    X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
    is_new, is_new_test = np.isin(y, list(NEW)), np.isin(y_test, list(NEW))
    network = LeNetClassifier(max_iter=15, random_state=0).fit(X[~is_new], y[~is_new])
    X_new, y_new = X_test[is_new_test].astype(np.float32), y_test[is_new_test]

    ways = {
        "pixels": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        # frozen: the pipeline's fit does not train the network again
        "activations": make_pipeline(
            FrozenEstimator(network), StandardScaler(), LogisticRegression(max_iter=1000)
        ),
    }
    print(f"{', '.join(map(str, NEW))}, learnt from ten images of each, ten times:")
    for name, pipeline in ways.items():
        scores = []
        for seed in range(10):
            few = draw_few(y, np.random.default_rng(seed))
            pipeline.fit(X[few].astype(np.float32), y[few])
            scores.append(pipeline.score(X_new, y_new))
        print(f"Test accuracy by {name}: {np.mean(scores):.1%} +- {np.std(scores):.1%}")

    draw_map(network.transform(X_test), y_test).savefig(FIGURE, dpi=100)
    print(f"Wrote {FIGURE.resolve()}")


def draw_few(y, generator):
    """Draw ten images of each new digit."""
    return np.concatenate(
        [generator.choice(np.flatnonzero(y == digit), 10, replace=False) for digit in NEW]
    )


def draw_map(activations, y):
    """Draw each image as its digit, where t-SNE sets it; the new ones in colour."""
    places = TSNE(random_state=0).fit_transform(activations)
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    for digit in np.unique(y):
        x1, x2 = places[y == digit].T
        axes.scatter(
            x1,
            x2,
            s=40,
            marker=f"${digit}$",
            color=NEW.get(digit, "0.65"),
            lw=0,
            label=f"{digit}, {'new' if digit in NEW else 'learnt'}",
        )
    axes.set(xlabel="first axis of t-SNE", ylabel="second axis", xticks=[], yticks=[])
    axes.set_title("Test images by the activations of a network that learnt 0 to 6 alone")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


if __name__ == "__main__":
    main()
