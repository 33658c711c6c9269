"""The queue before every write: two file locks in a row.

SQLite's own waiting is unfair: of eight writers one starves for over a second. Take `next`, take `gate`, let `next` go: then
whoever comes back from a write stands behind those who wait. It also keeps the writes and checkpoints of our processes
apart, which matters for the WAL-reset bug of SQLite 3.7.0 to 3.51.2. The kernel frees both locks when their holder dies.

Imported by the launcher before the agent starts: no import here that is not needed for that.
"""

import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import FileIO

    from dispatchctl.errors import Busy


MOMENT_S = 1.0
"""Seconds: who waits no longer than this asks again and again, each ASK_EVERY_S, instead of waiting in the kernel."""
ASK_EVERY_S = 0.005


class Turnstile:
    """One process's way through the queue before the database at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._next: FileIO | None = None
        self._gate: FileIO | None = None

    def enter(self, timeout: float) -> None:
        """Wait for our turn, at most `timeout` seconds. Raises `Busy`, which names who is in the way, and `OSError`."""
        self.leave()
        deadline = time.monotonic() + timeout
        # Both are known to `leave` before they are locked, so that no interruption can leave one locked for good.
        self._gate = gate = _opened(f"{self._path}-gate")
        self._next = following = _opened(f"{self._path}-next")
        try:
            for file in (following, gate):
                if not _locked_before(file.fileno(), deadline):
                    raise _held(self._path, following, gate, timeout)
                os.pwrite(file.fileno(), b"%-10d\n" % os.getpid(), 0)
            _let_go(following)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Let the next one in; does nothing if we are not inside. To be called again after an interruption."""
        for file in (self._next, self._gate):
            if file is not None:
                _let_go(file)
        self._next = self._gate = None


def _let_go(file: "FileIO") -> None:
    """Unlock, and close. Closing alone would not do: a process that was forked meanwhile has a copy of the descriptor."""
    if not file.closed:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
        file.close()


def _opened(path: str) -> "FileIO":
    return open(path, "rb+", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o600))


def _locked_before(descriptor: int, deadline: float) -> bool:
    """Lock the file, waiting in the kernel; False when the deadline (monotonic seconds) passes first.

    flock has no time limit, so the wait happens in a thread, which lets go if it gets the lock too late. The descriptor is
    duplicated for it: a duplicate shares the lock, and the kernel drops it when the last one is closed. Whoever waits only a
    moment asks again and again instead: a daemon does so at every turn, and must not gather threads that wait for ever.
    """
    if _locked_at_once(descriptor):
        return True
    if deadline - time.monotonic() <= MOMENT_S:
        while not _locked_at_once(descriptor):
            if time.monotonic() >= deadline:
                return False
            time.sleep(ASK_EVERY_S)
        return True
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


def _locked_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: str, following: "FileIO", gate: "FileIO", waited: float) -> "Busy":
    """Name the process in the way: who holds the gate or, where that is free, who is next and does not go through."""
    from dispatchctl.errors import Busy

    blocking = following if _locked_at_once(gate.fileno()) else gate
    holder = os.pread(blocking.fileno(), 20, 0).strip().decode("ascii", "replace")
    if not holder.isdigit():
        return Busy(f"the database {path} has been held by another process for {waited:g} s", "ps -eo pid,stat,args")
    return Busy(
        f"the database {path} has been held by process {holder} for {waited:g} s", f"ps -o pid,stat,args -p {holder}"
    )
