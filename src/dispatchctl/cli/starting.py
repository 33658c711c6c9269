"""Which tasks `dispatch` starts, and what it would start: the named ones each by itself, or the best of the ready ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from dispatchctl import dispatch as dispatching
from dispatchctl import lookout
from dispatchctl.dispatch import Dispatched, Failure
from dispatchctl.errors import DispatchctlError, NotYet, QueueFull, Refused
from dispatchctl.reconcile import reconcile
from dispatchctl.room import room_for, within_limits
from dispatchctl.runtime import Runtime, now
from dispatchctl.steps import start_point
from dispatchctl.store.room import Obstacle
from dispatchctl.task import Status, Task


@dataclass(frozen=True)
class Choice:
    """What the user asked for: the named tasks, or at most `most` with all the labels; None is what was not said."""

    tasks: Sequence[int] = ()
    most: int | None = None
    labels: Sequence[str] = ()
    max_running: int | None = None


def start(runtime: Runtime, choice: Choice) -> Dispatched:
    """Start them. Of several named tasks each that cannot be started is in the answer, and the rest go on.

    Raises `NoSuchTask` for any of them, or `Unavailable` for tmux or git, before anything is started.
    """
    _ = runtime.store  # a database that is not there must not leave a directory of locks behind
    if len(choice.tasks) < 2:
        done = dispatching.dispatch(
            runtime, choice.tasks, most=choice.most, labels=choice.labels, max_running=choice.max_running
        )
        if done.full is not None and done.started:
            done.full = _with_these(done.full, len(runtime.store.line(at=now(), labels=choice.labels)))
        return done
    for task in choice.tasks:
        runtime.store.task(task)
    dispatching.check_tools(runtime)
    done = Dispatched()
    for task in choice.tasks:
        try:
            one = dispatching.dispatch(runtime, [task], max_running=choice.max_running)
        except DispatchctlError as error:
            done.failed.append(Failure(task, error, runtime.store.task(task).status))
        else:
            done.started += one.started
            done.failed += one.failed
    return done


def _with_these(full: QueueFull, more: int) -> QueueFull:
    """What keeps the rest, said by whoever has just started, or would start, some of those runs."""
    rest = f"; {more} more {'is' if more == 1 else 'are'} ready" if more else ""
    return QueueFull(f"{'' if full.paused else 'with these, '}{full.message}{rest}", full.hint, paused=full.paused)


def foresee(runtime: Runtime, choice: Choice) -> Dispatched:
    """What `start` would do, as far as that can be known; nothing is changed. Raises what it would raise."""
    foreseen = _Foreseen(runtime, choice.max_running)
    if not choice.tasks:
        foreseen.best(choice)
    for task in [runtime.store.task(task) for task in choice.tasks]:
        if (error := foreseen.refusal(task)) is None:
            foreseen.begin(task)
        elif len(choice.tasks) == 1:
            raise error
        else:
            foreseen.done.failed.append(Failure(task.id, error, task.status))
    return foreseen.done


class _Foreseen:
    """The runs that are open and those that would be, counted one after the other as the claims would count them."""

    def __init__(self, runtime: Runtime, max_running: int | None) -> None:
        self.runtime = runtime
        self.done = Dispatched()
        self.occupied = runtime.store.occupied()
        self.room = room_for(runtime, max_running, self.occupied)
        self.strays = reconcile(runtime, dry_run=True).held

    def best(self, choice: Choice) -> None:
        """What would be started without being named, until there is no more, no room, or as many as were asked for."""
        kept: tuple[str, str] | None = None
        line = self.runtime.store.line(at=now(), labels=choice.labels)
        for id, repo, agent in line:
            if choice.most is not None and len(self.done.started) + len(self.done.failed) >= choice.most:
                return
            if id in self.strays:
                continue
            obstacle = self.obstacle(repo, agent)
            if obstacle is None:
                self.begin(self.runtime.store.task(id))
                continue
            kept = kept or (repo, agent)
            if obstacle.for_all:
                break
        if kept is not None:
            obstacle = self.occupied.everywhere(self.room) or self.obstacle(*kept)
            assert obstacle is not None, "nothing has ended meanwhile"
            full, begun = obstacle.full(), len(self.done.started)
            self.done.full = _with_these(full, len(line) - begun) if begun else full

    def refusal(self, task: Task) -> DispatchctlError | None:
        """Why the named task would not be claimed."""
        reason = lookout.waiting(self.runtime, [task]).get(task.id)
        if task.status is not Status.READY:
            return Refused(f"task {task.id} is {task.status}, not ready", f"dispatchctl show {task.id}")
        if task.id in self.strays:
            return Refused(f"task {task.id} is held: an agent of it may still be alive", "dispatchctl doctor")
        if reason:
            return Refused(f"task {task.id} is held: {reason}", f"dispatchctl ready --explain {task.id}")
        obstacle = self.obstacle(task.repo, task.agent)
        return None if obstacle is None else obstacle.refusal_of(task.id)

    def obstacle(self, repo: str, agent: str) -> Obstacle | None:
        """What would be in the way by then."""
        return within_limits(self.runtime, self.room, lambda room: self.occupied.obstacle(room, repo, agent))

    def begin(self, task: Task) -> None:
        """Count the task as started, unless its parents have to be merged first."""
        try:
            if len(task.after) > 1:
                start_point(self.runtime, task)
        except NotYet as error:
            self.done.failed.append(Failure(task.id, error, task.status))
            return
        self.done.started.append(task)
        self.occupied = self.occupied.with_one_more(task.repo, task.agent)
