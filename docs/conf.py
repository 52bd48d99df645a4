"""How the documentation is built: `make docs`. Nothing in it asks the network for anything, neither now nor when it is read."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]  # The generators are beside the tests that read what they make.

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.util.docutils import SphinxDirective  # noqa: E402

from nccid_fetch import __version__  # noqa: E402
from tests import reference  # noqa: E402

project = "nccid-fetch"
author = "The nccid-fetch developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["man"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
default_role = "code"  # As docstrings mean a single backtick.
smartquotes = False  # An option begins with two hyphens.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"nccid-fetch {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False  # The licence says it.
html_static_path = ["static"]
html_css_files = ["site.css"]


class Generated(SphinxDirective):
    """Text that is made from the code while the documentation is built: `{generated} NAME`, a function of `tests.reference`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what the generator's Markdown says."""
        text = getattr(reference, self.arguments[0])()
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx what is ours."""
    from pygments.lexers import BashLexer  # noqa: PLC0415

    app.add_directive("generated", Generated)
    app.add_lexer("crontab", BashLexer)
    return {"parallel_read_safe": True}
