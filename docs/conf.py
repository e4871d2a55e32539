"""Builds the documentation, without a network: `make docs`."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.domains.python import PyObject

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "pp_mlem"
author = "The pp_mlem developers"
copyright = author
release = version = PROJECT["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "gallery",
    "command_line",
]
exclude_patterns = ["_build", "_ext", "examples"]

# --- pages ---
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = (
    "off"  # notebooks are stored with what they print; tests/test_notebooks.py runs them
)
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# --- reference ---
add_module_names = False
default_role = "py:obj"
smartquotes_action = "D"  # dashes only: quotes of code stay what they are
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

CALLED = {
    "pp_mlem.Model",
    "pp_mlem.sklearn.Mixture",
    "pp_mlem.sklearn.HMM",
}  # classes of the user's

# --- look ---
html_theme = "furo"
html_title = "pp_mlem"
html_static_path = ["_static"]
html_css_files = ["pp_mlem.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#33608c", "color-brand-content": "#33608c"},
    "dark_css_variables": {"color-brand-primary": "#8fb8de", "color-brand-content": "#8fb8de"},
}

# --- formulas: MathJax from an installed package, copied beside the pages ---
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"chtml": {"scale": 0.95}, "options": {"enableMenu": False}}


def copy_mathjax(app, error):
    """MathJax and its fonts, so that formulas need no network."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if error or app.builder.format != "html":
        return
    here = Path(package.origin).parent / "static" / "mathjax"
    there = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output", "chtml", "fonts", "woff-v2")
    (there / fonts).mkdir(parents=True, exist_ok=True)
    shutil.copy(here / "tex-chtml.js", there)
    shutil.copytree(here / fonts, there / fonts, dirs_exist_ok=True)


def copy_outside(app):
    """Pages that lie elsewhere in the repository."""
    folder = HERE / "notebooks"
    folder.mkdir(exist_ok=True)
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        shutil.copy2(notebook, folder)


def signature_of_init(app, what, name, obj, options, signature, result):
    """A class that chooses among its kinds in __new__ is called as its __init__ says; one that only functions
    make shows no call."""
    if what == "class" and name not in CALLED:
        return "", None
    if what == "class" and "__new__" in vars(obj):
        own = inspect.signature(obj.__init__)
        parameters = [p.replace(annotation=p.empty) for p in list(own.parameters.values())[1:]]
        return str(own.replace(parameters=parameters, return_annotation=own.empty)), result
    return None


def without_empty_types(app, domain, objtype, content):
    """No field for what a class returns, nor where a type says nothing."""
    for field in list(content.findall(nodes.field)):
        name, body = field.children[0].astext(), field.children[1].astext()
        if name == "rtype" and (objtype == "class" or body.rpartition(".")[2] in ("None", "Any")):
            fields = field.parent
            fields.remove(field)
            if not fields.children:
                fields.parent.remove(fields)


def setup(app):
    app.connect("builder-inited", copy_outside)
    app.connect("autodoc-process-signature", signature_of_init)
    app.connect("object-description-transform", without_empty_types, priority=900)
    app.connect("build-finished", copy_mathjax)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
