"""What the user does to a task."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.store.ledger import PARENTS_ARE, READY_AT, Act
from dispatchctl.store.waiting import Waiting
from dispatchctl.task import Actor, NewTask, Report, Status, Task
from dispatchctl.verdict import LONGEST_WAIT_S

EDITABLE = frozenset(
    {"title", "prompt", "agent", "repo", "base", "priority", "labels", "review"}
    | {"retries_left", "recoveries_left", "timeout_s", "not_before"}
)
STARTS_FROM = frozenset({"repo", "base", PARENTS_ARE})
"""What it depends on, among others, whether a task waits for merges."""
CLOCK_SLACK_MS = 60_000
"""A row that was written so far in the future was written before the clock was put back."""
RETRIABLE = frozenset({Status.DONE, Status.FAILED, Status.CANCELLED, Status.IN_REVIEW, Status.BLOCKED})


class TaskVerbs(Waiting):
    """Add, edit, remove, and the changes of status that need no run."""

    def add(self, new: Sequence[NewTask], *, actor: Actor, at: int) -> list[Task]:
        """Insert all of them or none. Raises `NoSuchTask` for a parent that does not exist."""
        with self._database:
            return [self.task(self._insert(each, actor, at)) for each in new]

    def _insert(self, new: NewTask, actor: Actor, at: int) -> int:
        columns: dict[str, Any] = {
            "title": new.title,
            "prompt": new.prompt,
            "status": Status.BACKLOG if new.backlog else Status.READY,
            "priority": new.priority,
            "labels": json.dumps(new.labels, ensure_ascii=False),
            "agent": new.agent,
            "repo": new.repo,
            "base": new.base,
            "review": int(new.review),
            "retries_left": new.retries,
            "recoveries_left": new.recoveries,
            "timeout_s": new.timeout_s,
            "not_before": new.not_before,
            "created_at": at,
        }
        names = ", ".join(columns)
        places = ", ".join(f":{column}" for column in columns)
        self._database.execute(
            f"""INSERT INTO tasks ({names}, updated_at, due)
                VALUES ({places}, :created_at, :not_before IS NULL OR :not_before <= :created_at)""",
            columns,
        )
        task = self._database.last_id()
        self._link(task, new.after)
        self._database.execute(f"UPDATE tasks SET ready_at = {READY_AT} WHERE id = ?2", (at, task))
        detail = {"task": {**columns, PARENTS_ARE: sorted(set(new.after))}}
        self._write_event(task, None, Act("added", actor, at), (None, Status(columns["status"])), detail)
        return task

    def edit(self, task: int, changes: Mapping[str, Any], after: Collection[int] | None, *, at: int) -> Task:
        """Change columns of a task without an open run, and its parents if `after` is given."""
        columns = dict(changes)
        assert columns.keys() <= EDITABLE, columns.keys() - EDITABLE
        if "labels" in columns:
            columns["labels"] = json.dumps(columns["labels"], ensure_ascii=False)
        with self._database:
            before = self.task(task)
            self._refuse_open(task, "edited")
            if after is not None:
                self._refuse_circle(task, after)
                self._database.execute("DELETE FROM after WHERE task = ?", (task,))
                self._link(task, after)
                columns[PARENTS_ARE] = sorted(set(after))
            if columns.keys() & STARTS_FROM:
                columns = {**self._at_once(before), **columns}
            if columns:
                self._change(before, Act("edited", Actor.USER, at), columns=columns)
            return self.task(task)

    def remove(self, tasks: Collection[int], *, at: int) -> None:
        """Delete the tasks and their runs; refused for an open run, and where another task waits for one of them."""
        wanted = tuple(dict.fromkeys(tasks))
        with self._database:
            for task in wanted:
                before = self.task(task)
                self._refuse_open(task, "removed")
                rows = self._database.rows("SELECT task FROM after WHERE parent = ?", (task,))
                children = [str(row[0]) for row in rows if row[0] not in wanted]
                if children:
                    raise Refused(
                        f"task {task} cannot be removed: task {', '.join(children)} is to run after it",
                        f"dispatchctl edit {children[0]} --after ''",
                    )
                self._record(before, Act("removed", Actor.USER, at), None, None, {}, {})
            marks = ", ".join("?" * len(wanted))
            self._database.execute(f"DELETE FROM after WHERE task IN ({marks})", wanted)
            self._database.execute(f"DELETE FROM tasks WHERE id IN ({marks})", wanted)

    def release(self, tasks: Collection[int], *, at: int) -> list[Task]:
        """backlog → ready, all or none."""
        with self._database:
            for task in dict.fromkeys(tasks):
                before = self.task(task)
                if before.status is not Status.BACKLOG:
                    raise Refused(f"task {task} is {before.status}, not in the backlog", f"dispatchctl show {task}")
                self._change(before, Act("released", Actor.USER, at), to=Status.READY)
            return [self.task(task) for task in tasks]

    def approve(self, tasks: Collection[int], *, at: int) -> list[Task]:
        """in_review → done, all or none; children that wait for nothing else are released by the same transaction."""
        with self._database:
            for task in dict.fromkeys(tasks):
                before = self._reviewed(task, "approved")
                self._change(before, Act("approved", Actor.USER, at), to=Status.DONE, columns={"error": None})
            return [self.task(task) for task in tasks]

    def reject(self, task: int, *, note: str, recoveries: int, at: int) -> Task:
        """in_review → ready; the next run goes on in the worktree of the last one."""
        with self._database:
            before = self._reviewed(task, "rejected")
            columns: dict[str, Any] = {
                "error": None,
                "result": None,
                "not_before": None,
                "note": note,
                "recoveries_left": recoveries,
            }
            self._change(before, Act("rejected", Actor.USER, at), to=Status.READY, columns=columns)
            return self.task(task)

    def _reviewed(self, task: int, verb: str) -> Task:
        """The task, if it is in review."""
        before = self.task(task)
        self._refuse_open(task, verb)
        if before.status is Status.IN_REVIEW:
            return before
        hint = f"dispatchctl retry {task} -m 'WHY'" if before.status in RETRIABLE else f"dispatchctl show {task}"
        raise Refused(
            f"task {task} is {before.status}, not in review: there is nothing that could be {verb}",
            hint if verb == "rejected" else f"dispatchctl show {task}",
        )

    def retry(self, task: int, *, note: str | None, fresh: bool, recoveries: int, at: int) -> Task:
        """→ ready; with `fresh` the next run does not go on in the last one's worktree."""
        with self._database:
            before = self.retriable(task)
            columns: dict[str, Any] = {
                "error": None,
                "result": None,
                "not_before": None,
                "note": note,
                "recoveries_left": recoveries,
            }
            if fresh:
                columns["resume"] = None
            self._change(before, Act("retried", Actor.USER, at), to=Status.READY, columns=columns)
            return self.task(task)

    def shorten_waits(self, *, at: int) -> list[int]:
        """Only waits that a failed try began, which are short: what a user said of a time is about the clock on the wall."""
        where = "status = 'ready' AND due = 0 AND error IS NOT NULL AND updated_at > ? AND not_before <= updated_at + ?"
        longest = 1_100 * LONGEST_WAIT_S
        found = f"SELECT id FROM tasks INDEXED BY tasks_deferred WHERE {where}"
        if not self._database.rows(found, (at + CLOCK_SLACK_MS, longest)):
            return []
        with self._database:
            tasks = [row[0] for row in self._database.rows(found, (at + CLOCK_SLACK_MS, longest))]
            for task in tasks:
                act = Act("clock_put_back", Actor.RECONCILE, at)
                self._change(self.task(task), act, columns={"not_before": at})
            return tasks

    def retriable(self, task: int) -> Task:
        """The task, if it may be retried now."""
        before = self.task(task)
        self._refuse_open(task, "retried")
        if before.status not in RETRIABLE:
            raise Refused(f"task {task} is {before.status}; there is nothing to retry", f"dispatchctl show {task}")
        if before.status is Status.DONE:
            self._refuse_started_child(task)
        return before

    def leave_place(self, token: str, *, at: int) -> None:
        """No later run goes on in the run's worktree, so that one that is claimed meanwhile does not lose it."""
        with self._database:
            run = self.run(token)
            task = self.task(run.task)
            self._refuse_open(task.id, "cleared")
            resume = self.run(task.resume) if task.resume else None
            if resume is None or (resume.worktree, resume.branch) != (run.worktree, run.branch):
                return
            if task.status is Status.READY:
                raise Refused(
                    f"task {task.id} is ready, and its next run goes on in {run.worktree}",
                    f"dispatchctl cancel {task.id}",
                )
            self._change(task, Act("left", Actor.USER, at), columns={"resume": None}, run=run)

    def _refuse_started_child(self, task: int) -> None:
        row = self._database.row(
            """SELECT task FROM after WHERE parent = ? AND EXISTS (
                   SELECT 1 FROM runs WHERE runs.task = after.task AND (started_at IS NOT NULL OR phase <> 'closed'))""",
            (task,),
        )
        if row:
            raise Refused(
                f"task {task} cannot be retried: task {row[0]}, which builds on it, has started",
                f"dispatchctl add 'TITLE' --after {row[0]}",
            )

    def cancel(self, task: int, *, at: int) -> Task:
        """→ cancelled, for a task without an open run."""
        with self._database:
            before = self.task(task)
            self._refuse_open(task, "cancelled here")
            if before.status is Status.CANCELLED:
                raise Refused(f"task {task} is cancelled already", f"dispatchctl show {task}")
            self._change(before, Act("cancelled", Actor.USER, at), to=Status.CANCELLED)
            return self.task(task)

    def unblock(self, task: int, *, note: str | None, at: int) -> Task:
        """blocked → in_progress where the session is open, else → ready, where the next run gets the note.

        Without a note the last one stays: it still is what a human said about the task.
        """
        with self._database:
            before = self.task(task)
            if before.status is not Status.BLOCKED:
                raise Refused(f"task {task} is {before.status}, not blocked", f"dispatchctl show {task}")
            run = self._open_run(task)
            columns: dict[str, Any] = {"error": None, "not_before": None}
            if note is not None:
                columns["note"] = note
            to = Status.IN_PROGRESS if run else Status.READY
            self._change(before, Act("unblocked", Actor.USER, at), to=to, columns=columns, run=run)
            if run:
                self._database.execute("UPDATE runs SET activity = 'unknown' WHERE token = ?", (run.token,))
            return self.task(task)

    def resolve(self, task: int, report: Report, message: str | None, *, at: int) -> Task:
        """A human's verdict where no run is open."""
        to = Status.DONE if report is Report.DONE else Status.FAILED
        with self._database:
            before = self.task(task)
            self._refuse_open(task, "resolved here")
            if before.status not in (Status.BLOCKED, Status.IN_REVIEW):
                raise Refused(
                    f"task {task} is {before.status}: there is no run of which that could be said",
                    f"dispatchctl show {task}",
                )
            columns = {"result": message, "error": None} if report is Report.DONE else {"error": message}
            self._change(before, Act("resolved", Actor.USER, at), to=to, columns=columns)
            return self.task(task)

    def _link(self, task: int, parents: Collection[int]) -> None:
        for parent in sorted(set(parents)):
            if self._database.row("SELECT 1 FROM tasks WHERE id = ?", (parent,)) is None:
                raise NoSuchTask(parent)
            self._database.execute("INSERT INTO after (task, parent) VALUES (?, ?)", (task, parent))
        self._database.execute(
            """UPDATE tasks SET waits = (SELECT count(*) FROM after JOIN tasks AS parents ON parents.id = after.parent
                                         WHERE after.task = tasks.id AND parents.status <> 'done') WHERE id = ?""",
            (task,),
        )

    def _refuse_circle(self, task: int, parents: Collection[int]) -> None:
        for parent in parents:
            row = self._database.row(
                """WITH RECURSIVE above (id) AS (
                       SELECT ?1 UNION SELECT after.parent FROM after JOIN above ON after.task = above.id)
                   SELECT 1 FROM above WHERE id = ?2""",
                (parent, task),
            )
            if row:
                raise Refused(
                    f"task {task} cannot run after task {parent}: that one waits, itself or through others, for task {task}",
                    f"dispatchctl show {parent}",
                )
