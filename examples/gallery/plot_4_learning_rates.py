"""
Learning rate, momentum and schedule
====================================

At a large constant rate SGD ends where chance leaves it: its accuracy jumps from epoch to epoch.
A rate that falls along a cosine takes that away; alone, it stops short of where the constant rate
gets. Momentum, with a smaller rate, is the quickest. Three seeds each.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

X, y = load_mnist_sample(subset="train", return_X_y=True)
X, y, X_val, y_val = X[:1000], y[:1000], X[4000:], y[4000:]

settings = {
    "lr=0.1, constant": ({"lr": 0.1, "momentum": 0, "lr_schedule": "constant"}, "#d55e00", ":"),
    "lr=0.1, cosine": ({"lr": 0.1, "momentum": 0}, "#0072b2", "--"),
    "lr=0.02, momentum 0.9, cosine": ({"lr": 0.02, "momentum": 0.9}, "black", "-"),
}
figure, (losses, accuracies) = plt.subplots(2, figsize=(6, 6), sharex=True, layout="constrained")
for label, (parameters, color, style) in settings.items():
    curves, scores = [], []
    for seed in range(3):
        model = LeNetClassifier(
            solver="sgd", max_iter=10, early_stopping=True, n_iter_no_change=10, random_state=seed,
            scoring="accuracy", **parameters,
        )  # fmt: skip
        model.fit(X, y, X_val=X_val, y_val=y_val)
        curves.append(model.loss_curve_)
        scores.append(model.validation_scores_)
    epochs = np.arange(1, 11)
    for ax, values in ((losses, np.array(curves)), (accuracies, 100 * np.array(scores))):
        ax.plot(epochs, values.mean(axis=0), color=color, linestyle=style, label=label)
        ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15)
losses.set(ylabel="training loss", yscale="log")
accuracies.set(ylabel="validation accuracy, %", xlabel="epoch", ylim=(60, 100))
accuracies.legend(loc="lower right")
plt.show()

# %%
# Lines are means of three seeds, the ground behind them goes from the least to the largest.
