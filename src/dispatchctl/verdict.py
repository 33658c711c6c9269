"""What becomes of a task when a run of it ends: section 4 of the design as one pure function.

How the run ended (`Outcome`) and where the task goes (`Status`) are decided together here and nowhere else. A report
outranks the exit code; losing a run to a crash uses up a recovery, never a retry.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from dispatchctl.errors import LaunchError, NotYet
from dispatchctl.task import Actor, Ask, Cause, Outcome, Report, Run, Status, Task

LONGEST_WAIT_S = 3_600
WAIT_FOR_OTHERS_S = 60
"""How long until it is first looked again whether what a task waits for outside the database has happened."""
REPORTED_AS_FAILED = "reported as failed"


@dataclass(frozen=True)
class Changes:
    """What a run left in its worktree: commits beyond its base commit, and files that are not committed."""

    commits: int
    files: int


@dataclass(frozen=True)
class Ending:
    """How the agent of a run ended, as its launcher wrote it down.

    `server_lives` says whether the tmux server of the run was still the same after a hang-up; None is not known.
    `error` says why the agent's program could not be executed at all, or how a run was lost.
    """

    cause: Cause
    ended_at: int
    exit_code: int | None = None
    signal: int | None = None
    asked: Ask | None = None
    server_lives: bool | None = None
    error: str | None = None


@dataclass(frozen=True)
class Policy:
    """What the settings and the agent's profile said when the run was launched."""

    expects_changes: bool = False
    uncommitted: str = "review"
    retry_wait_s: int = 15
    after_loss: bool = False
    """Whether it continued the session of a run that was lost: what there was to continue may be lost with it."""


@dataclass(frozen=True)
class Tried:
    """How often a task was tried again by itself since a human last gave it back: what the waits grow by.

    `in_vain` counts the launches that were undone since anything happened that may let the next one succeed.
    """

    retries: int = 0
    recoveries: int = 0
    in_vain: int = 0


class Cure(StrEnum):
    """Whether trying a launch again can succeed: never, after a wait (which uses up a recovery), or once something else
    has happened (which uses up nothing)."""

    NEVER = "never"
    AGAIN = "again"
    WAITING = "waiting"

    @classmethod
    def of(cls, error: BaseException) -> "Cure":
        """What may cure the error that ended a launch."""
        if isinstance(error, NotYet):
            return cls.WAITING
        return cls.NEVER if isinstance(error, LaunchError) and not error.curable else cls.AGAIN


@dataclass(frozen=True)
class Verdict:
    """What to write: the run's outcome, and the task's status with what goes along."""

    outcome: Outcome
    status: Status
    error: str | None = None
    result: str | None = None
    retries_spent: int = 0
    recoveries_spent: int = 0
    not_before: int | None = None


def wait_before_next(tries: int, first_s: int, jitter: float) -> int:
    """Milliseconds before the next try: doubles with each of `tries`, up to an hour, ± 10 % by `jitter` in [0, 1)."""
    wait = min(first_s * 2 ** min(tries - 1, 20), LONGEST_WAIT_S)
    return int(wait * 1000 * (0.9 + 0.2 * jitter))


def judge(
    task: Task,
    run: Run,
    ending: Ending,
    changes: Changes | None,
    result: str | None,
    policy: Policy,
    *,
    report_by: Actor | None,
    jitter: float,
    tried: Tried = Tried(),
    last_message: str | None = None,
) -> Verdict:
    """Decide what a closed run means for its task. `changes` is None when git did not answer.

    What the agent said last is shown where it left no result, and proves nothing: it is no sign that anything was done.
    """
    again = _Again(task, ending.ended_at, policy, jitter, tried)
    verdict = _judge(again, run, ending, changes, result, report_by)
    if verdict.result is None and verdict.outcome in (Outcome.EXITED, Outcome.REPORTED):
        return replace(verdict, result=last_message)
    return verdict


def _judge(
    again: "_Again",
    run: Run,
    ending: Ending,
    changes: Changes | None,
    result: str | None,
    report_by: Actor | None,
) -> Verdict:
    task, policy = again.task, again.policy
    if Ask.CANCEL in (run.ask, ending.asked):
        return Verdict(Outcome.CANCELLED, Status.CANCELLED)
    if run.report is Report.DONE:
        return _finished(task, Outcome.REPORTED, run.report_message or result, changes, None)
    if run.report is Report.FAIL:
        why = run.report_message or REPORTED_AS_FAILED
        if report_by is Actor.AGENT:
            return again.by_retry(Outcome.REPORTED, why, result)
        return Verdict(Outcome.REPORTED, Status.FAILED, why, result)
    if Ask.TIMEOUT in (run.ask, ending.asked):
        return again.by_retry(
            Outcome.TIMED_OUT, run.error or f"ran longer than its time limit of {task.timeout_s} s", result
        )
    outcome, why = _how(ending)
    if task.status is Status.BLOCKED:
        return Verdict(outcome, Status.BLOCKED, task.error, result)
    if outcome is Outcome.HUNG_UP:
        return Verdict(outcome, Status.FAILED, why, result)
    if outcome is Outcome.LOST:
        return again.by_recovery(outcome, why, result)
    if ending.error is not None:
        return Verdict(outcome, Status.FAILED, ending.error, result)
    if ending.exit_code != 0:
        return (again.by_recovery if policy.after_loss else again.by_retry)(outcome, why, result)
    return _finished(task, outcome, result, changes, policy)


