"""A LeNet-5 for scikit-learn: hand-written forward and backward passes in vectorized NumPy."""

from ._classifier import LeNetClassifier
from ._validation import ImageShapeWarning

__all__ = ["ImageShapeWarning", "LeNetClassifier", "__version__"]
__version__ = "0.1.0"
