"""Reading the history for edges and telling them, a little at every turn of the daemon's loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dispatchctl import lookout
from dispatchctl.config.table import Notice
from dispatchctl.errors import DispatchctlError, NoSuchTask
from dispatchctl.notices import ways
from dispatchctl.notices.burst import Allowance, Waiting
from dispatchctl.notices.edges import Edge
from dispatchctl.notices.message import TEST, Message, words_of
from dispatchctl.notices.reading import TOLD, Reader
from dispatchctl.notices.ways import Way
from dispatchctl.programs import Aside
from dispatchctl.render import shapes
from dispatchctl.runtime import Runtime, now
from dispatchctl.store.protocol import Store

REST_S = 5.0
"""Seconds until the next try after the database was not to be had."""

Say = Callable[[str, str | None], None]


@dataclass
class _Sender:
    """One of the ways: what it has to tell yet, what of that comes now, the program that tells it, and whether the last failed.

    `told` is up to which event it was told of each kind, by the cursors of `cursor_of`.
    """

    name: str
    told: dict[Notice, int] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)
    turn: list[Edge] = field(default_factory=list)
    allowance: Allowance = field(default_factory=Allowance)
    aside: Aside | None = None
    fails: bool = False

    def begin(self, store: Store) -> None:
        """Go on where the cursors are."""
        self.drop()
        self.told = {what: store.cursor(cursor_of(self.name, what)) or 0 for what in Notice}

    def add(self, edge: Edge) -> None:
        """One more to tell, if it was not told before."""
        if edge.event > self.told[edge.what]:
            self.waiting.add(edge)

    def drop(self) -> None:
        """Tell nothing of what waits."""
        self.waiting, self.turn = Waiting(), []

    def has_next(self, at: float) -> bool:
        """Whether there is something that may be told now."""
        if self.aside is not None:
            return False
        return bool(self.turn) or (bool(self.waiting) and self.allowance.at(at) > 0)

    def choose(self, at: float) -> None:
        """If nothing is left of the last turn: as much of what waits as may be told now, the rest of it as a sum."""
        if not self.turn:
            self.turn, used = self.waiting.take(self.allowance.at(at))
            self.allowance.spend(used)

    def mark(self, store: Store) -> bool:
        """The next one counts as told from now on; False if another daemon has told it."""
        edge = self.turn[0]
        fresh = store.move_cursor(cursor_of(self.name, edge.what), edge.last)
        self.told[edge.what] = edge.last
        del self.turn[0]
        return fresh


def cursor_of(way: str, what: Notice) -> str:
    """The cursor that says up to which event of a kind one way has told, or began to."""
    return f"{TOLD}.{way}.{what}"


class Notices:
    """Sends notices. `tend` is to be called at every turn of the loop and never waits; neither does anything else but `close`.

    The runtime may be replaced after the settings were read again.
    """

    def __init__(self, runtime: Runtime, say: Say) -> None:
        self.runtime = runtime
        self._say = say
        self._read = Reader()
        self._senders = [_Sender(name) for name in ways.WAYS]
        self._rests_until = 0.0
        self._silent = False

    @property
    def busy(self) -> bool:
        """Whether there is something to do soon: a program to look after, more to read, or something that may be told now."""
        if any(sender.aside for sender in self._senders):
            return True
        at = time.monotonic()
        return at >= self._rests_until and (self._read.behind or any(sender.has_next(at) for sender in self._senders))

    def tend(self) -> None:
        """Read what is new, tell what may be told, end what takes too long."""
        for sender in self._senders:
            self._hear(sender)
        at = time.monotonic()
        if at < self._rests_until:
            return
        try:
            self._follow(at)
            self._silent = False
        except DispatchctlError as error:
            self._rests_until = at + REST_S
            if not self._silent:
                self._say(f"notices wait: {error}", error.hint)
            self._silent = True

    def close(self, patience: float) -> None:
        """Let what is under way come to its end for `patience` seconds, and end the rest.

        What was not begun waits in the database: a daemon that starts again goes on with it.
        """
        running = _still(patience, [sender.aside for sender in self._senders if sender.aside])
        for aside in running:
            aside.end()
        cut_short = {aside.pid for aside in running}
        for aside in _still(min(patience, 1.0), running):
            aside.kill()
        for sender in self._senders:
            if sender.aside and sender.aside.pid in cut_short:
                self._say(
                    f"notify.{sender.name}: the end cut short a notice that was being sent", "dispatchctl history"
                )
        try:
            self._keep_up(float("inf"))
        except DispatchctlError:
            pass  # what is read again after the next start is not told again

    # -- what happened -----------------------------------------------------------------------------------------------

    def _follow(self, at: float) -> None:
        """Hand what is new to the ways, and have each begin what it may."""
        store, wanted, enabled = self.runtime.store, self.runtime.settings.notify.on, ways.enabled(self.runtime)
        if self._read.begins(store):
            for sender in self._senders:
                sender.begin(store)
        for edge in self._read.edges(store):
            for sender in self._senders:
                if edge.what in wanted and sender.name in enabled:
                    sender.add(edge)
        for sender in self._senders:
            if sender.name not in enabled:
                sender.drop()
            elif sender.has_next(at) and not self._read.behind:
                self._begin(sender, enabled[sender.name], at)
        self._keep_up(at)

    def _keep_up(self, at: float) -> None:
        waiting = [edge for sender in self._senders for edge in (*sender.turn, *sender.waiting)]
        self._read.keep_up(self.runtime.store, waiting, at)

    # -- the ways ----------------------------------------------------------------------------------------------------

    def _begin(self, sender: _Sender, way: Way, at: float) -> None:
        """Begin the next notice of a way. It counts as told before anything is sent: no crash has it told twice."""
        sender.choose(at)
        message = message_of(self.runtime, sender.turn[0])
        if not sender.mark(self.runtime.store):
            return
        try:
            sender.aside = way(self.runtime, message)
        except DispatchctlError as error:
            self._failed(sender, error.message, error.hint)
        except OSError as error:
            self._failed(sender, error.strerror or str(error), "dispatchctl notify")

    def _hear(self, sender: _Sender) -> None:
        """Whether its program has ended, and how."""
        aside = sender.aside
        if aside is None or not aside.has_ended():
            return
        sender.aside = None
        problem = _problem(aside, self.runtime.settings.notify.timeout)
        if problem:
            self._failed(sender, problem, "dispatchctl notify")
        else:
            sender.fails = False

    def _failed(self, sender: _Sender, problem: str, hint: str | None) -> None:
        """Say so, once until it works again."""
        if not sender.fails:
            self._say(f"notify.{sender.name}: {problem}", hint)
        sender.fails = True


def _still(patience: float, asides: list[Aside]) -> list[Aside]:
    """Those of the programs that have not ended after so many seconds."""
    deadline = time.monotonic() + patience
    while (asides := [aside for aside in asides if not aside.has_ended()]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return asides


def message_of(runtime: Runtime, edge: Edge) -> Message:
    """The edge in words, with the task as it is now; one that was removed has only its number."""
    summary, hint = words_of(edge)
    if edge.task is None or edge.count > 1:
        return Message(edge.what, edge.at, summary, hint, count=edge.count)
    try:
        task = runtime.store.task(edge.task)
    except NoSuchTask:
        return Message(edge.what, edge.at, summary, "dispatchctl history", edge.task, why=edge.why)
    shape = shapes.task(task, lookout.held(runtime, [task]).get(task.id))
    socket = task.run.socket if task.run else None
    return Message(edge.what, edge.at, summary, hint, task.id, task.title, edge.why, 1, socket, shape)


def _problem(aside: Aside, timeout: int) -> str | None:
    """What came of it, if it did not succeed."""
    said = f": {aside.last_words}" if aside.last_words else ""
    if aside.timed_out:
        return f"it took longer than {timeout} s and was ended{said}"
    if aside.code:
        how = f"signal {-aside.code}" if aside.code < 0 else f"exit code {aside.code}"
        return f"{how}{said}"
    return None


def try_out(runtime: Runtime) -> Iterator[tuple[str, str | None, str | None]]:
    """Send a notice each way that the settings name, and wait for it: the way, what was wrong or None, what to do then."""
    message = Message(TEST, now(), "this is a test", "dispatchctl config notify")
    for name, way in ways.enabled(runtime).items():
        try:
            aside = way(runtime, message)
        except DispatchctlError as error:
            yield name, error.message, error.hint
            continue
        try:
            while not aside.has_ended():
                time.sleep(0.01)
        except BaseException:
            aside.kill()
            raise
        problem = _problem(aside, runtime.settings.notify.timeout)
        yield name, problem, f"dispatchctl config notify.{name}" if problem else None
