"""What the displays share: matplotlib, imported when something is drawn, and checks."""

from typing import Any

from sklearn.utils.validation import check_is_fitted

from .._classifier import LeNetClassifier

# Told apart by the colour-blind (Okabe and Ito, 2008); the markers, by those who print in greys
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def import_pyplot(display: Any) -> Any:
    """Import matplotlib.pyplot, or say what installs it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{type(display).__name__}.plot needs matplotlib: install it by "
            '`python -m pip install ".[plot]"` in a clone of sklearn_lenet.'
        ) from error
    return plt


def check_network(estimator: Any, display: type) -> None:
    """Refuse what is no fitted LeNetClassifier."""
    if not isinstance(estimator, LeNetClassifier):
        raise TypeError(
            f"{display.__name__} shows a LeNetClassifier. Got {type(estimator).__name__} instead. "
            "Of a pipeline pass the step, pipeline[-1]; of a search, search.best_estimator_."
        )
    check_is_fitted(estimator)
