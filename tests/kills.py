"""Fits that are killed at random moments go on from their checkpoints: `python -m tests.kills`.

A child process fits with a checkpoint after every epoch, and gets SIGKILL (`kill -9`) at a moment
between its beginning and its end, also while a file is being written. What then lies at the
checkpoint's path has to be nothing, if no epoch had come to its end, or a model that predicts. It
is resumed, by another child that is killed; the third is left alone, and has to leave the bits of a
fit that nobody killed.
"""

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
from functools import cache
from pathlib import Path

import joblib
import numpy as np

from sklearn_lenet import LeNetClassifier

from .findings import tell
from .interrupts import checksum

MOMENTS = 20

# What is counted, and wanted 0 times
KINDS = ["files that are not whole", "other bits than without a kill", "children that fail"]

N_EPOCHS = 30
X = np.random.default_rng(0).integers(0, 256, (120, 144)).astype(np.uint8)
Y = np.random.default_rng(1).integers(0, 3, 120)


def halved(epoch):
    return 0.01 / (1 + epoch // 5)


def flipped(images, generator):
    return images[..., ::-1] if generator.integers(2) else images


SCENARIOS = (
    {},
    {"solver": "sgd", "lr_schedule": "step", "augment": "affine"},
    {"solver": "adamw", "alpha": 0.1, "ema_decay": 0.99, "lr_schedule": halved},
    {"early_stopping": True, "n_iter_no_change": 12, "augment": flipped, "dtype": "float64"},
    {"early_stopping": True, "scoring": "loss", "lr_schedule": "plateau", "ema_decay": 0.9},
)


def make(scenario):
    return LeNetClassifier(
        max_iter=N_EPOCHS, batch_size=16, random_state=0, n_jobs=1, **SCENARIOS[scenario]
    )


def fit_or_resume(path, scenario):
    """Do what a user's script would that may be started again at any time."""
    from sklearn_lenet.callbacks import Checkpoint

    if not path.exists():
        make(scenario).set_callbacks(Checkpoint(path)).fit(X, Y)
        return
    model = joblib.load(path)
    try:
        model.set_callbacks(Checkpoint(path)).resume(X, Y)
    except ValueError as error:
        if "There is no fit to resume" not in str(error):
            raise


def in_a_child(path, scenario, seconds=None):
    """Fit, or go on, in a child; kill it after so many seconds. Give how it ended."""
    child = multiprocessing.get_context("fork").Process(target=fit_or_resume, args=(path, scenario))
    child.start()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode


@cache
def undisturbed(scenario):
    """Give the checksum of a fit that nobody kills, and how long it takes with checkpoints."""
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        in_a_child(Path(directory) / "model", scenario)
        return checksum(make(scenario).fit(X, Y)), time.perf_counter() - begin


def run_case(seed, n_kills, path):
    """Kill so many children in a row; give what was found, and after how many epochs."""
    rng, scenario = np.random.default_rng(seed), seed % len(SCENARIOS)
    expected, duration = undisturbed(scenario)
    epochs, found = [], []
    for _ in range(n_kills):
        code = in_a_child(path, scenario, rng.uniform(0, duration / n_kills))
        if code not in (0, -signal.SIGKILL):
            found.append((KINDS[2], f"seed {seed}: exit code {code}"))
        try:
            model = joblib.load(path) if path.exists() else None
            if model is not None and not np.isfinite(model.predict_proba(X)).all():
                found.append((KINDS[0], f"seed {seed}: probabilities are not finite"))
        except Exception as error:
            found.append((KINDS[0], f"seed {seed}: {error!r}"))
            break
        epochs.append(0 if model is None else model.n_iter_)
    code = in_a_child(path, scenario)
    if code != 0:
        found.append((KINDS[2], f"seed {seed}: exit code {code}"))
    elif checksum(joblib.load(path)) != expected:
        found.append((KINDS[1], f"seed {seed}, killed after {epochs} epochs"))
    return found, epochs


def run(n_moments, seed=0, show=lambda text: None):
    """Kill at so many moments, two to a fit; give what was found."""
    found = []
    for first in range(0, n_moments, 2):
        with tempfile.TemporaryDirectory() as directory:
            n_kills = min(2, n_moments - first)
            faults, epochs = run_case(seed + first // 2, n_kills, Path(directory) / "model")
        show(f"scenario {(seed + first // 2) % len(SCENARIOS)}: killed after {epochs} epochs")
        found += faults
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=MOMENTS)
    parser.add_argument("--seed", type=int, default=0, help="of the first fit")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    found = run(arguments.moments, arguments.seed, print)
    tell(KINDS, found, faults=KINDS)
    print(f"{arguments.moments} moments in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
