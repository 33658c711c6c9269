"""The loop.

It wakes when another process commits to the database (inotify says that a file beside it was written to, `Store.version` that
it was a commit; where there is no inotify, it looks ten times a second), when a task's `not_before` comes, when a worker tells
something, and for signals.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from shlex import quote
from types import FrameType
from typing import Any, Protocol

from dispatchctl import inotify, processes
from dispatchctl.config import Settings
from dispatchctl.errors import Busy, DispatchctlError
from dispatchctl.room import room_for, within_limits
from dispatchctl.runtime import Runtime, now, watch_lock
from dispatchctl.store import open_store
from dispatchctl.supervisor import Supervisor
from dispatchctl.task import Status
from dispatchctl.watch.crew import DISPATCH, RECONCILE, Crew
from dispatchctl.watch.log import Entry, Say, Trouble, changes, entry_of
from dispatchctl.watch.tasks import Options, reconcile_once, start_one
from dispatchctl.workers import Worker

LOOK_OFTEN_S = 0.02
STIR_S = 2.0
"""How often, and for how long, it is looked after inotify has told something: what a commit writes is heard, but that it can be
seen comes later, when the disk has it and shared memory says so, which nobody hears."""
LOOK_EVERY_S = 0.1
"""How often it is looked whether the database has changed, where nothing tells of that; an `add` is seen at most so late."""
CHECK_EVERY_S = 1.0
"""How often it is looked where inotify tells: a clock that was set has to be noticed all the same."""
PATIENT_S = 1.0
"""Seconds that the loop's own few writes wait for other writers; they are tried again at the next turn."""
BRIEF_S = 0.2
"""How long nothing is started after a worker found nothing that it could claim."""
IDLE_S = 60.0
"""How often it is reconciled while no run is open and the last reconcile had nothing to do."""
HANGS_S = 120.0
"""A reconcile that takes longer is said to hang; nothing is ended for its age."""
DRAIN_S = 2.0
"""How long the end waits for launches that are being undone; they go on without us if that is not enough."""


class Attendant(Protocol):
    """Somebody whom the loop calls at every turn, and who never waits: the sender of notices."""

    runtime: Runtime

    @property
    def busy(self) -> bool: ...

    def tend(self) -> None: ...

    def close(self, patience: float) -> None: ...


Servant = Callable[[Runtime], None]
"""What is kept running in a worker of its own, and ends with the daemon: the server of metrics."""


def watch(
    runtime: Runtime,
    options: Options,
    *,
    say: Say,
    attendants: Sequence[Attendant] = (),
    servants: Mapping[str, Servant] | None = None,
    load: Callable[[], Settings],
) -> None:
    """Run until SIGTERM or SIGINT, or until its terminal is closed; `load` reads the settings again for any other SIGHUP.

    Raises `Busy` if a daemon watches the database already, with its pid, and `Unavailable` if there is no database.
    """
    open_store(str(runtime.database)).close()  # without a database no lock is left behind
    daemon = _Watch(runtime, options, say, attendants, servants or {}, load, _sole(runtime))
    try:
        daemon.run()
    finally:
        daemon.lock.release()


def _sole(runtime: Runtime) -> processes.Lock:
    path = watch_lock(runtime)
    lock = processes.lock(path)
    if lock is None:
        raise _taken(runtime, path)
    os.pwrite(lock.descriptor, b"%-10d\n" % os.getpid(), 0)
    return lock


def refuse_another(runtime: Runtime) -> None:
    """Raise `Busy` if a daemon watches the database: to be asked before anything else is taken."""
    path = watch_lock(runtime)
    if processes.is_locked(path):
        raise _taken(runtime, path)


