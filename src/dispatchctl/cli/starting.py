"""Which tasks `dispatch` starts, and what it would start: the named ones each by itself, or the best of the ready ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from dispatchctl import dispatch as dispatching
from dispatchctl import lookout
from dispatchctl.dispatch import Dispatched, Failure
from dispatchctl.errors import DispatchctlError, QueueFull, Refused
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Status


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
        return dispatching.dispatch(
            runtime, choice.tasks, most=choice.most, labels=choice.labels, max_running=choice.max_running
        )
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


def foresee(runtime: Runtime, choice: Choice) -> Dispatched:
    """What `start` would do, as far as that can be known; nothing is changed."""
    limit = choice.max_running or runtime.settings.dispatch.max_running
    running = len(runtime.store.open_runs())
    room = max(0, limit - running)
    full = QueueFull(lookout.limit_reached(running, limit), f"dispatchctl dispatch --max-running {running + 1}")
    if not choice.tasks:
        most = room + 1 if choice.most is None else min(choice.most, room + 1)
        tasks = runtime.store.claimable(at=now(), limit=most, labels=choice.labels)
        return Dispatched(tasks[:room], full=full if len(tasks) > room else None)
    done = Dispatched()
    for task in [runtime.store.task(task) for task in choice.tasks]:
        reason = lookout.held(runtime, [task]).get(task.id)
        error: DispatchctlError | None = None
        if task.status is not Status.READY:
            error = Refused(f"task {task.id} is {task.status}, not ready", f"dispatchctl show {task.id}")
        elif reason:
            error = Refused(f"task {task.id} is held: {reason}", f"dispatchctl ready --explain {task.id}")
        elif len(done.started) >= room:
            error = full
        if error is None:
            done.started.append(task)
        elif len(choice.tasks) == 1:
            raise error
        else:
            done.failed.append(Failure(task.id, error, task.status))
    return done
