"""The protocol of a run after its claim: launch, undo, close, and what is said of it meanwhile."""

from collections.abc import Collection
from typing import Any

from dispatchctl.errors import Refused
from dispatchctl.store.ledger import Act, Ledger
from dispatchctl.store.protocol import Sighting, Window
from dispatchctl.store.waiting import PARENT_MERGED
from dispatchctl.task import Activity, Actor, Ask, Life, Phase, Report, Run, Status, Task
from dispatchctl.verdict import Changes, Cure, Ending, Policy, Tried, Verdict, judge, judge_undone

GIVEN_BACK = "('added', 'released', 'retried', 'rejected', 'unblocked')"
"""Events by which a human has a task tried; what is tried after it by itself waits ever longer."""

GIVES_HOPE = f"('edited', '{PARENT_MERGED}', 'started', {GIVEN_BACK[1:]}"
"""Events after which a launch may succeed that was undone because the task waits for others."""

OF_TASK = "events INDEXED BY events_of_task"


class RunVerbs(Ledger):
    """Every write of a run; each expects the phase that it was read with."""

    def note_base(self, token: str, *, base_commit: str, owns_tree: bool, owns_branch: bool, at: int) -> Run:
        """What the run starts from and what it is about to make."""
        columns = {"base_commit": base_commit, "owns_tree": int(owns_tree), "owns_branch": int(owns_branch)}
        with self._database:
            run, task = self._of(token, Phase.LAUNCHING)
            self._change(task, Act("prepared", Actor.DISPATCH, at), run=run, run_columns=columns)
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
            self._change(task, Act("window", actor, at), run=run, run_columns=columns)

    def begin_undo(self, token: str, error: str, *, actor: Actor, at: int) -> bool:
        """launching → undoing: from here on the launcher's start matches no row."""
        with self._database:
            run, task = self._of(token)
            if run.phase is Phase.UNDOING:
                return True
            if run.phase is not Phase.LAUNCHING:
                return False
            columns = {"phase": Phase.UNDOING, "error": error}
            self._change(task, Act("undoing", actor, at), run=run, run_columns=columns)
            return True

    def undo_failed(self, token: str, error: str, *, actor: Actor, at: int) -> None:
        """The task is failed and the run stays open until the undo has been finished; said once for the same error."""
        with self._database:
            run, task = self._of(token, Phase.UNDOING)
            if task.status is Status.FAILED and run.error == error:
                return
            columns = {"error": error}
            act = Act("undo_failed", actor, at)
            self._change(task, act, to=Status.FAILED, columns=columns, run=run, run_columns=columns)

    def close_undone(
        self, token: str, error: str, *, cure: Cure, policy: Policy, actor: Actor, at: int, jitter: float
    ) -> Task:
        """Everything that the run had made is gone."""
        with self._database:
            run, task = self._of(token, Phase.UNDOING)
            tried = self._tried(task)
            verdict = judge_undone(task, run, error, cure=cure, at=at, policy=policy, jitter=jitter, tried=tried)
            return self._close(task, run, verdict, {"error": error}, Act("undone", actor, at))

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
        last_message: str | None = None,
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
                task,
                run,
                ending,
                changes,
                result,
                policy,
                report_by=Actor(by) if by else None,
                jitter=jitter,
                tried=self._tried(task),
                last_message=last_message,
            )
            columns = {
                "exit_code": ending.exit_code,
                "signal": ending.signal,
                "ended_at": ending.ended_at,
                "error": verdict.error,
            }
            return self._close(task, run, verdict, columns, Act("ended", actor, at))

    def _tried(self, task: Task) -> Tried:
        """How many retries and recoveries were used up since a human last gave the task back, and how many launches were
        undone since there was hope, by its events."""
        given = self._database.row(
            f"SELECT id FROM {OF_TASK} WHERE task = ? AND kind IN {GIVEN_BACK} ORDER BY id DESC LIMIT 1", (task.id,)
        )
        left = (
            self._database.row(
                f"""SELECT json_extract(detail, '$.task.{column}') AS had FROM {OF_TASK}
                    WHERE task = ? AND id <= ? AND had IS NOT NULL ORDER BY id DESC LIMIT 1""",
                (task.id, given[0] if given else 0),
            )
            for column in ("retries_left", "recoveries_left")
        )
        now = (task.retries_left, task.recoveries_left)
        retries, recoveries = (max(0, had[0] - has) if had else 0 for had, has in zip(left, now, strict=True))
        hope = self._database.row(
            f"SELECT id FROM {OF_TASK} WHERE task = ? AND kind IN {GIVES_HOPE} ORDER BY id DESC LIMIT 1", (task.id,)
        )
        in_vain = self._database.row(
            f"SELECT count(*) FROM {OF_TASK} WHERE task = ? AND id > ? AND kind = 'undone'",
            (task.id, hope[0] if hope else 0),
        )[0]
        return Tried(retries, recoveries, in_vain)

    def _close(self, task: Task, run: Run, verdict: Verdict, run_columns: dict[str, Any], act: Act) -> Task:
        columns: dict[str, Any] = {
            "error": verdict.error,
            "result": verdict.result,
            "not_before": verdict.not_before,
            "resume": task.resume if run.started_at is None else run.token,
            "retries_left": task.retries_left - verdict.retries_spent,
            "recoveries_left": task.recoveries_left - verdict.recoveries_spent,
        }
        closed = {"phase": Phase.CLOSED, "outcome": verdict.outcome, "closed_at": act.at}
        self._change(task, act, to=verdict.status, columns=columns, run=run, run_columns={**run_columns, **closed})
        self._database.execute(
            "UPDATE runs SET activity = NULL, life = 'gone', life_at = ? WHERE token = ?", (act.at, run.token)
        )
        self._database.execute("DELETE FROM sightings WHERE token = ?", (run.token,))
        return self.task(task.id)

    def report(
        self, token: str, report: Report, message: str | None, *, actor: Actor, at: int, awake: int | None = None
    ) -> Run:
        """Record what was said of an open run; its status moves when it closes."""
        with self._database:
            run, task = self._of(token, Phase.LAUNCHING, Phase.STARTED)
            columns = {"report": report, "report_message": message, "report_by": actor, "asked_awake": awake}
            self._change(task, Act("reported", actor, at), run=run, run_columns=columns)
            return self.run(token)

    def block(self, token: str, message: str | None, *, actor: Actor, at: int) -> Task:
        """The agent asks for a human; blocking twice renews the question."""
        with self._database:
            run, task = self._of(token, Phase.STARTED)
            columns = {"error": message or "asks for a human"}
            self._change(task, Act("blocked", actor, at), to=Status.BLOCKED, columns=columns, run=run)
            self._database.execute("UPDATE runs SET activity = 'waiting' WHERE token = ?", (token,))
            return self.task(task.id)

    def ask(
        self, token: str, ask: Ask, *, actor: Actor, at: int, awake: int | None = None, why: str | None = None
    ) -> Run:
        """Ask an open run to end. Asking again changes nothing, and nothing replaces a cancellation."""
        with self._database:
            run, task = self._of(token, Phase.LAUNCHING, Phase.STARTED)
            if run.ask not in (ask, Ask.CANCEL):
                columns = {"ask": ask, "asked_awake": awake, "error": why}
                self._change(task, Act("asked", actor, at), run=run, run_columns=columns)
            return self.run(token)

    def heartbeat(self, token: str, activity: Activity, *, at: int) -> None:
        """The agent says that it lives. No event: it is a sighting, not a change."""
        with self._database:
            self._of(token, Phase.STARTED)
            self._database.execute(
                "UPDATE runs SET heartbeat_at = ?, activity = ? WHERE token = ? AND phase = 'started'",
                (at, activity, token),
            )

    def note_activity(self, token: str, activity: Activity, *, actor: Actor, at: int, why: str | None = None) -> None:
        """What the agent is doing, as a look at it showed; the event says so, and the column is only the last sighting."""
        with self._database:
            run, task = self._of(token, Phase.STARTED)
            self._change(task, Act(activity, actor, at, why), run=run)
            self._database.execute("UPDATE runs SET activity = ? WHERE token = ?", (activity, token))

    def sight(self, seen: Collection[Sighting]) -> None:
        """One transaction for all of them. No event."""
        with self._database:
            for each in seen:
                self._database.execute(
                    """INSERT INTO sightings SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM runs WHERE token = ?1)
                       ON CONFLICT (token) DO UPDATE SET output_size = ?2, heartbeat_at = ?3, stirred_awake = ?4""",
                    (each.token, each.output_size, each.heartbeat_at, each.stirred_awake),
                )

    def note_cleared(self, token: str, *, actor: Actor, at: int) -> None:
        """Nothing but the row is left of a closed run."""
        with self._database:
            run, task = self._of(token, Phase.CLOSED)
            if run.cleared_at is None:
                self._change(task, Act("cleared", actor, at), run=run, run_columns={"cleared_at": at})

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
