"""Texts that are kept as files."""

from pathlib import Path

import pytest

from . import snapshots


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of snapshots of its own, and no leave to rewrite it."""
    folder = tmp_path / "tests" / "snapshots"
    monkeypatch.setattr(snapshots, "FOLDER", folder)
    monkeypatch.delenv("UPDATE_SNAPSHOTS", raising=False)
    return folder


def test_a_text_that_was_never_kept_fails() -> None:
    with pytest.raises(AssertionError, match="UPDATE_SNAPSHOTS=1"):
        snapshots.check("help/all", "text")


def test_a_text_is_kept_when_asked_for_and_then_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as updating:
        updating.setenv("UPDATE_SNAPSHOTS", "1")
        snapshots.check("help/all", "text\n")
    snapshots.check("help/all", "text\n")
    assert snapshots.names("help") == {"help/all"}
    with pytest.raises(AssertionError, match="out of date"):
        snapshots.check("help/all", "another text\n")
