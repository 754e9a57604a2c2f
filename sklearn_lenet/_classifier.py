"""`LeNetClassifier`: the scikit-learn contract. Parameters, validation, labels, attributes."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import ceil, nan, prod
from typing import Any, Self

import joblib
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import (
    check_is_fitted,
)

from ._augmentation import make_augmentation
from ._backend import (
    available_cores,
    current_device,
    find_device,
    is_cupy,
    namespace,
    to_device,
    to_host,
)
from ._cuda import CudaEngine, DeviceEngine
from ._engine import SHARD_SIZE, Engine, Objective
from ._images import ImageLayout, weighted_mean_and_scale
from ._network import Architecture, smallest_image
from ._parameters import check_parameters, for_each
from ._state import FORMAT, check_state
from ._training import (
    Data,
    Settings,
    epochs_for,
    make_optimizer,
    train,
)
from ._validation import (
    as_array,
    check_rows,
    check_training_data,
    check_validation_data,
    encode_labels,
    flatten_images,
    stratified_split,
    weigh_classes,
)

_POOL_SIZE = 2


def _supports_partial_fit(estimator: "LeNetClassifier") -> bool:
    """Explain why `partial_fit` is missing, where it is."""
    if estimator.early_stopping is True:
        raise ValueError("partial_fit does not support early_stopping=True")
    if isinstance(estimator.class_weight, str):
        raise ValueError(
            "class_weight 'balanced' is not supported for partial_fit. To use 'balanced' weights, "
            "compute them with sklearn.utils.compute_class_weight and pass them as a dict."
        )
    return True


class LeNetClassifier(ClassifierMixin, BaseEstimator):
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
    hidden_layer_sizes : tuple of int, default=(120, 84)
        Number of units of each dense layer before the last.
    activation : {"relu", "tanh", "sigmoid"}, default="relu"
        Activation function behind every layer but the last.
    image_shape : tuple (H, W) or (C, H, W), default=None
        What flat rows of features are: images of height H and width W, of C channels one after the
        other. None takes the shape of an array of images; for flat rows, a square grey image where
        their length is a square, else the smallest nearly square one, with zeros at its end. Rows
        that could be square colour images are refused.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Type of the network's numbers. "auto" is float64 for input of that type, else float32, which
        takes half the time: 8-bit pixels are the fastest input.
    shuffle : bool, default=True
        Whether to draw a new order of the samples in every epoch.
    tol : float, default=None
        An epoch that does not better the training loss (with `early_stopping`, the validation
        accuracy) by more than `tol` is one without improvement. None runs all `max_iter` epochs,
        unless `early_stopping` ends them; it takes any improvement for one.
    n_iter_no_change : int or np.inf, default=10
        Training ends after so many epochs in a row without improvement.
    early_stopping : bool, default=False
        Whether to set a part of the training data aside, stop when the accuracy on it no longer
        improves, and restore the weights that were best on it.
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
        Number of threads. None and -1 are as many as the process has cores for: affinity, quotas,
        `OMP_NUM_THREADS` and the share that joblib gives its workers are respected. The results are
        the same to the bit for any number. A CUDA device takes none of them.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where to compute: "cuda" is CuPy's current CUDA device, "cuda:1" the one of this number, and
        "auto" is "cuda" where there is such a device, else "cpu". It does not change what is
        computed, but its rounding. Needs CuPy: ``pip install "sklearn_lenet[gpu]"``.

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
    coefs_ : tuple of ndarrays
        Weights: (channels out, channels in, `kernel_size`, `kernel_size`) of each convolution, then
        (outputs, inputs) of each dense layer.
    intercepts_ : tuple of ndarrays
        Biases of each layer.
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
        Cross-entropy and accuracy on the validation set after each epoch; None without
        `early_stopping`.
    best_validation_score_ : float or None
        Accuracy on the validation set of the weights that the last `fit` restored; None without
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

    Six epochs by one `fit`, by two fits of three with `warm_start`, and by six calls of
    `partial_fit` give the same weights to the bit, where `lr_schedule` is "constant" and `tol`
    doesn't stop them; so they do with the estimator pickled in between.

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
            Labels, of any type.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples' losses, not negative; samples of weight 0 are left out.
        X_val, y_val : array-likes, default=None
            What `early_stopping` validates on, instead of a part of `X` and `y`.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Weights of the validation samples.

        Returns
        -------
        self : LeNetClassifier

        Raises
        ------
        ValueError
            If a parameter or the data aren't allowed, or the training diverges. The estimator then
            is as it was before.

        Warns
        -----
        UserWarning
            If a keyboard interrupt ended the training early. The weights so far are kept.
        ConvergenceWarning
            If `tol` is given and `max_iter` epochs did not bring the training to a standstill.
        """
        check_parameters(self)
        device = find_device(self.device)
        with _restored_on_error(self), current_device(device):
            is_continued = self.warm_start and self.__sklearn_is_fitted__()
            X, y, weights = check_training_data(self, X, y, sample_weight, reset=not is_continued)
            rows = np.flatnonzero(weights)
            classes = self.classes_ if is_continued else unique_labels(y[rows])
            y = encode_labels(y, classes, rows)
            weights, rows = weigh_classes(self.class_weight, classes, y, weights)
            if is_continued:
                self._check_same_network()
            else:
                self._initialize(X, rows, weights, classes)
            checked = check_validation_data(self, X_val, y_val, sample_weight_val)
            validation = None if checked is None else Data(*checked, np.flatnonzero(checked[2]))
            return self._train(Data(X, y, weights, rows), validation, device)

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

        Raises
        ------
        ValueError
            As in `fit`; also if `classes` are missing or others than before, or if `y` has others.
        AttributeError
            With ``early_stopping=True`` or ``class_weight="balanced"``, which need all the data,
            there is no `partial_fit`.
        """
        check_parameters(self)
        device = find_device(self.device)
        with _restored_on_error(self), current_device(device):
            is_continued = self.__sklearn_is_fitted__()
            if classes is not None:
                classes = unique_labels(to_host(classes))
                if is_continued and not np.array_equal(classes, self.classes_):
                    raise ValueError(
                        f"`classes={classes!r}` is not the same as on last call to partial_fit, "
                        f"was: {self.classes_!r}"
                    )
            elif is_continued:
                classes = self.classes_
            else:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            X, y, weights = check_training_data(self, X, y, sample_weight, reset=not is_continued)
            y = encode_labels(y, classes, np.arange(len(y)))
            weights, rows = weigh_classes(self.class_weight, classes, y, weights)
            if is_continued:
                self._check_same_network()
            else:
                self._initialize(X, rows, weights, classes)
            return self._train(Data(X, y, weights, rows), None, device, partial=True)

    def predict(self, X: Any) -> Any:
        """Predict the labels of images.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)

        Returns
        -------
        y : ndarray of shape (n_samples,)
            CuPy's if `X` is and the labels are numbers, else NumPy's.
        """
        with self._prediction_device() as device:
            places = self._log_proba(X, device).argmax(axis=1)
            if self.classes_.dtype.kind not in "biuf":
                places = to_host(places)
            return to_device(namespace(places), self.classes_)[places]

    def predict_proba(self, X: Any) -> Any:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; CuPy's if `X` is.
        """
        with self._prediction_device() as device:
            log_proba = self._log_proba(X, device)
            return namespace(log_proba).exp(log_proba, out=log_proba)

    def predict_log_proba(self, X: Any) -> Any:
        """Predict the logarithm of the probability of each class; it is always finite.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`; CuPy's if `X` is.

        Warns
        -----
        UserWarning
            If `device` asks for a CUDA device that cannot be used here. The CPU takes over.
        """
        with self._prediction_device() as device:
            return self._log_proba(X, device)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy of `predict`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), (n, H, W) or (n, C, H, W)
        y : array-like of shape (n_samples,)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        predicted = to_host(self.predict(X))
        return float(accuracy_score(to_host(y), predicted, sample_weight=to_host(sample_weight)))

    @property
    def coefs_(self) -> tuple[np.ndarray, ...]:
        """Weights of each layer."""
        return self._views()[0]

    @property
    def intercepts_(self) -> tuple[np.ndarray, ...]:
        """Biases of each layer."""
        return self._views()[1]

    def __setstate__(self, state: dict[str, Any]) -> None:
        check_state(state)
        super().__setstate__(state)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_parameters")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _views(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        return Architecture(**self._architecture).views(self._parameters)

    def _initialize(
        self, X: np.ndarray, rows: np.ndarray, weights: np.ndarray, classes: np.ndarray
    ) -> None:
        """Set all that the first call determines: classes, layout, architecture, weights."""
        self.classes_ = classes
        dtype = self.dtype
        if dtype == "auto":
            dtype = "float64" if X.dtype == np.float64 else "float32"
        design = self._design()
        kernel_size, stride, padding = design["kernel_size"], design["stride"], design["padding"]
        shortest = min(self.image_shape_[1:])
        if kernel_size[0] > shortest + 2 * padding[0]:
            raise ValueError(
                f"kernel_size={self.kernel_size!r} is larger than the padded images: they are "
                f"{self.image_shape_[1]} x {self.image_shape_[2]} pixels, with padding "
                f"{padding[0]} on each side. Choose a kernel_size of at most "
                f"{shortest + 2 * padding[0]}, or a larger padding."
            )
        layout = ImageLayout.fitting(
            self.image_shape_,
            X.shape[1],
            smallest_image(kernel_size, stride, padding, _POOL_SIZE),
            prod(stride) * _POOL_SIZE ** len(stride),
            *weighted_mean_and_scale(X, weights, rows),
        )
        architecture = Architecture(
            image_shape=layout.canvas_shape,
            pool_size=_POOL_SIZE,
            n_classes=len(classes),
            **design,
        )
        seeds = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=2)
        generator = np.random.default_rng(int(seeds[0]))
        self._validation_seed = int(seeds[1])
        self._layout, self._architecture = asdict(layout), asdict(architecture)
        self._parameters = architecture.initial_parameters(generator, dtype)
        self._generator = generator.bit_generator.state
        self._optimizer = "", {}
        self.t_ = 0
        self.loss_curve_ = []
        self.validation_loss_curve_ = self.validation_scores_ = None

    def _design(self) -> dict[str, Any]:
        """Give the parameters that shape the network, as `Architecture` wants them."""
        n_convolutions = len(self.conv_channels)
        return {
            "conv_channels": tuple(map(int, self.conv_channels)),
            "kernel_size": for_each(self.kernel_size, n_convolutions),
            "stride": for_each(self.stride, n_convolutions),
            "padding": for_each(self.padding, n_convolutions),
            "pooling": self.pooling,
            "hidden_layer_sizes": tuple(map(int, self.hidden_layer_sizes)),
            "activation": self.activation,
        }

    def _check_same_network(self) -> None:
        """Refuse to go on training where a parameter asks for another network."""
        fitted = dict(self._architecture)
        asked = self._design()
        if self.image_shape is not None:
            fitted["image_shape"] = self.image_shape_
            asked["image_shape"] = (1, *self.image_shape)[-3:]
        if self.dtype != "auto":
            fitted["dtype"], asked["dtype"] = str(self._parameters.dtype), self.dtype
        for name, value in asked.items():
            if value != fitted[name]:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not what the network was fitted with, "
                    f"{fitted[name]!r}. Neither warm_start=True nor partial_fit can change it: use "
                    "fit with warm_start=False."
                )

    def _train(
        self, data: Data, validation: Data | None, device: int | None, partial: bool = False
    ) -> Self:
        """Run epochs on copies of the fitted state, then take them for the new one."""
        if self.early_stopping and validation is None:
            rows, validation_rows = stratified_split(
                data.X,
                data.y,
                data.weights,
                data.rows,
                self.validation_fraction,
                self._validation_seed,
            )
            validation = replace(data, rows=validation_rows)
            data = replace(data, rows=rows)
        generator = np.random.default_rng()
        generator.bit_generator.state = self._generator
        alpha = float(self.alpha)
        penalty, decay = (0.0, alpha) if self.solver == "adamw" else (alpha, 0.0)
        objective = Objective(
            penalty,
            float(self.label_smoothing),
            make_augmentation(self.augment, self.image_shape_)
            if isinstance(self.augment, str)
            else self.augment,
        )
        name = self.solver if self.ema_decay is None else f"{self.solver}, averaged"
        settings = self._settings(len(data.rows), partial)
        with self._engine(self._parameters.copy(), self._n_workers(), device, objective) as engine:
            optimizer = make_optimizer(
                engine.xp,
                self.solver,
                engine.parameters,
                momentum=float(self.momentum),
                nesterovs_momentum=self.nesterovs_momentum,
                decay=decay,
                n_weights=Architecture(**self._architecture).n_weights,
                ema_decay=None if self.ema_decay is None else float(self.ema_decay),
            )
            state_name, state = self._optimizer
            if name == state_name:
                optimizer.load(state)
            epochs, parameters = train(engine, optimizer, generator, data, validation, settings)
            self._parameters = to_host(parameters)
            self._optimizer = name, to_host(optimizer.state)
        self._format = FORMAT
        self.device_ = "cpu" if device is None else f"cuda:{device}"
        self._generator = generator.bit_generator.state
        self.n_iter_ = len(epochs)
        self.t_ += self.n_iter_ * len(data.rows)
        self.loss_curve_ = self.loss_curve_ + [epoch.loss for epoch in epochs]
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else nan
        if self.early_stopping:
            losses = [epoch.validation_loss for epoch in epochs]
            scores = [epoch.validation_score for epoch in epochs]
            self.validation_loss_curve_ = (self.validation_loss_curve_ or []) + losses
            self.validation_scores_ = (self.validation_scores_ or []) + scores
            self.best_validation_score_ = max(scores, default=nan)
            self.best_loss_ = None
        else:
            self.validation_loss_curve_ = self.validation_scores_ = None
            self.best_validation_score_ = None
            self.best_loss_ = min(self.loss_curve_, default=nan)
        return self

    def _settings(self, n_samples: int, partial: bool) -> Settings:
        """Give the parameters that steer training; `partial_fit` runs one epoch at `lr`."""
        max_iter = epochs_for(n_samples) if self.max_iter == "auto" else int(self.max_iter)
        return Settings(
            lr=float(self.lr),
            lr_schedule="constant" if partial else self.lr_schedule,
            batch_size=int(self.batch_size),
            max_iter=1 if partial else max_iter,
            shuffle=self.shuffle,
            tol=None if self.tol is None else float(self.tol),
            n_iter_no_change=self.n_iter_no_change,
            warns_of_standstill=not partial,
            verbose=self.verbose,
        )

    def _engine(
        self,
        parameters: np.ndarray,
        n_workers: int,
        device: int | None,
        objective: Objective | None = None,
    ) -> Engine | DeviceEngine:
        design = Architecture(**self._architecture), ImageLayout(**self._layout), parameters
        objective = objective or Objective()
        if device is None:
            return Engine(*design, n_workers, objective)
        return CudaEngine(*design, device, objective)

    @contextmanager
    def _prediction_device(self) -> Iterator[int | None]:
        """Find the device to predict on, and enter it; a model goes wherever its file goes."""
        check_is_fitted(self)
        try:
            device = find_device(self.device)
        except RuntimeError as error:
            warnings.warn(f"{error} Predicting on the CPU instead.", stacklevel=4)
            device = None
        with current_device(device):
            yield device

    def _log_proba(self, X: Any, device: int | None) -> Any:
        """Check `X`, and compute the logarithms of the class probabilities."""
        X = flatten_images(as_array(X), self.image_shape_)
        X = check_rows(self, X, reset=False)
        n_workers = min(self._n_workers(), ceil(len(X) / SHARD_SIZE))
        with self._engine(self._parameters, n_workers, device) as engine:
            log_proba = engine.predict_log_proba(X)
            if not is_cupy(X):
                return to_host(log_proba)
        return log_proba.copy()  # into memory that is not the engine's

    def _n_workers(self) -> int:
        if self.n_jobs is None or self.n_jobs == -1:
            return available_cores()
        return int(joblib.effective_n_jobs(self.n_jobs)) if self.n_jobs < 0 else int(self.n_jobs)


@contextmanager
def _restored_on_error(estimator: Any) -> Iterator[None]:
    """Give an estimator's attributes back, as they were, where the block raises."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
