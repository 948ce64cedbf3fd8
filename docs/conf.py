"""How Sphinx makes the site: `make docs`, into build/docs. Nothing is fetched, by the build or by a reader."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

project = "Mutual Forcing"
extensions = ["myst_parser"]
exclude_patterns = ["records/**"]
source_suffix = {".md": "markdown"}

# Links to headings, as GitHub makes them; a missing page or heading is a warning, and `make docs` takes warnings for errors.
myst_heading_anchors = 4
nitpicky = True
smartquotes = False  # it would make a dash of `--set`

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # it would be fetched, which a page opened from a disk may not do
html_theme_options = {"navigation_with_keys": True}
highlight_language = "text"


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what is generated in its place."""
    from reference_pages import MARKER, filled

    if MARKER.search(source[0]):
        source[0] = filled(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
