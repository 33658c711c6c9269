"""A ready task becomes a running agent, or leaves no trace.

The path of a task: `reconcile` makes every status true, `launch.claim` takes the task, `launch.start` does `steps.STEPS` or
undoes them, the `launcher` in the window runs the agent and records its end.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from dispatchctl.errors import DispatchctlError, QueueFull, Refused
from dispatchctl.launch import claim, start
from dispatchctl.reconcile import Done, reconcile
from dispatchctl.room import room_for
from dispatchctl.runtime import Runtime
from dispatchctl.task import Actor, Status, Task


@dataclass(frozen=True)
class Failure:
    """A task that could not be started, and why."""

    task: int
    error: DispatchctlError
    status: Status


@dataclass
class Dispatched:
    """What a call of `dispatch` did."""

    started: list[Task] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    full: QueueFull | None = None
    repaired: list[Done] = field(default_factory=list)
    held: frozenset[int] = frozenset()
    """Tasks that were left alone, since an agent of theirs may be alive that no open run owns."""


def dispatch(
    runtime: Runtime,
    tasks: Sequence[int] = (),
    *,
    most: int | None = None,
    labels: Collection[str] = (),
    max_running: int | None = None,
    actor: Actor = Actor.DISPATCH,
    claimed: Callable[[Task], None] = lambda _: None,
) -> Dispatched:
    """Start the named tasks, or ready ones while there are any, there is room, and fewer than `most` were started.

    Before the first claim every status is made true: recovery is exercised every day, not only after a disaster. One task's
    failure does not keep the rest from starting. `claimed` hears of each task that was claimed. Raises `Unavailable` before
    anything is claimed if git or tmux cannot be used at all.
    """
    check_tools(runtime)
    room = room_for(runtime, max_running)
    mended = reconcile(runtime, actor=actor)
    done = Dispatched(repaired=mended.done, held=mended.held)
    for wanted in tasks or _endless(most):
        try:
            held = claim(runtime, wanted, labels=labels, besides=mended.held, room=room, actor=actor)
        except QueueFull as full:
            if wanted is not None:
                raise
            done.full = full
            return done
        except Refused as refusal:
            if len(tasks) < 2:
                raise
            done.failed.append(Failure(wanted or 0, refusal, runtime.store.task(wanted or 0).status))
            continue
        if held is None:
            return done
        claimed(held.task)
        try:
            done.started.append(start(held, actor=actor))
        except DispatchctlError as error:
            done.failed.append(Failure(held.task.id, error, runtime.store.task(held.task.id).status))
    return done


def _endless(most: int | None) -> Iterator[None]:
    count = 0
    while most is None or count < most:
        yield None
        count += 1


def check_tools(runtime: Runtime) -> None:
    """Raise `Unavailable` if git or tmux cannot be used at all: then no task is to blame and none is claimed."""
    _ = runtime.git
    runtime.windows().check()
