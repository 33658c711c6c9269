"""Tasks that wait: for a dispatcher, for ever, or for a human."""

from collections.abc import Iterator
from shlex import quote

from dispatchctl.doctor.health import Queue
from dispatchctl.doctor.table import Problem, Severity, check
from dispatchctl.durations import format_duration, format_time
from dispatchctl.task import Outcome, Status, Task

ERROR, WARNING, INFO = Severity

WAITED_S = 3_600.0
"""Seconds that a task may be ready, with room for it, before somebody should wonder whether a dispatcher runs."""
UNATTENDED_S = 300.0
"""The same where it is known that none runs; whoever dispatches by hand may be about to."""
PAUSED_S = 86_400.0
"""Seconds of a pause after which somebody may have forgotten it."""


@check(WARNING)
def queue_moves(queue: Queue) -> Iterator[Problem]:
    """No task has been ready for an hour, with room for it: somebody dispatches."""
    if queue.claimable_since is None or queue.room < 1:
        return
    waited = (queue.at - queue.claimable_since) / 1000
    if waited > WAITED_S:
        many = len(queue.claimable)
        what = f"task {queue.claimable[0]} is" if many == 1 else f"{many} tasks are"
        ago = format_duration(int(waited) // 60 * 60)
        yield Problem("queue", f"{what} ready since {ago}, and nobody starts them", "dispatchctl dispatch")


@check(INFO)
def not_paused_for_long(queue: Queue) -> Iterator[Problem]:
    """No repository, nor the whole queue, has been paused for more than a day: nobody has forgotten it."""
    for repo, since in queue.paused.items():
        if queue.at - since > 1000 * PAUSED_S:
            option = f" --repo {quote(repo)}" if repo else ""
            text = f"has been paused since {format_time(since)}, so nothing is started there"
            yield Problem(repo or "queue", text, f"dispatchctl unpause{option}")


@check(INFO)
def queue_attended(queue: Queue) -> Iterator[Problem]:
    """While a task has been ready for five minutes, `dispatchctl watch` runs; asked where there is systemd to run it."""
    if queue.attended or queue.claimable_since is None or queue.room < 1:
        return
    if UNATTENDED_S < (queue.at - queue.claimable_since) / 1000 <= WAITED_S:
        what = f"task {queue.claimable[0]} is" if len(queue.claimable) == 1 else f"{len(queue.claimable)} tasks are"
        yield Problem("queue", f"{what} ready, and no daemon runs that would start them", "dispatchctl service install")


@check(WARNING)
def held_for_ever(queue: Queue) -> Iterator[Problem]:
    """No task waits for one that failed or was cancelled: it would wait until somebody tries that one again."""
    for task in queue.waiting:
        for parent in queue.parents.get(task.id, ()):
            if parent.status in (Status.FAILED, Status.CANCELLED):
                text = f"waits for ever: task {parent.id} is {parent.status}"
                yield Problem(f"task {task.id}", text, f"dispatchctl retry {parent.id}")


@check(ERROR)
def no_circle(queue: Queue) -> Iterator[Problem]:
    """No tasks wait for each other in a circle, which `add` and `edit` refuse and only SQL can make."""
    for circle in _circles(queue):
        shown = " → ".join(map(str, (*circle, circle[0])))
        yield Problem(f"task {circle[0]}", f"waits for itself: {shown}", f"dispatchctl edit {circle[0]} --after ''")


def _circles(queue: Queue) -> Iterator[tuple[int, ...]]:
    """Each circle once, from its smallest task. Tasks that no waiting parent is above are taken away until none is left."""
    waiting = {task.id: task for task in queue.waiting}
    above = {id: {parent for parent in task.after if parent in waiting} for id, task in waiting.items()}
    below: dict[int, list[int]] = {}
    for id, parents in above.items():
        for parent in parents:
            below.setdefault(parent, []).append(id)
    free = [id for id, parents in above.items() if not parents]
    while free:
        done = free.pop()
        above.pop(done, None)
        for child in below.get(done, ()):
            above[child].discard(done)
            if not above[child]:
                free.append(child)
    while above:
        path, at = [], min(above)
        while at not in path:
            path.append(at)
            at = min(parent for parent in above[at] if parent in above)
        circle = path[path.index(at) :]
        first = circle.index(min(circle))
        yield tuple(circle[first:] + circle[:first])
        for id in _reached(circle, below):
            above.pop(id, None)


def _reached(circle: list[int], below: dict[int, list[int]]) -> set[int]:
    """The circle and everything that waits for it."""
    found, new = set(circle), list(circle)
    while new:
        for child in below.get(new.pop(), ()):
            if child not in found:
                found.add(child)
                new.append(child)
    return found


@check(WARNING)
def recovery_left(queue: Queue) -> Iterator[Problem]:
    """No task failed because it was lost, or could not be started, more often than its recoveries allow."""
    for task in queue.failed:
        if _outcome(task) in (Outcome.LOST, Outcome.ROLLED_BACK) and not task.recoveries_left:
            text = f"was given up: {task.error or 'no recovery is left'}"
            yield Problem(f"task {task.id}", text, f"dispatchctl retry {task.id}")


@check(INFO)
def retry_left(queue: Queue) -> Iterator[Problem]:
    """No task failed more often than its retries allow."""
    for task in queue.failed:
        tries = task.run.number if task.run is not None else 0
        ended = _outcome(task) in (Outcome.EXITED, Outcome.REPORTED, Outcome.TIMED_OUT)
        if ended and tries > 1 and not task.retries_left:
            text = f"has failed in run {tries}, and no retry is left: {task.error}"
            yield Problem(f"task {task.id}", text, f"dispatchctl show {task.id}")


def _outcome(task: Task) -> Outcome | None:
    return task.run.outcome if task.run is not None else None
