"""Forked helpers of the daemon: each does one thing that may block or hang, and tells of it through a pipe.

The daemon itself stays a single thread that never waits, so that forking it is sound. A worker is a copy of it at that
moment: it shares no connection, no lock and no signal handler with it, and ends without the daemon's clean-up. One that is
killed leaves what any killed dispatcher leaves, which reconcile mends; one whose daemon is killed goes on to its end.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from dispatchctl.errors import Terminated

Tell = Callable[[dict[str, Any]], None]
"""How a worker tells the daemon something: an object that JSON can hold."""

LONGEST_WORD = 1 << 20
"""Bytes of one telling; what is longer is dropped, since nobody may fill the daemon's memory."""


class Worker:
    """A forked process, its pipe, and how it ended once it has."""

    def __init__(self, name: str, pid: int, pipe: int) -> None:
        self.name = name
        self.pid = pid
        self.pipe = pipe
        self.began = time.monotonic()
        self.status: int | None = None
        self._said = b""

    @property
    def age(self) -> float:
        """Seconds since it was forked."""
        return time.monotonic() - self.began

    def heard(self) -> list[dict[str, Any]]:
        """What it has told since it was last asked; never waits."""
        while True:
            try:
                piece = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                break
            self._said += piece
        *lines, self._said = self._said.split(b"\n")
        if len(self._said) > LONGEST_WORD:
            self._said = b""
        return [json.loads(line) for line in lines if line]

    def has_ended(self) -> bool:
        """Whether it is gone; its exit status is then in `status`, negative for a signal. Never waits."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return False
            self.status = os.waitstatus_to_exitcode(status)
        return True

    def signal(self, number: int) -> None:
        """Send it a signal, unless it is gone; it is our own child and not reaped yet, so its pid is its own."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def close(self) -> None:
        """Forget the pipe."""
        os.close(self.pipe)


def fork(name: str, work: Callable[[Tell], None], *, dropping: Iterable[int] = ()) -> Worker:
    """Have a copy of this process do `work`, without the descriptors `dropping`.

    SIGTERM and SIGINT raise `Terminated` in it. Its exit status is 0, or 1 after an exception, which it shows on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass  # nobody reads it any more, or its disk is full: the daemon goes on
    reading, writing = os.pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    try:
        pid = os.fork()
        if pid == 0:
            _become(work, reading, writing, dropping)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    os.close(writing)
    os.set_blocking(reading, False)
    return Worker(name, pid, reading)


def _become(work: Callable[[Tell], None], reading: int, writing: int, dropping: Iterable[int]) -> None:
    """In the copy: do the work and end, whatever happens. Its signals are blocked until it can hear them."""
    code = 1
    try:
        os.setpgid(0, 0)  # a Ctrl-C is the daemon's to hear, which tells its workers
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _terminate)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the daemon's word for reading settings again
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (reading, *dropping):
            os.close(descriptor)  # not unlocked: that would unlock it for the daemon too
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

        def tell(word: dict[str, Any]) -> None:
            try:
                _write(writing, json.dumps(word).encode() + b"\n")
            except BrokenPipeError:
                pass  # the daemon is gone

        work(tell)
        code = 0
    except Terminated:
        code = 0  # what it had begun is undone
    except BaseException:  # noqa: BLE001 - nothing of the daemon that forked us may be unwound here
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
