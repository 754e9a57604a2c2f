"""The benchmarks run; how fast anything is, is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_two_figures(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", "bits", "import"]
    files = ["--json", str(tmp_path / "figures.json"), "--png", str(tmp_path / "figures.png")]
    subprocess.run([*command, *files], cwd=Path(__file__).parents[1], check=True)

    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [figure["name"] for figure in figures] == ["bits", "import"]
    assert figures[0]["value"] == 1
    assert figures[1]["ours_ms"] > 0
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")
