"""The scripts in examples/, and the Python code in the README and the documentation, run."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import sklearn_lenet

ROOT = Path(__file__).parents[1]


def environment():
    """Give that of a process that imports the package from where it lies."""
    package = Path(sklearn_lenet.__file__).parents[1]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def run(script, directory, *arguments):
    """Run an example in a process of its own, its warnings being errors; give what it printed."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / script, *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def percentage(pattern, output):
    return float(re.search(rf"{pattern}.*: ([\d.]+)%", output)[1])


@pytest.mark.slow
def test_quickstart(tmp_path):
    output = run("quickstart.py", tmp_path)
    assert percentage("Test accuracy", output) >= 96.5
    assert "weighted avg" in output
    assert "equal predictions" in output
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart.png"]
    image = matplotlib.image.imread(tmp_path / "quickstart.png")
    height, width, _ = image.shape
    assert min(height, width) >= 350
    left, right = image[:, : width // 3, :3], image[:, width // 2 :, :3]
    assert min(left.std(), right.std()) > 0.05  # neither half is blank


def test_image_folder(tmp_path):
    pytest.importorskip("PIL", reason="needs Pillow")
    output = run("image_folder.py", tmp_path)
    assert "Images: (450, 3, 32, 32), classes: circle, cross, square" in output
    assert percentage("Test accuracy", output) >= 80
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_onnx_export(tmp_path):
    for name in ("onnxruntime", "skl2onnx"):
        pytest.importorskip(name, reason=f"exports to ONNX; {name} is not installed")
    output = run("onnx_export.py", tmp_path)
    differences = re.findall(r"the same labels, probabilities differ by (\S+) at most", output)
    assert len(differences) == 2
    assert max(map(float, differences)) <= 1e-5


@pytest.mark.slow
def test_new_classes(tmp_path):
    output = run("new_classes.py", tmp_path)
    pixels, activations = (
        percentage(f"Test accuracy by {way}", output) for way in ("pixels", "activations")
    )
    assert activations > pixels > 70
    image = matplotlib.image.imread(tmp_path / "new_classes.png")
    colours = np.ptp(image[..., :3], axis=2) > 0.3
    assert np.count_nonzero(colours) > 1000  # the new digits, on white


@pytest.mark.slow
def test_pytorch_weights(tmp_path):
    pytest.importorskip("torch", reason="hands weights to PyTorch, which is not installed")
    output = run("pytorch_weights.py", tmp_path)
    differences = re.findall(r"probabilities differ by (\S+) at most", output)
    assert len(differences) == 2
    assert max(map(float, differences)) <= 1e-6
    assert percentage("Test accuracy after another epoch", output) >= 95


@pytest.mark.slow
def test_callbacks(tmp_path):
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
    output = run("callbacks.py", tmp_path)
    assert int(re.search(r"Ended after (\d+) epochs", output)[1]) == output.count("Epoch ") < 30
    assert percentage("Test accuracy", output) >= 95


@pytest.mark.slow
def test_checkpoints(tmp_path):
    """Killed when there is a checkpoint, it goes on."""
    pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
    path = tmp_path / "lenet.joblib"
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "checkpoints.py"], cwd=tmp_path, env=environment()
    )
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    output = run("checkpoints.py", tmp_path)
    assert "Going on after epoch" in output
    assert percentage("Test accuracy after epoch 10", output) >= 95
    assert [each.name for each in tmp_path.iterdir()] == ["lenet.joblib"]


@pytest.mark.slow
def test_grid_search(tmp_path):
    output = run("grid_search.py", tmp_path)
    assert len(re.findall(r"^0\.\d+ +\d+ +0\.\d+ \+- 0\.\d+$", output, re.MULTILINE)) == 6
    assert percentage("Its test accuracy", output) >= 92


