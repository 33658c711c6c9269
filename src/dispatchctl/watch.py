"""The daemon: one loop that makes every status true, starts what is ready while there is room, and sleeps.

The loop itself never waits for anything but the next thing to happen. Whatever may take long or hang (tmux, git, hooks, a
queue before a write) is done by workers, forked from it: a reconcile at every interval, and one `dispatch` of one task for
each task that is to be started. So a hook that hangs keeps its own task waiting and nothing else, and the loop hears a signal
at once. Nothing here is remembered that the database does not know: killed at any instruction, the next start goes on.

It wakes when another process commits to the database (inotify says that a file beside it was written to, `Store.version` that
it was a commit; where there is no inotify, it looks ten times a second), when a task's `not_before` comes, when a worker tells
something, and for signals.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from dispatchctl import inotify, processes, workers
from dispatchctl.config import SETTINGS, Settings
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import Busy, DispatchctlError, QueueFull, Refused
from dispatchctl.plan import Kind
from dispatchctl.reconcile import Done, reconcile
from dispatchctl.room import room_for, within_limits
from dispatchctl.runtime import Runtime, now, watch_lock
from dispatchctl.store import open_store
from dispatchctl.supervisor import Supervisor
from dispatchctl.task import Actor, Event, Status
from dispatchctl.workers import Tell, Worker

LOOK_EVERY_S = 0.1
"""How often it is looked whether the database has changed, where nothing tells of that; an `add` is seen at most so late."""
CHECK_EVERY_S = 1.0
"""How often it is looked where inotify tells: a clock that was set has to be noticed all the same."""
PATIENT_S = 1.0
"""Seconds that the loop's own few writes wait for other writers; they are tried again at the next turn."""
LONG_S = 10.0
"""A launch that takes longer no longer keeps others from being launched at the same time."""
BRIEF_S = 0.2
"""How long nothing is started after a worker found nothing that it could claim."""
IDLE_S = 60.0
"""How often it is reconciled while no run is open and the last reconcile had nothing to do."""
DRAIN_S = 2.0
"""How long the end waits for launches that are being undone; they go on without us if that is not enough."""
REPEAT_S = 600.0
"""Seconds after which the same trouble is said again."""


@dataclass(frozen=True)
class Entry:
    """A line of the daemon's log. `level` is one of `info`, `warning`, `error`; `at` (milliseconds) is now if it is None."""

    message: str
    level: str = "info"
    hint: str | None = None
    task: int | None = None
    run: str | None = None
    event: str | None = None
    at: int | None = None


Say = Callable[[Entry], None]


class Attendant(Protocol):
    """Somebody whom the loop calls at every turn, and who never waits: the sender of notices."""

    runtime: Runtime

    @property
    def busy(self) -> bool: ...

    def tend(self) -> None: ...

    def close(self, patience: float) -> None: ...


@dataclass(frozen=True)
class Options:
    """What the command line says; None is what the settings say."""

    labels: Sequence[str] = ()
    max_running: int | None = None
    interval: int | None = None


def watch(
    runtime: Runtime,
    options: Options,
    *,
    say: Say,
    attendants: Sequence[Attendant] = (),
    servants: Sequence[tuple[str, Callable[[Runtime], None]]] = (),
    load: Callable[[], Settings],
) -> None:
    """Run until SIGTERM or SIGINT. Raises `Busy` if a daemon watches the database already, with its pid.

    `attendants` are called at every turn. `servants` are kept running as workers of their own, each with a name. `load` reads
    the settings again.
    """
    runtime.store = open_store(
        str(runtime.database), busy_timeout=PATIENT_S
    )  # first: without one no lock is left behind
    lock = _sole(runtime)
    try:
        _Watch(runtime, options, say, attendants, servants, load, lock).run()
    finally:
        lock.release()


