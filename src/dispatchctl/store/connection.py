"""One SQLite connection, with the turnstile before every write.

Whatever goes wrong comes out as an error of ours: `sqlite3` and `OSError` stay inside. An exception at any instruction, as
Ctrl-C raises one, leaves a write whole or undone and the connection usable.

Imported by the launcher before the agent starts: no import here that is not needed for that.
"""

import os
import sqlite3

from dispatchctl.store.turnstile import Turnstile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any

    from dispatchctl.errors import DispatchctlError

    Parameters = Mapping[str, Any] | tuple[Any, ...]

LEAVE_WITHIN = 1.0
"""Seconds that closing waits for its turn."""


class Database:
    """A connection in autocommit mode; `with database:` is one durable write transaction, and they do not nest.

    Reads outside a transaction see one statement's snapshot each. Not to be carried across a fork.
    """

    def __init__(self, path: str, *, create: bool = False, busy_timeout: float = 60.0) -> None:
        self.path = path
        self.busy_timeout = busy_timeout
        self._turnstile = Turnstile(path)
        try:
            if create:
                os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
                _create(path)
            self._connection = sqlite3.connect(_uri(path), uri=True, timeout=busy_timeout, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise self._explained(error) from error
        try:
            for pragma in ("foreign_keys=ON", "synchronous=FULL", "cell_size_check=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error as error:
            self._connection.close()
            raise self._explained(error) from error

    def close(self) -> None:
        """Close the connection, in turn if that comes soon: the last one to close a database checkpoints it."""
        try:
            self._turnstile.enter(min(self.busy_timeout, LEAVE_WITHIN))
        except Exception:  # noqa: BLE001 - a process that leaves must not fail because it could not queue
            pass
        try:
            self._connection.close()
        finally:
            self._turnstile.leave()

    def rows(self, sql: str, parameters: "Parameters" = ()) -> "list[Any]":
        """All rows of one statement."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def row(self, sql: str, parameters: "Parameters" = ()) -> "Any":
        """The first row of one statement, or None."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def mappings(self, sql: str, parameters: "Parameters" = ()) -> "list[dict[str, Any]]":
        """All rows of one statement, each with its columns by name."""
        try:
            cursor = self._connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def execute(self, sql: str, parameters: "Parameters" = ()) -> int:
        """Run one statement inside a transaction; the number of rows it changed."""
        assert self._connection.in_transaction, "a write outside a transaction"
        return self._run(sql, parameters)

    def reading(self) -> "Reading":
        """`with database.reading():` is one read transaction, whose statements all see the same moment."""
        return Reading(self)

    def last_id(self) -> int:
        """The rowid of the last insertion by this connection."""
        return int(self.row("SELECT last_insert_rowid()")[0])

    def use_write_ahead_log(self) -> None:
        """Switch the file to WAL, for everybody and for good. Waits its turn as a write does."""
        from dispatchctl.errors import Unavailable

        self._enter()
        try:
            mode = self.row("PRAGMA journal_mode=WAL")[0]
        finally:
            self._turnstile.leave()
        if mode != "wal":
            raise Unavailable(f"the file system of {self.path} allows no write-ahead log", "dispatchctl config")

    def __enter__(self) -> "Database":
        self._abandon()
        self._enter()
        try:
            self._run("BEGIN IMMEDIATE")
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        traceback: "TracebackType | None",
    ) -> None:
        try:
            if kind is None:
                self._run("COMMIT")
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Undo what is not committed and let the next one in; nothing to do after a commit.

        Called again before each transaction, since an interruption may have kept the last one from getting here.
        """
        if self._connection.in_transaction:
            self._run("ROLLBACK")
        self._turnstile.leave()

    def _enter(self) -> None:
        try:
            self._turnstile.enter(self.busy_timeout)
        except OSError as error:
            raise self._explained(error) from error

    def _run(self, sql: str, parameters: "Parameters" = ()) -> int:
        try:
            return self._connection.execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: "sqlite3.Error | OSError") -> "DispatchctlError":
        from dispatchctl.store.failures import explained

        return explained(error, self.path)


class Reading:
    """A read transaction; no writer waits for it. A class, since contextlib would cost the launcher's start."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database._abandon()
        self._database._run("BEGIN")

    def __exit__(self, *failure: object) -> None:
        self._database._abandon()


def _uri(path: str) -> str:
    """The path as an SQLite URI that opens what is there and makes nothing."""
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{'//' if path.startswith('/') else ''}{quoted}?mode=rw"


def _create(path: str) -> None:
    """Make the file, private to the user, if there is none.

    One that exists is not even opened: closing it would drop every lock that other connections of this process hold on it
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