def _taken(runtime: Runtime, path: str) -> Busy:
    with open(path, encoding="ascii", errors="replace") as file:
        pid = file.read(20).strip()
    if not pid.isdecimal():
        return Busy(f"another process watches the database {runtime.database} already", f"fuser {quote(path)}")
    what = f"process {pid} watches the database {runtime.database} already; `kill {pid}` ends it, and agents go on"
    return Busy(what, f"ps -o pid,lstart,tty,args -p {pid}")


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal that lives."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class _Watch:
    """The loop's state. `due` is when to reconcile next, `rests` until when nothing is started after trouble, `troubled`
    until when what is due waits after trouble of the loop itself, all in seconds of the monotonic clock; `look` that
    something may have become startable."""

    def __init__(
        self,
        runtime: Runtime,
        options: Options,
        say: Say,
        attendants: Sequence[Attendant],
        servants: Mapping[str, Servant],
        load: Callable[[], Settings],
        lock: processes.Lock,
    ) -> None:
        self.runtime = runtime
        self.options = options
        self.say = say
        self.trouble = Trouble(say)
        self.attendants = attendants
        self.servants = servants
        self.load = load
        self.lock = lock
        environment = runtime.environment
        self.supervisor = Supervisor(environment.notify_socket, environment.watchdog_usec)
        self.held: frozenset[int] = frozenset()
        self.stopping = 0
        self.displaced: Busy | None = None
        self.reload = False
        self.renews = False
        self.terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as nohup has it
        self.due = 0.0
        self.rests = 0.0
        self.troubled = 0.0
        self.quiet = False
        self.look = True
        self.told: int | None = None
        self.version: int | None = None
        self.next_due: int | None = None
        self.file: tuple[int, int] | None = None
        self.tried: tuple[int, int] | None = None
        self.stirred = 0.0
        self.changes = inotify.listen(str(runtime.database.parent))
        self.signals, self.wake = os.pipe()
        for descriptor in (self.signals, self.wake):
            os.set_blocking(descriptor, False)
        tasks = {name: _serving(servant) for name, servant in servants.items()}
        tasks[DISPATCH] = lambda own, tell: start_one(own, options, tell)
        tasks[RECONCILE] = reconcile_once
        self.crew = Crew(runtime, tasks, (lock.descriptor, *self._own()))

    @property
    def interval(self) -> float:
        """Seconds that it sleeps at most."""
        return self.options.interval or self.runtime.settings.watch.interval

    @property
    def limit(self) -> int:
        """How many runs may be open."""
        return self.options.max_running or self.runtime.settings.dispatch.max_running

    def run(self) -> None:
        """The loop."""
        before = self._hear_signals()
        try:
            self._reopen()
            self.say(Entry(f"watching {self.runtime.database}: {self._summary()}"))
            self.supervisor.ready()
            while not self.stopping:
                self._turn(self._reload)
                self._turn(self._reopen)
                self._turn(self._hold)
                self._turn(self._hear_workers)
                self._turn(self._follow)
                self._turn(self._reconcile)
                self._turn(self._dispatch)
                self._turn(self._tend)
                self._sleep()
            self._drain()
            if self.displaced is not None:
                raise self.displaced
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            for descriptor in self._own():
                os.close(descriptor)

    def _turn(self, part: Callable[[], None]) -> None:
        """One part of a turn; what keeps it from its work now is said, and it is tried again."""
        try:
            part()
        except (DispatchctlError, OSError) as error:
            self.rests = self.troubled = time.monotonic() + self.interval
            hint = error.hint if isinstance(error, DispatchctlError) else None
            self.trouble(Entry(str(error), "error", hint))

    def _own(self) -> list[int]:
        """The descriptors that are the loop's alone."""
        return [self.signals, self.wake, *([self.changes.descriptor] if self.changes else [])]

    def _summary(self) -> str:
        counts = self.runtime.store.count()
        running = len(self.runtime.store.open_runs())
        return f"{counts.get(Status.READY, 0)} ready, {running} of {self.limit} running"

    # -- signals and settings ---------------------------------------------------------------------------------------

    def _hear_signals(self) -> dict[int, Any]:
        def stop(number: int, _frame: FrameType | None) -> None:
            self.stopping = self.stopping or number

        def again(_number: int, _frame: FrameType | None) -> None:
            self.reload = True

        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        heard: dict[int, Any] = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: again}
        return {number: signal.signal(number, handler) for number, handler in heard.items()}

    def _reload(self) -> None:
        """Read the settings again; a file that is not valid leaves them as they were."""
        if not self.reload:
            return
        self.reload = False
        if self.terminal and not _has_terminal():
            self.stopping = signal.SIGHUP  # it was hung up: nobody could see any more what this does
            return
        self.supervisor.reloading()
        try:
            settings = self.load()
            found = list(changes(self.runtime.settings, settings))
            renewed = self.runtime.anew(settings)
            _ = renewed.profiles
        except DispatchctlError as error:
            self.say(Entry(f"the settings stay as they were: {error}", "error", error.hint))
        else:
            self._close()
            self.runtime, self.renews = renewed, True
            for attendant in self.attendants:
                attendant.runtime = renewed
            self.say(Entry(f"settings read again: {'; '.join(found) or 'nothing has changed'}"))
            self.rests = 0.0
        finally:
            self.supervisor.ready()

    def _close(self) -> None:
        """Close the database, to be opened again by the next turn."""
        self.file = None
        if "store" in self.runtime.__dict__:
            self.runtime.store.close()
            del self.runtime.store

    def _reopen(self) -> None:
        """Open the database if it is not open, or if another file has taken its place; `Unavailable` while there is none.

        If workers need another server, it is made while the database is closed: it must not have it open.
        """
        file = _file(self.runtime)
        if self.file is not None and file == self.file and not self.renews:
            return
        self.tried = file
        self._close()
        if self.renews:
            self.crew.renew(self.runtime, (self.lock.descriptor, *self._own()))
            self.renews = False
        self.runtime.store = open_store(str(self.runtime.database), busy_timeout=PATIENT_S)
        last = self.runtime.store.last_event()
        self.told = last if self.told is None else min(self.told, last)
        self.file, self.version, self.due, self.look = file, None, 0.0, True
        self.rests = 0.0

    def _hold(self) -> None:
        """Take the lock again if somebody removed its file; end if another daemon has taken it meanwhile."""
        if self.file is None or self.lock.is_in_place():
            return
        try:
            lock = _sole(self.runtime)
        except Busy as taken:
            self.displaced, self.stopping = taken, signal.SIGTERM
            return
        self.lock.release()
        self.lock = lock

    # -- workers ---------------------------------------------------------------------------------------------------

    def _hear_workers(self) -> None:
        """What workers tell, and which have ended."""
        for worker, word in self.crew.heard():
            if "held" in word:
                self.held = frozenset(word["held"])
            if "quiet" in word:
                self.quiet = word["quiet"]
            if word.get("rest"):
                self.rests = time.monotonic() + self.interval
            if "message" in word:
                keys = ("message", "level", "hint", "task", "run")
                self.trouble(Entry(**{key: word[key] for key in keys if key in word}))
            if "ended" in word:
                self._ended(worker, well=bool(word["ended"]), idle=word["idle"])

    def _ended(self, worker: Worker, *, well: bool, idle: bool) -> None:
        """A worker has ended; what one that was killed had begun is reconciled."""
        self.look = True
        if idle:
            self.rests = max(self.rests, time.monotonic() + BRIEF_S)
        if not well and not self.stopping:
            what = f"the worker for {worker.name}, process {worker.process[0]}, was killed or has failed"
            self.trouble(Entry(what, "error", "dispatchctl doctor"))
            # What fails whenever it is begun must not be begun all the time.
            wait = 0.0 if worker.name == DISPATCH and not idle else self.interval
            self.due = min(self.due, time.monotonic() + wait)
            if idle:
                self.rests = max(self.rests, time.monotonic() + wait)

    # -- the parts of a turn ---------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Say what happened to tasks, whoever did it."""
        store = self.runtime.store
        version = store.version()
        if version == self.version:
            return
        self.version, self.look, self.quiet = version, True, False
        self.told = min(self.told or 0, store.last_event())  # an older copy may have been written over the database
        self.due = min(self.due, time.monotonic() + self.interval)
        for event in store.events(after=self.told):
            self.told = event.id
            entry = entry_of(event)
            if entry is not None:
                self.say(entry)
        self.supervisor.status(self._summary())

    def _reconcile(self) -> None:
        """Have every status made true: at each interval, or once a minute while nothing runs and nothing changes."""
        at = time.monotonic()
        if at < self.due:
            return
        if self.crew.is_under_way(RECONCILE):
            if self.crew.age_of(RECONCILE) > HANGS_S:
                what = f"a reconcile has not ended for more than {HANGS_S:.0f} s: tmux, git or a file system hangs"
                self.trouble(Entry(what, "error", "dispatchctl doctor"))
            return
        self.runtime.forget_repositories()
        self.look = True
        self.due = at + (IDLE_S if self.quiet and not self.runtime.store.open_runs() else self.interval)
        for name in (RECONCILE, *self.servants):
            if not self.crew.is_under_way(name):
                self._start(name)

    def _start(self, name: str) -> None:
        try:
            self.crew.start(name)
        except DispatchctlError:
            self.renews = True
            raise

    def _dispatch(self) -> None:
        """Start what is ready while there is room: a worker for each, which takes the best task there is by then."""
        store, at = self.runtime.store, now()
        if self.next_due is not None and at >= self.next_due:
            self.look = True
        if not self.look or time.monotonic() < self.rests:
            return
        self.look = False
        self.next_due = store.next_due(at=at)
        free = self.runtime.settings.watch.launches - self.crew.launching
        left = self.limit - len(store.open_runs()) - self.crew.unclaimed
        most = min(free, left)
        if most <= 0:
            return
        ready = within_limits(
            self.runtime,
            room_for(self.runtime, self.options.max_running),
            lambda room: store.claimable(
                at=at, limit=most + self.crew.unclaimed, labels=self.options.labels, besides=self.held, room=room
            ),
        )
        for _ in range(min(most, len(ready) - self.crew.unclaimed)):
            self._start(DISPATCH)

    def _tend(self) -> None:
        self.supervisor.ping()
        for attendant in self.attendants:
            attendant.tend()

    # -- sleep -----------------------------------------------------------------------------------------------------

    def _sleep(self) -> None:
        """Wait until there is something to do, which costs next to nothing."""
        poll = select.poll()
        own = {self.signals, *([self.changes.descriptor] if self.changes else [])}
        for descriptor in (*own, *self.crew.descriptors):
            poll.register(descriptor, select.POLLIN)
        while not self._has_something():
            heard = {descriptor for descriptor, _ in poll.poll(self._patience() * 1000)}
            if self.changes is not None and self.changes.descriptor in heard:
                self.stirred = time.monotonic()
                self.changes.forget()
            if self.signals in heard:
                os.read(self.signals, 1 << 10)
            if heard - own or self.signals in heard or self._is_attended():
                return
            self.supervisor.ping()

    def _is_attended(self) -> bool:
        """Whether an attendant has something to do soon."""
        return any(attendant.busy for attendant in self.attendants)

    def _patience(self) -> float:
        """Seconds until something is due, or has to be looked at."""
        if self.changes is None or self._is_attended():
            return LOOK_EVERY_S
        waits = [LOOK_OFTEN_S if time.monotonic() - self.stirred < STIR_S else CHECK_EVERY_S]
        if not self.crew.is_under_way(RECONCILE):
            waits.append(max(self.due, self.troubled) - time.monotonic())
        if self.look:
            waits.append(self.rests - time.monotonic())
        if self.next_due is not None:
            waits.append(max((self.next_due - now()) / 1000, self.troubled - time.monotonic()))
        return max(0.0, min(waits)) + 0.001

    def _has_something(self) -> bool:
        at = time.monotonic()
        if self.stopping or self.reload or (self.look and at >= self.rests):
            return True
        if at >= self.troubled:
            if at >= self.due and not self.crew.is_under_way(RECONCILE):
                return True
            if self.next_due is not None and now() >= self.next_due:
                return True
        try:
            if _file(self.runtime) != self.tried:
                return True
            if self.file is None:
                return at >= self.troubled  # it could not be opened
            return self.runtime.store.version() != self.version
        except (DispatchctlError, OSError):
            return at >= self.troubled

    # -- the end ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Undo what is being launched, leave agents running; what takes long goes on without us."""
        self.supervisor.stopping()
        launches = sum(worker.name == DISPATCH for worker in self.crew.workers)
        what = f"; {launches} launch{'es are' if launches > 1 else ' is'} undone" if launches else ""
        self.say(Entry(f"{signal.Signals(self.stopping).name}: nothing more is started, agents go on{what}"))
        self.stopping = 0  # a second signal ends the wait
        for _, word in self.crew.close(DRAIN_S, lambda: bool(self.stopping)):
            if "message" in word:
                self.trouble(Entry(word["message"], word["level"], word["hint"]))
        for attendant in self.attendants:
            attendant.close(DRAIN_S / 4)
        self._turn(self._follow)
        for worker in self.crew.workers:
            pid = worker.process[0]
            self.say(Entry(f"process {pid} is not finished with {worker.name} and goes on alone", "warning"))
        self._turn(self._close)


def _file(runtime: Runtime) -> tuple[int, int] | None:
    """Which file the database is; None while there is none."""
    try:
        found = os.stat(runtime.database)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _serving(servant: Servant) -> Callable[[Runtime, Any], None]:
    return lambda runtime, _: servant(runtime)
