"""Files with a flipped bit, or cut short: `python -m tests.damage`.

Each case saves a fitted estimator, damages the file, and loads it in a child process. Loading may
fail, with any error of Python's; what has been loaded has to predict as before. A child works off
cases until it dies.
"""

import argparse
import io
import multiprocessing
import pickle
import resource
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np

from sklearn_lenet import LeNetClassifier

from .findings import tell

CASES, SECONDS_A_CASE, BYTES = 3000, 20, 4 * 2**30

# What is counted; the first three are wanted 0 times
KINDS = ["crashes", "hangs", "changed answers", "refused", "harmless"]
BAD = KINDS[:3]

X = np.random.default_rng(0).integers(0, 256, (24, 64)).astype(np.uint8)
Y = np.array(["a", "b", "c"])[np.arange(24) % 3]


def make():
    """Fit a small one, so that a file's structure is hit as often as its numbers."""
    return LeNetClassifier(
        conv_channels=(1, 2), hidden_layer_sizes=(6,), max_iter=2, random_state=0, warm_start=True
    ).fit(X, Y)


def with_joblib(model, **arguments):
    buffer = io.BytesIO()
    joblib.dump(model, buffer, **arguments)
    return buffer.getvalue()


def load_skops(path):
    import skops.io

    return skops.io.load(path, trusted=["sklearn_lenet.LeNetClassifier"])


def dump_skops(model):
    import skops.io

    return skops.io.dumps(model)


# By name: from an estimator to bytes, and from a path to an estimator
FORMATS = {
    "pickle": (pickle.dumps, lambda path: pickle.loads(path.read_bytes())),
    "joblib": (with_joblib, joblib.load),
    "joblib, compressed": (lambda model: with_joblib(model, compress=3), joblib.load),
    "joblib, memory-mapped": (with_joblib, lambda path: joblib.load(path, mmap_mode="r")),
}
if find_spec("skops"):
    FORMATS["skops"] = dump_skops, load_skops


def damaged(contents, rng):
    """Flip a bit, or in every fifth case cut the file short."""
    place = int(rng.integers(len(contents)))
    if rng.integers(5) == 0:
        return contents[:place]
    flipped = contents[place] ^ (1 << int(rng.integers(8)))
    return contents[:place] + bytes([flipped]) + contents[place + 1 :]


def run_case(seed, files, expected, path):
    """Give the kind of a case's result."""
    name = list(FORMATS)[seed % len(FORMATS)]
    path.write_bytes(damaged(files[name], np.random.default_rng(seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = FORMATS[name][1](path)
            found = loaded.predict_proba(X), loaded.predict(X)
        except Exception:
            return "refused"
    return "harmless" if all(map(np.array_equal, found, expected)) else "changed answers"


def work(seeds, connection):
    """Run cases in a child process, which says of each what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    model = make()
    files = {name: dump(model) for name, (dump, _) in FORMATS.items()}
    expected = model.predict_proba(X), model.predict(X)
    with tempfile.TemporaryDirectory() as directory:
        for seed in seeds:
            connection.send(run_case(seed, files, expected, Path(directory) / "model"))


def run(n_cases, seed=0):
    """Run cases; give a pair of kind and seed for each."""
    context, found = multiprocessing.get_context("spawn"), []
    while len(found) < n_cases:
        ours, theirs = context.Pipe(duplex=False)
        seeds = range(seed + len(found), seed + n_cases)
        child = context.Process(target=work, args=(seeds, theirs))
        child.start()
        theirs.close()
        kind = "harmless"
        while kind not in BAD[:2] and len(found) < n_cases:
            # The first case waits for the child's imports, too
            try:
                kind = ours.recv() if ours.poll(3 * SECONDS_A_CASE) else "hangs"
            except EOFError:
                kind = "crashes"
            found.append((kind, seed + len(found)))
        child.kill()
        child.join()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    found = run(arguments.cases, arguments.seed)
    tell(KINDS, [(kind, f"seed {seed}") for kind, seed in found], faults=BAD)
    print(f"{arguments.cases} files ({', '.join(FORMATS)}), {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