def _sole(runtime: Runtime) -> processes.Lock:
    path = watch_lock(runtime)
    lock = processes.lock(path)
    if lock is None:
        with open(path, encoding="ascii", errors="replace") as file:
            pid = file.read(20).strip()
        who = f"process {pid}" if pid.isdecimal() else "another process"
        raise Busy(f"{who} watches the database {runtime.database} already", f"ps -o pid,lstart,args -p {pid or 'PID'}")
    os.pwrite(lock.descriptor, b"%-10d\n" % os.getpid(), 0)
    return lock


@dataclass
class _Trouble:
    """What was said of late, so that what lasts is not said at every turn."""

    say: Say
    said: dict[str, float] = field(default_factory=dict)

    def __call__(self, entry: Entry) -> None:
        at = time.monotonic()
        if at - self.said.get(entry.message, -REPEAT_S) >= REPEAT_S:
            self.said = {message: when for message, when in self.said.items() if at - when < REPEAT_S}
            self.said[entry.message] = at
            self.say(entry)


class _Watch:
    """The loop's state. `due` is when to reconcile next, `rests` until when nothing is started after trouble, both in
    seconds of the monotonic clock."""

    def __init__(
        self,
        runtime: Runtime,
        options: Options,
        say: Say,
        attendants: Sequence[Attendant],
        servants: Sequence[tuple[str, Callable[[Runtime], None]]],
        load: Callable[[], Settings],
        lock: processes.Lock,
    ) -> None:
        self.runtime = runtime
        self.options = options
        self.say = say
        self.trouble = _Trouble(say)
        self.attendants = attendants
        self.servants = dict(servants)
        self.load = load
        self.lock = lock
        environment = runtime.environment
        self.supervisor = Supervisor(environment.notify_socket, environment.watchdog_usec)
        self.workers: list[Worker] = []
        self.unclaimed: set[int] = set()
        self.held: frozenset[int] = frozenset()
        self.stopping = 0
        self.reload = False
        self.due = 0.0
        self.rests = 0.0
        self.quiet = False
        self.look = True
        self.told = 0
        self.version: int | None = None
        self.next_due: int | None = None
        self.file = _file(runtime)
        self.changes = inotify.listen(str(runtime.database.parent))
        self.signals, self.wake = os.pipe()
        for descriptor in (self.signals, self.wake):
            os.set_blocking(descriptor, False)

    @property
    def interval(self) -> float:
        """Seconds that it sleeps at most."""
        return self.options.interval or self.runtime.settings.watch.interval

    def run(self) -> None:
        """The loop."""
        before = self._hear_signals()
        try:
            self._say_hello()
            while not self.stopping:
                self._turn(self._reload)
                self._turn(self._hear_workers)
                self._turn(self._reopen)
                self._turn(self._follow)
                self._turn(self._reconcile)
                self._turn(self._dispatch)
                self._turn(self._tend)
                self._sleep()
            self._drain()
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
            self._rest()
            hint = error.hint if isinstance(error, DispatchctlError) else None
            self.trouble(Entry(str(error), "error", hint))

    def _rest(self) -> None:
        self.rests = time.monotonic() + self.interval

    # -- signals ---------------------------------------------------------------------------------------------------

    def _hear_signals(self) -> dict[int, Any]:
        def stop(number: int, _frame: FrameType | None) -> None:
            self.stopping = self.stopping or number

        def again(_number: int, _frame: FrameType | None) -> None:
            self.reload = True

        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        heard: dict[int, Any] = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: again}
        heard[signal.SIGCHLD] = lambda _number, _frame: None
        return {number: signal.signal(number, handler) for number, handler in heard.items()}

    def _say_hello(self) -> None:
        self.told = self.runtime.store.last_event()
        self.say(Entry(f"watching {self.runtime.database}: {self._summary()}"))
        self.supervisor.ready()

    def _reload(self) -> None:
        """Read the settings again; a file that is not valid leaves them as they were."""
        if not self.reload:
            return
        self.reload = False
        self.supervisor.reloading()
        try:
            settings = self.load()
            changes = list(_changes(self.runtime.settings, settings))
            renewed = self.runtime.anew(settings)
            _ = renewed.profiles
        except DispatchctlError as error:
            self.say(Entry(f"the settings stay as they were: {error}", "error", error.hint))
        else:
            renewed.store = self.runtime.store
            self.runtime = renewed
            for attendant in self.attendants:
                attendant.runtime = renewed
            for worker in self.workers:
                if worker.name in self.servants:
                    worker.signal(signal.SIGTERM)  # it is started again, with these settings
            self.say(Entry(f"settings read again: {'; '.join(changes) or 'nothing has changed'}"))
            self.due = self.rests = 0.0
            self.version = None
        finally:
            self.supervisor.ready()

    # -- workers ---------------------------------------------------------------------------------------------------

    def _fork(self, name: str, work: Callable[[Runtime, Tell], None]) -> None:
        runtime = self.runtime
        dropping = (self.lock.descriptor, *self._own(), *(worker.pipe for worker in self.workers))
        worker = workers.fork(name, lambda tell: work(runtime.anew(), tell), dropping=dropping)
        self.workers.append(worker)

    def _own(self) -> list[int]:
        """The descriptors that are the loop's alone."""
        return [self.signals, self.wake, *([self.changes.descriptor] if self.changes else [])]

    def _is_under_way(self, name: str) -> bool:
        return any(worker.name == name for worker in self.workers)

    def _hear_workers(self) -> None:
        """What workers tell, and which have ended."""
        for worker in list(self.workers):
            ended = worker.has_ended()
            for word in worker.heard():
                self._heard(worker, word)
            if ended:
                self.workers.remove(worker)
                worker.close()
                self.look = True
                if worker.pid in self.unclaimed:
                    self.unclaimed.discard(worker.pid)
                    self.rests = max(self.rests, time.monotonic() + BRIEF_S)
                if worker.status:
                    self._lost(worker)

    def _lost(self, worker: Worker) -> None:
        """A worker that did not end by itself: what it had begun is reconciled."""
        how = f"signal {-worker.status}" if worker.status and worker.status < 0 else f"exit code {worker.status}"
        self.trouble(Entry(f"the worker for {worker.name} ended with {how}", "error", "dispatchctl doctor"))
        self._rest()
        self.due = 0.0

    def _heard(self, worker: Worker, word: dict[str, Any]) -> None:
        if "claimed" in word:
            self.unclaimed.discard(worker.pid)
        if "held" in word:
            self.held = frozenset(word["held"])
        if "quiet" in word:
            self.quiet = word["quiet"]
        if word.get("rest"):
            self._rest()
        if "message" in word:
            keys = ("message", "level", "hint", "task", "run")
            entry = Entry(**{key: word[key] for key in keys if key in word})
            (self.say if entry.level == "info" else self.trouble)(entry)

    # -- the parts of a turn ---------------------------------------------------------------------------------------

    def _reopen(self) -> None:
        """Open the database again if another file has taken its place; raises `Unavailable` while there is none."""
        file = _file(self.runtime)
        if self.file is None or file != self.file:
            if "store" in self.runtime.__dict__:
                self.runtime.store.close()
                del self.runtime.store
            self.runtime.store = open_store(str(self.runtime.database), busy_timeout=PATIENT_S)
            self.file, self.version, self.due = file, None, 0.0
            self.told = min(self.told, self.runtime.store.last_event())

    def _reconcile(self) -> None:
        """Have every status made true: at each interval, or once a minute while nothing runs and nothing changes."""
        at = time.monotonic()
        if at < self.due or self._is_under_way("reconcile"):
            return
        self.runtime.forget_repositories()
        self.look = True
        self.due = at + (IDLE_S if self.quiet and not self.runtime.store.open_runs() else self.interval)
        self._fork("reconcile", _reconcile)
        for name, work in self.servants.items():
            if not self._is_under_way(name):
                self._fork(name, _serving(work))

    def _follow(self) -> None:
        """Say what happened to tasks, whoever did it."""
        store = self.runtime.store
        version = store.version()
        if version == self.version:
            return
        self.version, self.look, self.quiet = version, True, False
        self.due = min(self.due, time.monotonic() + self.interval)
        for event in store.events(after=self.told):
            self.told = event.id
            entry = entry_of(event)
            if entry is not None:
                self.say(entry)
        self.supervisor.status(self._summary())

    def _dispatch(self) -> None:
        """Start what is ready while there is room: a worker for each, which takes the best task there is by then."""
        store, at = self.runtime.store, now()
        if self.next_due is not None and at >= self.next_due:
            self.look = True
        if not self.look or time.monotonic() < self.rests:
            return
        self.look = False
        self.next_due = store.next_due(at=at)
        launching = [worker for worker in self.workers if worker.name == "dispatch" and worker.age < LONG_S]
        free = self.runtime.settings.watch.launches - len(launching)
        left = self._limit() - len(store.open_runs()) - len(self.unclaimed)
        most = min(free, left)
        if most <= 0:
            return
        ready = within_limits(
            self.runtime,
            room_for(self.runtime, self.options.max_running),
            lambda room: store.claimable(
                at=at, limit=most + len(self.unclaimed), labels=self.options.labels, besides=self.held, room=room
            ),
        )
        for _ in range(min(most, len(ready) - len(self.unclaimed))):
            self._fork("dispatch", lambda runtime, tell: _start_one(runtime, self.options, tell))
            self.unclaimed.add(self.workers[-1].pid)

    def _limit(self) -> int:
        return self.options.max_running or self.runtime.settings.dispatch.max_running

    def _summary(self) -> str:
        counts = self.runtime.store.count()
        running = len(self.runtime.store.open_runs())
        return f"{counts.get(Status.READY, 0)} ready, {running} of {self._limit()} running"

    def _tend(self) -> None:
        self.supervisor.ping()
        for attendant in self.attendants:
            attendant.tend()

    def _sleep(self) -> None:
        """Wait until there is something to do, which costs next to nothing."""
        poll = select.poll()
        for descriptor in (*self._own(), *(worker.pipe for worker in self.workers)):
            if descriptor != self.wake:
                poll.register(descriptor, select.POLLIN)
        while not self._has_something():
            heard = [descriptor for descriptor, _ in poll.poll(self._patience() * 1000)]
            if self.changes is not None:
                self.changes.forget()
            if any(descriptor not in self._own() for descriptor in heard):
                break  # a worker
            if self.signals in heard:
                os.read(self.signals, 1 << 10)
                break
            self.supervisor.ping()
            if self._is_attended():
                break

    def _is_attended(self) -> bool:
        """Whether an attendant has something to do soon."""
        return any(attendant.busy for attendant in self.attendants)

    def _patience(self) -> float:
        """Seconds until something is due, or has to be looked at."""
        if self.changes is None or self._is_attended():
            return LOOK_EVERY_S
        waits = [CHECK_EVERY_S, self.due - time.monotonic()]
        if self.look:
            waits.append(self.rests - time.monotonic())
        if self.next_due is not None:
            waits.append((self.next_due - now()) / 1000)
        return max(0.0, min(waits)) + 0.001

    def _has_something(self) -> bool:
        at = time.monotonic()
        if self.stopping or self.reload or at >= self.due or (self.look and at >= self.rests):
            return True
        if self.next_due is not None and now() >= self.next_due:
            return True
        try:
            return self.runtime.store.version() != self.version
        except DispatchctlError:
            return at >= self.rests

    # -- the end ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Undo what is being launched, leave agents running; what takes long goes on without us."""
        self.supervisor.stopping()
        name = signal.Signals(self.stopping).name
        launching = [worker for worker in self.workers if worker.name == "dispatch"]
        what = f"; {len(launching)} launches are undone" if launching else ""
        self.say(Entry(f"{name}: nothing more is started, agents go on{what}"))
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        for attendant in self.attendants:
            attendant.close(DRAIN_S / 4)
        self.stopping = 0
        deadline = time.monotonic() + DRAIN_S
        while self.workers and not self.stopping and time.monotonic() < deadline:
            self._turn(self._hear_workers)
            select.select([self.signals, *(worker.pipe for worker in self.workers)], [], [], 0.02)
        self._turn(self._follow)
        for worker in self.workers:
            self.say(Entry(f"process {worker.pid} is not finished with {worker.name} and goes on alone", "warning"))


