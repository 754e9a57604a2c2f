"""
Accuracy against the number of images
=====================================

A convolutional network has the neighbourhood of pixels built in, and needs fewer images for it.
Each classifier with its defaults, on pixels from 0 to 1; ``LeNetClassifier``, which would take 100
epochs for so few images, with 20.
"""

# %%
import matplotlib.pyplot as plt
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

X, y = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
X, X_test = X / 255, X_test / 255

classifiers = {
    "LeNetClassifier": (LeNetClassifier(max_iter=20, random_state=0), "black", "o-"),
    "MLPClassifier": (MLPClassifier(random_state=0), "#0072b2", "s--"),
    "LogisticRegression": (LogisticRegression(max_iter=1000), "#d55e00", "^:"),
    "RandomForestClassifier": (RandomForestClassifier(random_state=0), "#009e73", "v-."),
}
sizes = [100, 300, 1000]
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, (classifier, color, style) in classifiers.items():
    scores = [100 * classifier.fit(X[:n], y[:n]).score(X_test, y_test) for n in sizes]
    ax.plot(sizes, scores, style, color=color, label=name)
    print(name, *(f"{score:.1f} %" for score in scores))
ax.set(xscale="log", xlabel="training images", ylabel="test accuracy, %")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.legend()
plt.show()
