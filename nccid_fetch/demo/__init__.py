"""A made-up warehouse on an embedded S3 server: to try the tool, to test it and to measure it, with nobody's data.

This module itself imports nothing that the extra brings; `synthetic` and `server` do.
"""

from importlib.util import find_spec

from nccid_fetch.errors import UsageError

_NEEDED = ("flask", "flask_cors", "moto", "pydicom")
"""Flask stands for the `[server]` of `moto[server]`."""


def require_extra() -> None:
    """Make sure that the optional packages are installed.

    Raises:
        UsageError: If one is missing; its hint says how to install them.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        raise UsageError("the demo needs its extra", hint="pip install 'nccid-fetch[demo]'")
