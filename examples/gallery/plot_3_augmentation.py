"""
Augmentation: a sheet, and what it gains
========================================

Where there are few images, distorted ones are new ones: here with 500.
"""

# %%
# What the network sees instead of an image
# -----------------------------------------
import matplotlib.pyplot as plt

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample
from sklearn_lenet.inspection import AugmentationDisplay

X, y = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
X, y = X[:500], y[:500]
for name in ("affine", "elastic"):
    model = LeNetClassifier(augment=name)
    AugmentationDisplay.from_estimator(model, X, n_images=2, n_versions=5, random_state=0)

# %%
# What it gains
# -------------
# Three seeds each. Dots are fits, bars their means.
names = [None, "affine", "elastic"]
scores = [
    [
        LeNetClassifier(augment=name, max_iter=25, random_state=seed)
        .fit(X, y)
        .score(X_test, y_test)
        for seed in range(3)
    ]
    for name in names
]
figure, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
for place, (name, values) in enumerate(zip(names, scores, strict=True)):
    mean = 100 * sum(values) / 3
    ax.bar(place, mean, width=0.6, color="#9ecae1", edgecolor="black")
    ax.plot([place] * 3, [100 * value for value in values], "ko")
    print(f"augment={name!r}: {mean:.1f} %")
ax.set(
    xticks=range(3),
    xticklabels=[repr(name) for name in names],
    xlabel="augment",
    ylabel="test accuracy, %",
    ylim=(85, 100),
    title="500 images",
)
plt.show()
