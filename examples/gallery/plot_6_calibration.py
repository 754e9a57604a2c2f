"""
Are the probabilities what they say?
====================================

Of the images that get a probability of 0.9, nine in ten should be of that class. With label
smoothing, the default, the network is less sure than it could be; ``CalibratedClassifierCV`` mends
that.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

X, y = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
X_fit, y_fit, X_calibrate, y_calibrate = X[:1500], y[:1500], X[1500:], y[1500:]

smooth = LeNetClassifier(max_iter=40, random_state=0).fit(X_fit, y_fit)
sharp = LeNetClassifier(label_smoothing=0, max_iter=40, random_state=0).fit(X_fit, y_fit)
calibrated = CalibratedClassifierCV(FrozenEstimator(smooth)).fit(X_calibrate, y_calibrate)

# %%
# Every probability of every class counts here, whether it was the answer or not.
# Most of the 10,000 lie near 0 or 1. Calibrated, fewer than twenty fall between two of the middle
# points, which so mean little; the log loss is of all.
models = {
    "label_smoothing=0.05": (smooth, "#d55e00", "s:"),
    "label_smoothing=0": (sharp, "#0072b2", "o--"),
    "calibrated": (calibrated, "black", "^-"),
}
figure, ax = plt.subplots(figsize=(5, 4.5), layout="constrained")
ax.plot([0, 1], [0, 1], color="grey", linewidth=1)
for label, (model, color, style) in models.items():
    proba = model.predict_proba(X_test)
    is_class = y_test[:, np.newaxis] == model.classes_
    share, said = calibration_curve(is_class.ravel(), proba.ravel(), n_bins=8)
    ax.plot(said, share, style, color=color, label=label)
    print(f"{label}: log loss {log_loss(y_test, proba):.3f}")
ax.set(xlabel="probability that was said", ylabel="share that was right")
ax.legend()
plt.show()