def _file(runtime: Runtime) -> tuple[int, int] | None:
    """Which file the database is; None while there is none."""
    try:
        found = os.stat(runtime.database)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


# -- what workers do -----------------------------------------------------------------------------------------------------


def _start_one(runtime: Runtime, options: Options, tell: Tell) -> None:
    """One task from the queue, as `dispatchctl dispatch --max 1` does it; what becomes of it is in the events."""
    try:
        done = dispatch(
            runtime,
            most=1,
            labels=options.labels,
            max_running=options.max_running,
            actor=Actor.WATCH,
            claimed=lambda task: tell({"claimed": task.id}),
        )
    except (QueueFull, Refused):
        return  # somebody else was quicker
    except DispatchctlError as error:
        tell({"message": str(error), "level": "error", "hint": error.hint, "rest": True})
        return
    tell({"held": sorted(done.held)})


def _serving(work: Callable[[Runtime], None]) -> Callable[[Runtime, Tell], None]:
    return lambda runtime, _: work(runtime)


def _reconcile(runtime: Runtime, tell: Tell) -> None:
    try:
        result = reconcile(runtime, actor=Actor.WATCH)
    except DispatchctlError as error:
        tell({"message": str(error), "level": "error", "hint": error.hint})
        return
    for done in result.done:
        if done.error or done.action.kind is Kind.REPORT:
            tell(_told(done))
    for socket, said in result.silent.items():
        tell({"message": f"tmux on {socket} cannot be asked: {said}", "level": "error", "hint": f"tmux -S {socket} ls"})
    tell({"held": sorted(result.held), "quiet": not result.done})


