"""The benchmarks run; how fast anything is, is not tested."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.accuracies import Fits, Row, verdict


@pytest.mark.slow
def test_figures(tmp_path):
    pytest.importorskip("matplotlib")
    names = ["bits", "import", "breakdown"]
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", *names]
    files = ["--json", str(tmp_path / "figures.json"), "--png", str(tmp_path / "figures.png")]
    printed = subprocess.run(
        [*command, *files],
        cwd=Path(__file__).parents[1],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout

    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    values = {figure["name"]: figure["value"] for figure in figures}
    assert list(values) == names
    assert values["bits"] == 1
    assert values["import"] > 0
    assert values["breakdown"] > 0
    share = re.search(r"all products.*?([0-9.]+)%", printed)
    assert 20 < float(share[1]) < 90
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def run(module, *arguments):
    """Run a command of the benchmarks on the packaged sample; give what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "SKLEARN_LENET_DATA"}
    return subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
def test_accuracies(tmp_path):
    path = tmp_path / "accuracies.json"
    path.write_text(json.dumps({"older": {}}))
    output = run("accuracies", "--only", "to-98", "--seeds", 2, "--json", path)
    rows = json.loads(path.read_text())
    assert list(rows) == ["older", "to-98"]
    accuracies = rows["to-98"]["fits"]["raw"]["accuracies"]
    assert len(accuracies) == 2
    assert min(accuracies) > 50
    assert rows["to-98"]["verdict"] == "short"  # 5,000 images do not teach 98 % in an epoch
    assert "short" in output


def test_verdicts_of_accuracies():
    row = Row("", {}, at_least=99, seconds=4, ranges=("raw", "0..1"), apart=0.1)
    good = {"raw": Fits([99.0, 99.2], [3.0, 5.0]), "0..1": Fits([99.1, 99.2], [3.0, 4.0])}
    assert verdict(row, good) == "ok"
    assert verdict(row, good | {"0..1": Fits([99.2, 99.3], [3.0, 4.0])}) == "short"  # apart
    assert verdict(row, good | {"raw": Fits([99.0, 98.9], [3.0, 5.0])}) == "short"  # inaccurate
    assert verdict(row, good | {"raw": Fits([99.0, 99.2], [4.0, 5.0])}) == "short"  # slow


@pytest.mark.slow
def test_selection(tmp_path):
    path = tmp_path / "selection.json"
    arguments = ["--images", 200, "--seeds", 1, "--json", path]
    output = run("selection", "--only", "20 epochs", *arguments)
    (row,) = json.loads(path.read_text()).values()
    assert row["parameters"] == {"max_iter": 20}
    assert row["digits"][0][0] > 90
    assert "200 images of the sample" in output


@pytest.mark.slow
def test_comparison():
    output = run("comparison", "--images", 200, "--epochs", 1)
    header, _, *rows = output.splitlines()
    names = [name.strip() for name in header.split("|")[2:-1]]
    assert names[:2] == ["LeNetClassifier", "MLPClassifier"]
    cells = {row.split("|")[1].strip(): row.split("|")[2:-1] for row in rows}
    assert all(len(row) == len(names) for row in cells.values())
    (continued,) = (row for what, row in cells.items() if "partial_fit" in what)
    assert [cell.strip() for cell in continued[:2]] == ["yes", "no"]
