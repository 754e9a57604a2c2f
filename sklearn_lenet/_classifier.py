"""`LeNetClassifier`: the scikit-learn contract. Parameters, validation, labels, attributes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted

from ._arrays import as_given, on_host
from ._backend import current_device, find_device, is_cupy, namespace, to_device, to_host
from ._cuda import CudaEngine
from ._engine import PLAIN, SHARD_SIZE, Data, Engine, Objective
from ._images import PixelRanges, pixel_statistics
from ._interrupts import Uninterrupted
from ._loss import log_probabilities
from ._observers import Callbacks, CallbackSupportMixin, validation_score, with_callbacks
from ._parameters import (
    check_parameters,
    check_same_network,
    check_same_settings,
    fit_settings,
    make_optimizer,
    n_workers,
    network_dtype,
    network_for,
    optimizer_name,
    training_objective,
    training_settings,
)
from ._state import (
    architecture_of,
    beginning_of,
    check_same_data,
    cut_state,
    epoch_state,
    fingerprint,
    generator_of,
    initial_state,
    layout_of,
    ranges_of,
    sealed,
    trained_state,
    unsealed,
)
from ._training import Course, Epoch, Observer, Settings, Validation, train
from ._validation import (
    check_classes,
    check_images,
    check_range,
    check_scoring_data,
    check_training_data,
    check_validation_data,
    encode_labels,
    stratified_split,
    warn_of_extreme,
    weigh_classes,
)
from ._warnings import Deferred, warn


def _supports_partial_fit(estimator: "LeNetClassifier") -> bool:
    """Explain why `partial_fit` is missing, where it is."""
    if isinstance(estimator.early_stopping, bool | np.bool_) and estimator.early_stopping:
        raise ValueError("partial_fit does not support early_stopping=True")
    if isinstance(estimator.class_weight, str):
        raise ValueError(
            "class_weight 'balanced' is not supported for partial_fit. To use 'balanced' weights, "
            "compute them with sklearn.utils.compute_class_weight and pass them as a dict."
        )
    return True


def _documentation() -> str:
    """Give the address of the class's page, if built in this clone, else of this file."""
    file = Path(__file__).resolve()
    pages = file.parents[1] / "docs" / "_build" / "html" / "generated"
    page = pages / "sklearn_lenet.LeNetClassifier.html"
    return (page if page.exists() else file).as_uri()


