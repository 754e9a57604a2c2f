"""The documentation's page on which one draws, in headless Chromium."""

import html
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sklearn_lenet.datasets import load_mnist_sample

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DOCS = Path(__file__).parents[1] / "docs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium"),
]

# What a person would draw, as points on the canvas of 280 x 280
STROKES = {
    0: [[(140 + 55 * np.sin(a), 140 - 85 * np.cos(a)) for a in np.linspace(0, 6.28, 30)]],
    1: [[(150, 50), (145, 140), (140, 230)]],
    3: [
        [(90, 70), (120, 50), (160, 55), (180, 85), (160, 120), (120, 135)],
        [(120, 135), (165, 145), (185, 185), (165, 225), (120, 235), (85, 215)],
    ],
    4: [[(100, 50), (80, 150), (190, 145)], [(175, 55), (165, 235)]],
    7: [[(80, 60), (190, 60), (150, 150), (130, 230)]],
}

# Without a screen, frames do not come by themselves
FRAMES = "<script>window.requestAnimationFrame = (callback) => setTimeout(callback, 16);</script>"

HELPERS = """
const result = {};
const frames = () => new Promise((done) => setTimeout(done, 100));
const ink = () =>
  context.getImageData(0, 0, 280, 280).data.filter((v, n) => n % 4 === 0 && v > 0).length;
function pointer(type, [x, y], kind, isPrimary = true) {
  const box = drawing.getBoundingClientRect(), ratio = box.width / 280;
  drawing.dispatchEvent(new PointerEvent(type, { clientX: box.left + x * ratio,
    clientY: box.top + y * ratio, buttons: 1, pointerType: kind, isPrimary, bubbles: true }));
}
const key = (name) => drawing.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
"""


@pytest.fixture(scope="module")
def weights():
    spec = importlib.util.spec_from_file_location("write_weights", DOCS / "write_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fitted(weights):
    return weights.trained()


@pytest.fixture
def result_of(weights, fitted, tmp_path):
    """Run JavaScript on the page, in a frame of this width; give what it put into `result`."""

    def run(script, width=1280, images=None):
        shutil.copytree(DOCS / "_static", tmp_path / "_static", dirs_exist_ok=True)
        images = weights.examples() if images is None else images
        model = weights.javascript(fitted, images)
        (tmp_path / "_static" / "try_it_model.js").write_text(model, encoding="utf-8")
        text = (DOCS / "try_it.md").read_text(encoding="utf-8")
        body = re.search(r"^```\{raw\} html\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]
        page = tmp_path / "page.html"
        page.write_text(
            f"<!doctype html><meta charset=utf-8>{FRAMES}<body>{body}"
            f"<script>{HELPERS} (async () => {{ {script}\n"
            'parent.postMessage(JSON.stringify(result), "*"); })();</script>',
            encoding="utf-8",
        )
        # In a frame, for a headless window is never narrower than 500 pixels
        frame = tmp_path / "frame.html"
        frame.write_text(
            "<!doctype html><pre id=result></pre><script>onmessage = (event) => {"
            "document.getElementById('result').textContent = event.data; };</script>"
            f'<iframe src="page.html" style="border: 0; width: {width}px; height: 800px"></iframe>',
            encoding="utf-8",
        )
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1400,900",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=20000",
            "--dump-dom",
        ]
        dom = subprocess.run(
            [BROWSER, *options, frame.as_uri()], capture_output=True, text=True, timeout=120
        ).stdout
        return json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', dom)[1]))

    return run


def test_probabilities_are_those_of_predict_proba(result_of, fitted):
    X, _ = load_mnist_sample(subset="test", return_X_y=True)
    script = "result.proba = MODEL.examples.map((e) => forward(bytes(e)).probabilities);"
    result = result_of(script, images=X[:20])
    np.testing.assert_allclose(result["proba"], fitted.predict_proba(X[:20]), atol=1e-5)


@pytest.mark.parametrize(("kind", "width"), [("mouse", 1280), ("touch", 360)])
def test_drawn_digits_are_answered_right(result_of, kind, width):
    script = f"""
    result.answers = [];
    result.width = innerWidth;
    result.isWithin = document.documentElement.scrollWidth <= innerWidth;
    for (const lines of {json.dumps(list(STROKES.values()))}) {{
      element("clear").click();
      for (const line of lines) {{
        pointer("pointerdown", line[0], "{kind}");
        for (const point of line) pointer("pointermove", point, "{kind}");
        pointer("pointerup", line.at(-1), "{kind}");
      }}
      await frames();
      result.answers.push(element("answer").textContent);
    }}
    result.maps = [element("first").children.length, element("second").children.length];
    """
    result = result_of(script, width)
    read = [int(re.search(r"reads (\d)", answer)[1]) for answer in result["answers"]]
    assert read == list(STROKES)
    assert result["maps"] == [6, 16]
    assert result["width"] == width
    assert result["isWithin"]


def test_a_second_finger_draws_nothing(result_of):
    script = """
    pointer("pointerdown", [150, 50], "touch");
    pointer("pointerdown", [50, 50], "touch", false);
    pointer("pointermove", [60, 90], "touch", false);
    pointer("pointerup", [60, 90], "touch", false);
    pointer("pointermove", [150, 90], "touch");
    result.strokes = strokes.map((stroke) => stroke.length);
    """
    assert result_of(script)["strokes"] == [2]


def test_keys_draw_and_clear(result_of):
    script = """
    drawing.focus(); await frames();
    result.before = element("answer").textContent;
    for (let n = 0; n < 12; n++) key("ArrowUp");
    key(" ");
    for (let n = 0; n < 24; n++) key("ArrowDown");
    key(" ");
    for (let n = 0; n < 9; n++) key("ArrowRight");
    await frames();
    result.drawn = element("answer").textContent;
    result.points = strokes.map((stroke) => stroke.length);
    key("Delete"); await frames();
    drawing.blur(); await frames();
    result.after = element("answer").textContent;
    result.ink = ink();
    """
    result = result_of(script)
    assert result["before"] == result["after"] == "Draw a digit."
    assert "reads 1" in result["drawn"]
    assert result["points"] == [25]
    assert result["ink"] == 0


def test_examples_are_read_as_what_they_are(result_of, fitted, weights):
    script = """
    result.answers = [];
    for (const button of element("examples").querySelectorAll("button")) {
      button.click(); await frames();
      result.answers.push(element("answer").textContent);
    }
    """
    answers = result_of(script)["answers"]
    expected = fitted.predict(weights.examples())
    assert all(f"reads {label}," in answer for label, answer in zip(expected, answers, strict=True))
