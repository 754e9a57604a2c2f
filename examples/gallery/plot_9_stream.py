"""
Stream, save, go on: the same bits
==================================

Mini-batches come one after the other; the model is saved, loaded in another process or on another
day, and goes on as if nothing had happened.
"""

# %%
# A stream
# --------
# ``partial_fit`` takes one pass over what it is given. It needs all classes at its first call.
import tempfile
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample

X, y = load_mnist_sample(subset="train", return_X_y=True)
X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
chunks = [(X[n : n + 500], y[n : n + 500]) for n in range(0, 5000, 500)]

whole = LeNetClassifier(random_state=0)
scores = []
for images, labels in chunks:
    whole.partial_fit(images, labels, classes=np.arange(10))
    scores.append(whole.score(X_test, y_test))

# %%
# Saved in the middle
# -------------------
broken = LeNetClassifier(random_state=0)
for images, labels in chunks[:5]:
    broken.partial_fit(images, labels, classes=np.arange(10))
with tempfile.TemporaryDirectory() as directory:
    path = Path(directory, "lenet.joblib")
    joblib.dump(broken, path)
    print(f"{path.stat().st_size / 1000:.0f} kB, with what Adam needs to go on")
    broken = joblib.load(path)
for images, labels in chunks[5:]:
    broken.partial_fit(images, labels)
equal = all(
    np.array_equal(one, other) for one, other in zip(whole.coefs_, broken.coefs_, strict=True)
)
print("The same bits:", equal)

# %%
# What came of the stream
# -----------------------
figure, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
ax.plot(np.arange(500, 5001, 500), 100 * np.array(scores), "ko-")
ax.axvline(2500, color="#d55e00", linestyle="--", label="saved and loaded")
ax.set(xlabel="images seen, once each", ylabel="test accuracy, %")
ax.legend()
plt.show()
