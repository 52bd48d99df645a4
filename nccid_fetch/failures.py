"""The journal's table `failure`: the objects that did not arrive when a run last looked at them.

A run deletes the row of an object that has arrived or is in place, replaces the row of one that fails again, and deletes
the row of one that a whole listing of its part no longer has. It leaves every other row: a run with `--include`, `--plan`
or `--max-patients` looks at some objects of a part, and says nothing about the rest.
"""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from .errors import Reason
from .sqlitefile import text_of

UNLISTED = "CREATE TEMP TABLE unlisted (key TEXT PRIMARY KEY) WITHOUT ROWID"
"""The rows that no listing of this run has shown yet."""


class Failures:
    """Reads and writes the table. `begin`, `note` and `forget` are called within a transaction of the journal's.

    Attributes:
        any: Whether the table may have rows. Where it has none, pages and batches need not ask it.

    Args:
        connection: The journal's.
        transaction: Opens a transaction of the journal's.
    """

    def __init__(self, connection: sqlite3.Connection, transaction: Callable[[], AbstractContextManager[None]]) -> None:
        self._connection = connection
        self._transaction = transaction
        self.any = True

    def begin(self, prefixes: Iterable[str]) -> None:
        """Remember which rows of these parts no listing has shown yet. They are kept in a temporary table.

        Args:
            prefixes: The parts that the run lists, each ending in a slash.
        """
        execute = self._connection.execute
        (found,) = execute("SELECT EXISTS (SELECT 1 FROM failure WHERE key > '')").fetchone()
        self.any = bool(found)
        execute("DROP TABLE IF EXISTS temp.unlisted")
        execute(UNLISTED)
        for prefix in prefixes:
            execute(
                "INSERT OR IGNORE INTO temp.unlisted SELECT key FROM failure WHERE key >= ? AND key < ?", _range(prefix)
            )

    def note(self, failed: Iterable[tuple[str, Reason, str]]) -> None:
        """Write the rows of objects that failed: key, reason, message."""
        rows = [(text_of(key), str(reason), text_of(message)) for key, reason, message in failed]
        if rows:
            self.any = True
            self._connection.executemany("INSERT OR REPLACE INTO failure VALUES (?, ?, ?)", rows)

    def forget(self, keys: Iterable[str]) -> None:
        """Delete the rows of objects that have arrived or are in place."""
        if self.any:
            self._connection.executemany("DELETE FROM failure WHERE key = ?", [(text_of(key),) for key in keys])

    def look_again(self, listed: Iterable[str], in_place: Iterable[str]) -> None:
        """Take note of a page of a listing, and delete the rows of objects that are in place.

        Args:
            listed: All of the page's keys.
            in_place: Those of them that are in place.
        """
        with self._transaction():
            keys = [(text_of(key),) for key in listed]
            self._connection.executemany("DELETE FROM temp.unlisted WHERE key = ?", keys)
            self.forget(in_place)

    def forget_unlisted(self, prefix: str) -> None:
        """Delete the rows of a part that its listing, which was whole, has not shown.

        Args:
            prefix: The part's, ending in a slash.
        """
        unlisted = "SELECT key FROM temp.unlisted WHERE key >= ? AND key < ?"
        with self._transaction():
            self._connection.execute(f"DELETE FROM failure WHERE key IN ({unlisted})", _range(prefix))  # noqa: S608


def _range(prefix: str) -> tuple[str, str]:
    return prefix, prefix[:-1] + "0"  # The character that follows the slash.
