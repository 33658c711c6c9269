"""The one method through which a task or a run changes, with its event in the same transaction."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.store.connection import Database
from dispatchctl.store.rows import RUN_COLUMNS, TASK_COLUMNS, to_run, to_task
from dispatchctl.task import NEXT, NEXT_PHASE, Actor, Phase, Run, Status, Task

RUN_OF_TASK = ", ".join(f"runs.{column.strip()}" for column in RUN_COLUMNS.split(","))
TASK_OF_TASK = (
    "tasks."
    + TASK_COLUMNS.split(", (SELECT")[0].replace(", ", ", tasks.")
    + ", (SELECT"
    + (TASK_COLUMNS.split(", (SELECT")[1])
)
TASK_WITH_RUN = f"SELECT {TASK_OF_TASK}, {RUN_OF_TASK} FROM tasks LEFT JOIN runs ON runs.token = tasks.newest_run"


class Ledger:
    """A database with the guarded write that every verb is made of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def task(self, task: int) -> Task:
        """The task with its newest run. Raises `NoSuchTask`."""
        row = self._database.row(f"{TASK_WITH_RUN} WHERE tasks.id = ?", (task,))
        if row is None:
            raise NoSuchTask(task)
        return to_task(row)

    def run(self, token: str) -> Run:
        """The run with this token. Raises `Refused` if there is none (any more)."""
        row = self._database.row(f"SELECT {RUN_COLUMNS} FROM runs WHERE token = ?", (token,))
        if row is None:
            raise Refused(f"there is no run {token} in {self._database.path}", "dispatchctl list")
        return to_run(row)

    def _change(
        self,
        task: Task,
        kind: str,
        *,
        actor: Actor,
        at: int,
        to: Status | None = None,
        columns: Mapping[str, Any] | None = None,
        run: Run | None = None,
        phase: Phase | None = None,
        run_columns: Mapping[str, Any] | None = None,
        parents: Sequence[int] | None = None,
    ) -> None:
        """Write the changed columns of `task` and `run`, and the event that says so, inside the open transaction.

        Both writes expect the status and the phase that the values were read with. A transition that the tables of
        `dispatchctl.task` do not allow raises `Refused`.
        """
        if to is not None and to is not task.status and to not in NEXT[task.status]:
            raise Refused(f"task {task.id} is {task.status} and cannot become {to}", f"dispatchctl show {task.id}")
        task_changes = dict(columns or {})
        if to is not None and to is not task.status:
            task_changes["status"] = to
        if task_changes:
            self._update("tasks", {**task_changes, "updated_at": at}, "id", task.id, "status", task.status)
        run_changes = dict(run_columns or {})
        if run is not None:
            if phase is not None:
                assert phase in NEXT_PHASE[run.phase], (run.phase, phase)
                run_changes["phase"] = phase
            if run_changes:
                self._update("runs", run_changes, "token", run.token, "phase", run.phase)
        if "not_before" in task_changes:
            due = "due = (not_before IS NULL OR not_before <= ?)"
            self._database.execute(f"UPDATE tasks SET {due} WHERE id = ?", (at, task.id))
        self._count_for_children(task, to)
        if parents is not None:
            task_changes["after"] = list(parents)
        self._record(task, kind, actor, at, to, run.token if run else None, task_changes, run_changes)

    def _update(self, table: str, changes: Mapping[str, Any], key: str, value: Any, guard: str, expected: str) -> None:
        """UPDATE one row that still is as expected; the names of columns come from this package, never from outside."""
        assignments = ", ".join(f"{column} = :{column}" for column in changes)
        changed = self._database.execute(
            f"UPDATE {table} SET {assignments} WHERE {key} = :_key AND {guard} = :_expected",
            {**changes, "_key": value, "_expected": expected},
        )
        if changed != 1:
            what = "task" if table == "tasks" else "run"
            raise Refused(f"{what} {value} is no longer {expected}; nothing was changed", "dispatchctl list")

    def _count_for_children(self, task: Task, to: Status | None) -> None:
        """Keep the counters of unfinished parents, in the transaction that finishes or reopens the parent."""
        if to is None or (to is Status.DONE) == (task.status is Status.DONE):
            return
        step = -1 if to is Status.DONE else 1
        children = "(SELECT task FROM after WHERE parent = ?)"
        self._database.execute(f"UPDATE tasks SET waits = waits + ? WHERE id IN {children}", (step, task.id))

    def _record(
        self,
        task: Task,
        kind: str,
        actor: Actor,
        at: int,
        to: Status | None,
        token: str | None,
        task_changes: Mapping[str, Any],
        run_changes: Mapping[str, Any],
    ) -> None:
        detail: dict[str, Any] = {}
        if task_changes:
            detail["task"] = dict(task_changes)
        if run_changes:
            detail["run"] = dict(run_changes)
        moved = to is not None and to is not task.status
        self._database.execute(
            "INSERT INTO events (task, run, at, actor, kind, from_status, to_status, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                task.id,
                token,
                at,
                actor,
                kind,
                task.status if moved else None,
                to if moved else None,
                json.dumps(detail, ensure_ascii=False),
            ),
        )

    def _open_run(self, task: int) -> Run | None:
        row = self._database.row(
            f"SELECT {RUN_COLUMNS} FROM runs INDEXED BY runs_open WHERE task = ? AND phase <> 'closed'", (task,)
        )
        return to_run(row) if row else None

    def _refuse_open(self, task: int, verb: str) -> None:
        """Raise `Refused` if the task has an open run."""
        run = self._open_run(task)
        if run is None:
            return
        if run.phase is Phase.UNDOING:
            raise Refused(
                f"task {task} cannot be {verb}: the undo of its run {run.token} is not finished ({run.error})",
                f"dispatchctl show {task}",
            )
        raise Refused(f"task {task} cannot be {verb}: it has an open run {run.token}", f"dispatchctl cancel {task}")