def _told(done: Done) -> dict[str, Any]:
    action = done.action
    whose = f"task {action.task}" if action.task is not None else f"run {action.run}"
    failed = f": {action.kind} did not succeed: {done.error}" if done.error else ""
    hint = f"dispatchctl show {action.task}" if action.task is not None else "dispatchctl doctor"
    return {
        "message": f"{whose}: {action.reason}{failed}",
        "level": "warning",
        "hint": hint,
        "task": action.task,
        "run": action.run,
    }


# -- what is said --------------------------------------------------------------------------------------------------------


def entry_of(event: Event) -> Entry | None:
    """The line of an event; None for those that say nothing to who follows the queue."""
    why = event.detail.get("task", {}).get("error") or event.detail.get("run", {}).get("error")
    because = f": {why}" if why else ""
    whose = f"task {event.task}"
    if event.to_status is Status.IN_PROGRESS and event.kind == "claimed":
        message = f"{whose} is being started"
    elif event.to_status is not None and event.from_status is not None:
        again = " again" if event.to_status is Status.READY and event.run is not None else ""
        message = f"{whose} is {event.to_status}{again}{because}"
    elif event.kind in SAID:
        message = f"{whose} {SAID[event.kind]}{because}"
    else:
        return None
    bad = event.to_status in (Status.FAILED, Status.BLOCKED) or (why is not None and event.run is not None)
    return Entry(message, "warning" if bad else "info", task=event.task, run=event.run, event=event.kind, at=event.at)


SAID = {
    "added": "is added",
    "started": "runs",
    "stalled": "is stalled",
    "asked": "is asked to end",
    "reported": "has reported",
    "reentered": "is entered again",
}
"""Events without a change of status that are said nevertheless."""


def _changes(before: Settings, after: Settings) -> Iterator[str]:
    for key, entry in SETTINGS.items():
        old, new = before.value(key), after.value(key)
        if old != new:
            yield f"{key}: {entry.toml(old)} → {entry.toml(new)}"
    for name in sorted({*before.agent_tables, *after.agent_tables}):
        if before.agent_tables.get(name) != after.agent_tables.get(name):
            yield f"agents.{name} has changed"
