"""The command line, run in this process."""

import sys

import pytest

from nccid_fetch.cli.main import main


def exit_code_of(*arguments: object) -> int:
    """Run `nccid-fetch` with these arguments, and return what it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nccid-fetch", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)
