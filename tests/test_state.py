"""What comes from a file: a sound state is taken, a damaged or foreign one is refused."""

import copy
import pickle

import numpy as np
import pytest

from sklearn_lenet import LeNetClassifier

from .test_classifier import X, Y, assert_same_bits, model

FITTED = model(max_iter=1, warm_start=True, conv_channels=(2, 3), hidden_layer_sizes=(5,)).fit(X, Y)


def state_of(estimator):
    return copy.deepcopy(vars(estimator))


def load(state):
    """Load a state as if it had been written like this."""
    estimator = LeNetClassifier.__new__(LeNetClassifier)
    vars(estimator).update(state)
    estimator.__setstate__(estimator.__getstate__())
    return estimator


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"solver": "sgd"},
        {"solver": "adamw", "ema_decay": 0.9},
        {"dtype": "float64", "early_stopping": True},
        {"pooling": "max", "hidden_layer_sizes": ()},
    ],
)
def test_sound_state(parameters):
    fitted = model(max_iter=1, **parameters).fit(X, Y)
    loaded = pickle.loads(pickle.dumps(fitted))
    assert_same_bits(loaded, fitted)
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert_same_bits(
        loaded.set_params(warm_start=True).fit(X, Y), fitted.set_params(warm_start=True).fit(X, Y)
    )


def test_numbers_that_are_not_finite():
    """An interrupted fit may end with some, and a worker process has to return it."""
    state = state_of(FITTED)
    state["_parameters"] = np.where(np.arange(len(FITTED._parameters)) == 9, np.nan, 1)
    state["_parameters"] = state["_parameters"].astype(FITTED._parameters.dtype)
    assert np.isnan(load(state)._parameters[9])


def test_unfitted():
    assert load({**vars(LeNetClassifier()), "lr": 0.3}).lr == 0.3


@pytest.mark.parametrize("estimator", [FITTED, LeNetClassifier()])
def test_without_a_format(estimator):
    """As the first files were written."""
    with pytest.raises(ValueError, match="file format 1; this version"):
        LeNetClassifier().__setstate__(state_of(estimator))


@pytest.mark.parametrize("written", [0, 1, 2, 4, "3"])
def test_another_format(written):
    with pytest.raises(ValueError, match=f"file format {written!r}; this version"):
        LeNetClassifier().__setstate__({**FITTED.__getstate__(), "_format": written})


def change(name, key, value):
    def changed(state):
        state[name] = {**state[name], key: value}

    return changed


def replace(name, value):
    def replaced(state):
        state[name] = value(state[name]) if callable(value) else value

    return replaced


@pytest.mark.parametrize(
    "damage",
    [
        change("_architecture", "image_shape", (1, 2**20, 2**20)),
        change("_architecture", "image_shape", (1, 12, -12)),
        change("_architecture", "conv_channels", (2, 4)),
        change("_architecture", "conv_channels", ()),
        change("_architecture", "kernel_size", (5, 2**40)),
        change("_architecture", "kernel_size", (5,)),
        change("_architecture", "stride", (1, 0)),
        change("_architecture", "padding", (2, -1)),
        change("_architecture", "padding", (2, 1.0)),
        change("_architecture", "pool_size", 0),
        change("_architecture", "pooling", "min"),
        change("_architecture", "activation", "rely"),
        change("_architecture", "hidden_layer_sizes", (0,)),
        change("_architecture", "hidden_layer_sizes", 5),
        change("_architecture", "n_classes", 4),
        change("_architecture", "more", 4),
        replace("_architecture", None),
        change("_ranges", "means", (1.0,)),
        change("_ranges", "values", [0.0, 1.0]),
        change("_ranges", "deviations", (0.0, "1")),
        change("_ranges", "more", (0.0, 1.0)),
        replace("_ranges", None),
        change("_layout", "image_shape", (1, 13, 12)),
        change("_layout", "canvas_shape", (1, 13, 12)),
        change("_layout", "n_features", 10**6),
        change("_layout", "n_features", 7),
        change("_layout", "zoom", 3),
        change("_layout", "mean", np.inf),
        change("_layout", "scale", "1"),
        replace("_layout", {}),
        replace("image_shape_", (1, 6, 24)),
        replace("n_features_in_", 7),
        replace("classes_", np.arange(4)),
        replace("classes_", [0, 1, 2]),
        replace("classes_", np.array([2, 0, 1])),
        replace("image_shape_", [1, 12, 12]),
        replace("validation_scores_", 3),
        replace("loss_curve_", np.array([0.5])),
        replace("_validation_seed", 2**70),
        replace("_parameters", lambda p: p[:-1]),
        replace("_parameters", lambda p: p.astype(np.float16)),
        replace("_parameters", lambda p: p.astype(p.dtype.newbyteorder())),
        replace("_parameters", lambda p: np.repeat(p, 2)[::2]),
        replace("_parameters", lambda p: p[None]),
        replace("_parameters", lambda p: p.tolist()),
        replace("_optimizer", lambda o: ("sgd", o[1])),
        replace("_optimizer", lambda o: ("adagrad", o[1])),
        replace("_optimizer", lambda o: (o[0], {**o[1], "mean": o[1]["mean"][1:]})),
        replace("_optimizer", lambda o: (o[0], {**o[1], "n_steps": -1})),
        replace("_optimizer", None),
        replace("_generator", {"bit_generator": "PCG64"}),
        replace("_generator", {}),
        replace("_validation_seed", 0.5),
        replace("t_", -1),
        replace("loss_curve_", ["0.5"]),
        replace("loss_curve_", 0.5),
    ],
)
def test_damage(damage):
    state = state_of(FITTED)
    damage(state)
    with pytest.raises(ValueError, match="This LeNetClassifier's file is damaged: "):
        load(state)


@pytest.mark.parametrize("name", sorted(set(vars(FITTED)) - set(FITTED.get_params())))
def test_missing(name):
    """What the check needs is needed; without the parameters, an estimator is not fitted."""
    state = state_of(FITTED)
    del state[name]
    optional = {"_parameters", "device_", "n_iter_", "loss_", "best_loss_"}
    optional |= {"best_validation_score_"}
    if name in optional:
        load(state)
    else:
        with pytest.raises(ValueError, match="damaged"):
            load(state)
