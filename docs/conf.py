"""Configuration of Sphinx."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import write_weights

import sklearn_lenet

project = "sklearn_lenet"
author = "the sklearn_lenet developers"
copyright = f"2026, {author}"
release = version = sklearn_lenet.__version__

# Without intersphinx: a network that is not reached is a warning, with -W an error
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False
maximum_signature_line_length = 100

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# MathJax 3.2.2, which lies in _static, without its addresses of a CDN: nothing comes from a network
mathjax_path = "mathjax/tex-svg.js"

html_theme = "pydata_sphinx_theme"
html_title = f"sklearn_lenet {release}"
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "show_prev_next": False,
}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["formulas.css", "tables.css"]
html_copy_source = False

copybutton_prompt_text = ">>> "

# Examples are executed by the build: figures and what is printed are this version's
sphinx_gallery_conf = {
    "abort_on_example_error": True,
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "auto_examples",
    "show_signature": False,
    "within_subsection_order": "FileNameSortKey",
    "write_computation_times": False,  # its page loads scripts from a CDN
}


def set_language(app, pagename, templatename, context, doctree):
    """Tell browsers which pages are Chinese: they choose fonts and read aloud by it."""
    if pagename.startswith("learn/zh/"):
        context["language"] = "zh-CN"


def hide_empty_sidebar(app, pagename, templatename, context, doctree):
    """Take the sidebar from pages that have no pages below them: the theme leaves an empty one."""
    below = app.env.toctree_includes
    if pagename in below["index"] and not below.get(pagename):
        context["sidebars"] = []


def setup(app):
    """Connect to Sphinx's events."""
    app.connect("builder-inited", lambda app: write_weights.write_if_older())
    app.connect("html-page-context", set_language)
    app.connect("html-page-context", hide_empty_sidebar)
