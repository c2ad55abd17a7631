"""Sphinx: what the site is made of, and how it looks. `nox -s docs` builds it."""

from __future__ import annotations

import sys
from importlib.metadata import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "kito"
author = metadata("kito")["Author"]
project_copyright = author
release = version = metadata("kito")["Version"]

extensions = [
    "myst_nb",  # and with it, myst_parser
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "recipes",
    "outside",  # after what else changes a page
]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # What other packages define, and names in docstrings that are code and no reference.
    ("py:.*", r"(?!kito\.).*"),
]

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3

# Notebooks are kept without what they print; each build runs them, and an error ends it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_output_stderr = "remove"  # what TensorFlow logs; the tests run the code with warnings as errors

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
# Docstrings mark code as Markdown does; where it is a name that is described, this links it.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# `nox -s docs -- linkcheck`: what is slow, or fails once, is asked again.
linkcheck_timeout = 30
linkcheck_retries = 2
# GitHub makes the anchors of its pages in the browser.
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]

copybutton_exclude = ".linenos, .gp, .go"

pygments_dark_style = "github-dark"
html_theme = "furo"
html_title = "kito"
html_static_path = ["_static"]
html_css_files = ["kito.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_logo": "logo.svg",
    "dark_logo": "logo-dark.svg",
    "sidebar_hide_name": True,
    "light_css_variables": {
        "color-brand-primary": "#1a6b3c",
        "color-brand-content": "#1a6b3c",
        "color-brand-visited": "#1a6b3c",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7bd39a",
        "color-brand-content": "#7bd39a",
        "color-brand-visited": "#7bd39a",
    },
}
