"""Entering a run again that the database has lost: its agent did start, as what the launcher left beside it shows."""

import json
from dataclasses import asdict
from typing import Any

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.store.ledger import PARENTS_ARE, Act, Ledger
from dispatchctl.task import NEXT, Actor, Phase, Run, Status, Task

SIGHTED = frozenset({"activity", "heartbeat_at", "life", "life_at"})
"""Columns of a run that no event carries."""


class Reentering(Ledger):
    """The one verb that believes the world more than the rows: they are older than it, as a restored copy is."""

    def reenter(self, run: Run, task: Task, *, was: Phase | None, actor: Actor, at: int) -> Task:
        """Make the run as it is given the task's open run. Raises `Refused` if it is not as it was, or the task has another."""
        act = Act("reentered", actor, at)
        with self._database:
            row = self._database.row("SELECT phase FROM runs WHERE token = ?", (run.token,))
            if (row and row[0]) != was:
                raise Refused(
                    f"run {run.token} is no longer as it was seen; nothing was changed", "dispatchctl reconcile"
                )
            known = self._known_task(task, act)
            other = self._open_run(known.id)
            if other is not None and other.token != run.token:
                raise Refused(
                    f"task {known.id} has another open run, {other.token}: {run.token} was not entered again",
                    f"dispatchctl show {known.id}",
                )
            if Status.IN_PROGRESS not in NEXT[known.status] and known.status is not Status.IN_PROGRESS:
                self._change(known, act, to=Status.READY)
                known = self.task(known.id)
            columns = {name: value for name, value in asdict(run).items() if name not in SIGHTED and name != "token"}
            columns |= {"phase": Phase.STARTED, "number": self._number(run)}
            self._write_run(run.token, columns)
            newest = {"newest_run": run.token, "error": None, "not_before": None}
            changes = self._change_task(known, act, Status.IN_PROGRESS, newest)
            self._record(known, act, Status.IN_PROGRESS, run.token, changes, columns)
            return self.task(known.id)

    def _known_task(self, task: Task, act: Act) -> Task:
        """The task as the database has it, added again if it is lost."""
        try:
            return self.task(task.id)
        except NoSuchTask:
            pass
        left_out = {"id", "after", "run", "waits", "ready_at", "updated_at", "resume"}
        columns: dict[str, Any] = {name: value for name, value in asdict(task).items() if name not in left_out}
        columns |= {"status": Status.READY, "labels": json.dumps(task.labels, ensure_ascii=False)}
        columns |= {"review": int(task.review)}
        names, places = ", ".join(columns), ", ".join(f":{column}" for column in columns)
        self._database.execute(
            f"INSERT INTO tasks (id, {names}, updated_at) VALUES (:id, {places}, :at)",
            {**columns, "id": task.id, "at": act.at},
        )
        self._write_event(task.id, None, act, (None, Status.READY), {"task": {**columns, PARENTS_ARE: []}})
        return self.task(task.id)

    def _number(self, run: Run) -> int:
        """The run's number, or the next one if another run of the task has it."""
        taken = self._database.row(
            "SELECT 1 FROM runs WHERE task = ? AND number = ? AND token <> ?", (run.task, run.number, run.token)
        )
        if not taken:
            return run.number
        return int(self._database.row("SELECT max(number) + 1 FROM runs WHERE task = ?", (run.task,))[0])

    def _write_run(self, token: str, columns: dict[str, Any]) -> None:
        """Change the row if there is one, which knows who said what is said of the run, and insert it if not."""
        assignments = ", ".join(f"{column} = :{column}" for column in columns)
        values = {"token": token, **columns}
        if self._database.execute(f"UPDATE runs SET {assignments} WHERE token = :token", values):
            return
        names, places = ", ".join(columns), ", ".join(f":{column}" for column in columns)
        self._database.execute(f"INSERT INTO runs (token, {names}) VALUES (:token, {places})", values)
