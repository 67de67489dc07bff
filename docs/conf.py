"""How Sphinx builds the documentation. `tox -e docs` does, and leaves it in `.tox/docs/tmp/html`."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

from gvcluster import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "gvcluster"
author = "the gvcluster developers"
copyright = "the gvcluster developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "house_docstrings"]
exclude_patterns = ["_ext"]
templates_path: list[str] = []

# Pages are also read on GitHub: plain CommonMark, links between files, anchors made of headings.
myst_heading_anchors = 4
highlight_language = "none"  # a fence says what it is; tests/docs sees to it

smartquotes = False  # "safe" is what one types

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Key", "Seeds", "Callback")}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["house.css"]
html_title = f"gvcluster {__version__}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

# What GitHub shows and these pages have not: the rest of the checkout. Its name is enough.
_OUT_OF_DOCS = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:tests|tools|gvcluster|[A-Z]+\.md)\b[^)]*\)")


def _adapt(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Leave out links that lead out of the documentation."""
    source[0] = _OUT_OF_DOCS.sub(r"\1", source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", _adapt)
