"""One SQLite connection, and the turnstile before every write.

SQLite's own waiting is unfair: of eight writers one starves for over a second. Two file locks in a row (take `next`, take
`gate`, let `next` go) make the waiting a queue, and keep writes and checkpoints of our processes apart, which matters for
the WAL-reset bug of SQLite 3.7.0 to 3.51.2. The kernel frees both when their holder dies.

Imported by the launcher before the agent starts: no import here that is not needed for that.
"""

import fcntl
import os
import sqlite3
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Any

    from dispatchctl.errors import DispatchctlError

    Parameters = Mapping[str, Any] | tuple[Any, ...]


class Database:
    """A connection in autocommit mode; `with database:` is one durable write transaction.

    Reads outside a transaction see one statement's snapshot each. Not to be carried across a fork.
    """

    def __init__(self, path: str, *, create: bool = False, busy_timeout: float = 60.0) -> None:
        self.path = path
        self.busy_timeout = busy_timeout
        self._gate: int | None = None
        try:
            if create:
                os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(
                f"file:{_quoted(path)}?mode=rw", uri=True, timeout=busy_timeout, isolation_level=None
            )
            for pragma in ("foreign_keys=ON", "synchronous=FULL", "cell_size_check=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
        except (sqlite3.Error, OSError) as error:
            raise explained(error, path) from error

    def close(self) -> None:
        """Close the connection, behind the turnstile: the last one to close a database checkpoints it."""
        try:
            self._enter_turnstile()
        except Exception:  # noqa: BLE001 - a process that leaves must not fail because it could not queue
            self._connection.close()
            return
        try:
            self._connection.close()
        finally:
            self._leave_turnstile()

    def rows(self, sql: str, parameters: "Parameters" = ()) -> "list[Any]":
        """All rows of one statement."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise explained(error, self.path) from error

    def row(self, sql: str, parameters: "Parameters" = ()) -> "Any":
        """The first row of one statement, or None."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def execute(self, sql: str, parameters: "Parameters" = ()) -> int:
        """Run one statement inside a transaction; the number of rows it changed."""
        assert self._gate is not None, "a write outside a transaction"
        try:
            return self._connection.execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            raise explained(error, self.path) from error

    def execute_many(self, sql: str, parameters: "Iterable[Parameters]") -> None:
        """Run one statement for each of the parameters, inside a transaction."""
        assert self._gate is not None, "a write outside a transaction"
        try:
            self._connection.executemany(sql, parameters)
        except sqlite3.Error as error:
            raise explained(error, self.path) from error

    def last_id(self) -> int:
        """The rowid of the last insertion by this connection."""
        return int(self.row("SELECT last_insert_rowid()")[0])

    def use_write_ahead_log(self) -> None:
        """Switch the file to WAL; it stays so for everybody. Waits in the turnstile as a write does."""
        self._enter_turnstile()
        try:
            self.rows("PRAGMA journal_mode=WAL")
        finally:
            self._leave_turnstile()

    def __enter__(self) -> "Database":
        self._enter_turnstile()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._leave_turnstile()
            if isinstance(error, sqlite3.Error):
                raise explained(error, self.path) from error
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
                self._connection.execute("COMMIT")
            elif self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as failure:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise explained(failure, self.path) from failure
        finally:
            self._leave_turnstile()

    def _enter_turnstile(self) -> None:
        assert self._gate is None, "a transaction inside a transaction"
        deadline = time.monotonic() + self.busy_timeout
        following = gate = -1
        try:
            following = os.open(f"{self.path}-next", os.O_RDWR | os.O_CREAT, 0o600)
            gate = os.open(f"{self.path}-gate", os.O_RDWR | os.O_CREAT, 0o600)
            if not (_locked_before(following, deadline) and _locked_before(gate, deadline)):
                raise _held(gate, self.path, self.busy_timeout)
            os.ftruncate(gate, 0)
            os.pwrite(gate, b"%d\n" % os.getpid(), 0)
        except BaseException as error:
            if gate >= 0:
                os.close(gate)
            if isinstance(error, OSError):
                raise explained(error, self.path) from error
            raise
        finally:
            if following >= 0:
                os.close(following)
        self._gate = gate

    def _leave_turnstile(self) -> None:
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None


def _locked_before(descriptor: int, deadline: float) -> bool:
    """Lock the file, queueing in the kernel; False when the deadline (monotonic seconds) passes first.

    flock has no time limit, so the wait happens in a thread, which lets go if it gets the lock too late. The descriptor is
    duplicated for it: a duplicate shares the lock, and the kernel drops it when the last one is closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        pass
    import threading  # only in a queue: most writes never wait

    own = os.dup(descriptor)
    settled = threading.Lock()
    answer = threading.Event()
    given_up = False

    def wait() -> None:
        try:
            fcntl.flock(own, fcntl.LOCK_EX)
            with settled:
                if not given_up:
                    answer.set()
                    return
            fcntl.flock(own, fcntl.LOCK_UN)
        finally:
            os.close(own)

    threading.Thread(target=wait, daemon=True).start()
    try:
        answer.wait(max(0.0, deadline - time.monotonic()))
    finally:
        with settled:
            given_up = not answer.is_set()
    return not given_up


def _held(gate: int, path: str, waited: float) -> "DispatchctlError":
    from dispatchctl.errors import Busy

    holder = os.pread(gate, 20, 0).strip().decode("ascii", "replace") or "unknown"
    return Busy(
        f"the database {path} has been held by process {holder} for {waited:g} s", f"ps -o pid,stat,args {holder}"
    )


def _quoted(path: str) -> str:
    """The path as part of an SQLite URI."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def explained(error: "sqlite3.Error | OSError", path: str) -> "DispatchctlError":
    """What went wrong with the database at `path`, as a sentence with a hint."""
    from dispatchctl.errors import Busy, DispatchctlError, Unavailable

    text = str(error).lower()
    if isinstance(error, sqlite3.IntegrityError):
        return DispatchctlError(
            f"the database {path} refused a change that breaks its rules: {error}", "dispatchctl doctor"
        )
    if "locked" in text or "busy" in text:
        return Busy(f"the database {path} is locked by another program", f"fuser {path}")
    if isinstance(error, FileNotFoundError) or ("unable to open" in text and not os.path.exists(path)):
        return DispatchctlError(f"there is no database at {path}", "dispatchctl init")
    if "full" in text or getattr(error, "errno", None) == 28:
        return Unavailable(f"the disk that holds {path} is full; nothing was changed", f"df -h {os.path.dirname(path)}")
    if "readonly" in text or "read-only" in text or isinstance(error, PermissionError) or "unable to open" in text:
        return Unavailable(f"the database {path} cannot be written: {error}", f"ls -ld {os.path.dirname(path)} {path}")
    if "not a database" in text or "malformed" in text or "corrupt" in text:
        return Unavailable(
            f"the database {path} cannot be read: {error}", f"sqlite3 {path} .recover, or restore a copy of it"
        )
    return Unavailable(f"the database {path} cannot be used: {error}", "dispatchctl doctor")
