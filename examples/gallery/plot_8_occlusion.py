"""
Which pixels matter: occlusion
==============================

Hide a square of a digit, and see how much of its probability is lost; then the next square. Many
images that differ in a square go through the network at once.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

X, y = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
model = LeNetClassifier(max_iter=10, random_state=0).fit(X, y)
SIDE = 7


def lost(image, label):
    """Give, for each place of a hidden square, how much of the label's probability is lost."""
    n_places = 28 - SIDE + 1
    hidden = np.repeat(image.reshape(1, 28, 28), n_places**2, axis=0)
    for place, copy in enumerate(hidden):
        top, left = divmod(place, n_places)
        copy[top : top + SIDE, left : left + SIDE] = 0
    column = list(model.classes_).index(label)
    before = model.predict_proba(image.reshape(1, -1))[0, column]
    after = model.predict_proba(hidden.reshape(len(hidden), -1))[:, column]
    return (before - after).reshape(n_places, n_places)


# %%
# Bright is where the digit cannot be told without what is hidden: the two arms of the 4, the stem
# of the 7 more than its bar, the waist of the 3.
digits = [4, 7, 3]
figure, axes = plt.subplots(2, 3, figsize=(6, 4), layout="constrained")
for (top, bottom), digit in zip(axes.T, digits, strict=True):
    image = X_test[y_test == digit][0]
    top.imshow(image.reshape(28, 28), cmap="gray")
    top.set_title(f"{digit}")
    shown = bottom.imshow(
        lost(image, digit), cmap="cividis", vmin=0, vmax=1, extent=(3.5, 24.5, 24.5, 3.5)
    )
    bottom.set(xlim=(0, 28), ylim=(28, 0), facecolor="lightgrey")
    for ax in (top, bottom):
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("image")
axes[1, 0].set_ylabel("probability lost")
figure.colorbar(shown, ax=axes[1], label="lost")
plt.show()
