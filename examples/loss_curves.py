"""Draw how SGD learns at two learning rates, with and without momentum and a schedule.

Each combination learns with three seeds from 2,000 of the packaged sample's images. The upper plots
show the loss on these images after each epoch, the lower ones the accuracy on 1,000 others, which
belong to the training set, too: a line for each seed. For each combination it prints in how many
epochs the loss rose, by what factor at most in the last ten, and the accuracy at the end. Takes
about a minute on two cores. Writes `loss_curves.png` to the working directory.
"""

from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from sklearn.metrics import log_loss

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

FIGURE = Path("loss_curves.png")
EPOCHS, SEEDS = 20, 3
RATES = (0.05, 0.005)
SOLVERS = {
    "no momentum": {"momentum": 0, "lr_schedule": "constant"},
    "schedule": {"momentum": 0, "lr_schedule": "cosine"},
    "momentum": {"momentum": 0.9, "lr_schedule": "constant"},
    "momentum and schedule": {"momentum": 0.9, "lr_schedule": "cosine"},
}


def main():
    """Train, several fits at a time; print; draw."""
    runs = [(lr, name, seed) for lr in RATES for name in SOLVERS for seed in range(SEEDS)]
    curves = Parallel(n_jobs=-1)(delayed(train)(lr, SOLVERS[name], seed) for lr, name, seed in runs)
    curves = dict(zip(runs, curves, strict=True))

    figure = Figure(figsize=(11, 8), layout="constrained")
    all_axes = figure.subplots(2, len(RATES), sharex=True, sharey="row")
    for lr, axes in zip(RATES, all_axes.T, strict=True):
        for number, name in enumerate(SOLVERS):
            losses, scores = np.swapaxes([curves[lr, name, seed] for seed in range(SEEDS)], 0, 1)
            print(f"lr={lr}, {name}: {summary(losses, scores)}")
            draw(axes, losses, scores, label=name, color=f"C{number}")
        axes[0].set_title(f"lr={lr}")
        axes[1].set(xlabel="epoch", xticks=range(0, EPOCHS + 1, 5), ylim=(0.8, 1))
    all_axes[0, 0].set_ylabel("loss on the training images after the epoch")
    all_axes[1, 0].set_ylabel("accuracy on 1,000 others")
    all_axes[0, 1].legend(loc="lower left")
    figure.savefig(FIGURE, dpi=100)
    print(f"Wrote {FIGURE.resolve()}")


def train(lr, solver, seed):
    """Give the training loss and the validation accuracy after each epoch.

    What scores the epochs computes the loss, too: `loss_curve_` averages over an epoch's steps.
    """
    X, y = load_mnist_sample(subset="train", return_X_y=True)
    X, y, X_val, y_val = X[:2000], y[:2000], X[4000:], y[4000:]
    losses = []

    def scoring(model, X_val, y_val):
        losses.append(log_loss(y, model.predict_proba(X)))
        return model.score(X_val, y_val)

    model = LeNetClassifier(
        lr=lr,
        solver="sgd",
        label_smoothing=0,
        max_iter=EPOCHS,
        early_stopping=True,
        scoring=scoring,
        n_iter_no_change=np.inf,
        random_state=seed,
        **solver,
    )
    return losses, model.fit(X, y, X_val=X_val, y_val=y_val).validation_scores_


def summary(losses, scores):
    """Say how often the losses rose, how far, and where the accuracies ended."""
    factors = losses[:, 1:] / losses[:, :-1]
    rises = np.count_nonzero(factors > 1, axis=1)
    late = max(1, factors[:, -10:].max())
    return (
        f"the loss rose in {rises.min()} to {rises.max()} of {EPOCHS - 1} epochs, "
        f"in the last ten to {late:.2f} times at most; "
        f"accuracy {scores[:, -1].mean():.1%} in the end, "
        f"spread {np.ptp(scores[:, -5:], axis=1).mean():.1%} over the last five epochs"
    )


def draw(axes, losses, scores, label, color):
    """Draw a line for each seed, the first with the label."""
    for seed in range(SEEDS):
        style = {"color": color, "lw": 1, "label": label if seed == 0 else None}
        axes[0].semilogy(range(1, EPOCHS + 1), losses[seed], **style)
        axes[1].plot(range(1, EPOCHS + 1), scores[seed], **style)
    for each in axes:
        each.grid(alpha=0.3)


if __name__ == "__main__":
    main()
