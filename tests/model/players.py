"""Processes of ours as threads, of which one at a time runs, from one point to the next."""

import threading
from collections.abc import Callable

from dispatchctl.errors import DispatchctlError
from dispatchctl.processes import Lock

_playing = threading.local()


class Killed(BaseException):
    """The process is dead: nothing that it would still do is done, since every effect has a point before it."""


class Player:
    """A process of ours: what it does, up to where it stands, and what dies with it."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.at = "beginning"
        self.over = False
        self.doomed = False
        self.masked = 0
        self.planted: BaseException | None = None
        self.said: Exception | None = None
        self.bug: BaseException | None = None
        self.locks: list[Lock] = []
        self.silent: set[str] = set()
        self.held: set[str] = set()
        self._work = work
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        threading.Thread(target=self._play, daemon=True).start()

    def step(self) -> None:
        """Let it go on to its next point. Raises what no process of ours should end with."""
        if self.over:
            return
        self._go.release()
        self._back.acquire()
        if self.bug is not None:
            raise self.bug

    def kill(self) -> None:
        """SIGKILL: it does nothing any more, and its locks are free."""
        self.doomed = True
        while not self.over:
            self.step()

    def stand(self, point: str) -> None:
        """Called by its own thread: stand still here until it is stepped."""
        if self.doomed:
            raise Killed
        self.at = point
        self._back.release()
        self._go.acquire()
        if self.doomed:
            raise Killed
        planted = self.planted
        if planted is not None and not (self.masked and isinstance(planted, KeyboardInterrupt)):
            self.planted = None
            raise planted

    def _play(self) -> None:
        self._go.acquire()
        _playing.player = self
        try:
            if not self.doomed:
                self._work()
        except Killed:
            pass
        except (DispatchctlError, OSError) as error:
            self.said = error
        except KeyboardInterrupt:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where the player is stepped
            self.bug = error
        finally:
            for lock in self.locks:
                lock.release()
            self.over = True
            self._back.release()


def playing() -> Player | None:
    """The player whose thread this is; None in the test's own."""
    return getattr(_playing, "player", None)


def stand(point: str) -> None:
    """A point: whoever plays stands still here."""
    player = playing()
    if player is not None:
        player.stand(point)
