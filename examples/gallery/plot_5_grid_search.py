"""
A grid search as a heat map
===========================

Learning rate and batch size, cross-validated on 1,000 images.
"""

# %%
import matplotlib.pyplot as plt
from sklearn.model_selection import GridSearchCV

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

X, y = load_mnist_sample(subset="train", return_X_y=True)
grid = {"lr": [0.0005, 0.002, 0.005, 0.02], "batch_size": [16, 64, 256]}
search = GridSearchCV(LeNetClassifier(max_iter=5, random_state=0), grid, cv=2, refit=False)
search.fit(X[:1000], y[:1000])
print(search.best_params_, f"{search.best_score_:.1%}")

# %%
# ``cv_results_`` takes the parameters in alphabetical order, and the last of them, ``lr``, varies
# fastest.
scores = 100 * search.cv_results_["mean_test_score"].reshape(3, 4)
figure, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
ax.imshow(scores, cmap="cividis", aspect="auto")
for row, line in enumerate(scores):
    for column, score in enumerate(line):
        color = "white" if score < (scores.min() + scores.max()) / 2 else "black"
        ax.text(column, row, f"{score:.0f}", ha="center", va="center", color=color)
ax.set(
    xticks=range(4),
    xticklabels=grid["lr"],
    yticks=range(3),
    yticklabels=grid["batch_size"],
    xlabel="lr",
    ylabel="batch_size",
    title="Accuracy, %",
)
plt.show()
