"""Retention: the events of a finished task go all at once, and one that holds its rows as they are takes their place.

So a replay still gives every row; and what a human has said to the task's agents stays, since a later one is told it. Of a
removed task nothing is left. What is not finished keeps everything.
"""

from collections.abc import Collection
from typing import Any

from dispatchctl import handover
from dispatchctl.store.counted import Forgettable
from dispatchctl.store.ledger import PARENTS_ARE, Act, Ledger
from dispatchctl.store.reentering import SIGHTED
from dispatchctl.store.rows import SELECT_EVENT, to_event
from dispatchctl.task import FINISHED, Actor

PRUNED = "pruned"
DERIVED = frozenset({"waits", "due", "ready_at"})
"""Columns of a task that no event carries."""
FINISHED_ONES = ", ".join(f"'{each}'" for each in sorted(FINISHED))


class Forgetting(Ledger):
    """The one verb that takes events away."""

    def forgettable(self) -> list[Forgettable]:
        """Every finished task without an open run, and every removed one, that has events to forget; the newest first."""
        rows = self._database.rows(
            f"""SELECT last.task, events.id, last.count, events.at, tasks.id IS NULL
                FROM (SELECT task, max(id) AS id, count(*) AS count
                      FROM events INDEXED BY events_of_task GROUP BY task) AS last
                JOIN events ON events.id = last.id LEFT JOIN tasks ON tasks.id = last.task
                WHERE events.kind <> '{PRUNED}' AND (tasks.id IS NULL OR tasks.status IN ({FINISHED_ONES}))
                  AND last.task NOT IN (SELECT task FROM runs INDEXED BY runs_open WHERE phase <> 'closed')
                ORDER BY last.id DESC"""
        )
        return [Forgettable(task, last, count, at, bool(removed)) for task, last, count, at, removed in rows]

    def forget(self, chosen: Collection[Forgettable], *, actor: Actor, at: int) -> list[Forgettable]:
        """Drop the events of these in one transaction, but of those to which something has happened since; which went."""
        with self._database:
            newest = "SELECT max(id) FROM events INDEXED BY events_of_task WHERE task = ?"
            gone = [each for each in chosen if self._database.row(newest, (each.task,))[0] == each.last]
            self._database.execute("INSERT INTO installation VALUES ('pruning', '')")
            for each in gone:
                detail = {} if each.removed else {**self._as_they_are(each.task), "events": each.events}
                self._database.execute("DELETE FROM events WHERE task = ?", (each.task,))
                if not each.removed:
                    self._write_event(each.task, None, Act(PRUNED, actor, at), (None, None), detail)
            self._database.execute("DELETE FROM installation WHERE key = 'pruning'")
        return gone

    def _said(self, task: int) -> list[handover.Saying]:
        """What a human has said, and which agents have heard it; empty if nothing was said."""
        events = self._database.rows(f"{SELECT_EVENT} INDEXED BY events_of_task WHERE task = ? ORDER BY id", (task,))
        return handover.worth_keeping(handover.sayings(to_event(row) for row in events))

    def _as_they_are(self, task: int) -> dict[str, Any]:
        """The rows of a task and its runs, with all that replaying its events would give, and what was said; null is left
        out."""
        (row,) = self._database.mappings("SELECT * FROM tasks WHERE id = ?", (task,))
        of_task = {name: value for name, value in row.items() if name not in {"id", *DERIVED} and value is not None}
        parents = self._database.rows("SELECT parent FROM after WHERE task = ? ORDER BY parent", (task,))
        of_task[PARENTS_ARE] = [parent[0] for parent in parents]
        runs = {
            run["token"]: {
                name: value for name, value in run.items() if name not in {"token", *SIGHTED} and value is not None
            }
            for run in self._database.mappings("SELECT * FROM runs WHERE task = ? ORDER BY number", (task,))
        }
        return {"task": of_task, "runs": runs, "said": self._said(task)}
