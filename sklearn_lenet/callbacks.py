"""Callbacks of scikit-learn's kind, for `LeNetClassifier`: a checkpoint after every epoch."""

import os
import pickle
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import sklearn

from ._classifier import LeNetClassifier
from ._warnings import warn

try:
    from sklearn.callback import CallbackContext
except ImportError as error:
    raise ImportError(
        f"sklearn_lenet.callbacks needs scikit-learn 1.9 or later. Got {sklearn.__version__}."
    ) from error

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["Checkpoint"]


@dataclass
class _Fit:
    """What is kept of a fit: its lock's file descriptor, if any, and whether it was warned."""

    lock: int | None
    has_failed: bool = False


class Checkpoint:
    """Save a model in the course of its fit, from which the fit can be resumed.

    Set it by ``LeNetClassifier.set_callbacks``, and load the file by :func:`joblib.load`. While the
    fit runs, the file has a model that predicts as one that was fitted for so many epochs, and that
    :meth:`LeNetClassifier.resume <sklearn_lenet.LeNetClassifier.resume>` finishes. When the fit has
    ended, it has what `fit` has left. The model has no callbacks.

    A file is written beside its place, and moved there when it is whole and on the disk: whatever
    happens, `path` has a whole model, the old one or the new. Beside it lies ``path + ".tmp"``
    while that is written, and ``path + ".lock"`` while the fit runs; a killed process may leave
    them, and the next fit takes them over.

    Parameters
    ----------
    path : str or path-like
        Where to save. The directory has to exist.
    every : int, default=1
        Number of epochs from one file to the next.

    Raises
    ------
    ValueError
        If `every` is no positive int. By `fit`, if there is no such directory, if another fit is
        writing to this path, or if a parameter, or another attribute, cannot be pickled, such as a
        lambda, or a function that was defined within another.
    TypeError
        By `fit`, if it is that of anything else than a `LeNetClassifier`: set the callback on the
        pipeline's step, not on the pipeline.

    Warns
    -----
    UserWarning
        If a file cannot be written, for want of room or of permission: the fit goes on, and the
        last file stays. It comes when the fit has ended.

    Notes
    -----
    Only one fit at a time may have a path: the folds of a search, in several processes or threads,
    are refused, and in one process write over each other's files.

    Examples
    --------
    >>> import joblib, tempfile
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.callbacks import Checkpoint
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> X, y = load_mnist_sample(return_X_y=True, subset="test")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoint = Checkpoint(f"{directory}/lenet.joblib", every=2)
    ...     model = LeNetClassifier(max_iter=3, random_state=0).set_callbacks(checkpoint)
    ...     _ = model.fit(X, y)
    ...     loaded = joblib.load(checkpoint.path)
    >>> bool((loaded.predict(X) == model.predict(X)).all())
    True
    """

    path: Path
    every: int

    def __init__(self, path: str | os.PathLike, every: int = 1) -> None:
        if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
            raise ValueError(f"'every' must be an int in the range [1, inf). Got {every!r}.")
        self.path, self.every = Path(path), every
        # By the estimator's identity: clones, in several threads, share their callbacks
        self._fits: dict[int, _Fit] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the fits that this process runs."""
        return vars(self) | {"_fits": {}}

    def setup(self, estimator: LeNetClassifier, context: CallbackContext) -> None:
        """Look whether a file can be had of this fit, and keep other fits away from it."""
        if not isinstance(estimator, LeNetClassifier):
            raise TypeError(
                f"Checkpoint saves a LeNetClassifier, not a {type(estimator).__name__}: set it on "
                "that step of a pipeline, with set_callbacks."
            )
        if not self.path.parent.is_dir() or self.path.is_dir():
            raise ValueError(f"There can be no checkpoint {str(self.path)!r}: no such directory.")
        for name, value in estimator.__getstate__().items():
            try:
                pickle.dumps(value)
            except Exception as error:
                raise ValueError(
                    f"Checkpoint cannot save {name}={value!r}: {error}. A function has to be one "
                    "of a module."
                ) from error
        self._fits[id(estimator)] = _Fit(self._lock())

    def teardown(self, estimator: LeNetClassifier, context: CallbackContext) -> None:
        """Let other fits have the path."""
        fit = self._fits.pop(id(estimator), None)
        if fit is not None and fit.lock is not None:
            with suppress(OSError):
                os.unlink(f"{self.path}.lock")
            os.close(fit.lock)

    def on_fit_task_begin(self, estimator: LeNetClassifier, context: CallbackContext) -> None:
        """Do nothing."""

    def on_fit_task_end(
        self,
        estimator: LeNetClassifier,
        context: CallbackContext,
        *,
        fitted_estimator: LeNetClassifier,
    ) -> None:
        """Write the file after every so many epochs, and when the fit has ended."""
        if context.task_name == "epoch" and fitted_estimator.n_iter_ % self.every:
            return
        try:
            self._write(fitted_estimator)
        except OSError as error:
            fit = self._fits[id(estimator)]
            if not fit.has_failed:
                warn(
                    f"The checkpoint {str(self.path)!r} could not be written after epoch "
                    f"{fitted_estimator.n_iter_}: {error}. An earlier one is still there."
                )
            fit.has_failed = True

    def _write(self, model: LeNetClassifier) -> None:
        """Put a model's file in the place of the last one, once it is on the disk."""
        part = Path(f"{self.path}.tmp")
        try:
            with open(part, "wb") as file:
                pickle.dump(model, file)  # joblib would write an array as often as it occurs
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        if os.name == "posix":  # elsewhere, a directory cannot be opened
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _lock(self) -> int | None:
        """Take the path for one fit; the system gives it back when the process is gone.

        None where there are no such locks, or where none can be written: nor can a checkpoint.
        """
        name = f"{self.path}.lock"
        while fcntl is not None:
            try:
                lock = os.open(name, os.O_RDWR | os.O_CREAT)
            except OSError:
                return None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The fit that had it may have removed the file in between
                if os.path.samestat(os.fstat(lock), os.stat(name)):
                    return lock
            except BlockingIOError:
                os.close(lock)
                raise ValueError(
                    f"Another fit is writing its checkpoints to {str(self.path)!r}. Give each fit "
                    "that runs at the same time, such as the folds of a search, a path of its own."
                ) from None
            except FileNotFoundError:
                pass
            except OSError:
                os.close(lock)
                return None
            os.close(lock)
        return None
