"""
Colour pictures
===============

Images of three channels are arrays of shape (n, 3, height, width), or rows with ``image_shape=(3,
height, width)``. These are made by code: a disc, a square or a cross on noise. The class is form
*and* colour.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from sklearn_lenet import LeNetClassifier

FORMS = {
    "disc": lambda x, y: x**2 + y**2 < 36,
    "square": lambda x, y: (abs(x) < 6) & (abs(y) < 6),
    "cross": lambda x, y: ((abs(x) < 2) | (abs(y) < 2)) & (abs(x) < 7) & (abs(y) < 7),
}
COLOURS = {"orange": (230, 159, 0), "blue": (0, 114, 178)}


def pictures(n, seed):
    """Draw `n` forms of a random colour at a random place, on random ground."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 200, (n, 3, 24, 24)).astype(np.uint8)
    labels = []
    for picture in X:
        form, colour = rng.choice(list(FORMS)), rng.choice(list(COLOURS))
        y, x = np.mgrid[:24, :24] - rng.integers(8, 16, (2, 1, 1))
        picture[:, FORMS[form](x, y)] = np.array(COLOURS[colour])[:, np.newaxis]
        labels.append(f"{colour} {form}")
    return X, np.array(labels)


X, y = pictures(1200, seed=0)
X_test, y_test = pictures(500, seed=1)

figure, axes = plt.subplots(2, 4, figsize=(6, 3.4), layout="constrained")
for ax, picture, label in zip(axes.flat, X, y, strict=False):
    ax.imshow(picture.transpose(1, 2, 0))
    ax.set_title(label, fontsize=9)
    ax.axis("off")

# %%
# Train, with strings as labels, and see what is mistaken.
model = LeNetClassifier(max_iter=12, random_state=0).fit(X, y)
print(f"Test accuracy: {model.score(X_test, y_test):.1%}")
_ = ConfusionMatrixDisplay.from_estimator(
    model, X_test, y_test, cmap="cividis_r", colorbar=False, xticks_rotation="vertical"
)
plt.tight_layout()
plt.show()