@pytest.mark.slow
def test_loss_curves(tmp_path):
    """It prints, and draws, what the page says of oscillation and its cure."""
    output = run("loss_curves.py", tmp_path)
    pattern = (
        r"^lr=([\d.]+), (.*): the loss rose in \d+ to (\d+) of 19 epochs, in the last ten to "
        r"([\d.]+) times at most; accuracy ([\d.]+)% in the end, spread ([\d.]+)%"
    )
    lines = re.findall(pattern, output, re.MULTILINE)
    assert len(lines) == 8
    rises, late, accuracy, spread = (
        {(lr, name): float(numbers[column]) for lr, name, *numbers in lines} for column in range(4)
    )
    for lr in ("0.05", "0.005"):
        plain, cured = (lr, "no momentum"), (lr, "momentum and schedule")
        for unrest in (rises, late, spread):
            assert unrest[cured] < unrest[plain]
        assert late[lr, "momentum"] > late[cured]
        assert spread[lr, "schedule"] < spread[plain]
        assert accuracy[lr, "schedule"] < accuracy[plain] < accuracy[cured]
    assert accuracy["0.05", "momentum"] < accuracy["0.05", "momentum and schedule"]
    assert accuracy["0.005", "momentum"] > accuracy["0.005", "momentum and schedule"]
    image = matplotlib.image.imread(tmp_path / "loss_curves.png")
    assert min(image.shape[:2]) >= 600
    for half in np.split(image[..., :3], 2, axis=1):
        colours = np.ptp(half, axis=2) > 0.3
        assert np.count_nonzero(colours) > 1000  # the curves, in colours, on white


@pytest.fixture
def data_home():
    """Directory of MNIST's files."""
    directory = os.environ.get("SKLEARN_LENET_DATA")
    if not directory:
        pytest.skip("set SKLEARN_LENET_DATA to a directory with MNIST's IDX files")
    return Path(directory).resolve()


def test_mnist(tmp_path, data_home):
    output = run("mnist.py", tmp_path, "--epochs", "1", "--data-home", data_home)
    assert percentage("Test accuracy", output) >= 96
    assert re.search(r"Seconds per epoch: \d+\.\d\d", output)


@pytest.mark.slow
def test_one_epoch(tmp_path, data_home):
    output = run("one_epoch.py", tmp_path, "--data-home", data_home)
    assert percentage("Test accuracy", output) >= 98.8
    assert re.search(r"Seconds: \d+\.\d", output)


WITHOUT_CODE = {"errors.md"}
GUIDE = [
    f"docs/guide/{path.name}"
    for path in sorted((ROOT / "docs" / "guide").glob("*.md"))
    if path.name not in WITHOUT_CODE
]


@pytest.mark.parametrize(
    "page",
    [
        "docs/quickstart.md",
        *(
            pytest.param(page, marks=pytest.mark.slow)
            for page in (
                "README.md",
                "docs/index.md",
                "docs/install.md",
                "docs/coming_from.md",
                *GUIDE,
            )
        ),
    ],
)
def test_code_in_documents(page, tmp_path, monkeypatch):
    """Run a page's blocks of Python one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    run_blocks(page, {"__name__": "__main__"})
    plt.close("all")


CHAPTERS = ["convolution", "im2col", "backward", "loss", "patches"]


def test_code_in_chapters(tmp_path, monkeypatch):
    """Run the blocks of all chapters as the one program that they are."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    with threadpool_limits(1):  # its threads wait for each other where other tests run beside
        for chapter in CHAPTERS:
            run_blocks(f"docs/learn/{chapter}.md", namespace)
    plt.close("all")


@pytest.mark.parametrize("page", ["quickstart", *(f"learn/{chapter}" for chapter in CHAPTERS)])
def test_translations_have_the_same_code_and_formulas(page):
    english, chinese = (
        (ROOT / "docs" / path).read_text(encoding="utf-8")
        for path in (f"{page}.md", f"learn/zh/{Path(page).name}.md")
    )
    code_or_formula = re.compile(r"^(```python|\$\$)\n(.*?)^(```|\$\$)$", re.DOTALL | re.MULTILINE)
    assert code_or_formula.findall(chinese) == code_or_formula.findall(english) != []


def python_blocks(text):
    """Give matches of a page's blocks of Python; group 1 is the code."""
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert blocks
    return blocks


def run_blocks(page, namespace):
    """Run a page's blocks of Python in this namespace."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in python_blocks(text):
        n_lines = text[: block.start(1)].count("\n")  # so that an error names the page's line
        exec(compile("\n" * n_lines + block[1], ROOT / page, "exec"), namespace)
