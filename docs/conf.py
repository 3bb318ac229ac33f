"""How Sphinx builds these pages: python -m sphinx -W -b html docs docs/_build/html"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import docstrings  # noqa: E402, found in the folders above

import lstm_jax  # noqa: E402

project = "lstm_jax"
author = "the authors of lstm_jax"
copyright = f"{author}. Apache License 2.0"
version = release = lstm_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# ---- pages ---------------------------------------------------------------------------------------
myst_heading_anchors = 3
highlight_language = "default"

# ---- docstrings ----------------------------------------------------------------------------------
default_role = "py:obj"  # A name in backticks is a link where there is something to link to.
autodoc_typehints = "none"  # Docstrings say more: shapes, units, what None means.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_custom_sections = [("Class attributes that a subclass may set", "Attributes")]

# ---- the look ------------------------------------------------------------------------------------
html_theme = "furo"
html_title = "lstm_jax"
html_static_path = ["_static"]
html_css_files = ["phone.css"]
html_copy_source = False
html_show_sphinx = False


def setup(app):
    """Called by Sphinx. Before and after napoleon, which listens at the default priority, 500."""
    app.connect("autodoc-process-docstring", docstrings.before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", docstrings.after_napoleon, priority=600)
    app.connect("autodoc-process-signature", docstrings.signature)
    app.connect("autodoc-skip-member", docstrings.skip)
