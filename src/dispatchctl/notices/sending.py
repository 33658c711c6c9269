"""Reading the history for edges and telling them, a little at every turn of the daemon's loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dispatchctl import lookout
from dispatchctl.config.table import Notice
from dispatchctl.errors import DispatchctlError, NoSuchTask
from dispatchctl.notices import ways
from dispatchctl.notices.burst import Allowance, Waiting
from dispatchctl.notices.edges import Edge, begins_work, edge_of
from dispatchctl.notices.message import TEST, Message, words_of
from dispatchctl.programs import Aside
from dispatchctl.render import shapes
from dispatchctl.runtime import Runtime, now
from dispatchctl.store.protocol import Store
from dispatchctl.task import Status

TOLD = "notices"
"""The cursor: up to this event everything was told."""

WORK, EMPTY = "notices.work", "notices.empty"
"""The cursors of the queue: since which event somebody works, and up to which it was told that nothing is left."""

AT_ONCE = 500
"""Events that are read in one turn: some 5 ms."""

KEEP_UP_S = 60.0
"""How often the cursor follows events that nobody is told of: what is read again after a crash costs nothing."""

REST_S = 5.0
"""Seconds until the next try after the database was not to be had."""

FOR_EVER = 1 << 62

Say = Callable[[str, str | None], None]


@dataclass
class _Sender:
    """One of the ways: what it has to tell yet, the program that tells it now, and whether the last one failed."""

    waiting: Waiting = field(default_factory=Waiting)
    aside: Aside | None = None
    fails: bool = False


class Notices:
    """Sends notices. `tend` is to be called at every turn of the loop and never waits; neither does anything else but `close`.

    The runtime may be replaced after the settings were read again.
    """

    def __init__(self, runtime: Runtime, say: Say) -> None:
        self.runtime = runtime
        self._say = say
        self._read = _Reader()
        self._waiting = Waiting()
        self._allowance = Allowance()
        self._senders = {name: _Sender() for name in ways.WAYS}
        self._rests_until = 0.0
        self._silent = False

    @property
    def busy(self) -> bool:
        """Whether there is something to do soon: a program to look after, more to read, or something that may be told now."""
        if any(sender.aside or sender.waiting for sender in self._senders.values()):
            return True
        at = time.monotonic()
        return at >= self._rests_until and (self._read.behind or (bool(self._waiting) and self._allowance.at(at) > 0))

    def tend(self) -> None:
        """Read what is new, tell what may be told, end what takes too long."""
        at = time.monotonic()
        if at >= self._rests_until:
            try:
                self._follow(at)
                self._silent = False
            except DispatchctlError as error:
                self._rests_until = at + REST_S
                if not self._silent:
                    self._say(f"notices wait: {error}", error.hint)
                self._silent = True
        for name, sender in self._senders.items():
            self._look_after(name, sender)

    def close(self, patience: float) -> None:
        """Let what is under way come to its end for `patience` seconds, and end the rest.

        What was not yet its turn waits in the database: a daemon that starts again goes on behind the cursor. What was handed
        to a way counts as told, and is said if that has not come to it.
        """
        deadline = time.monotonic() + patience
        running = [sender.aside for sender in self._senders.values() if sender.aside]
        while (running := [aside for aside in running if not aside.has_ended()]) and time.monotonic() < deadline:
            time.sleep(0.01)
        for aside in running:
            aside.end()
        deadline = time.monotonic() + min(patience, 1.0)
        while (running := [aside for aside in running if not aside.has_ended()]) and time.monotonic() < deadline:
            time.sleep(0.01)
        for aside in running:
            aside.kill()
        for name, sender in self._senders.items():
            left = len([*sender.waiting])
            if left:
                what = "1 notice was" if left == 1 else f"{left} notices were"
                self._say(f"notify.{name}: {what} not sent before the end", "dispatchctl history")
        try:
            self._read.keep_up(self.runtime.store, bool(self._waiting), float("inf"))
        except DispatchctlError:
            pass  # what is read again after the next start costs nothing

    # -- what happened -----------------------------------------------------------------------------------------------

    def _follow(self, at: float) -> None:
        store, wanted = self.runtime.store, self.runtime.settings.notify.on
        for edge in self._read.edges(store, Notice.EMPTY in wanted):
            if edge.what in wanted:
                self._waiting.add(edge)
        allowed = self._allowance.at(at) if self._waiting and not self._read.behind else 0
        if allowed:
            fresh = self._read.mark_told(store, self._waiting)
            edges, used = self._waiting.take(allowed)
            self._allowance.spend(used)
            for edge in edges if fresh else ():
                for name in ways.enabled(self.runtime):
                    self._senders[name].waiting.add(edge)
        else:
            self._read.keep_up(store, bool(self._waiting), at)

    # -- the ways ----------------------------------------------------------------------------------------------------

    def _look_after(self, name: str, sender: _Sender) -> None:
        """One way: whether its program has ended, and the next one."""
        aside = sender.aside
        if aside is not None and aside.has_ended():
            sender.aside = None
            problem = _problem(aside, self.runtime.settings.notify.timeout)
            if problem:
                self._failed(name, sender, problem, "dispatchctl notify")
            else:
                sender.fails = False
        if sender.aside is None and sender.waiting:
            way = ways.enabled(self.runtime).get(name)
            if way is None:
                sender.waiting = Waiting()  # it was switched off meanwhile
                return
            try:
                sender.aside = way(self.runtime, message_of(self.runtime, sender.waiting.take_one()))
            except DispatchctlError as error:
                self._failed(name, sender, error.message, error.hint)
            except OSError as error:
                self._failed(name, sender, error.strerror or str(error), "dispatchctl notify")

    def _failed(self, name: str, sender: _Sender, problem: str, hint: str | None) -> None:
        """Say so, once until it works again."""
        if not sender.fails:
            self._say(f"notify.{name}: {problem}", hint)
        sender.fails = True


class _Reader:
    """How far the history was read and told, and whether the queue had work then.

    The queue is empty when no task is in progress and none is ready that waits only for its time, a limit or a pause; tasks
    that wait for others cannot start then. It comes to be empty when somebody had worked since it was last told.
    """

    def __init__(self) -> None:
        self.behind = False
        self._read: int | None = None
        self._told = 0
        self._told_empty = 0
        self._works = False
        self._unsure = True
        self._kept_up_at = 0.0

    def edges(self, store: Store, empty_is_wanted: bool) -> Iterator[Edge]:
        """What is new, at most `AT_ONCE` events of it."""
        read = self._start(store) if self._read is None else self._read
        last = store.last_event()
        events = store.next_events(read, limit=AT_ONCE) if last > read else []
        for event in events:
            if begins_work(event) and not self._works and event.id > self._told_empty and empty_is_wanted:
                store.move_cursor(WORK, event.id)
                self._works = True
            edge = edge_of(event)
            self._read, self._unsure = event.id, True
            if edge is not None:
                yield edge
        self.behind = len(events) == AT_ONCE
        if self._works and self._unsure and not self.behind:
            self._works = has_work(store)
            self._unsure = False
            if not self._works and empty_is_wanted:
                yield Edge(Notice.EMPTY, self._read or 0, events[-1].at if events else now())

    def _start(self, store: Store) -> int:
        """From where to read: where the last daemon stopped, or for the first one what happens from now on."""
        told = store.cursor(TOLD)
        if told is None:
            told = store.last_event()
            store.move_cursor(TOLD, told)
            if has_running(store):
                store.move_cursor(WORK, told)
        self._told_empty = store.cursor(EMPTY) or -1
        self._works = (store.cursor(WORK) or -1) > self._told_empty
        self._read = self._told = told
        return told

    def mark_told(self, store: Store, waiting: Waiting) -> bool:
        """Everything that was read counts as told from now on; False if another daemon was quicker."""
        empty = max((edge.event for edge in waiting if edge.what is Notice.EMPTY), default=None)
        if empty is not None:
            self._told_empty = empty
            store.move_cursor(EMPTY, empty)
        read = self._read or 0
        fresh = read == self._told or store.move_cursor(TOLD, read)
        self._told = read
        return fresh

    def keep_up(self, store: Store, waiting: bool, at: float) -> None:
        """Have the cursor follow what nobody is told of, now and then."""
        if not waiting and self._read is not None and self._read > self._told and at - self._kept_up_at >= KEEP_UP_S:
            self._kept_up_at = at
            store.move_cursor(TOLD, self._read)
            self._told = self._read


def has_work(store: Store) -> bool:
    """Whether anybody works, or something is ready that will be started without anybody's doing (or after a pause)."""
    if store.claimable(at=FOR_EVER, limit=1) or has_running(store):
        return True
    return bool(store.pauses()) and any(not task.waits for task in store.tasks(status=[Status.READY], limit=1))


def has_running(store: Store) -> bool:
    """Whether a task is in progress."""
    return any(task.status is Status.IN_PROGRESS for task in store.open_tasks())


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