class LeNetClassifier(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
):
    """LeNet-5 classifier of images.

    A convolutional network in the manner of LeNet-5 (LeCun et al. 1998): convolutions, each
    followed by an activation and 2 x 2 pooling, then dense layers, then softmax; trained on the
    cross-entropy by mini-batches. It takes rows of pixels (784 features are a 28 x 28 image) or
    arrays of images, and scales them itself: pixels from 0 to 255 serve as well as those from 0 to
    1.

    Parameters
    ----------
    lr : float, default=0.005
        Learning rate: the size of a step of the solver.
    batch_size : int, default=64
        Number of samples in a mini-batch. One that is larger than the training set takes all of it.
    max_iter : int or "auto", default="auto"
        Number of epochs, that is, passes over the training data, at most. "auto" is 20, or as many
        more, up to 100, as it takes to see 100,000 samples: a small training set needs more epochs
        for as many steps.
    solver : {"sgd", "adam", "adamw"}, default="adam"
        "sgd" is stochastic gradient descent with momentum, "adam" the method of Kingma and Ba
        (2015), "adamw" that with decoupled weight decay (Loshchilov and Hutter 2019).
    momentum : float in [0, 1], default=0.98
        Momentum of the solver "sgd".
    nesterovs_momentum : bool, default=True
        Whether "sgd" uses Nesterov's momentum.
    beta_1, beta_2 : float in [0, 1), default=0.9 and 0.999
        Decay rates of the running mean of the gradient, and of its square, of "adam" and "adamw".
        Smaller ones, such as 0.8 and 0.95, forget sooner: for fits of one or two epochs.
    lr_schedule : {"constant", "step", "cosine", "plateau"} or callable, default="cosine"
        How the learning rate goes from epoch to epoch. "step" divides it by 10 after half of
        `max_iter`, and again after three quarters. "cosine" raises it from 0 to `lr` within the
        first twentieth of `max_iter`, then lowers it to 0 along half a cosine wave. "plateau"
        divides it by 5 whenever two epochs in a row brought no improvement, as `tol` has it. A
        callable is called with the number of the epoch, from 0, and returns its learning rate.
        `partial_fit` always uses `lr`.
    alpha : float, default=0
        Strength of the L2 penalty on weights, not biases. As in
        :class:`~sklearn.neural_network.MLPClassifier`, the loss includes
        ``alpha / 2 * sum(weights**2)``, divided by the mini-batch's sum of sample weights. With
        "adamw" there is no penalty: each step multiplies the weights by ``1 - lr * alpha``.
    ema_decay : float in (0, 1), default=None
        Predict with an exponential moving average of the weights, which forgets the share
        ``1 - ema_decay`` of itself with each step of the solver. None takes the last weights.
    label_smoothing : float in [0, 1), default=0.05
        Share of each sample's target that is divided evenly among all classes.
    augment : {"affine", "elastic"} or callable, default=None
        Distorts the training images anew in every epoch. "affine" rotates, scales, shears and
        shifts them; "elastic" does so more mildly, and displaces their parts along a smooth random
        field (Simard, Steinkraus and Platt 2003). A callable is called with the images of a
        mini-batch, an array of shape (n, C, H, W) of the type of `X`, and a
        :class:`numpy.random.Generator`, and returns an array of this shape.
    conv_channels : tuple of int, default=(6, 16)
        Number of kernels of each convolution.
    kernel_size : int or tuple of int, default=5
        Side of the kernels; a tuple has one for each convolution, here and below.
    stride : int or tuple of int, default=1
        Pixels from one place of the kernel to the next.
    padding : int or tuple of int, default=(2, 0)
        Zeros added on all four sides of the convolution's input.
    pooling : {"avg", "max"}, default="avg"
        Whether each 2 x 2 window behind a convolution gives its mean or its maximum.
    hidden_layer_sizes : int or tuple of int, default=(120, 84)
        Number of units of each dense layer before the last.
    activation : {"relu", "tanh", "sigmoid"}, default="relu"
        Activation function behind every layer but the last.
    image_shape : tuple (H, W) or (C, H, W), default=None
        What flat rows of features are: images of height H and width W, of C channels one after the
        other. None takes the shape of an array of images; for flat rows, a square grey image where
        their length is a square, else the smallest nearly square one, with zeros at its end. Rows
        of pixels that could be square colour images are refused.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Type of the network's numbers. "auto" is float64 for input of that type, else float32, which
        takes half the time: 8-bit pixels are the fastest input.
    shuffle : bool, default=True
        Whether to draw a new order of the samples in every epoch.
    tol : float, default=None
        An epoch that does not better the training loss (with `early_stopping`, the validation
        score) by more than `tol` is one without improvement. None runs all `max_iter` epochs,
        unless `early_stopping` ends them; it takes any improvement for one.
    n_iter_no_change : int or np.inf, default=10
        Training ends after so many epochs in a row without improvement.
    early_stopping : bool, default=False
        Whether to set a part of the training data aside, stop when the accuracy on it, or what
        `scoring` names, no longer improves, and restore the weights that were best on it.
    scoring : str or callable, default=None
        What `early_stopping` goes by: the name of a scorer of scikit-learn's, a callable
        ``scorer(estimator, X, y)`` that returns a number, greater being better, or "loss", the
        cross-entropy. None is the accuracy. A scorer gets the validation samples as rows of pixels,
        and `sample_weight` where their weights, times their classes', are not all 1.
    validation_fraction : float in (0, 1), default=0.1
        Share of the training data that `early_stopping` sets aside, with the classes in proportion.
    class_weight : dict or "balanced", default=None
        Weights ``{label: weight}`` of the classes, by which sample weights are multiplied.
        "balanced" is in inverse proportion to the classes' frequencies.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights, the solver's state and the random generator's state
        that the last call left, rather than begins anew.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, the order of samples, and the validation set.
    verbose : int, default=0
        Whether to show a progress bar.
    n_jobs : int, default=None
        Number of threads, of which no more are started than there are CPUs, and shards to compute.
        None is that of :class:`joblib.parallel_config`, where it has one. Else None, as -1, is as
        many as the process has cores for: affinity, quotas, `OMP_NUM_THREADS` and the share that
        joblib gives its workers are respected. -2 is one fewer, and so on. The results are the same
        to the bit for any number. A CUDA device takes none of them.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where to compute: "cuda" is CuPy's current CUDA device, "cuda:1" the one of this number, and
        "auto" is "cuda" where there is such a device, else "cpu". It does not change what is
        computed, but its rounding. Needs CuPy: ``python -m pip install ".[gpu]"`` in a clone.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    n_features_in_ : int
        Number of features (for images, of pixels times channels) seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features, where `X` has names that are all strings.
    image_shape_ : tuple (C, H, W)
        Shape in which the features are read.
    mean_ : float
        Mean of all pixels of the first `fit`, weighted by the samples' weights.
    scale_ : float
        Their standard deviation; 1 if they are equal. A pixel x enters the network as
        ``(x - mean_) / scale_``.
    coefs_ : tuple of ndarrays
        Weights: (channels out, channels in, `kernel_size`, `kernel_size`) of each convolution, then
        (outputs, inputs) of each dense layer. The first dense layer reads the maps of the last
        pooling in the order (C, H, W). They are views of the model's weights: what is written into
        them, as by ``coefs_[0][...] = weights``, predicts.
    intercepts_ : tuple of ndarrays
        Biases of each layer; likewise.
    n_iter_ : int
        Number of epochs of the last `fit` or `partial_fit`.
    t_ : int
        Number of training samples seen since the weights were drawn.
    loss_ : float
        Loss of the last epoch, with the L2 penalty, averaged over its mini-batches.
    best_loss_ : float or None
        Least of `loss_curve_`; None with `early_stopping`.
    loss_curve_ : list of float
        Loss of each epoch since the weights were drawn.
    validation_loss_curve_, validation_scores_ : list of float or None
        Cross-entropy and score on the validation set after each epoch; None without
        `early_stopping`. The score is the accuracy, or that of `scoring`: with "loss" the
        cross-entropy's negative.
    best_validation_score_ : float or None
        Score on the validation set of the weights that the last `fit` restored; None without
        `early_stopping`.
    device_ : str
        Where the last `fit` or `partial_fit` computed: "cpu", "cuda:0", "cuda:1", ...

    See Also
    --------
    sklearn.neural_network.MLPClassifier : Dense layers only.

    Notes
    -----
    Sample weights weigh the loss: a mini-batch's loss is the weighted mean of its samples'. Only
    where one mini-batch holds all samples is a sample of weight 2 the same as that sample twice.

    Arrays of PyTorch, CuPy and the array API standard are taken. With scikit-learn's setting
    `array_api_dispatch`, predictions are of the kind and on the device of `X`.

    Six epochs by one `fit`, by two fits of three with `warm_start`, and by six calls of
    `partial_fit` give the same weights to the bit, where `lr_schedule` is "constant" and `tol`
    doesn't stop them; so they do with the estimator pickled in between.

    With scikit-learn 1.9 or later, `set_callbacks` takes its callbacks, which look on at `fit` and
    `resume`, epoch by epoch.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner. Gradient-based learning applied to document
    recognition. Proceedings of the IEEE 86(11), 1998.

    D. P. Kingma and J. Ba. Adam: a method for stochastic optimization. ICLR 2015.

    Examples
    --------
    >>> from sklearn_lenet import LeNetClassifier
    >>> from sklearn_lenet.datasets import load_mnist_sample
    >>> X, y = load_mnist_sample(return_X_y=True, subset="train")
    >>> X_test, y_test = load_mnist_sample(return_X_y=True, subset="test")
    >>> model = LeNetClassifier(lr=0.005, max_iter=5, random_state=0).fit(X, y)
    >>> model.score(X_test, y_test) > 0.92
    True
    """

    __module__ = "sklearn_lenet"  # files, and those who trust them, name it as users do
    # Where the "?" of the HTML representation leads
    _doc_link_module = "sklearn_lenet"
    _doc_link_template = _documentation()

    classes_: np.ndarray
    image_shape_: tuple[int, int, int]
    n_iter_: int
    t_: int
    loss_: float
    best_loss_: float | None
    loss_curve_: list[float]
    validation_loss_curve_: list[float] | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    device_: str
    # Fitted state that no attribute shows: NumPy arrays and plain Python values only
    _parameters: np.ndarray
    _architecture: dict[str, Any]
    _layout: dict[str, Any]
    _optimizer: tuple[str, dict[str, Any]]
    _generator: Mapping[str, Any]
    _validation_seed: int
    _cut: dict[str, Any]  # of a fit that was cut off alone
    _ranges: dict[str, tuple[float, float]]
    _format: int

    def __init__(
        self,
        *,
        lr: float = 0.005,
        batch_size: int = 64,
        max_iter: int | str = "auto",
        solver: str = "adam",
        momentum: float = 0.98,
        nesterovs_momentum: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        lr_schedule: str | Callable[[int], float] = "cosine",
        alpha: float = 0.0,
        ema_decay: float | None = None,
        label_smoothing: float = 0.05,
        augment: str | Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        conv_channels: tuple[int, ...] = (6, 16),
        kernel_size: int | tuple[int, ...] = 5,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = (2, 0),
        pooling: str = "avg",
        hidden_layer_sizes: tuple[int, ...] = (120, 84),
        activation: str = "relu",
        image_shape: tuple[int, ...] | None = None,
        dtype: str = "auto",
        shuffle: bool = True,
        tol: float | None = None,
        n_iter_no_change: float = 10,
        early_stopping: bool = False,
        scoring: str | Callable[["LeNetClassifier", np.ndarray, np.ndarray], float] | None = None,
        validation_fraction: float = 0.1,
        class_weight: dict | str | None = None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        n_jobs: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.lr = lr
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.solver = solver
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.lr_schedule = lr_schedule
        self.alpha = alpha
        self.ema_decay = ema_decay
        self.label_smoothing = label_smoothing
        self.augment = augment
        self.conv_channels = conv_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.pooling = pooling
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.image_shape = image_shape
        self.dtype = dtype
        self.shuffle = shuffle
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.device = device

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as rows of pixels or as arrays, of any real type. It is not copied: integers
            stay integers until a mini-batch is taken.
        y : array-like of shape (n_samples,)
            Labels: integers, strings or booleans.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples' losses, not negative; samples of weight 0 are left out.
        X_val, y_val : array-likes, default=None
            What `early_stopping` validates on, instead of a part of `X` and `y`.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Weights of the validation samples.

        Returns
        -------
        self : LeNetClassifier
            Itself, fitted.

        Raises
        ------
        ValueError
            If a parameter or the data aren't allowed, or the training diverges in its first epoch.
            The estimator then is as it was before.
        KeyboardInterrupt
            If it comes in the first epoch, or is the second within a second. Likewise.

        Warns
        -----
        UserWarning
            If a keyboard interrupt ended the training after its first epoch: the weights so far are
            kept, and `resume` runs the remaining epochs. If one pixel in 10,000, or fewer, make
            most of the variance of `X`. If `X_val`, or with `warm_start` `X`, is in another range
            than what was learnt from before.
        ImageShapeWarning
            If rows are laid out as images by a guess.
        ConvergenceWarning
            If the training diverged: the weights are those of the best epoch before. If the network
            gives all of `X` the same answer. If `tol` is given and `max_iter` epochs did not bring
            the training to a standstill.
        """
        given = X, y, sample_weight
        with self._training_device() as device:
            is_continued = self.warm_start and self.__sklearn_is_fitted__()
            X, y, weights = check_training_data(self, X, y, sample_weight, reset=not is_continued)
            rows = np.flatnonzero(weights)
            classes = self.classes_ if is_continued else unique_labels(y[rows])
            y = encode_labels(y, classes, rows)
            data = weigh_classes(self.class_weight, classes, X, y, weights)
            self._prepare(data, classes, is_continued)
            validation = check_validation_data(self, X_val, y_val, sample_weight_val)
            if validation is not None:
                held_out = validation.X, validation.rows
                check_range(*held_out, layout_of(self), ranges_of(self), "X_val")
            return self._train(*self._split(data, validation), device, given)

    def resume(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Run the remaining epochs of a `fit` that was cut off.

        That is one which an interrupt has ended, or, where the process was killed or a callback
        raised an error, one of which a :class:`~sklearn_lenet.callbacks.Checkpoint` has a file. It
        goes on after its last whole epoch, and gives the same bits as if it had not been cut off.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val : array-likes
            What `fit` was given. `device`, `n_jobs` and `verbose` may be others than they were.

        Returns
        -------
        self : LeNetClassifier
            Itself, fitted.

        Raises
        ------
        NotFittedError
            If the estimator has not been fitted.
        ValueError
            If the last fit had come to its end; if the data, or the parameters that determine what
            comes of a fit, are others; and as in `fit`. The estimator then is as it was before.
        KeyboardInterrupt
            If it is the second within a second. Likewise.

        Warns
        -----
        UserWarning, ConvergenceWarning
            As in `fit`. After an interrupt, this can be called again.
        """
        given = X, y, sample_weight
        with self._training_device() as device:
            self._check_cut_off()
            X, y, weights = check_training_data(self, X, y, sample_weight, reset=False)
            y = encode_labels(y, self.classes_, np.flatnonzero(weights))
            data = weigh_classes(self.class_weight, self.classes_, X, y, weights)
            validation = check_validation_data(self, X_val, y_val, sample_weight_val)
            data, validation = self._split(data, validation)
            check_same_data(fingerprint(data, validation), self._cut["data"])
            state, epochs = beginning_of(self)
            past = epochs, self._cut["best"]
            self.__dict__.update(state)
            return self._train(data, validation, device, given, past)

    @available_if(_supports_partial_fit)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch, going on from the last call's state.

        The first call draws the weights, and takes from its data the scale by which all input is
        then divided.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as for `fit`.
        y : array-like of shape (n_samples,)
            Labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that may ever come; the first call needs them.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples' losses, as for `fit`.

        Returns
        -------
        self : LeNetClassifier
            Itself, fitted.

        Raises
        ------
        ValueError
            As in `fit`; also if `classes` are missing or others than before, or if `y` has others.
        AttributeError
            With ``early_stopping=True`` or ``class_weight="balanced"``, which need all the data,
            there is no `partial_fit`.
        """
        with self._training_device() as device:
            is_continued = self.__sklearn_is_fitted__()
            classes = check_classes(self, classes)
            X, y, weights = check_training_data(self, X, y, sample_weight, reset=not is_continued)
            y = encode_labels(y, classes, np.arange(len(y)))
            data = weigh_classes(self.class_weight, classes, X, y, weights)
            self._prepare(data, classes, is_continued)
            return self._train(data, None, device)

    def predict(self, X: Any) -> Any:
        """Predict the labels of images.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as for `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            CuPy's if `X` is and the labels are numbers, else NumPy's.
        """
        with self._prediction_device() as device:
            places = self._log_proba(X, device)[0].argmax(axis=1)
            if self.classes_.dtype.kind not in "biuf":
                places = to_host(places)
            return as_given(to_device(namespace(places), self.classes_)[places], X)

    def predict_proba(self, X: Any) -> Any:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as for `fit`.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; of float32 if `X` is, else of float64; CuPy's if `X` is.
        """
        with self._prediction_device() as device:
            log_proba, dtype = self._log_proba(X, device)
            proba = namespace(log_proba).exp(log_proba, out=log_proba)
            return as_given(proba.astype(dtype, copy=False), X)

    def predict_log_proba(self, X: Any) -> Any:
        """Predict the logarithm of the probability of each class, also where that rounds to 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as for `fit`.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; of float32 if `X` is, else of float64; CuPy's if `X` is.

        Warns
        -----
        UserWarning
            If `device` asks for a CUDA device that cannot be used here. The CPU takes over.
        """
        with self._prediction_device() as device:
            log_proba, dtype = self._log_proba(X, device)
            return as_given(log_proba.astype(dtype, copy=False), X)

    def transform(self, X: Any) -> Any:
        """Compute what the last layer reads: the activations of the last hidden layer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as for `fit`.

        Returns
        -------
        activations : ndarray of shape (n_samples, n_activations)
            As many as the last of `hidden_layer_sizes`; without hidden layers, the maps of the last
            pooling, flattened in the order (C, H, W). Of float32 if `X` is, else of float64;
            CuPy's if `X` is.
        """
        with self._prediction_device() as device:
            hidden, dtype = self._outputs(X, device, lambda engine, X: engine.predict_hidden(X))
            return as_given(hidden.astype(dtype, copy=False), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy of `predict`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
            Images, as for `fit`.
        y : array-like of shape (n_samples,)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each sample counts.

        Returns
        -------
        score : float
            The share of samples, by weight, that `predict` gets right: from 0 to 1.
        """
        with Uninterrupted():
            y, weights = check_scoring_data(y, sample_weight)
            predicted = on_host(self.predict(X), "y")
            return float(accuracy_score(y, predicted, sample_weight=weights))

    @property
    def _n_features_out(self) -> int:
        """Number of outputs of `transform`, which scikit-learn names."""
        return architecture_of(self).weight_shapes()[-1][1]

    @property
    def mean_(self) -> float:
        """What is taken off each pixel."""
        check_is_fitted(self)
        return layout_of(self).mean

    @property
    def scale_(self) -> float:
        """What each pixel is divided by, then."""
        check_is_fitted(self)
        return 1 / layout_of(self).scale

    @property
    def coefs_(self) -> tuple[np.ndarray, ...]:
        """Weights of each layer."""
        return self._views()[0]

    @property
    def intercepts_(self) -> tuple[np.ndarray, ...]:
        """Biases of each layer."""
        return self._views()[1]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_callback_fit_ctx" in state:  # within a fit, whose callbacks are not a copy's
            state = {name: part for name, part in state.items() if "_callback" not in name}
        return sealed(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A file of an earlier version lacks later parameters, which have its ways by default
        super().__setstate__({**vars(LeNetClassifier()), **unsealed(state)})

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_parameters")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _views(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        check_is_fitted(self)
        return architecture_of(self).views(self._parameters)

    def _prepare(self, data: Data, classes: np.ndarray, is_continued: bool) -> None:
        """Set all that the first call determines, and hold later ones to it.

        That is the classes, the network and its initial weights, and how images get there.
        """
        if is_continued:
            check_same_network(self, architecture_of(self), self._parameters.dtype)
            seen = check_range(data.X, data.rows, layout_of(self), ranges_of(self))
            if seen is not None:
                self._ranges = asdict(ranges_of(self).joined(PixelRanges.of(*seen)))
            return
        self.classes_ = classes
        layout, architecture = network_for(self, data.X.shape[1], len(classes))
        pixels = pixel_statistics(data.X, data.weights, data.rows)
        if pixels.extreme is not None:
            warn_of_extreme(*pixels.extreme)
        dtype = network_dtype(self, data.X)
        # As it is taken off, and so as others have to take it off
        mean = float(np.result_type(data.X.dtype, dtype).type(pixels.mean))
        layout = replace(layout, mean=mean, scale=pixels.scale)
        network = layout, architecture, pixels.ranges, dtype
        self.__dict__.update(initial_state(*network, self.random_state))

    def _split(self, data: Data, validation: Data | None) -> tuple[Data, Data | None]:
        """Set aside what to validate on, where that is wanted and was not given."""
        if self.early_stopping and validation is None:
            return stratified_split(data, self.validation_fraction, self._validation_seed)
        return data, validation

    def _check_cut_off(self) -> None:
        """Raise an error if there is no fit that could go on, or not with these parameters."""
        check_is_fitted(self)
        if not hasattr(self, "_cut"):
            raise ValueError(
                "There is no fit to resume: the last one came to its end. To train on, use fit "
                "with warm_start=True."
            )
        check_same_settings(self, self._cut["settings"])

    @with_callbacks
    def _train(
        self,
        data: Data,
        validation: Data | None,
        device: int | None,
        given: tuple[Any, Any, Any] | None = None,
        past: tuple[Sequence[Epoch], np.ndarray] | None = None,
    ) -> Self:
        """Run epochs on copies of the fitted state, then take them for the new one.

        Parameters
        ----------
        data, validation, device
        given : tuple (X, y, sample_weight), default=None
            What the user has passed to `fit`; None is `partial_fit`.
        past : tuple (epochs, parameters), default=None
            Those epochs of this fit that have been run, and the best parameters among them.
        """
        self.__dict__.pop("_cut", None)
        self.device_ = "cpu" if device is None else f"cuda:{device}"
        before, name = dict(vars(self)), optimizer_name(self)
        settings = training_settings(self, len(data.rows), given is None)
        origin = cache(lambda: self._origin(data, validation))
        parameters, objective = self._parameters.copy(), training_objective(self)
        with self._engine(parameters, n_workers(self), device, objective) as engine:
            course = self._course(engine, data, validation, settings)
            if past is not None:
                course.recall(*past)
            observer = Observer()
            if given is not None and hasattr(self, "set_callbacks"):
                at_epoch = partial(epoch_state, before, name, origin)
                observer = Callbacks(self, given, course, at_epoch)
            train(course, observer)
            goes_on = given is None or self.warm_start or course.was_interrupted
            trained = trained_state(before, name, course, goes_on and not course.has_diverged)
            if course.was_interrupted:
                trained |= cut_state(before, name, origin, course)
        self.__dict__.update(trained)
        observer.fit_ended()
        return self

    def _course(
        self, engine: Engine, data: Data, validation: Data | None, settings: Settings
    ) -> Course:
        """Begin a training with the fitted state."""
        n_weights = engine.architecture.n_weights
        optimizer = make_optimizer(self, engine.xp, engine.parameters, n_weights)
        fitted_name, fitted = self._optimizer
        if optimizer_name(self) == fitted_name:
            optimizer.load(fitted)
        validated = None
        if validation is not None:
            validated = Validation(validation, validation_score(self, validation))
        return Course(engine, optimizer, generator_of(self), data, validated, settings)

    def _origin(self, data: Data, validation: Data | None) -> dict[str, Any]:
        """Give by what to know this fit again, for `cut_state`."""
        return {"data": fingerprint(data, validation), "settings": fit_settings(self)}

    def _engine(
        self,
        parameters: np.ndarray,
        n_workers: int,
        device: int | None,
        objective: Objective = PLAIN,
    ) -> Engine:
        network = architecture_of(self), layout_of(self), parameters
        if device is None:
            return Engine(*network, n_workers, objective)
        return CudaEngine(*network, device, objective)

    @contextmanager
    def _training_device(self) -> Iterator[int | None]:
        """Find the device to train on, and enter it; all or nothing comes of the block.

        If it raises, the attributes are given back as they were. Warnings come at its end, keyboard
        interrupts where nothing is half done.
        """
        before = dict(vars(self))
        with Uninterrupted(), Deferred():
            try:
                check_parameters(self)
                device = find_device(self.device)
                with current_device(device):
                    yield device
            except BaseException:
                self.__dict__.clear()
                self.__dict__.update(before)
                raise

    @contextmanager
    def _prediction_device(self) -> Iterator[int | None]:
        """Find the device to predict on, and enter it; a model goes wherever its file goes."""
        with Uninterrupted():
            if not self.__sklearn_is_fitted__():  # which takes less time to ask
                check_is_fitted(self)
            check_parameters(self, "device", "n_jobs")
            try:
                device = find_device(self.device)
            except RuntimeError as error:
                warn(f"{error} Predicting on the CPU instead.")
                device = None
            with current_device(device):
                yield device

    def _log_proba(self, X: Any, device: int | None) -> tuple[Any, type]:
        """Give the logarithms of the class probabilities, in float64, and the type to give."""

        def log_proba(engine: Engine, X: Any) -> Any:
            return log_probabilities(engine.xp, engine.predict_logits(X))

        return self._outputs(X, device, log_proba)

    def _outputs(
        self, X: Any, device: int | None, compute: Callable[[Engine, Any], Any]
    ) -> tuple[Any, type]:
        """Check `X`, have an engine compute its outputs, and tell of which type to give them."""
        X = check_images(self, X)
        check_range(X, None, layout_of(self), ranges_of(self))
        n_shards = ceil(len(X) / SHARD_SIZE)
        workers = min(n_workers(self), n_shards) if n_shards > 1 else 1
        with self._engine(self._parameters, workers, device) as engine:
            outputs = compute(engine, X)
            if not engine.xp.isfinite(outputs).all().item():
                warn(
                    "Not all outputs are finite: X, or the model's weights, have values that are "
                    "too large to compute with. Where they are NaN, so is the answer, and its "
                    "label means nothing."
                )
            if not is_cupy(X):
                outputs = to_host(outputs)
        # Of float64, but where float32 was asked; into memory that is not the engine's
        return outputs.copy(), np.float32 if X.dtype == np.float32 else np.float64
