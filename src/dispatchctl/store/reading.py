"""What is there: every query that changes nothing."""

import json
from collections.abc import Collection
from typing import Any

from dispatchctl.store.limits import CLAIMABLE, Limiting, allowed
from dispatchctl.store.protocol import Place, Room, Sighting
from dispatchctl.store.rows import SELECT_EVENT, SELECT_RUN, SELECT_TASK, having_labels, to_event, to_run, to_task
from dispatchctl.task import Event, Run, Status, Task

BY_NEED = (
    Status.BLOCKED,
    Status.IN_REVIEW,
    Status.FAILED,
    Status.IN_PROGRESS,
    Status.READY,
    Status.BACKLOG,
    Status.DONE,
    Status.CANCELLED,
)
"""The order of a listing: what needs a human first."""

ORDER = {
    Status.READY: "tasks.waits > 0 OR tasks.due = 0, tasks.priority, tasks.id",
    Status.DONE: "tasks.id DESC",
    Status.CANCELLED: "tasks.id DESC",
}


class Reading(Limiting):
    """The reading half of the store."""

    def tasks(
        self, *, status: Collection[Status] = (), labels: Collection[str] = (), repo: str | None = None, limit: int = 0
    ) -> list[Task]:
        """Tasks by need; `limit` bounds the whole, and each query, so that finished tasks cost nothing."""
        with self._database.reading():
            found: list[Task] = []
            for each in BY_NEED:
                if status and each not in status:
                    continue
                left = limit - len(found) if limit else -1
                if left == 0:
                    break
                found += self._with_status(each, labels, repo, left)
            return found

    def _with_status(self, status: Status, labels: Collection[str], repo: str | None, limit: int) -> list[Task]:
        where, values = having_labels(labels)
        if repo is not None:
            where += " AND tasks.repo = ?"
            values.append(repo)
        order = ORDER.get(status, "tasks.id")
        rows = self._database.rows(
            f"{SELECT_TASK} WHERE tasks.status = ?{where} ORDER BY {order} LIMIT ?", (status, *values, limit)
        )
        return [to_task(row) for row in rows]

    def claimable(
        self,
        *,
        at: int,
        limit: int,
        labels: Collection[str] = (),
        besides: Collection[int] = (),
        room: Room | None = None,
    ) -> list[Task]:
        """The tasks that a claim at this time would take, in its order."""
        room = room or Room(0)
        with self._database.reading():
            occupied = self._occupied()
            if occupied.everywhere(room) is not None:
                return []
            where, values = allowed(labels, besides, *occupied.left_out(room))
            return self._these([row[0] for row in self._line(at, limit, where, values)])

    def line(self, *, at: int, labels: Collection[str] = ()) -> list[tuple[int, str, str]]:
        """The ids of the tasks, with what pauses and limits go by."""
        with self._database.reading():
            return self._line(at, 0, *allowed(labels, ()))

    def _line(self, at: int, limit: int, where: str, values: list[Any]) -> list[tuple[int, str, str]]:
        """Both walks, of what was due before and of what has come to be since, are merged by the sort."""
        due = f"tasks_claimable WHERE {CLAIMABLE}"
        since = "tasks_deferred WHERE status = 'ready' AND waits = 0 AND due = 0 AND not_before <= ?"
        found: list[tuple[int, int, str, str]] = []
        for walk, first in ((due, ()), (since, (at,))):
            sql = f"SELECT priority, id, repo, agent FROM tasks INDEXED BY {walk}{where} ORDER BY priority, id LIMIT ?"
            found += self._database.rows(sql, (*first, *values, limit or -1))
        return [(id, repo, agent) for _, id, repo, agent in sorted(found)[: limit or None]]

    def _these(self, ids: Collection[int]) -> list[Task]:
        """The tasks with these ids, in their order."""
        wanted = json.dumps(list(ids))
        rows = self._database.rows(f"{SELECT_TASK} WHERE tasks.id IN (SELECT value FROM json_each(?))", (wanted,))
        found = {row[0]: row for row in rows}
        return [to_task(found[id]) for id in ids]

    def next_due(self, *, at: int) -> int | None:
        """The first `not_before` after this moment, of tasks that wait for nothing else."""
        row = self._database.row(
            """SELECT min(not_before) FROM tasks INDEXED BY tasks_deferred
               WHERE status = 'ready' AND due = 0 AND waits = 0 AND not_before > ?""",
            (at,),
        )
        return None if row[0] is None else int(row[0])

    def has_ready(self) -> bool:
        """One step into each of two indexes, past the tasks that wait for their time and for other tasks too."""
        indexes = {"tasks_claimable": CLAIMABLE, "tasks_deferred": "status = 'ready' AND waits = 0 AND due = 0"}
        found = (f"EXISTS (SELECT 1 FROM tasks INDEXED BY {name} WHERE {each})" for name, each in indexes.items())
        return bool(self._database.row(f"SELECT {' OR '.join(found)}")[0])

    def cursor(self, name: str) -> int | None:
        """How far the reader has come."""
        row = self._database.row("SELECT event FROM cursors WHERE name = ?", (name,))
        return None if row is None else int(row[0])

    def move_cursor(self, name: str, event: int) -> bool:
        """Only forwards, so that of two readers of one name one gets each event."""
        with self._database:
            sql = "INSERT INTO cursors VALUES (?1, ?2) ON CONFLICT DO UPDATE SET event = ?2 WHERE event < ?2"
            return self._database.execute(sql, (name, event)) == 1

    def last_event(self) -> int:
        """The newest event's id."""
        return int(self._database.row("SELECT ifnull(max(id), 0) FROM events")[0])

    def parents(self, tasks: Collection[int]) -> dict[int, list[Task]]:
        """Two queries, however many tasks and parents there are."""
        if not tasks:
            return {}
        pairs = """SELECT after.task, after.parent FROM json_each(?) CROSS JOIN after ON after.task = json_each.value
                   CROSS JOIN tasks ON tasks.id = after.parent AND tasks.status <> 'done' ORDER BY 1, 2"""
        with self._database.reading():
            found: dict[int, list[int]] = {}
            for task, parent in self._database.rows(pairs, (json.dumps(list(tasks)),)):
                found.setdefault(task, []).append(parent)
            distinct = dict.fromkeys(parent for parents in found.values() for parent in parents)
            by_id = {task.id: task for task in self._these(distinct)}
        return {task: [by_id[parent] for parent in parents] for task, parents in found.items()}

    def children(self, task: int) -> list[int]:
        """The tasks that are to run after this one."""
        return [row[0] for row in self._database.rows("SELECT task FROM after WHERE parent = ? ORDER BY task", (task,))]

    def count(self) -> dict[Status, int]:
        """How many tasks have each status; statuses without any are left out."""
        return {
            Status(row[0]): row[1] for row in self._database.rows("SELECT status, count(*) FROM tasks GROUP BY status")
        }

    def runs(self, task: int) -> list[Run]:
        """The task's runs, oldest first. Raises `NoSuchTask`."""
        with self._database.reading():
            self.task(task)
            return self._runs("WHERE task = ? ORDER BY number", (task,))

    def open_runs(self) -> list[Run]:
        """Every run that is not closed, whatever its task's status."""
        return self._runs("INDEXED BY runs_open WHERE phase <> 'closed' ORDER BY task", ())

    def open_tasks(self) -> list[Task]:
        """Every task with an open run, which is always its newest."""
        tokens = "SELECT token FROM runs INDEXED BY runs_open WHERE phase <> 'closed'"
        rows = self._database.rows(f"{SELECT_TASK} WHERE tasks.newest_run IN ({tokens}) ORDER BY tasks.id")
        return [to_task(row) for row in rows]

    def find_runs(self, tokens: Collection[str]) -> dict[str, Run]:
        """Those of the runs that there are."""
        wanted = json.dumps(list(tokens))
        found = self._runs("WHERE token IN (SELECT value FROM json_each(?))", (wanted,)) if tokens else []
        return {run.token: run for run in found}

    def kept_runs(self, *, closed_before: int) -> list[Run]:
        """Closed runs that were not cleared away."""
        where = (
            "INDEXED BY runs_kept WHERE phase = 'closed' AND cleared_at IS NULL AND closed_at <= ? ORDER BY closed_at"
        )
        return self._runs(where, (closed_before,))

    def places(self) -> list[Place]:
        """Where runs have been."""
        return [
            Place(*row) for row in self._database.rows("SELECT kind, path, program FROM places ORDER BY kind, path")
        ]

    def sightings(self) -> dict[str, Sighting]:
        """When each run was last seen to stir."""
        rows = self._database.rows("SELECT token, output_size, heartbeat_at, stirred_awake FROM sightings")
        return {row[0]: Sighting(*row) for row in rows}

    def events(self, *, task: int | None = None, after: int = 0, since: int = 0, limit: int = 0) -> list[Event]:
        """Events in order, those with an id over `after` and not before `since`; the last `limit` of them if given.

        Each index gives its events in the order in which they are asked for, so that no more than `limit` are read.
        """
        index, order, where, values = "", "id", "id > ?", [after]
        if since:
            index, order = "INDEXED BY events_by_time", "at DESC, id"
            where, values = f"{where} AND at >= ?", [*values, since]
        if task is not None:
            index, order = "INDEXED BY events_of_task", "id"
            where, values = f"{where} AND task = ?", [*values, task]
        rows = self._database.rows(
            f"{SELECT_EVENT} {index} WHERE {where} ORDER BY {order} DESC LIMIT ?", (*values, limit or -1)
        )
        return sorted(map(to_event, rows), key=lambda event: event.id)

    def next_events(self, after: int, *, limit: int) -> list[Event]:
        """A bounded step of whoever reads all events in order."""
        rows = self._database.rows(f"{SELECT_EVENT} WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [to_event(row) for row in rows]

    def version(self) -> int:
        """`PRAGMA data_version`: changes when another connection commits; about 3 µs."""
        return int(self._database.row("PRAGMA data_version")[0])

    def _runs(self, where: str, values: tuple[Any, ...]) -> list[Run]:
        return [to_run(row) for row in self._database.rows(f"{SELECT_RUN} {where}", values)]
