"""A terminal, and what a person sees of a command there."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from cli.desk import COMMAND, Desk
from world import World


class Terminal:
    """A command on a terminal of its own, as a person would have it."""

    running: ClassVar[list["Terminal"]] = []
    """Those that were not read to their end."""

    def __init__(
        self, world: World, *words: str, cwd: Path, columns: int = 80, command: Sequence[str] = COMMAND, **extra: str
    ) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        variables = {**world.variables, **extra}
        variables.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [*command, *words],
            env=variables,
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no test has threads
        )
        os.close(theirs)
        self.descriptor = ours
        self.seen = b""
        self.running.append(self)

    def read_until(self, text: str, *, within: float = 30.0) -> str:
        """Read until the text was seen; everything seen so far."""
        self._read(lambda: text.encode() in self.seen, within, text)
        return self.text

    def read_to_end(self, *, within: float = 60.0) -> str:
        """Read until the command has ended; everything it showed."""
        self._read(lambda: False, within, "its end")
        self.process.wait(within)
        self.close()
        return self.text

    def close(self) -> None:
        """End the command if it still runs."""
        self.running.remove(self)
        os.close(self.descriptor)
        self.process.kill()
        self.process.wait()

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.descriptor, text.encode())

    @property
    def text(self) -> str:
        """What was shown, with the line ends of a file."""
        return self.seen.decode("utf-8", "replace").replace("\r\n", "\n")

    def _read(self, enough: Any, within: float, what: str) -> None:
        deadline = time.monotonic() + within
        while not enough():
            assert time.monotonic() < deadline, (f"not within {within} s: {what}", self.text)
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    piece = os.read(self.descriptor, 65_536)
                except OSError:
                    piece = b""
                if not piece:
                    break
                self.seen += piece


def on_terminal(desk: Desk, *words: str, columns: int = 80, **extra: str) -> tuple[int, str]:
    """The exit code of a command on a terminal, and what it showed there."""
    terminal = Terminal(desk.world, *words, cwd=desk.repo, columns=columns, **extra)
    text = terminal.read_to_end()
    return terminal.process.returncode, text
