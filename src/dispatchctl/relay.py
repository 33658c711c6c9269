"""The launcher's loop: an agent on a terminal of its own inside the pane's, and what may end it.

Everything the agent writes goes to the pane and, bounded in size, to a file; everything typed into the pane goes to the
agent; a change of the window's size and the user's Ctrl-C reach it as they would without us. The loop never blocks on the
pane, so a tmux server that stands still cannot keep an agent's end from being seen.

Imported before the agent starts: no import here that is not needed for that.
"""

import errno
import fcntl
import os
import select
import signal
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

CHUNK = 65_536
FULL = 4 * CHUNK
"""When this much waits for the pane, the agent's output is no longer read, as a slow terminal would do."""


LONGEST_POLL = 3_600.0
"""Seconds; poll(2) takes no more milliseconds than an int holds."""


class Log:
    """A file of what the agent wrote last, and before it `PATH.1`: together at most `limit` bytes, without a gap."""

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self.half = limit // 2
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self.file).st_size

    def write(self, data: bytes) -> None:
        """Append; a full disk loses output, never the agent."""
        while data:
            try:
                if self.size >= self.half:
                    self._turn_over()
                written = os.write(self.file, data[: self.half - self.size])
            except OSError:
                return
            self.size += written
            data = data[written:]

    def _turn_over(self) -> None:
        try:
            os.rename(self.path, self.path + ".1")
        except FileNotFoundError:
            pass  # it was renamed before, and then no new file could be opened
        full, self.file = self.file, os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.close(full)
        self.size = 0


