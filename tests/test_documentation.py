"""The guide's errors come as its table has them; names on other pages exist; GPU code runs."""

import re
from ast import literal_eval
from importlib import import_module
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from sklearn_lenet import LeNetClassifier, __version__, datasets

from . import stand_in
from .test_classifier import X, Y, model
from .test_examples import run_blocks
from .test_resume import LABELS, interrupted

DOCS = Path(__file__).parents[1] / "docs"
ERRORS = DOCS / "guide" / "errors.md"

COLOUR = np.random.default_rng(0).integers(0, 256, (60, 2352)).astype(np.uint8)
LARGE = np.random.default_rng(0).random((60, 784))


def on_a_device():
    with pytest.MonkeyPatch.context() as monkeypatch:
        model().fit(stand_in.install(monkeypatch).asarray(X), Y)


def checkpointed(path, **parameters):
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
    checkpoint = import_module("sklearn_lenet.callbacks").Checkpoint(path)
    return checkpoint, model(**parameters).set_callbacks(checkpoint)


def fit_within_a_fit():
    with TemporaryDirectory() as directory:
        first, estimator = checkpointed(f"{directory}/lenet")
        first.setup(estimator=estimator, context=None)
        try:
            checkpointed(f"{directory}/lenet")[1].fit(X, Y)
        finally:
            first.teardown(estimator=estimator, context=None)


PROVOKED = {
    "The 'lr' parameter of LeNetClassifier must be …": lambda: model(lr=0).fit(X, Y),
    "The loss became nan in epoch …": lambda: model(lr=1e10, solver="sgd").fit(X, Y),
    "The weights grew to …": lambda: model(lr=1e15, batch_size=60).fit(X, Y),
    "X has 2352 features, which may be 28 x 28 images of 3 channels": lambda: model().fit(
        COLOUR, Y
    ),
    "image_shape=(28, 28, 1) looks like images with their channels last": lambda: model(
        image_shape=(28, 28, 1)
    ).fit(LARGE, Y),
    "X has an array in each row": lambda: model().fit(np.array([X, None], object)[:1], [0]),
    "The features of X, from … to …, are out of the range": lambda: model().fit(
        X.astype(float) * 1e-322, Y
    ),
    "sample_weight, times class_weight, must have a finite sum": lambda: model().fit(
        X, Y, np.full(60, 1e308)
    ),
    "y should be a 1d array, got an array of shape … It is one-hot encoded": lambda: model().fit(
        X, np.eye(3)[Y]
    ),
    "X is a masked array that masks values": lambda: model().fit(np.ma.masked_less(X, 50), Y),
    "Images of … pixels are too small for … convolutions": lambda: model(stride=100).fit(X, Y),
    "The network would take about … GiB": lambda: model(padding=10**6).fit(X, Y),
    "'lr_schedule' must return a float": lambda: model(lr_schedule=lambda e: None).fit(X, Y),
    "'augment' must return an array": lambda: model(augment=lambda i, g: None).fit(X, Y),
    "'scoring' must return a number": lambda: model(
        early_stopping=True, scoring=lambda e, X, y: None
    ).fit(X, Y),
    "X has images of shape …, but LeNetClassifier was fitted with …": lambda: (
        model().fit(X, Y).predict(X.reshape(60, 16, 9))
    ),
    "X has 28 features, but LeNetClassifier is expecting 784": lambda: (
        model(max_iter=1).fit(LARGE, Y).predict(LARGE[0].reshape(28, 28))
    ),
    "kernel_size=… is larger than the padded images": lambda: model(kernel_size=40).fit(X, Y),
    "y contains labels that are not in classes": lambda: model().partial_fit(X, Y, classes=[0, 1]),
    "… is not what the network was fitted with": lambda: (
        model(warm_start=True).fit(X, Y).set_params(pooling="max").fit(X, Y)
    ),
    "There is no fit to resume: the last one came to its end": lambda: (
        model().fit(X, Y).resume(X, Y)
    ),
    "X, y, sample_weight or X_val are not those of the fit that was cut off": lambda: (
        interrupted().resume(X, Y)
    ),
    "… is not what the fit was begun with": lambda: (
        interrupted().set_params(lr=0.1).resume(X, LABELS)
    ),
    "Another fit is writing its checkpoints to": fit_within_a_fit,
    "Checkpoint cannot save augment=…": lambda: checkpointed("lenet", augment=lambda i, g: i)[
        1
    ].fit(X, Y),
    "There can be no checkpoint … no such directory": lambda: checkpointed("none/lenet")[1].fit(
        X, Y
    ),
    "early_stopping=True needs two different samples of a class": lambda: model(
        early_stopping=True
    ).fit(X[:1], Y[:1]),
    "device='cuda' cannot be used: …": lambda: model(device="cuda:99").fit(X, Y),
    "X is a CuPy array, but device='cpu' …": on_a_device,
    "This 'LeNetClassifier' has no attribute 'partial_fit'": lambda: (
        LeNetClassifier(early_stopping=True).partial_fit
    ),
}


def messages():
    """Give the table's messages."""
    table = ERRORS.read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_table_is_complete():
    assert set(messages()) == set(PROVOKED)


@pytest.mark.parametrize("message", PROVOKED)
def test_message(message):
    with pytest.raises((ValueError, RuntimeError, AttributeError)) as error:
        PROVOKED[message]()
    pattern = ".*".join(map(re.escape, message.replace("cuda'", "cuda:99'").split("…")))
    assert re.search(pattern, str(error.value), re.DOTALL)


def translations():
    """Give the left and the right cell of each row of "Coming from"."""
    text = (DOCS / "coming_from.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (.*) \| (.*) \|$", text, re.MULTILINE)


def test_names_for_those_who_come_from_elsewhere_exist():
    fitted = model(early_stopping=True).fit(X, Y)
    known = {*signature(fitted.fit).parameters, *dir(LeNetClassifier), *dir(fitted)}
    known |= {*datasets.__all__, "Checkpoint", "to_onnx", "MultiOutputClassifier"}
    known |= {"feature_names_in_"}  # of a data frame alone
    names = {name for _, here in translations() for name in re.findall(r"`(\w+)[=`]", here)}
    assert len(names) > 50
    assert names <= known


def test_values_for_those_who_come_from_elsewhere_are_taken():
    settings = {
        setting for _, here in translations() for setting in re.findall(r"`(\w+)=([^`]+)`", here)
    }
    assert len(settings) > 10
    for name, value in settings:
        if name != "device":
            model(max_iter=1).set_params(**{name: literal_eval(value)}).fit(X, Y)


def test_every_parameter_of_scikit_learns_network_is_translated():
    left = " ".join(there for there, _ in translations())
    names = set(re.findall(r"`(\w+)[=`]", left))
    assert set(signature(MLPClassifier).parameters) <= names


def test_citation_names_this_version():
    assert f"version = {{{__version__}}}" in (DOCS / "cite.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_code_for_a_device(monkeypatch):
    """Run the GPU page's blocks of Python on the stand-in for CuPy."""
    namespace = {
        "LeNetClassifier": LeNetClassifier,
        "X": (LARGE[:8] * 255).astype(np.uint8),
        "y": Y[:8],
        "cupy": stand_in.install(monkeypatch),
    }
    run_blocks("docs/gpu.md", namespace)
    assert type(namespace["proba"]) is namespace["cupy"].ndarray
