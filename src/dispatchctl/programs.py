"""The door to programs that run beside the daemon's loop: started, heard, and ended in time, and never waited for.

The loop is a single thread, so that forking it is sound. Each program gets a session and process group of its own, what it is
given as a file (nobody has to go on writing to it, and one that does not read it harms nobody), and none of the daemon's
descriptors: a notifier that outlives the daemon must not hold its locks. Its stdout goes nowhere; of its stderr the last
words are kept.
"""

import fcntl
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from dispatchctl import processes
from dispatchctl.errors import DispatchctlError, Terminated

GRACE_S = 3.0
"""Seconds between TERM and KILL."""

KEPT = 2 << 10
"""Bytes of its last words."""

PIECES = 16
"""How often one look reads from it: whoever writes without end must not hold up the loop."""


class Aside:
    """A program that runs beside us. Whatever else is in its process group when it ends in time is left alone: it may have
    begun something on purpose; past the time limit all of it is ended."""

    def __init__(self, pid: int, pipe: int, timeout: float) -> None:
        self.pid = pid
        self.code: int | None = None
        self.timed_out = False
        self._pipe = pipe
        self._said = b""
        self._deadline = time.monotonic() + timeout
        self._kill_at: float | None = None

    @property
    def last_words(self) -> str:
        """What it said last, in one line."""
        return " ".join(self._said.decode("utf-8", "replace").split())

    def has_ended(self) -> bool:
        """Whether it has, its exit code then in `code` (negative: a signal); to be asked often, which never waits."""
        if self.code is not None:
            return True
        self._hear()
        at = time.monotonic()
        if self._kill_at is None and at >= self._deadline:
            self.timed_out = True
            self.end()
        if self._kill_at is not None:  # as long as it is not waited for, its pid names this group and no other
            if at < self._kill_at and processes.group_lives(self.pid):
                return False
            self._signal(signal.SIGKILL)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        self._hear()
        os.close(self._pipe)
        self.code = os.waitstatus_to_exitcode(status)
        return True

    def end(self) -> None:
        """Ask it and its whole group to end, as the time limit does; nothing happens the second time."""
        if self.code is None and self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE_S
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and its whole group now."""
        if self.code is None:
            self._kill_at = time.monotonic()
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # nothing is left of it but its zombie (which macOS does not let us signal)

    def _hear(self) -> None:
        try:
            for _ in range(PIECES):
                piece = os.read(self._pipe, 1 << 16)
                if not piece:
                    return
                self._said = (self._said + piece)[-KEPT:]
        except BlockingIOError:
            pass  # it says nothing now


def start(argv: Sequence[str], *, env: Mapping[str, str], given: bytes, timeout: float) -> Aside:
    """Start a program, found on the PATH of `env`, with `given` as its standard input.

    One that cannot be started ends with 127 and says why. Raises `OSError` if there is no memory or no process to be had.
    """

    def become() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            os.execvpe(argv[0], list(argv), dict(env))
        except OSError as error:
            _say(f"{argv[0]}: {error.strerror}")
            os._exit(127)

    return fork(become, given=given, timeout=timeout)


def fork(work: Callable[[], None], *, timeout: float, given: bytes = b"") -> Aside:
    """Have a copy of this process do `work`, which must not touch the database. Its errors are its last words."""
    everything = signal.valid_signals()
    source = _file(given)
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    try:
        pid = os.fork()
        if pid == 0:
            _become(work, source, writing, timeout)
    except BaseException:
        os.close(reading)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(source)
        os.close(writing)
    os.set_blocking(reading, False)
    return Aside(pid, reading, timeout)


def _become(work: Callable[[], None], source: int, writing: int, timeout: float) -> None:
    """In the copy: do the work and end, whatever happens. Its signals are blocked until it can hear them.

    The alarm, which survives `exec`, ends it if it hangs and the daemon that would have ended it is gone.
    """
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, _terminate)
        os.dup2(source, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writing, 2)
        limit = os.sysconf("SC_OPEN_MAX")
        os.closerange(3, limit if limit > 0 else 1 << 16)
        signal.alarm(int(timeout + GRACE_S) + 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir("/")
        work()
        code = 0
    except (DispatchctlError, OSError, Terminated) as error:
        _say(str(error))
    except BaseException as error:  # noqa: BLE001 - nothing of the daemon that forked us may be unwound here
        _say(traceback.format_exception_only(error)[-1])
    finally:
        os._exit(code)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def _say(text: str) -> None:
    os.write(2, text.encode("utf-8", "replace")[-KEPT:])


def _file(data: bytes) -> int:
    """A file without a name that holds the data, open at its beginning; in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("given")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
