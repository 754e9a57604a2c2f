"""Pictures of a model: its loss, in scikit-learn's style. They need matplotlib."""

from ._loss_curve import LossCurveDisplay

__all__ = ["LossCurveDisplay"]
