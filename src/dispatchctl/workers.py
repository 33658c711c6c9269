"""Helpers of the daemon: each does one thing that may block or hang, and tells of it through a pipe.

They are forked, since that costs a few milliseconds where a new Python costs a hundred, but not by the daemon: SQLite's state
of a database must not be carried across a fork, not even to open the database anew in the child, whose locks would then be
believed and not be there (sqlite.org/howtocorrupt.html, 2.6). So the daemon first forks a server that never opens a database,
and has that fork each worker. A worker has no connection, lock or signal handler of the daemon's. One that is killed leaves
what any killed dispatcher leaves, which reconcile mends; one whose daemon is killed goes on to its end.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from types import FrameType
from typing import Any, NoReturn

from dispatchctl import processes
from dispatchctl.errors import Terminated

Tell = Callable[[dict[str, Any]], None]
"""How a worker tells the daemon something: an object that JSON can hold."""
Work = Callable[[Tell], None]

LONGEST_WORD = 1 << 20
"""Bytes of one telling; what is longer is dropped, since nobody may fill the daemon's memory."""
WELL = "ended well"
REFUSED = b"!"
"""How the server's answer begins if the system lets it fork nothing; the error's number follows."""
ANSWER_S = 2.0
"""Seconds in which the server forks a worker, which takes milliseconds."""


class Worker:
    """A forked process, by the pipe through which it tells; the pipe's end is the worker's."""

    def __init__(self, name: str, process: processes.Process, pipe: int) -> None:
        self.name = name
        self.process = process
        self.pipe = pipe
        self.began = time.monotonic()
        self.has_ended = False
        self.ended_well = False
        self._said = b""
        self._skips = False

    @property
    def age(self) -> float:
        """Seconds since it was forked."""
        return time.monotonic() - self.began

    def heard(self) -> list[dict[str, Any]]:
        """What it has told since it was last asked, and whether it has ended; never waits."""
        while not self.has_ended:
            try:
                piece = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                break
            self.has_ended = not piece
            self._said += piece
        *lines, self._said = self._said.split(b"\n")
        if lines and self._skips:
            del lines[0]  # the end of a telling that was too long
            self._skips = False
        if len(self._said) > LONGEST_WORD:
            self._said, self._skips = b"", True
        words = [json.loads(line) for line in lines if line]
        self.ended_well = self.ended_well or any(WELL in word for word in words)
        return [word for word in words if WELL not in word]

    def signal(self, number: int) -> None:
        """Send it a signal, unless it is gone."""
        processes.send(self.process, number)

    def close(self) -> None:
        """Forget the pipe."""
        os.close(self.pipe)


class ServerGone(Exception):
    """The server was killed, or stands still; whoever notices makes another one."""


class ForkServer:
    """A copy of this process as it is now, which forks workers. `works` are what they can do, by name.

    To be made while this process has no database open. `dropping` are descriptors that are not the copy's business.
    """

    def __init__(self, works: Mapping[str, Work], *, dropping: Collection[int] = ()) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                pass  # nobody reads it any more, or its disk is full: the daemon goes on
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _serve(theirs, works, (self._channel.fileno(), *dropping))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self._channel.settimeout(ANSWER_S)

    @property
    def descriptor(self) -> int:
        """The channel to it."""
        return self._channel.fileno()

    def fork(self, name: str) -> Worker:
        """A new worker. Raises `ServerGone`, also for a server that does not answer: the daemon must not wait for it; and
        `OSError` if the system has no process for a worker now."""
        reading, writing = os.pipe()
        try:
            socket.send_fds(self._channel, [name.encode()], [writing])
            answer = self._channel.recv(64)
        except OSError as error:
            os.close(reading)
            raise ServerGone(str(error)) from error
        finally:
            os.close(writing)
        if not answer or answer.startswith(REFUSED):
            os.close(reading)
            if not answer:
                raise ServerGone("it has ended")
            number = int(answer.removeprefix(REFUSED))
            raise OSError(number, f"no worker can be started: {os.strerror(number)}")
        os.set_blocking(reading, False)
        pid, started = map(int, answer.split())
        return Worker(name, (pid, started), reading)

    def close(self) -> None:
        """End it; workers go on. Closed again, as when no other could be forked, it stays closed."""
        self._channel.close()
        if self._pid:
            os.kill(
                self._pid, signal.SIGKILL
            )  # our own child, not waited for yet; it holds nothing, and may stand still
            os.waitpid(self._pid, 0)
            self._pid = 0


def _serve(channel: socket.socket, works: Mapping[str, Work], dropping: Collection[int]) -> NoReturn:
    """In the copy: fork a worker for each name that comes, until the daemon is gone."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # they are the daemon's to hear
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets workers that have ended
        for descriptor in dropping:
            os.close(descriptor)  # not unlocked: that would unlock it for the daemon too
        while True:
            name, descriptors, _, _ = socket.recv_fds(channel, 256, 1)
            if not name:
                os._exit(0)
            try:
                pid = os.fork()
            except OSError as error:
                os.close(descriptors[0])
                channel.send(REFUSED + b"%d" % (error.errno or 0))
                continue
            if pid == 0:
                channel.close()
                _become(works[name.decode()], descriptors[0])
            os.close(descriptors[0])
            channel.send(b"%d %d" % (pid, processes.start_time(pid) or 0))
    except ConnectionError:
        pass  # the daemon is gone
    except BaseException:  # noqa: BLE001 - nothing of the daemon that forked us may be unwound here
        traceback.print_exc()
    finally:
        os._exit(1)


def _become(work: Work, writing: int) -> NoReturn:
    """In a copy of the copy: do the work and end, whatever happens. SIGTERM and SIGINT raise `Terminated` in it."""
    try:
        os.setpgid(0, 0)  # a Ctrl-C is the daemon's to hear, which tells its workers
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _terminate)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

        def tell(word: dict[str, Any]) -> None:
            try:
                _write(writing, json.dumps(word).encode() + b"\n")
            except BrokenPipeError:
                pass  # the daemon is gone

        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            work(tell)
        except Terminated:
            pass  # what it had begun is undone
        tell({WELL: True})
    except BaseException:  # noqa: BLE001 - nothing of the daemon that forked us may be unwound here
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(0)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
