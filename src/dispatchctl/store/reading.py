"""What is there: every query that changes nothing."""

import json
from collections.abc import Collection
from typing import Any

from dispatchctl.store.limits import Full, Limiting, allowed
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
        """The tasks that a claim at this time would take, in its order; the two walks are merged by the sort."""
        with self._database.reading():
            full = Full(repos={pause.repo: "" for pause in self.pauses()}) if room is None else self._full(room)
            if full.all or "" in full.repos:
                return []
            where, values = allowed(labels, besides, full)
            found = []
            for index, condition in (("tasks_claimable", "due = 1"), ("tasks_deferred", "due = 0 AND not_before <= ?")):
                rows = self._database.rows(
                    f"""SELECT id, priority FROM tasks INDEXED BY {index} WHERE status = 'ready' AND waits = 0
                        AND {condition}{where} ORDER BY priority, id LIMIT ?""",
                    (*([at] if "?" in condition else []), *values, limit or -1),
                )
                found += [(row[1], row[0]) for row in rows]
            return [self.task(task) for _, task in sorted(found)[: limit or None]]

    def next_due(self, *, at: int) -> int | None:
        """The first `not_before` after this moment, of tasks that wait for nothing else."""
        row = self._database.row(
            """SELECT min(not_before) FROM tasks INDEXED BY tasks_deferred
               WHERE status = 'ready' AND due = 0 AND waits = 0 AND not_before > ?""",
            (at,),
        )
        return None if row[0] is None else int(row[0])

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
        """The unfinished parents of each of the tasks."""
        found = {}
        with self._database.reading():
            for task in tasks:
                rows = self._database.rows(
                    f"""{SELECT_TASK} WHERE tasks.status <> 'done'
                        AND tasks.id IN (SELECT parent FROM after WHERE task = ?) ORDER BY tasks.id""",
                    (task,),
                )
                if rows:
                    found[task] = [to_task(row) for row in rows]
        return found

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
        """Events in order, those with an id over `after` and not before `since`; the last `limit` of them if given."""
        index, where, values = "", "id > ?", [after]
        if since:
            index, where, values = "INDEXED BY events_by_time", f"{where} AND at >= ?", [*values, since]
        if task is not None:
            index, where, values = "INDEXED BY events_of_task", f"{where} AND task = ?", [*values, task]
        rows = self._database.rows(
            f"{SELECT_EVENT} {index} WHERE {where} ORDER BY id {'DESC' if limit else ''} LIMIT ?",
            (*values, limit or -1),
        )
        events = [to_event(row) for row in rows]
        return events[::-1] if limit else events

    def version(self) -> int:
        """`PRAGMA data_version`: changes when another connection commits; about 3 µs."""
        return int(self._database.row("PRAGMA data_version")[0])

    def _runs(self, where: str, values: tuple[Any, ...]) -> list[Run]:
        return [to_run(row) for row in self._database.rows(f"{SELECT_RUN} {where}", values)]
