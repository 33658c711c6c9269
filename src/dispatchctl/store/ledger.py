"""How a task or a run changes: its row as it is expected to be, and the event that says so, in one transaction."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.store.connection import Database
from dispatchctl.store.rows import SELECT_RUN, SELECT_TASK, to_run, to_task
from dispatchctl.task import NEXT, NEXT_PHASE, Actor, Phase, Run, Status, Task

Columns = Mapping[str, Any]
"""Changed columns of one row. The names come from this package or are checked by it, never from outside."""

READY_AT = "CASE WHEN status = 'ready' AND waits = 0 THEN max(?1, ifnull(not_before, 0)) END"
"""Since when nothing but room keeps a task from being claimed, at ?1; null while something else does."""

PARENTS_ARE = "after"
"""Among the changed columns of a task, its parents: rows of another table, which the caller has written."""


@dataclass(frozen=True)
class Act:
    """What was done, by whom and when (milliseconds since the epoch), and why where no column says so."""

    kind: str
    actor: Actor
    at: int
    why: str | None = None


class Ledger:
    """A database with the guarded write that every verb is made of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def task(self, task: int) -> Task:
        """The task with its newest run. Raises `NoSuchTask`."""
        row = self._database.row(f"{SELECT_TASK} WHERE tasks.id = ?", (task,))
        if row is None:
            raise NoSuchTask(task)
        return to_task(row)

    def run(self, token: str) -> Run:
        """The run with this token. Raises `Refused` if there is none (any more)."""
        row = self._database.row(f"{SELECT_RUN} WHERE token = ?", (token,))
        if row is None:
            raise Refused(f"there is no run {token} in {self._database.path}", "dispatchctl list")
        return to_run(row)

    def _change(
        self,
        task: Task,
        act: Act,
        *,
        to: Status | None = None,
        columns: Columns | None = None,
        run: Run | None = None,
        run_columns: Columns | None = None,
    ) -> None:
        """Write the changed columns of `task` and of `run`, and their event, inside the open transaction.

        Both rows have to be as they were read: with the same status and the same phase. Raises `Refused` otherwise, and for
        a transition that is not in the tables of `dispatchctl.task`.
        """
        task_changes = self._change_task(task, act, to, columns or {})
        run_changes = dict(run_columns or {})
        if run is not None and run_changes:
            phase = run_changes.get("phase")
            assert phase is None or phase in NEXT_PHASE[run.phase], (run.phase, phase)
            self._update("runs", run_changes, ("token", run.token), ("phase", run.phase))
        self._record(task, act, to, run.token if run else None, task_changes, run_changes)

    def _change_task(self, task: Task, act: Act, to: Status | None, columns: Columns) -> Columns:
        """The task's half of `_change`; what it changed, for the event."""
        changes = dict(columns)
        if to is not None and to is not task.status:
            if to not in NEXT[task.status]:
                raise Refused(f"task {task.id} is {task.status} and cannot become {to}", f"dispatchctl show {task.id}")
            changes["status"] = to
        if changes:
            written = {column: value for column, value in changes.items() if column != PARENTS_ARE}
            self._update("tasks", {**written, "updated_at": act.at}, ("id", task.id), ("status", task.status))
        if "not_before" in changes:
            due = "due = (not_before IS NULL OR not_before <= ?)"
            self._database.execute(f"UPDATE tasks SET {due} WHERE id = ?", (act.at, task.id))
        if "status" in changes or changes.keys() & {"not_before", PARENTS_ARE}:
            self._database.execute(f"UPDATE tasks SET ready_at = {READY_AT} WHERE id = ?2", (act.at, task.id))
        if to is not None and (to is Status.DONE) is not (task.status is Status.DONE):
            self._count_for_children(task, -1 if to is Status.DONE else 1, act.at)
        return changes

    def _count_for_children(self, task: Task, step: int, at: int) -> None:
        """Keep the counters of unfinished parents, in the transaction that finishes or reopens the parent."""
        children = "(SELECT task FROM after WHERE parent = ?)"
        self._database.execute(f"UPDATE tasks SET waits = waits + ? WHERE id IN {children}", (step, task.id))
        self._database.execute(
            f"UPDATE tasks SET ready_at = {READY_AT} WHERE waits <= 1 AND id IN (SELECT task FROM after WHERE parent = ?2)",
            (at, task.id),
        )

    def _update(self, table: str, changes: Columns, key: tuple[str, Any], expected: tuple[str, str]) -> None:
        """UPDATE the one row with that key that still is as expected. Raises `Refused` if it is not."""
        assignments = ", ".join(f"{column} = :{column}" for column in changes)
        changed = self._database.execute(
            f"UPDATE {table} SET {assignments} WHERE {key[0]} = :_key AND {expected[0]} = :_expected",
            {**changes, "_key": key[1], "_expected": expected[1]},
        )
        if changed != 1:
            what = "task" if table == "tasks" else "run"
            raise Refused(f"{what} {key[1]} is no longer {expected[1]}; nothing was changed", "dispatchctl list")

    def _record(
        self, task: Task, act: Act, to: Status | None, token: str | None, task_changes: Columns, run_changes: Columns
    ) -> None:
        """Write the event: who, when, from which status to which, and the changed columns, so that it can be replayed."""
        detail = {"task": task_changes, "run": run_changes, "why": act.why}
        moved = to is not None and to is not task.status
        self._write_event(task.id, token, act, (task.status, to) if moved else (None, None), detail)

    def _write_event(
        self,
        task: int,
        token: str | None,
        act: Act,
        move: tuple[Status | None, Status | None],
        detail: Mapping[str, Any],
    ) -> None:
        text = json.dumps({row: changes for row, changes in detail.items() if changes}, ensure_ascii=False)
        self._database.execute(
            "INSERT INTO events (task, run, at, actor, kind, from_status, to_status, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (task, token, act.at, act.actor, act.kind, *move, text),
        )

    def _open_run(self, task: int) -> Run | None:
        row = self._database.row(
            f"{SELECT_RUN} INDEXED BY runs_open WHERE task = ? AND phase <> '{Phase.CLOSED}'", (task,)
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
