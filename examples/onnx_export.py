"""Export a classifier, and a Pipeline with one, to ONNX, and run them by onnxruntime.

Writes `lenet.onnx` and `pipeline.onnx` to a temporary folder, and compares the answers. Takes some
seconds; needs onnx, skl2onnx and onnxruntime.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import skl2onnx
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample
from sklearn_lenet.onnx import to_onnx


def compare(path, model, X):
    """Print how the file's answers differ from the model's."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    labels, proba = session.run(None, {"X": X})
    difference = np.abs(proba - model.predict_proba(X)).max()
    same = np.array_equal(labels, model.predict(X))
    print(
        f"{path.name}, {path.stat().st_size / 1000:.0f} kB: {'the same' if same else 'OTHER'} "
        f"labels, probabilities differ by {difference:.0e} at most"
    )


def main():
    """Fit, export, compare."""
    X, y = load_mnist_sample(subset="train", return_X_y=True)
    X_test, _ = load_mnist_sample(subset="test", return_X_y=True)
    X, X_test, y = X[:2000].astype(np.float32), X_test.astype(np.float32), y[:2000]

    model = LeNetClassifier(max_iter=3, random_state=0).fit(X, y)
    pipeline = make_pipeline(PCA(196, random_state=0), LeNetClassifier(max_iter=3, random_state=0))
    pipeline.fit(X, y)

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "lenet.onnx"
        onnx.save(to_onnx(model), path)
        compare(path, model, X_test)

        path = Path(directory) / "pipeline.onnx"
        onnx.save(skl2onnx.to_onnx(pipeline, X[:1], options={"zipmap": False}), path)
        compare(path, pipeline, X_test)


if __name__ == "__main__":
    main()
