"""Sphinx configuration: `sphinx-build -W docs docs/_build`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from measured import accuracies

project = "sparsify_fx"
copyright = "the sparsify_fx authors"
html_title = "sparsify_fx"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "mathml",
]
html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Of Okabe and Ito, as in the figures; lighter where the page is dark.
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#00598c",
        "color-brand-content": "#00598c",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cc7f2",
        "color-brand-content": "#7cc7f2",
    },
}
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_substitutions = accuracies()
# A dollar beside a digit is money, or a shell's variable.
myst_dmath_allow_digits = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
