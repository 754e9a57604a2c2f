"""Pictures of a model, in scikit-learn's style: they need matplotlib."""

from ._augmented import AugmentationDisplay
from ._feature_maps import FeatureMapsDisplay
from ._filters import FiltersDisplay
from ._loss_curve import LossCurveDisplay
from ._mistakes import MistakesDisplay

__all__ = [
    "AugmentationDisplay",
    "FeatureMapsDisplay",
    "FiltersDisplay",
    "LossCurveDisplay",
    "MistakesDisplay",
]
