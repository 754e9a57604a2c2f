"""
Quick start: train, confusion matrix, mistakes
==============================================

Train on 5,000 images, and look at what is still mistaken among 1,000 others.
"""

# %%
# Train and test
# --------------
# Images are rows of 784 bytes; the pixels are scaled inside.
import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample
from sklearn_lenet.inspection import LossCurveDisplay, MistakesDisplay

X, y = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
model = LeNetClassifier(random_state=0).fit(X, y)
print(f"Test accuracy: {model.score(X_test, y_test):.1%}")

# %%
# The loss of each epoch
# ----------------------
# It falls fast, then slowly, as the learning rate does.
_ = LossCurveDisplay.from_estimator(model)

# %%
# Which digits are taken for which
# --------------------------------
# The diagonal is what was right.
confusion = ConfusionMatrixDisplay.from_estimator(
    model, X_test, y_test, cmap="cividis_r", colorbar=False
)

# %%
# The surest mistakes
# -------------------
# Each with its answer, its truth, and the probability that the network gave its answer.
_ = MistakesDisplay.from_estimator(model, X_test, y_test, n_images=4)
plt.show()
