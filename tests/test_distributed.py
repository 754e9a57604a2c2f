"""Searches on a cluster of Dask's, one worker of which is killed; data that are streamed."""

import os
import signal
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from .test_classifier import assert_same_bits, model
from .test_examples import run_blocks

PATIENCE = 60


@pytest.fixture
def client():
    """Start two worker processes, as the page does."""
    distributed = pytest.importorskip("distributed", reason="needs Dask")
    import dask

    setting = {"distributed.scheduler.active-memory-manager.start": False}
    with (
        dask.config.set(setting),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def killer(client, pid):
    """Start a thread that kills the process with SIGKILL, once fits are under way."""

    def kill():
        give_up = time.monotonic() + PATIENCE
        while not any(client.processing().values()) and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True])
def test_search(client, sample, is_killed):
    """The scores and the best parameters are those of one machine, to the bit."""
    X, y = sample[0][:600], sample[1][:600]
    folds = list(StratifiedKFold(3).split(X, y))

    def search():
        grid = {"lr": [0.0005, 0.001, 0.002, 0.003]}
        return GridSearchCV(model(max_iter=6), grid, cv=folds)

    alone = search().fit(X, y)
    scatter = [X, y, *(rows for fold in folds for rows in fold)]
    before = set(client.run(os.getpid).values())
    assert len(before) == 2
    if is_killed:
        thread = killer(client, min(before))
    with parallel_config(backend="dask", scatter=scatter):
        found = search().fit(X, y)
    if is_killed:
        assert not thread.is_alive()  # the kill came before the end
        client.wait_for_workers(2, timeout=PATIENCE)
        assert min(before) not in client.run(os.getpid).values()
    assert found.best_params_ == alone.best_params_
    for name in ("mean_test_score", *(f"split{n}_test_score" for n in range(3))):
        np.testing.assert_array_equal(found.cv_results_[name], alone.cv_results_[name])
    assert_same_bits(found.best_estimator_, alone.best_estimator_)


@pytest.mark.slow
def test_page(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs Dask")
    monkeypatch.chdir(tmp_path)
    run_blocks("docs/distributed.md", {"__name__": "__main__"})


def stream(parts):
    streaming = model(lr=0.002)
    for rows, labels in parts:
        streaming.partial_fit(rows, labels, classes=np.arange(10))
    return streaming


def test_blocks_of_dask(sample):
    da = pytest.importorskip("dask.array", reason="needs Dask")
    X, y = sample[0][:500], sample[1][:500]
    blocks = zip(
        da.from_array(X, chunks=(128, -1)).blocks, da.from_array(y, chunks=128).blocks, strict=True
    )
    streamed = stream((rows.compute(), labels.compute()) for rows, labels in blocks)
    parts = np.array_split(np.arange(500), range(128, 500, 128))
    assert_same_bits(streamed, stream((X[part], y[part]) for part in parts))


def test_memory_map(sample, tmp_path):
    X, y = sample[0][:500], sample[1][:500]
    on_disk = np.memmap(tmp_path / "images", X.dtype, "w+", shape=X.shape)
    on_disk[:] = X
    on_disk = np.memmap(tmp_path / "images", X.dtype, "r", shape=X.shape)
    assert_same_bits(model().fit(on_disk, y), model().fit(X, y))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="its files are not sparse")
def test_rows_all_over_a_file_of_20_gigabytes(sample, tmp_path):
    """10,000 of its rows go through in the memory that a mini-batch takes."""
    X, y = (np.concatenate([array, array]) for array in sample[:2])
    n_rows, path = 20 * 10**9 // 784, tmp_path / "images"
    places = np.linspace(0, n_rows - 1, 10_000).astype(int)
    with path.open("wb") as written:
        for place, row in zip(places.tolist(), X, strict=True):
            written.seek(place * 784)
            written.write(row)
    assert path.stat().st_size == n_rows * 784
    file = np.memmap(path, np.uint8, "r", shape=(n_rows, 784))
    batches = np.split(np.random.default_rng(0).permutation(10_000), range(64, 10_000, 64))

    tracemalloc.start()
    try:
        stream([(file[places[rows]], y[rows]) for rows in batches[:1]])
        _, of_one = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        streamed = stream((file[places[rows]], y[rows]) for rows in batches)
        _, of_all = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert of_all < of_one + 2**20
    assert_same_bits(streamed, stream((X[rows], y[rows]) for rows in batches))
    assert streamed.score(sample[2], sample[3]) > 0.85
