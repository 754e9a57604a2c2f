"""Schedules, averaging, smoothing, augmentation and validation, as a user meets them."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sklearn_lenet import LeNetClassifier
from sklearn_lenet._loss import softmax_cross_entropy
from sklearn_lenet._optimizers import SGD, Adam, WeightAverage
from sklearn_lenet._schedules import make_schedule
from tests.test_classifier import X, Y, assert_same_bits, model

VARIANTS = {
    "adamw": {"solver": "adamw", "alpha": 0.1},
    "average": {"ema_decay": 0.9},
    "average of sgd": {"solver": "sgd", "ema_decay": 0.9},
    "smoothing": {"label_smoothing": 0.1},
    "affine": {"augment": "affine"},
    "elastic": {"augment": "elastic", "dtype": "float64"},
    "callable": {"augment": lambda images, generator: images + generator.random(images.shape)},
}


class TestSchedules:
    def rates(self, schedule, max_iter=20, n_batches=4, lr=0.1):
        schedule = make_schedule(schedule, lr, max_iter)
        return np.concatenate([schedule.rates(epoch, n_batches) for epoch in range(max_iter)])

    def test_constant(self):
        assert set(self.rates("constant")) == {0.1}

    def test_step(self):
        np.testing.assert_allclose(
            self.rates("step", n_batches=1), [0.1] * 10 + [0.01] * 5 + [0.001] * 5
        )

    def test_cosine(self):
        rates = self.rates("cosine")
        np.testing.assert_allclose(rates[:4], 0.1 * np.array([1, 3, 5, 7]) / 8)  # one epoch of 20
        middles = (np.arange(4, 80) + 0.5) / 4
        np.testing.assert_allclose(rates[4:], 0.05 * (1 + np.cos(np.pi * (middles - 1) / 19)))

    @pytest.mark.parametrize("max_iter", [1, 2, 7, 300])
    def test_cosine_is_positive_and_at_most_lr(self, max_iter):
        rates = self.rates("cosine", max_iter=max_iter)
        assert (rates > 0).all()
        assert (rates <= 0.1).all()

    def test_plateau(self):
        """A fifth after each two epochs in a row that brought no improvement."""
        schedule, rates = make_schedule("plateau", 0.1, 20), []
        for epoch, improved in enumerate([True, False, True, False, False, False, False, True]):
            rates.extend(schedule.rates(epoch, 1))
            schedule.epoch_ended(improved)
        rates.extend(schedule.rates(8, 3))
        assert rates == pytest.approx([0.1] * 5 + [0.02] * 2 + [0.004] * 4)

    def test_plateau_stills_a_training_that_does_not_improve(self):
        def curve(schedule):
            estimator = model(lr_schedule=schedule, lr=1e-12, max_iter=12, shuffle=False)
            return np.abs(np.diff(estimator.fit(X.astype(float), Y).loss_curve_))

        moving, stilled = (curve(schedule) for schedule in ("constant", "plateau"))
        np.testing.assert_array_equal(moving[:1], stilled[:1])
        with pytest.warns(ConvergenceWarning):
            estimator = model(
                lr_schedule="plateau", tol=1e9, n_iter_no_change=100, max_iter=30, shuffle=False
            ).fit(X, Y)
        assert abs(np.diff(estimator.loss_curve_))[-1] < 1e-5

    def test_callable(self):
        class Recorder(list):
            def __call__(self, epoch):
                self.append(epoch)
                return 0.005

        recorder = Recorder()
        assert_same_bits(model(lr_schedule=recorder).fit(X, Y), model().fit(X, Y))
        assert recorder == [0, 1, 2]

    @pytest.mark.parametrize("rate", [0, -1, np.nan, None, "fast"])
    def test_callable_that_returns_no_rate(self, rate):
        with pytest.raises(
            ValueError, match=r"'lr_schedule' must return a float.* Got .* for epoch 0"
        ):
            model(lr_schedule=lambda epoch: rate).fit(X, Y)

    @pytest.mark.parametrize("schedule", ["step", "cosine", "plateau"])
    def test_every_schedule_learns(self, schedule):
        assert model(lr_schedule=schedule, max_iter=40, batch_size=8).fit(X, Y).score(X, Y) == 1


class TestOptimizers:
    @pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95), (0.0, 0.5)])
    def test_adamw_is_torchs(self, betas):
        torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
        generator = np.random.default_rng(0)
        parameters = generator.normal(size=10)
        weights = torch.tensor(parameters[:6].copy(), requires_grad=True)
        biases = torch.tensor(parameters[6:].copy(), requires_grad=True)
        theirs = torch.optim.AdamW(
            [{"params": [weights], "weight_decay": 0.3}, {"params": [biases], "weight_decay": 0}],
            lr=0.01,
            betas=betas,
        )
        ours = Adam(np, parameters, *betas, decay=0.3, n_weights=6)
        for _ in range(20):
            gradient = generator.normal(size=10)
            weights.grad, biases.grad = torch.tensor(gradient[:6]), torch.tensor(gradient[6:])
            theirs.step()
            ours.step(gradient.copy(), 0.01)
        expected = np.concatenate([weights.detach().numpy(), biases.detach().numpy()])
        np.testing.assert_allclose(parameters, expected, rtol=1e-10)

    @pytest.mark.parametrize("solver", ["adam", "adamw"])
    def test_betas_are_those_of_the_parameters(self, solver):
        """With 0 and 0, each step is the rate times the sign of the gradient."""
        classifier = model(solver=solver, beta_1=0, beta_2=0, lr=1e-3, batch_size=len(X))
        classifier.partial_fit(X, Y, classes=np.unique(Y))
        before = classifier._parameters.copy()
        steps = np.abs(classifier.partial_fit(X, Y)._parameters - before)
        # but where gradients are as small as Adam's epsilon
        assert steps.max() < 1.001e-3
        assert np.mean(steps > 0.99e-3) > 0.3

    def test_average_by_hand(self):
        optimizer = WeightAverage(np, SGD(np, np.array([1.0]), 0.0), 0.5)
        path = []
        for gradient in (1.0, -2.0, 4.0):
            optimizer.step(np.array([gradient]), 1.0)
            path.append((optimizer.parameters[0], optimizer.average[0]))
        # steps to 0, 2, -2; d = 1/10, 2/11, 3/12
        first = 1 / 10
        second = 2 / 11 * first + 9 / 11 * 2
        expected = [(0, first), (2, second), (-2, second / 4 - 2 * 3 / 4)]
        np.testing.assert_allclose(path, expected, rtol=1e-15)

    def test_average_is_what_predicts(self):
        last, averaged = (model(ema_decay=decay).fit(X, Y) for decay in (None, 0.99))
        assert not np.array_equal(last.coefs_[0], averaged.coefs_[0])
        assert last.loss_curve_ == averaged.loss_curve_  # the steps are the same

    def test_decoupled_decay_is_not_the_penalty(self):
        assert np.linalg.norm(
            model(solver="adamw", alpha=10.0, max_iter=9).fit(X, Y).coefs_[-1]
        ) < 0.9 * np.linalg.norm(model(solver="adam", alpha=0.0, max_iter=9).fit(X, Y).coefs_[-1])


class TestLabelSmoothing:
    def test_is_torchs(self):
        torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
        generator = np.random.default_rng(0)
        logits, labels = generator.normal(size=(5, 7)), generator.integers(5, size=7)
        theirs = torch.tensor(logits.T.copy(), requires_grad=True)
        expected = torch.nn.functional.cross_entropy(
            theirs, torch.tensor(labels), label_smoothing=0.2
        )
        expected.backward()
        loss = softmax_cross_entropy(np, logits, labels, np.full(7, 1 / 7), 0.2)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-12)
        np.testing.assert_allclose(logits.T, theirs.grad.numpy(), rtol=1e-10, atol=1e-15)

    def test_makes_modest(self):
        sure, modest = (
            model(label_smoothing=smoothing, max_iter=60).fit(X, Y).predict_proba(X).max(axis=1)
            for smoothing in (0.0, 0.3)
        )
        assert modest.mean() < sure.mean()
        assert modest.mean() == pytest.approx(0.8, abs=0.05)


class TestAugmentation:
    def test_callable_gets_images_and_a_generator(self):
        seen = []

        def augment(images, generator):
            seen.append((images.shape, images.dtype, type(generator)))
            return images

        pixels = X.astype(np.uint8)
        assert_same_bits(model(augment=augment).fit(pixels, Y), model().fit(pixels, Y))
        assert seen[0] == ((16, 1, 12, 12), np.uint8, np.random.Generator)
        assert len(seen) == 3 * 4

    def test_rows_that_do_not_fill_an_image(self):
        shapes = []

        def augment(images, generator):
            shapes.append(images.shape)
            assert (images[:, 0, 3, 1:] == 0).all()
            return images

        rows = np.random.default_rng(0).random((8, 10)) + 1
        assert_same_bits(
            model(augment=augment).fit(rows, [0, 1] * 4), model().fit(rows, [0, 1] * 4)
        )
        assert shapes[0] == (8, 1, 4, 3)

    @pytest.mark.parametrize("result", [lambda images: images[:, :, 1:], lambda images: "digits"])
    def test_callable_that_returns_something_else(self, result):
        with pytest.raises(ValueError, match=r"'augment' must return an array of numbers.*\(16, 1"):
            model(augment=lambda images, generator: result(images)).fit(X, Y)

    @pytest.mark.parametrize("augment", ["affine", "elastic"])
    def test_changes_training_and_not_prediction(self, augment):
        plain, augmented = (model(augment=kind).fit(X, Y) for kind in (None, augment))
        assert plain.loss_curve_ != augmented.loss_curve_
        np.testing.assert_array_equal(augmented.predict_proba(X), augmented.predict_proba(X))

    @pytest.mark.slow
    def test_helps_where_data_are_few(self, sample):
        X, y, X_test, y_test = sample
        plain, augmented = (
            LeNetClassifier(random_state=0, augment=augment, batch_size=32)
            .fit(X[:1000], y[:1000])
            .score(X_test, y_test)
            for augment in (None, "elastic")
        )
        assert augmented > plain + 0.01


class TestPromises:
    """What holds for the plain solver holds with every option."""

    @pytest.mark.parametrize("name", VARIANTS)
    def test_same_bits_for_any_number_of_workers(self, name):
        rows, labels = np.tile(X, (4, 1)), np.tile(Y, 4)
        models = [
            model(n_jobs=n_jobs, batch_size=100, **VARIANTS[name]).fit(rows, labels)
            for n_jobs in (1, 2, 3)
        ]
        assert_same_bits(models[0], models[1])
        assert_same_bits(models[0], models[2])

    @pytest.mark.parametrize("name", VARIANTS)
    def test_six_epochs_are_six_epochs(self, name):
        whole = model(max_iter=6, **VARIANTS[name]).fit(X, Y)
        warm = model(max_iter=3, warm_start=True, **VARIANTS[name]).fit(X, Y).fit(X, Y)
        partial = model(**VARIANTS[name])
        for _ in range(6):
            partial.partial_fit(X, Y, [0, 1, 2])
        assert_same_bits(whole, warm)
        assert_same_bits(whole, partial)


class TestValidationData:
    def test_given_data_decide(self):
        """Labels that nothing explains never improve: the first epoch is the best."""
        wrong = (Y + 1) % 3
        estimator = model(early_stopping=True, max_iter=50, n_iter_no_change=4, lr=0.05)
        estimator.fit(X, Y, X_val=X, y_val=wrong)
        assert estimator.n_iter_ < 50
        assert estimator.score(X, wrong) == estimator.best_validation_score_
        assert estimator.t_ == estimator.n_iter_ * len(X)  # nothing was set aside

    def test_weights_count(self):
        weights = np.where(Y == 0, 1.0, 0.0)
        estimator = model(early_stopping=True).fit(
            X, Y, X_val=X, y_val=np.zeros_like(Y), sample_weight_val=weights
        )
        expected = estimator.score(X[Y == 0], Y[Y == 0])
        assert estimator.best_validation_score_ == pytest.approx(expected)

    def test_images_too(self):
        as_images = X.reshape(-1, 12, 12)
        assert_same_bits(
            model(early_stopping=True).fit(X, Y, X_val=X, y_val=Y),
            model(early_stopping=True).fit(as_images, Y, X_val=as_images, y_val=Y),
        )

    @pytest.mark.parametrize(
        ("early_stopping", "given", "message"),
        [
            (False, {"X_val": X, "y_val": Y}, "for early_stopping=True"),
            (True, {"X_val": X}, "passed together"),
            (True, {"sample_weight_val": np.ones(60)}, "passed together"),
            (True, {"X_val": X[:, 1:], "y_val": Y}, "X_val has 143 features"),
            (True, {"X_val": X, "y_val": Y + 1}, "labels that are not in classes"),
        ],
    )
    def test_errors_change_nothing(self, early_stopping, given, message):
        estimator = model(early_stopping=early_stopping)
        before = dict(vars(estimator))
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, Y, **given)
        assert vars(estimator) == before

    def test_average_is_validated(self):
        """The averaged weights are what scored best, and what fit leaves."""
        estimator = model(early_stopping=True, ema_decay=0.9, max_iter=8)
        estimator.fit(X, Y, X_val=X, y_val=Y)
        assert estimator.score(X, Y) == estimator.best_validation_score_
