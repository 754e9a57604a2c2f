"""Searches, meta-estimators, pipelines and frames: the classifier at work within scikit-learn."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from .test_classifier import assert_same_bits, images, model

X, Y = images(120, seed=1)
X, Y, X_TEST, Y_TEST = X[:90], Y[:90], X[90:], Y[90:]
SHAPES = {"rows": (-1, 144), "grey images": (-1, 12, 12), "with channels": (-1, 1, 12, 12)}
FOLDS = KFold(3)


def linear():
    return LogisticRegression(max_iter=1000)


# What takes several classes, by what it is made from
AROUND = {
    "AdaBoost": lambda: AdaBoostClassifier(model(), n_estimators=2, random_state=0),
    "Bagging": lambda: BaggingClassifier(model(), n_estimators=2, random_state=0),
    "Calibrated, isotonic": lambda: CalibratedClassifierCV(model(), method="isotonic", cv=3),
    "Calibrated, sigmoid": lambda: CalibratedClassifierCV(model(), cv=3),
    "Calibrated, sigmoid, one": lambda: CalibratedClassifierCV(model(), cv=3, ensemble=False),
    "Calibrated, temperature": lambda: CalibratedClassifierCV(model(), method="temperature", cv=3),
    "GridSearchCV": lambda: GridSearchCV(model(), {"lr": [1e-5, 0.005]}, cv=2),
    "HalvingGridSearchCV": lambda: HalvingGridSearchCV(
        model(), {"lr": [1e-5, 0.005]}, cv=2, factor=2, random_state=0
    ),
    "OneVsOne": lambda: OneVsOneClassifier(model()),
    "OneVsRest": lambda: OneVsRestClassifier(model()),
    "SelfTraining": lambda: SelfTrainingClassifier(model(max_iter=5)),
    "Stacking": lambda: StackingClassifier([("lenet", model())], linear(), cv=2),
    "Voting, hard": lambda: VotingClassifier([("a", model()), ("b", model(pooling="max"))]),
    "Voting, soft": lambda: VotingClassifier([("a", model()), ("b", linear())], voting="soft"),
}
# Which look at X themselves, or hand it to others that do, and want two axes
TAKE_ROWS = {"Bagging", "OneVsOne", "SelfTraining", "Voting, soft"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        for name in AROUND
        for shape in SHAPES
        if shape == "rows" or name not in TAKE_ROWS
    ],
)
def test_learns_within(name, shape):
    if "temperature" in name and sklearn.__version__ < "1.8":
        pytest.skip("scikit-learn has it from 1.8 on")
    y = np.where(np.arange(90) < 45, Y, -1) if name == "SelfTraining" else Y  # -1 is unlabelled
    X_train, X_test = (rows.reshape(SHAPES[shape]) for rows in (X, X_TEST))
    outer = AROUND[name]().fit(X_train, y)
    assert accuracy_score(Y_TEST, outer.predict(X_test)) >= 0.9
    if hasattr(outer, "predict_proba"):
        np.testing.assert_allclose(outer.predict_proba(X_test).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
class TestImages:
    """What is asked in another way, of rows and of arrays of images."""

    def test_several_labels_of_an_image(self, shape):
        y, y_test = (np.column_stack([labels, labels == 1]) for labels in (Y, Y_TEST))
        outer = MultiOutputClassifier(model()).fit(X.reshape(SHAPES[shape]), y)
        predicted = outer.predict(X_TEST.reshape(SHAPES[shape]))
        assert accuracy_score(y_test.ravel(), predicted.ravel()) >= 0.9

    def test_threshold(self, shape):
        tuned = TunedThresholdClassifierCV(model(), scoring="f1", cv=3)
        tuned.fit(X.reshape(SHAPES[shape]), Y == 1)
        assert f1_score(Y_TEST == 1, tuned.predict(X_TEST.reshape(SHAPES[shape]))) >= 0.9

    def test_frozen(self, shape):
        inner = model().fit(X, Y)
        before = inner.predict_proba(X_TEST)
        outer = CalibratedClassifierCV(FrozenEstimator(inner)).fit(X.reshape(SHAPES[shape]), Y)
        assert accuracy_score(Y_TEST, outer.predict(X_TEST.reshape(SHAPES[shape]))) >= 0.9
        np.testing.assert_array_equal(inner.predict_proba(X_TEST), before)

    def test_cross_validation(self, shape):
        """Each fold's model is the one that is fitted by hand."""
        rows = X.reshape(SHAPES[shape])
        by_hand = [
            (test, model().fit(X[train], Y[train]).predict_proba(X[test]))
            for train, test in FOLDS.split(X)
        ]
        predicted = cross_val_predict(model(), rows, Y, cv=FOLDS, method="predict_proba")
        for test, proba in by_hand:
            np.testing.assert_array_equal(predicted[test], proba)
        scores = cross_validate(model(), rows, Y, cv=FOLDS, scoring="accuracy")["test_score"]
        assert list(scores) == [
            accuracy_score(Y[test], proba.argmax(axis=1)) for test, proba in by_hand
        ]

    def test_curves(self, shape):
        rows = X.reshape(SHAPES[shape])
        sizes, _, scores = learning_curve(model(), rows, Y, cv=FOLDS, train_sizes=[6, 60])
        assert list(sizes) == [6, 60]
        assert scores[1].mean() >= 0.9
        _, scores = validation_curve(
            model(), rows, Y, param_name="lr", param_range=[1e-6, 0.005], cv=FOLDS
        )
        assert scores[0].mean() < 0.6 < 0.9 <= scores[1].mean()

    def test_incremental_learning_curve(self, shape):
        """It goes on by `partial_fit` from size to size, as by hand."""
        _, _, scores = learning_curve(
            model(),
            X.reshape(SHAPES[shape]),
            Y,
            cv=FOLDS,
            train_sizes=[20, 60],
            exploit_incremental_learning=True,
        )
        for fold, (train, test) in enumerate(FOLDS.split(X)):
            going_on = model()
            for size, part in enumerate(np.split(train, [20])):
                going_on.partial_fit(X[part], Y[part], classes=[0, 1, 2])
                assert going_on.score(X[test], Y[test]) == scores[size, fold]


