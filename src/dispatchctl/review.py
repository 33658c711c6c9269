"""A human has looked: the work is good, or the task goes back with what is to be better.

Both are one transaction of the store (`approve`, `reject`); what is said becomes a part of the next prompt (`handover`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dispatchctl.errors import UsageError
from dispatchctl.runtime import Runtime, now
from dispatchctl.sessions import checked_message
from dispatchctl.task import Run, Task


@dataclass(frozen=True)
class Approved:
    """Tasks that are done, and of those whose worktree holds files that are not on the branch, the run and their number."""

    tasks: list[Task]
    uncommitted: dict[int, tuple[Run, int]]


def approve(runtime: Runtime, tasks: Sequence[int]) -> Approved:
    """in_review → done, all of them or none; their children may start. Raises `Refused` for any other status."""
    done = runtime.store.approve(tasks, at=now())
    left: dict[int, tuple[Run, int]] = {}
    for task in done:
        run = task.run
        changes = runtime.git.changes(run.worktree, run.base_commit) if run is not None and run.base_commit else None
        if run is not None and changes is not None and changes.files:
            left[task.id] = (run, changes.files)
    return Approved(done, left)


def reject(runtime: Runtime, task: int, message: str) -> Task:
    """in_review → ready: the next run goes on in the same worktree and hears the message. Raises `Refused` otherwise."""
    checked_message(message)
    if not message.strip():
        raise UsageError(
            f"task {task} is not rejected without a word about what is to be better",
            f"dispatchctl reject {task} -m 'WHY'",
        )
    return runtime.store.reject(task, note=message, recoveries=runtime.settings.task.recoveries, at=now())