def is_finished(task: Task, run: Run, ending: Ending) -> bool:
    """Whether the agent said, by its report or by ending with 0, that its work is done: not while it has asked."""
    if run.ask is not None or run.report is not None:
        return run.ask is None and run.report is Report.DONE
    return task.status is not Status.BLOCKED and ending.cause is Cause.BY_ITSELF and ending.exit_code == 0


def judge_undone(
    task: Task,
    run: Run,
    error: str,
    *,
    cure: Cure,
    at: int,
    policy: Policy,
    jitter: float,
    tried: Tried = Tried(),
) -> Verdict:
    """Decide what becomes of a task whose run never started and was undone."""
    if run.ask is Ask.CANCEL:
        return Verdict(Outcome.CANCELLED, Status.CANCELLED)
    if task.status is Status.FAILED and run.report is not None:
        return Verdict(Outcome.ROLLED_BACK, Status.FAILED, error)  # failed while its undo could not be finished
    if run.report is Report.DONE:
        return Verdict(Outcome.ROLLED_BACK, Status.DONE, result=run.report_message)
    if run.report is Report.FAIL:
        return Verdict(Outcome.ROLLED_BACK, Status.FAILED, run.report_message or REPORTED_AS_FAILED)
    if cure is Cure.NEVER:
        return Verdict(Outcome.ROLLED_BACK, Status.FAILED, error)
    if cure is Cure.WAITING:
        not_before = at + wait_before_next(tried.in_vain + 1, WAIT_FOR_OTHERS_S, jitter)
        return Verdict(Outcome.ROLLED_BACK, Status.READY, error, not_before=not_before)
    return _Again(task, at, policy, jitter, tried).by_recovery(Outcome.ROLLED_BACK, error, None)


def _how(ending: Ending) -> tuple[Outcome, str]:
    if ending.cause is Cause.HANGUP and ending.server_lives:
        return Outcome.HUNG_UP, "its window was closed"
    if ending.cause is Cause.HANGUP and ending.server_lives is None:
        return Outcome.LOST, "its terminal hung up, and nobody saw whether the tmux server lived on"
    if ending.cause is Cause.HANGUP:
        return Outcome.LOST, "the tmux server died under it"
    if ending.cause is Cause.TERMINATED:
        return Outcome.LOST, ending.error or "its launcher was ended from outside"
    if ending.signal is not None:
        return Outcome.EXITED, f"killed by signal {ending.signal}"
    return Outcome.EXITED, f"exited with {ending.exit_code}"


def _finished(
    task: Task, outcome: Outcome, result: str | None, changes: Changes | None, policy: Policy | None
) -> Verdict:
    """The agent says, or its exit code 0 says, that it is done; whether a human should look first.

    `policy` is None for a report, which needs no changes to be believed.
    """
    doubt = None
    if changes is None:
        doubt = "git could not say whether all its work is committed"
    elif changes.files:
        doubt = f"{changes.files} file{'s are' if changes.files > 1 else ' is'} not committed"
    elif policy is not None and policy.expects_changes and not changes.commits and not result:
        doubt = "exited 0 but changed nothing"
    status = Status.IN_REVIEW if doubt or task.review else Status.DONE
    return Verdict(outcome, status, doubt, result)


@dataclass(frozen=True)
class _Again:
    """Back to `ready` while tries are left, with a wait that grows by those of its kind; else `failed`."""

    task: Task
    at: int
    policy: Policy
    jitter: float
    tried: Tried

    def by_retry(self, outcome: Outcome, why: str, result: str | None) -> Verdict:
        if not self.task.retries_left:
            return Verdict(outcome, Status.FAILED, why, result)
        return Verdict(outcome, Status.READY, why, result, retries_spent=1, not_before=self._next(self.tried.retries))

    def by_recovery(self, outcome: Outcome, why: str, result: str | None) -> Verdict:
        if not self.task.recoveries_left:
            return Verdict(outcome, Status.FAILED, f"{why}; no recovery is left", result)
        return Verdict(
            outcome, Status.READY, why, result, recoveries_spent=1, not_before=self._next(self.tried.recoveries)
        )

    def _next(self, tried: int) -> int:
        return self.at + wait_before_next(tried + 1, self.policy.retry_wait_s, self.jitter)
