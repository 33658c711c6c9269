"""The door to the service manager: what a daemon tells systemd of itself, through the socket of sd_notify(3).

One datagram for each message. Where nobody listens nothing happens. Nothing here blocks or raises, since a daemon must not
stand still or end because of whoever watches it: a message that the socket has no room for is kept and sent before the next
one, the newest of each kind, and one for a listener that is gone is dropped.

systemd takes these from the main process alone (`NotifyAccess=main`); children are not given the socket's name.
"""

import socket
import time
from collections.abc import Callable

LONGEST_STATUS = 500
"""Characters of a status; `systemctl status` shows one line of it."""


class Supervisor:
    """Whoever started this process and wants to hear from it; `watchdog_usec` is how long it bears silence.

    `clock` gives seconds that only grow, those of CLOCK_MONOTONIC, which systemd compares with its own.
    """

    def __init__(
        self, socket: str | None, watchdog_usec: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = _address(socket) if socket else None
        self._interval = (watchdog_usec or 0) / 1e6
        self._clock = clock
        self._unsent: dict[str, str] = {}
        self._status = ""
        self._pinged: float | None = None

    def ready(self) -> None:
        """The daemon has started, or has read its settings again."""
        self._tell("state", "READY=1")

    def status(self, text: str) -> None:
        """One line for a person; nothing is sent while it stays the same."""
        line = " ".join(text.split())[:LONGEST_STATUS]
        if line != self._status:
            self._status = line
            self._tell("status", f"STATUS={line}")

    def reloading(self) -> None:
        """The settings are being read again; `ready` has to follow."""
        self._tell("state", f"RELOADING=1\nMONOTONIC_USEC={int(self._clock() * 1e6)}")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._tell("state", "STOPPING=1")

    def ping(self) -> None:
        """The loop goes round. To be called by the loop itself, as often as it likes: sent each third of the interval."""
        at = self._clock()
        if self._interval and (self._pinged is None or at - self._pinged >= self._interval / 3):
            self._pinged = at
            self._tell("watchdog", "WATCHDOG=1")
        elif self._unsent:
            self._flush()

    def _tell(self, kind: str, message: str) -> None:
        """Send it with what is still to be sent, in the place of an older one of its kind that was not."""
        if self._address is not None:
            self._unsent[kind] = message
            self._flush()

    def _flush(self) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                while self._unsent:
                    kind = next(iter(self._unsent))
                    channel.sendto(self._unsent[kind].encode("utf-8", "replace"), self._address)
                    del self._unsent[kind]
        except BlockingIOError:
            pass  # the listener is slow: at the next call
        except OSError:
            self._unsent.clear()


def _address(name: str) -> str | None:
    """A path, or `@NAME` for a socket in the abstract namespace; None for what is neither (`vsock:`, of virtual machines)."""
    if name.startswith("@"):
        return f"\0{name[1:]}"
    return name if name.startswith("/") else None
