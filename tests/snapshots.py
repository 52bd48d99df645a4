"""Texts that people see, kept as files: `tests/snapshots/NAME.txt`. `UPDATE_SNAPSHOTS=1` rewrites them; read the difference.

A text that depends on the day, the machine or a port is not one for here: give the test a clock, or replace what varies.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).with_name("snapshots")


def check(name: str, text: str) -> None:
    """Hold a text against the file that it was kept in.

    Args:
        name: The file below `tests/snapshots/`, without `.txt`: `help/all`.
        text: What the program shows now.

    Raises:
        AssertionError: They differ, or there is no such file yet.
    """
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else None
    assert text == kept, f"{path.relative_to(FOLDER.parent.parent)} is out of date: UPDATE_SNAPSHOTS=1 rewrites it"


def names(folder: str) -> set[str]:
    """Return the names of what is kept in a folder, so that a test can say which of it nothing shows any more."""
    return {f"{folder}/{path.stem}" for path in (FOLDER / folder).glob("*.txt")}
