"""Forks, threads and broken output: what happens beside a fit does not reach it, nor it others."""

import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sklearn_lenet import _backend

from .test_classifier import X, Y, assert_same_bits, model
from .test_engine import blas_threads, tidy  # noqa: F401

ROOT = Path(__file__).parents[1]

FORKS = """
import os, threading
from tests.test_classifier import X, Y, model
from tests.test_engine import blas_threads

other = model().fit(X, Y)
expected = other.predict_proba(X)
computes, ends = threading.Event(), threading.Event()

def augment(images, generator):
    computes.set()
    return images

def fit():
    while not ends.is_set():
        model(augment=augment, n_jobs=2, max_iter=50).fit(X, Y)

thread = threading.Thread(target=fit)
thread.start()
computes.wait()
codes = []
for _ in range(20):
    computes.clear()
    computes.wait()
    child = os.fork()
    if child == 0:
        code = 0 if (other.predict_proba(X) == expected).all() else 1
        model(n_jobs=2).fit(X, Y)
        os._exit(code or 2 * (blas_threads() != {2}))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ends.set()
thread.join()
print(sorted(set(codes)), blas_threads())
"""


def run_script(script):
    """Run it in a Python of its own, and give what became of it."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        text=True,
        timeout=120,
        check=False,
        capture_output=True,
    )


@pytest.mark.skipif(not hasattr(_backend.os, "register_at_fork"), reason="there is no fork here")
def test_children_of_a_fork():
    """Forked while another thread fits, they compute the same, with BLAS' threads as they were."""
    if not blas_threads():
        pytest.skip("threadpoolctl knows no BLAS here")
    finished = run_script(
        "from threadpoolctl import threadpool_limits\n"
        "threadpool_limits(2, user_api='blas')\n"
        "import tests.test_engine as engine\nengine.release_blas()\n" + FORKS
    )
    assert finished.stdout.strip() == "[0] {2}", finished.stderr


def test_fork_within_a_fit(tidy):  # noqa: F811
    """The thread that forks keeps what it holds; others' are forgotten, and their lock."""
    blas = _backend._SingleThreadedBLAS()
    thread = threading.Thread(target=blas.__enter__)
    thread.start()
    thread.join()
    blas.__enter__()
    blas.forked()
    assert blas_threads() == {1}
    blas.__exit__()
    assert blas_threads() == {3}


def test_user_within_a_user(tidy):  # noqa: F811
    """Between any two steps of entering and leaving, another may come and go in the same thread."""
    blas = _backend._SingleThreadedBLAS()
    steps, busy = 0, False

    def come_and_go():
        nonlocal steps, busy
        steps += 1
        if not busy:
            busy = True
            blas.__enter__()
            blas.__exit__()
            busy = False

    def disturb(method):
        def disturbed(*arguments):
            come_and_go()
            result = method(*arguments)
            come_and_go()
            return result

        return disturbed

    blas._set, blas._read = disturb(blas._set), disturb(blas._read)
    blas.__enter__()
    assert blas_threads() == {1}
    blas.__exit__()
    assert blas_threads() == {3}
    assert steps > 4


def test_threads_that_predict_fit_and_fail(tidy):  # noqa: F811
    models = [model(n_jobs=n).fit(X, Y) for n in (1, 2)]
    expected = models[0].predict_proba(X)

    def fail(images, generator):
        raise RuntimeError("on purpose")

    def fit(number):
        if number % 2:
            with pytest.raises(RuntimeError, match="on purpose"):
                model(augment=fail, n_jobs=2).fit(X, Y)
            return models[0]
        return model(n_jobs=2).fit(X, Y)

    with ThreadPoolExecutor(20) as pool:
        predictions = [
            pool.submit(models[n % 2].predict_proba, X[: 60 - n % 3]) for n in range(160)
        ]
        fits = [pool.submit(fit, n) for n in range(8)]
        for n, future in enumerate(predictions):
            found = future.result()
            assert len(found) == 60 - n % 3
            np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-5)
            if n % 3 == 0:
                np.testing.assert_array_equal(found, expected)
        for future in fits:
            assert_same_bits(future.result(), models[0])


class Broken(io.StringIO):
    def write(self, text=""):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write


def closed():
    file = io.StringIO()
    file.close()
    return file


class WithoutFlush:
    def write(self, text):
        return len(text)


@pytest.mark.parametrize(
    "file",
    [None, Broken(), closed(), WithoutFlush(), object()],
    ids=["none", "broken", "closed", "without flush", "no file"],
)
def test_output_that_breaks(file, monkeypatch):
    monkeypatch.setattr(sys, "stderr", file)
    verbose = model(verbose=1).fit(X, Y)
    monkeypatch.undo()
    assert_same_bits(verbose, model().fit(X, Y))


def test_pipe_that_nobody_reads():
    script = (
        "import os, sys\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 2)\n"
        "from tests.test_classifier import X, Y, model\n"
        "print(model(verbose=1).fit(X, Y).n_iter_)"
    )
    assert run_script(script).stdout.strip() == "3"


def test_progress_bar(capsys):
    before = set(threading.enumerate())
    model(verbose=1, early_stopping=True).fit(X, Y)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "loss=" in shown
    assert "val_score=" in shown
    assert set(threading.enumerate()) == before


def test_progress_bar_in_a_notebook(capsys, monkeypatch):
    """It stands in one line, and not on stderr, which is red there."""
    kernels_stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stderr", kernels_stream())
    model(verbose=1, max_iter=2).fit(X, Y)
    assert sys.stderr.getvalue() == ""
    out = capsys.readouterr().out
    assert "2/2" in out
    assert out.count("\n") == 1


def test_progress_bar_where_a_kernel_is_only_imported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    model(verbose=1, max_iter=2).fit(X, Y)
    out, err = capsys.readouterr()
    assert "2/2" in err
    assert out == ""


def resources():
    """Give this process' resident memory in bytes, its threads and its open files."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), threading.active_count(), os.listdir("/proc/self/fd")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' /proc")
@pytest.mark.parametrize("what", ["epochs", "fits", "predictions"])
def test_long_runs(what):
    """Neither memory nor threads nor open files grow."""
    small = {"conv_channels": (2, 3), "hidden_layer_sizes": (5,), "n_jobs": 2}
    fitted = model(**small, warm_start=True).fit(X, Y)
    runs = {
        "epochs": lambda: fitted.set_params(max_iter=500).fit(X, Y),
        "fits": lambda: [model(**small, max_iter=1).fit(X, Y) for _ in range(125)],
        "predictions": lambda: [fitted.predict_proba(X[:9]) for _ in range(1250)],
    }
    runs[what]()
    memory, threads, files = resources()
    for _ in range(3):
        runs[what]()
    memory_now, threads_now, files_now = resources()
    assert memory_now < memory + 8 * 2**20
    assert threads_now == threads
    assert len(files_now) == len(files)
