"""What a task waits for that the database cannot tell: that its several parents are merged.

So it is tried now and then, ever more seldom (`verdict.judge_undone`). Whoever knows that the next try may succeed has it
made at once; but a time that a human said stays as it was said.
"""

from typing import Any

from dispatchctl.store.ledger import Act, Ledger
from dispatchctl.task import Actor, Task

PARENT_MERGED = "parent_merged"


class Waiting(Ledger):
    """For the verbs by which that may change."""

    def _try_children(self, parent: int, at: int) -> None:
        """Tell every child that was tried in vain, or is being tried now, that this parent is merged."""
        children = self._database.rows(
            """SELECT tasks.id FROM after JOIN tasks ON tasks.id = after.task JOIN runs ON runs.token = tasks.newest_run
               WHERE after.parent = ? AND (tasks.status = 'ready' AND runs.outcome = 'rolled_back'
                   OR tasks.status = 'in_progress' AND runs.phase IN ('launching', 'undoing'))""",
            (parent,),
        )
        for row in children:
            child = self.task(row[0])
            act = Act(PARENT_MERGED, Actor.USER, at, f"task {parent}, which it is to run after, was merged")
            self._change(child, act, columns=self._at_once(child))

    def _at_once(self, task: Task) -> dict[str, Any]:
        """The columns by which a task is not put off any more: none if no undone launch has put it off."""
        last = self._database.row(
            """SELECT kind FROM events INDEXED BY events_of_task
               WHERE task = ? AND json_type(detail, '$.task.not_before') IS NOT NULL ORDER BY id DESC LIMIT 1""",
            (task.id,),
        )
        put_off = task.not_before is not None and last is not None and last[0] == "undone"
        return {"not_before": None} if put_off else {}