class TestSearches:
    @pytest.mark.parametrize(
        "search",
        [
            lambda of: GridSearchCV(of, {"max_iter": [1, 3], "lr": [1e-6, 0.005]}, cv=2),
            lambda of: RandomizedSearchCV(
                of, {"lr": [1e-6, 0.005], "pooling": ["avg"]}, n_iter=2, cv=2, random_state=0
            ),
        ],
    )
    def test_the_best_is_what_is_fitted_by_hand(self, search):
        found = search(model()).fit(X, Y)
        assert found.best_params_["lr"] == 0.005
        assert_same_bits(found.best_estimator_, model(**found.best_params_).fit(X, Y))

    @pytest.mark.parametrize("halving", [HalvingGridSearchCV, HalvingRandomSearchCV])
    def test_epochs_as_the_resource(self, halving):
        search = halving(
            model(),
            {"lr": [1e-6, 1e-5, 0.005, 0.01]},
            resource="max_iter",
            min_resources=2,
            max_resources=8,
            factor=2,
            cv=2,
            random_state=0,
        ).fit(X, Y)
        assert search.n_resources_ == [2, 4, 8][: len(search.n_resources_)]
        assert len(search.n_resources_) > 1
        assert search.best_estimator_.n_iter_ == search.n_resources_[-1]
        assert search.best_params_["lr"] >= 0.005


def test_permutation_importance():
    """Of four features, the one that decides."""
    rows = np.random.default_rng(0).random((90, 4))
    y = (rows[:, 2] > 0.5).astype(int)
    fitted = model(max_iter=30, lr=0.01).fit(rows, y)
    importances = permutation_importance(fitted, rows, y, n_repeats=3, random_state=0)
    assert importances.importances_mean.argmax() == 2
    assert importances.importances_mean[2] > 0.2


class TestPipelines:
    def test_columns_that_pass_through(self):
        """The order of the columns is that of the pixels, which the network reads."""
        columns = ColumnTransformer(
            [("upper", MinMaxScaler(), slice(0, 72))], remainder="passthrough"
        )
        pipeline = make_pipeline(columns, model())
        by_hand = np.hstack([MinMaxScaler().fit_transform(X[:, :72]), X[:, 72:]])
        assert_same_bits(pipeline.fit(X, Y)[-1], model().fit(by_hand, Y))

    def test_frames_from_the_step_before(self):
        scaler = StandardScaler().set_output(transform="pandas")
        pipeline = make_pipeline(scaler, model()).fit(X, Y)
        assert list(pipeline[-1].feature_names_in_) == [f"x{n}" for n in range(144)]
        assert_same_bits(pipeline[-1], make_pipeline(StandardScaler(), model()).fit(X, Y)[-1])

    def test_memory(self, tmp_path):
        calls = tmp_path / "calls"

        def search(memory):
            steps = [("scale", FunctionTransformer(partial(_doubled, calls))), ("lenet", model())]
            pipeline = Pipeline(steps, memory=memory)
            return GridSearchCV(pipeline, {"lenet__lr": [0.002, 0.005]}, cv=2, refit=False)

        plain = search(None).fit(X, Y)
        n_plain = len(calls.read_text())
        calls.unlink()
        cached = search(str(tmp_path / "cache")).fit(X, Y)
        assert len(calls.read_text()) < n_plain
        scores = "split0_test_score", "split1_test_score"
        for name in scores:
            assert list(cached.cv_results_[name]) == list(plain.cv_results_[name])


