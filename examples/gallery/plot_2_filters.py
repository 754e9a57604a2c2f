"""
Filters and feature maps of one digit
=====================================

What the first convolution looks for, and what becomes of one image on its way through the layers.
"""

# %%
# The kernels of the first convolution
# ------------------------------------
# Each is a pattern of 5 x 5 pixels: edges of some direction, mostly.
import matplotlib.pyplot as plt

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample
from sklearn_lenet.inspection import FeatureMapsDisplay, FiltersDisplay

X, y = load_mnist_sample(subset="train", return_X_y=True)
model = LeNetClassifier(max_iter=10, random_state=0).fit(X, y)
_ = FiltersDisplay.from_estimator(model)

# %%
# A digit on its way
# ------------------
# A map is bright where the image has its kernel's pattern. Pooling halves it; the second
# convolution looks for patterns in the maps of the first.
_ = FeatureMapsDisplay.from_estimator(model, X[0])
plt.show()
