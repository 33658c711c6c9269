"""The protocol of a run: claim, launch, undo, close, and what is said of it meanwhile."""

from collections.abc import Collection
from typing import Any

from dispatchctl.errors import Busy, Refused
from dispatchctl.store.ledger import TASK_WITH_RUN, Ledger
from dispatchctl.store.protocol import Claimant, Window
from dispatchctl.store.reading import _having_labels
from dispatchctl.store.rows import to_task
from dispatchctl.task import Activity, Actor, Ask, Life, Outcome, Phase, Report, Run, Status, Task
from dispatchctl.verdict import Changes, Ending, Policy, Verdict, judge, judge_undone


class RunVerbs(Ledger):
    """Every write of a run; each expects the phase that it was read with."""

    def claim(
        self,
        claimant: Claimant,
        *,
        task: int | None = None,
        labels: Collection[str] = (),
        max_running: int,
        actor: Actor,
        at: int,
    ) -> Run | None:
        """One transaction: the best claimable task becomes in_progress with a run whose every name is fixed."""
        with self._database:
            self._database.execute(
                "UPDATE tasks INDEXED BY tasks_deferred SET due = 1 WHERE status = 'ready' AND due = 0 AND not_before <= ?",
                (at,),
            )
            chosen = self._best(labels) if task is None else self._wanted(task)
            if chosen is None:
                return None
            open_runs = self._database.row("SELECT count(*) FROM runs INDEXED BY runs_open WHERE phase <> 'closed'")[0]
            if open_runs >= max_running:
                raise Busy(
                    f"{open_runs} runs are open and the limit is {max_running}",
                    f"dispatchctl dispatch --max-running {open_runs + 1}",
                )
            number = 1 + int(
                self._database.row("SELECT ifnull(max(number), 0) FROM runs WHERE task = ?", (chosen.id,))[0]
            )
            earlier = self.run(chosen.resume) if chosen.resume else None
            names = claimant.names(chosen, number, earlier)
            columns: dict[str, Any] = {
                "task": chosen.id,
                "number": number,
                "phase": Phase.LAUNCHING,
                "agent": names.agent,
                "repo": chosen.repo,
                "branch": names.branch,
                "worktree": names.worktree,
                "resumed": int(earlier is not None),
                "run_dir": names.run_dir,
                "owner_lock": names.owner_lock,
                "step_lock": names.step_lock,
                "host": claimant.host,
                "boot_id": claimant.boot_id,
                "claimed_at": at,
                "socket": names.socket,
                "session": names.session,
            }
            places = ", ".join(f":{column}" for column in columns)
            self._database.execute(
                f"INSERT INTO runs (token, {', '.join(columns)}) VALUES (:token, {places})",
                {"token": claimant.token, **columns},
            )
            changes = {"status": Status.IN_PROGRESS, "newest_run": claimant.token, "error": None}
            self._update("tasks", {**changes, "updated_at": at}, "id", chosen.id, "status", Status.READY)
            self._record(chosen, "claimed", actor, at, Status.IN_PROGRESS, claimant.token, changes, columns)
            return self.run(claimant.token)

    def _best(self, labels: Collection[str]) -> Task | None:
        where, values = _having_labels(labels)
        row = self._database.row(
            f"""SELECT id FROM tasks INDEXED BY tasks_claimable
                WHERE status = 'ready' AND waits = 0 AND due = 1{where} ORDER BY priority, id LIMIT 1""",
            tuple(values),
        )
        return self.task(row[0]) if row else None

    def _wanted(self, task: int) -> Task:
        """The named task if it can be claimed now. Raises `Refused` with the reason if not."""
        row = self._database.row(
            TASK_WITH_RUN.replace("SELECT ", "SELECT tasks.due, ", 1) + " WHERE tasks.id = ?", (task,)
        )
        if row is None:
            self.task(task)  # raises NoSuchTask
        due, wanted = row[0], to_task(row[1:])
        if wanted.status is not Status.READY:
            raise Refused(f"task {task} is {wanted.status}, not ready", _way_out(wanted))
        if wanted.waits:
            raise Refused(
                f"task {task} is held: {wanted.waits} of the tasks it is to run after are not done",
                f"dispatchctl ready --explain {task}",
            )
        if not due:
            raise Refused(f"task {task} is not to start yet", f"dispatchctl edit {task} --not-before now")
        return wanted

    def note_base(self, token: str, *, base_commit: str, owns_tree: bool, owns_branch: bool, at: int) -> Run:
        """What the run starts from and what it is about to make."""
        columns = {"base_commit": base_commit, "owns_tree": int(owns_tree), "owns_branch": int(owns_branch)}
        with self._database:
            run, task = self._of(token, Phase.LAUNCHING)
            self._change(task, "prepared", actor=Actor.DISPATCH, at=at, run=run, run_columns=columns)
            return self.run(token)

    def note_window(self, token: str, window: Window, *, actor: Actor = Actor.DISPATCH, at: int) -> None:
        """Where the pane is; a run that ended meanwhile keeps its row as it is."""
        columns = {
            "session": window.session,
            "window_id": window.window_id,
            "pane_id": window.pane_id,
            "server_pid": window.server_pid,
            "server_start": window.server_start,
        }
        with self._database:
            run, task = self._of(token, Phase.LAUNCHING, Phase.STARTED, Phase.CLOSED)
            self._change(task, "window", actor=actor, at=at, run=run, run_columns=columns)

    def begin_undo(self, token: str, error: str, *, actor: Actor, at: int) -> bool:
        """launching → undoing: from here on the launcher's start matches no row."""
        with self._database:
            run, task = self._of(token)
            if run.phase is Phase.UNDOING:
                return True
            if run.phase is not Phase.LAUNCHING:
                return False
            self._change(
                task, "undoing", actor=actor, at=at, run=run, phase=Phase.UNDOING, run_columns={"error": error}
            )
            return True

    def undo_failed(self, token: str, error: str, *, actor: Actor, at: int) -> None:
        """The task is failed and the run stays open until the undo has been finished."""
        with self._database:
            run, task = self._of(token, Phase.UNDOING)
            to = Status.FAILED if task.status is Status.IN_PROGRESS else None
            self._change(
                task,
                "undo_failed",
                actor=actor,
                at=at,
                to=to,
                columns={"error": error},
                run=run,
                run_columns={"error": error},
            )

    def close_undone(
        self, token: str, error: str, *, curable: bool, policy: Policy, actor: Actor, at: int, jitter: float
    ) -> Task:
        """Everything that the run had made is gone."""
        with self._database:
            run, task = self._of(token, Phase.UNDOING)
            verdict = judge_undone(task, run, error, curable=curable, at=at, policy=policy, jitter=jitter)
            return self._close(task, run, verdict, {"error": error}, actor, at, resume=task.resume)

    def close_ended(
        self,
        token: str,
        ending: Ending,
        changes: Changes | None,
        result: str | None,
        policy: Policy,
        *,
        actor: Actor,
        at: int,
        jitter: float,
    ) -> Task:
        """Every process of the run is gone and how it ended is known. A run that is closed already stays as it is."""
        with self._database:
            run, task = self._of(token)
            if run.phase is Phase.CLOSED:
                return task
            if run.phase is not Phase.STARTED:
                raise Refused(f"run {token} is {run.phase}: its agent never started", f"dispatchctl show {run.task}")
            by = self._database.row("SELECT report_by FROM runs WHERE token = ?", (token,))[0]
            verdict = judge(
                task, run, ending, changes, result, policy, report_by=Actor(by) if by else None, jitter=jitter
            )
            columns = {
                "exit_code": ending.exit_code,
                "signal": ending.signal,
                "ended_at": ending.ended_at,
                "error": verdict.error,
            }
            return self._close(task, run, verdict, columns, actor, at, resume=token)

    def _close(
        self,
        task: Task,
        run: Run,
        verdict: Verdict,
        run_columns: dict[str, Any],
        actor: Actor,
        at: int,
        *,
        resume: str | None,
    ) -> Task:
        columns: dict[str, Any] = {
            "error": verdict.error,
            "result": verdict.result,
            "not_before": verdict.not_before,
            "resume": resume,
            "retries_left": task.retries_left - verdict.retries_spent,
            "recoveries_left": task.recoveries_left - verdict.recoveries_spent,
        }
        kind = "undone" if verdict.outcome is Outcome.ROLLED_BACK else "ended"
        self._change(
            task,
            kind,
            actor=actor,
            at=at,
            to=verdict.status,
            columns=columns,
            run=run,
            phase=Phase.CLOSED,
            run_columns={**run_columns, "outcome": verdict.outcome, "closed_at": at},
        )
        self._database.execute(
            "UPDATE runs SET activity = NULL, life = 'gone', life_at = ? WHERE token = ?", (at, run.token)
        )
        return self.task(task.id)

    def report(self, token: str, report: Report, message: str | None, *, actor: Actor, at: int) -> Run:
        """Record what was said of an open run; its status moves when it closes."""
        with self._database:
            run, task = self._of(token, Phase.LAUNCHING, Phase.STARTED)
            columns = {"report": report, "report_message": message, "report_by": actor}
            self._change(task, "reported", actor=actor, at=at, run=run, run_columns=columns)
            return self.run(token)

    def block(self, token: str, message: str | None, *, actor: Actor, at: int) -> Task:
        """The agent asks for a human; blocking twice renews the question."""
        with self._database:
            run, task = self._of(token, Phase.STARTED)
            columns = {"error": message or "asks for a human"}
            self._change(task, "blocked", actor=actor, at=at, to=Status.BLOCKED, columns=columns, run=run)
            self._database.execute("UPDATE runs SET activity = 'waiting' WHERE token = ?", (token,))
            return self.task(task.id)

    def ask(self, token: str, ask: Ask, *, actor: Actor, at: int) -> Run:
        """Ask an open run to end."""
        with self._database:
            run, task = self._of(token, Phase.LAUNCHING, Phase.STARTED)
            self._change(task, "asked", actor=actor, at=at, run=run, run_columns={"ask": ask})
            return self.run(token)

    def heartbeat(self, token: str, activity: Activity, *, at: int) -> None:
        """The agent says that it lives. No event: it is a sighting, not a change."""
        with self._database:
            self._of(token, Phase.STARTED)
            self._database.execute(
                "UPDATE runs SET heartbeat_at = ?, activity = ? WHERE token = ? AND phase = 'started'",
                (at, activity, token),
            )

    def sighted(self, token: str, life: Life, *, at: int) -> None:
        """Remember what was last seen of an open run. No event."""
        with self._database:
            self._database.execute(
                "UPDATE runs SET life = ?, life_at = ? WHERE token = ? AND phase <> 'closed'", (life, at, token)
            )

    def _of(self, token: str, *phases: Phase) -> tuple[Run, Task]:
        """The run and its task. Raises `Refused` if the run is in none of the phases."""
        run = self.run(token)
        if phases and run.phase not in phases:
            expected = " or ".join(phases)
            raise Refused(
                f"run {token} of task {run.task} is {run.phase}, not {expected}; nothing was changed",
                f"dispatchctl show {run.task}",
            )
        return run, self.task(run.task)


def _way_out(task: Task) -> str:
    """What to type for a task that is not ready."""
    if task.status is Status.BACKLOG:
        return f"dispatchctl release {task.id}"
    if task.status in (Status.IN_PROGRESS, Status.BLOCKED):
        return f"dispatchctl attach {task.id}"
    return f"dispatchctl retry {task.id}"