def _doubled(calls, rows):
    with calls.open("a") as file:
        file.write(".")
    return rows * 2


class TestRouting:
    """Weights and validation data on their way through pipelines and searches."""

    @pytest.fixture(autouse=True)
    def routing(self):
        with sklearn.config_context(enable_metadata_routing=True):
            yield

    @pytest.mark.parametrize("within", ["pipeline", "search", "search of a pipeline"])
    def test_sample_weight(self, within):
        """Images whose labels are wrong weigh nothing: the model is the one without them."""
        is_right = np.arange(90) % 9 != 0
        labels = np.where(is_right, Y, (Y + 1) % 3)
        outer = model().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        outer = make_pipeline(FunctionTransformer(), outer) if "pipeline" in within else outer
        if "search" in within:
            lr = "lenetclassifier__lr" if "pipeline" in within else "lr"
            outer = GridSearchCV(outer, {lr: [0.005]}, cv=3)
        outer.fit(X, labels, sample_weight=is_right.astype(float))
        if "search" in within:
            assert outer.best_score_ == 1
            outer = outer.best_estimator_
        inner = outer[-1] if "pipeline" in within else outer
        assert_same_bits(inner, model().fit(X[is_right], Y[is_right]))

    @pytest.mark.parametrize("is_search", [False, True])
    def test_validation_data(self, is_search):
        """They are transformed on their way, like X."""
        inner = model(early_stopping=True).set_fit_request(X_val=True, y_val=True)
        outer = make_pipeline(StandardScaler(), inner, transform_input=["X_val"])
        if is_search:
            outer = GridSearchCV(outer, {"lenetclassifier__lr": [1e-6, 0.005]}, cv=3)
        outer.fit(X, Y, X_val=X_TEST, y_val=Y_TEST)
        inner = (outer.best_estimator_ if is_search else outer)[-1]
        scaler = StandardScaler().fit(X)
        by_hand = model(early_stopping=True, lr=0.005)
        by_hand.fit(scaler.transform(X), Y, X_val=scaler.transform(X_TEST), y_val=Y_TEST)
        assert_same_bits(inner, by_hand)
        assert inner.validation_scores_ == by_hand.validation_scores_


class TestFrames:
    NAMES = tuple(f"pixel {n}" for n in range(144))

    @pytest.fixture(params=["pandas", "polars"])
    def frame(self, request):
        module = pytest.importorskip(request.param, reason=f"needs {request.param}")
        return lambda rows: module.DataFrame(dict(zip(self.NAMES, rows.T, strict=True)))

    def test_in(self, frame):
        fitted = model().fit(frame(X), frame(X)["pixel 0"] > X[:, 0].mean())
        assert list(fitted.feature_names_in_) == list(self.NAMES)
        other = model().fit(X, X[:, 0] > X[:, 0].mean())
        assert_same_bits(fitted, other)
        np.testing.assert_array_equal(
            fitted.predict_proba(frame(X_TEST)), other.predict_proba(X_TEST)
        )

    def test_array_after_a_frame(self, frame):
        fitted = model().fit(frame(X), Y)
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            predicted = fitted.predict(X_TEST)
        np.testing.assert_array_equal(predicted, fitted.predict(frame(X_TEST)))

    def test_columns_in_another_order(self, frame):
        fitted = model().fit(frame(X), Y)
        with pytest.raises(ValueError, match="Feature names must be in the same order"):
            fitted.predict(frame(X_TEST)[list(self.NAMES[::-1])])

    @pytest.mark.parametrize(
        "outer",
        [
            lambda: GridSearchCV(model(), {"lr": [0.005]}, cv=2),
            lambda: CalibratedClassifierCV(model(), cv=2),
            lambda: make_pipeline(StandardScaler().set_output(transform="pandas"), model()),
        ],
    )
    def test_within(self, frame, outer):
        fitted = outer().fit(frame(X), pd.Series(Y))
        assert accuracy_score(Y_TEST, fitted.predict(frame(X_TEST))) >= 0.9