class Relay:
    """Runs until the agent has ended; then `status` is its wait status, `cause` and `asked` say why it ended."""

    def __init__(
        self, agent: int, terminal: int, control: int, log: Log, *, kill_grace: float, time_limit: float
    ) -> None:
        self.agent = agent
        self.terminal = terminal
        self.control = control
        self.log = log
        self.kill_grace = kill_grace
        self.time_limit = time.monotonic() + time_limit if time_limit else None
        self.status: int | None = None
        self.cause = "by_itself"
        self.asked: str | None = None
        self.failure: int | None = None
        self._end_at: float | None = None
        self._kill_at: float | None = None
        self._to_pane = b""
        self._to_agent = b""
        self._pane_lives = True
        self._signals, wake = os.pipe()
        for descriptor in (self._signals, wake, terminal):
            os.set_blocking(descriptor, False)
        self._saved = raw_terminal(0)
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)  # before the handlers, so that no signal goes unheard
        for number in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        """Relay until the agent is gone and what it wrote has been read."""
        self._reap()
        while self.status is None:
            for descriptor, event in self._poll():
                self._attend(descriptor, event)
            self._keep_time()
            self._reap()
        self._drain()

    def give_up(self) -> None:
        """End the agent at once and wait for it: what is left to do when `run` itself has failed."""
        self.cause = "terminated"
        while self.status is None:
            self._signal_agent(signal.SIGKILL)
            os.kill(self.agent, signal.SIGKILL)  # before the gate was opened it has no group of its own
            self._reap()
            time.sleep(0.02)

    def close(self) -> None:
        """Give the pane's terminal back as it was."""
        for descriptor in (0, 1):
            os.set_blocking(descriptor, True)
        if self._saved is not None:
            try:
                termios.tcsetattr(0, termios.TCSANOW, self._saved)
            except termios.error:
                pass

    def _poll(self) -> "list[tuple[int, int]]":
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        if self.terminal >= 0:
            wanted = select.POLLIN if len(self._to_pane) < FULL else 0
            poll.register(self.terminal, wanted | (select.POLLOUT if self._to_agent else 0))
        if self._pane_lives:
            if len(self._to_agent) < FULL:
                poll.register(0, select.POLLIN)
            if self._to_pane:
                poll.register(1, select.POLLOUT)
        limits = [at for at in (self._end_at, self._kill_at, self.time_limit) if at is not None]
        timeout = None if not limits else max(0, min(min(limits) - time.monotonic(), LONGEST_POLL)) * 1000 + 1
        return poll.poll(timeout)

    def _attend(self, descriptor: int, event: int) -> None:
        if descriptor == self._signals:
            for number in _read(self._signals) or b"":
                self._signalled(number)
        elif descriptor == self.control:
            for line in (_read(self.control) or b"").decode("ascii", "replace").splitlines():
                self._told(line)
        elif descriptor == self.terminal:
            if event & select.POLLOUT:
                self._to_agent = self._to_agent[_write(self.terminal, self._to_agent) :]
            if event & ~select.POLLOUT:
                self._hear()
        elif descriptor == 0:
            typed = _read(0)
            if typed is None or event & (select.POLLHUP | select.POLLERR):
                self._hang_up()
            self._to_agent += typed or b""
        elif descriptor == 1:
            self._to_pane = self._to_pane[_write(1, self._to_pane) :]

    def _hear(self) -> bool:
        """Read what the agent wrote, if there is anything; a terminal that nobody has open any more is closed."""
        said = _read(self.terminal)
        if said is None:
            os.close(self.terminal)
            self.terminal = -1
        elif said:
            self.log.write(said)
            if self._pane_lives:
                self._to_pane += said
        return bool(said)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGWINCH:
            copy_size(0, self.terminal)
        elif number == signal.SIGHUP:
            self._hang_up()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._end("terminated", signal.SIGTERM)

    def _hang_up(self) -> None:
        """The pane is gone: its window was closed, or its server died."""
        self._pane_lives = False
        self._end("hangup", signal.SIGHUP)

    def _told(self, line: str) -> None:
        """A line of the control pipe: `end WHY` ends the agent now, `report SECONDS` when that long has passed.

        Anything else is passed over.
        """
        word, _, rest = line.partition(" ")
        if word == "end":
            self.asked = self.asked or rest
            self._end("asked", signal.SIGTERM)
        elif word == "report" and self._end_at is None and rest.isdecimal():
            self.asked = self.asked or "report"
            self._end_at = time.monotonic() + int(rest)

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self.time_limit is not None and now >= self.time_limit:
            self.time_limit = None
            self.asked = self.asked or "timeout"
            self._end("asked", signal.SIGTERM)
        if self._end_at is not None and now >= self._end_at:
            self._end_at = None
            self._end("asked", signal.SIGTERM)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + 1.0
            self._signal_agent(signal.SIGKILL)

    def _end(self, cause: str, number: int) -> None:
        """Ask the agent to end; after the grace it is killed. The first cause stands."""
        if self._kill_at is None:
            self.cause = cause
            self._kill_at = time.monotonic() + self.kill_grace
        self._signal_agent(number)
        if number != signal.SIGTERM:
            self._signal_agent(signal.SIGTERM)
        self._signal_agent(signal.SIGCONT)

    def _signal_agent(self, number: int) -> None:
        """Signal the agent's process group, which is not reaped yet, and the foreground group of its terminal."""
        groups = {self.agent}
        if self.terminal >= 0:
            try:
                groups.add(os.tcgetpgrp(self.terminal))
            except OSError:
                pass
        for group in groups - {0}:  # 0, our own group, is the answer where a terminal has no group in its foreground
            try:
                os.killpg(group, number)
            except (ProcessLookupError, PermissionError):
                pass

    def _reap(self) -> None:
        """Collect the agent's status, and those of processes that it left behind and that fell to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.agent:
                self.status = status

    def _drain(self) -> None:
        """Read what is left, and give the pane a second to take it."""
        deadline = time.monotonic() + 1.0
        while self.terminal >= 0 and self._hear() and time.monotonic() < deadline:
            pass
        deadline = time.monotonic() + 1.0
        while self._to_pane and self._pane_lives and time.monotonic() < deadline:
            if select.select([], [1], [], 0.05)[1]:
                written = _write(1, self._to_pane)
                self._to_pane = self._to_pane[written:]


def raw_terminal(descriptor: int) -> "list[int | list[bytes | int]] | None":
    """Pass every byte through untouched; the settings before, or None if this is no terminal. See cfmakeraw(3)."""
    try:
        saved = termios.tcgetattr(descriptor)
    except termios.error:
        return None
    raw = list(saved)
    raw[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[1] &= ~termios.OPOST
    raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    termios.tcsetattr(descriptor, termios.TCSANOW, raw)
    return saved


def copy_modes(source: int, target: int) -> None:
    """Give one terminal the settings of the other, such as tmux's erase key and its understanding of UTF-8."""
    try:
        termios.tcsetattr(target, termios.TCSANOW, termios.tcgetattr(source))
    except termios.error:
        pass  # the source is no terminal


def copy_size(source: int, target: int) -> None:
    """Give one terminal the size of the other; the kernel tells the programs on it."""
    try:
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(source, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        pass


def _read(descriptor: int) -> bytes | None:
    """What is there; empty if nothing yet, None at the end."""
    try:
        return os.read(descriptor, CHUNK) or None
    except BlockingIOError:
        return b""
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise


def _write(descriptor: int, data: bytes) -> int:
    """How much of it was taken; all of it where nobody will ever read."""
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)
