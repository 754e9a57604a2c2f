"""The quick start as a notebook, run by a real kernel: what a reader sees under each cell."""

from pathlib import Path

import pytest

from .test_examples import python_blocks

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

pytestmark = pytest.mark.slow

QUICKSTART = Path(__file__).parents[1] / "docs" / "quickstart.md"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Run the quick start's blocks, then one that shows the model; give each cell's outputs."""
    blocks = [block[1] for block in python_blocks(QUICKSTART.read_text(encoding="utf-8"))]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in [*blocks, "model"]]
    resources = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    return dict(zip([*blocks, "model"], [cell.outputs for cell in notebook.cells], strict=True))


def test_progress_is_one_line_on_no_red_ground(outputs):
    shown = next(value for code, value in outputs.items() if "verbose=1" in code)
    assert {output.get("name") for output in shown} == {"stdout"}
    text = "".join(output.text for output in shown)
    assert text.rstrip().count("\n") == 0
    assert "10/10" in text.rsplit("\r", 1)[-1]


def test_model_is_shown_as_html_with_its_parameters(outputs):
    data = outputs["model"][0].data
    assert "LeNetClassifier" in data["text/html"]
    for parameter in ("lr", "max_iter", "random_state"):
        assert parameter in data["text/html"]
    assert data["text/plain"].startswith("LeNetClassifier(")


def test_nothing_else_is_written_to_stderr(outputs):
    for shown in outputs.values():
        assert all(output.get("name") != "stderr" for output in shown)
