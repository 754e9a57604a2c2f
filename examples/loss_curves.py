"""Draw how the loss goes at two learning rates, with and without momentum and a schedule.

Without momentum the loss jumps up and down, at the larger rate further; momentum carries the
weights past the jumps, and a falling rate ends what is left of them. Takes less than a minute on
two cores: it uses 2,000 of the packaged sample's images. Writes `loss_curves.png` to the working
directory.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

FIGURE = Path("loss_curves.png")
EPOCHS = 20
RATES = (0.01, 0.005)
SOLVERS = {
    "no momentum": {"momentum": 0, "lr_schedule": "constant"},
    "schedule": {"momentum": 0, "lr_schedule": "cosine"},
    "momentum": {"momentum": 0.9, "lr_schedule": "constant"},
    "momentum and schedule": {"momentum": 0.9, "lr_schedule": "cosine"},
}


def main():
    """Train, print how much each curve rises, draw."""
    X, y = load_mnist_sample(subset="train", return_X_y=True)
    X, y = X[:2000], y[:2000]
    figure = Figure(figsize=(11, 5), layout="constrained")
    all_axes = figure.subplots(1, len(RATES), sharey=True)
    for lr, axes in zip(RATES, all_axes, strict=True):
        for name, parameters in SOLVERS.items():
            losses = loss_after_each_epoch(X, y, lr=lr, **parameters)
            rises = np.clip(np.diff(np.log(losses)), 0, None)
            print(f"lr={lr}, {name}: {np.count_nonzero(rises)} epochs raised the loss")
            axes.semilogy(range(1, EPOCHS + 1), losses, label=name)
        axes.set(title=f"lr={lr}", xlabel="epoch", xticks=range(0, EPOCHS + 1, 5))
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("loss on all training images after the epoch")
    all_axes[-1].legend()
    figure.savefig(FIGURE, dpi=150)
    print(f"Wrote {FIGURE.resolve()}")


def loss_after_each_epoch(X, y, **parameters):
    """Validate on the training images: `loss_curve_` would average over the epoch's steps."""
    model = LeNetClassifier(
        solver="sgd",
        label_smoothing=0,
        max_iter=EPOCHS,
        early_stopping=True,
        n_iter_no_change=np.inf,
        random_state=0,
        **parameters,
    )
    return model.fit(X, y, X_val=X, y_val=y).validation_loss_curve_


if __name__ == "__main__":
    main()
