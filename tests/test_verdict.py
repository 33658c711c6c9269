"""What becomes of a task when a run of it ends: every sentence of section 4 of the design, with literals."""

from dataclasses import replace

import pytest

from dispatchctl.task import Actor, Ask, Cause, Outcome, Phase, Report, Run, Status, Task
from dispatchctl.verdict import (
    Changes,
    Cure,
    Ending,
    Policy,
    Tried,
    Verdict,
    is_finished,
    judge,
    judge_undone,
    wait_before_next,
)

TASK = Task(
    id=7,
    title="Do it",
    prompt="now",
    status=Status.IN_PROGRESS,
    priority=2,
    labels=(),
    agent="shell",
    repo="/repo",
    base="main",
    after=(),
    review=False,
    retries_left=0,
    recoveries_left=3,
    timeout_s=3_600,
    not_before=None,
    error=None,
    result=None,
    note=None,
    resume=None,
    created_at=1,
    updated_at=1,
)
RUN = Run(
    token="0a1b2c3d",
    task=7,
    number=1,
    phase=Phase.STARTED,
    agent="shell",
    repo="/repo",
    branch="task/7",
    worktree="/worktrees/7",
    resumed=False,
    run_dir="/runs/7",
    owner_lock="/locks/owner",
    step_lock="/locks/step",
    host="host",
    boot_id="boot",
    claimed_at=1,
    socket="/tmux.sock",
    session="dispatch-repo",
    started_at=2,
)
AT = 1_000_000
COMMITTED, NOTHING, LEFT, LEFT_MORE = Changes(2, 0), Changes(0, 0), Changes(2, 1), Changes(0, 3)

EXITED_0 = Ending(Cause.BY_ITSELF, AT, exit_code=0)
EXITED_1 = Ending(Cause.BY_ITSELF, AT, exit_code=1)
KILLED = Ending(Cause.BY_ITSELF, AT, signal=9)
TOLD_TO_END = Ending(Cause.ASKED, AT, signal=15)
OUT_OF_TIME = Ending(Cause.ASKED, AT, signal=15, asked=Ask.TIMEOUT)
WINDOW_CLOSED = Ending(Cause.HANGUP, AT, signal=1, server_lives=True)
SERVER_DIED = Ending(Cause.HANGUP, AT, signal=1, server_lives=False)
HUNG_UP_UNSEEN = Ending(Cause.HANGUP, AT, signal=1)
LAUNCHER_ENDED = Ending(Cause.TERMINATED, AT, signal=15)
NOBODY_SAW = Ending(Cause.TERMINATED, AT)
NOT_EXECUTABLE = Ending(Cause.BY_ITSELF, AT, exit_code=127, error="the program clod cannot be executed")

EXPECTS = Policy(expects_changes=True)
WITH_REVIEW = replace(TASK, review=True)
ONE_RETRY = replace(TASK, retries_left=1)
LAST_RECOVERY, NO_RECOVERY = replace(TASK, recoveries_left=1), replace(TASK, recoveries_left=0)
ASKED_A_HUMAN = replace(ONE_RETRY, status=Status.BLOCKED, error="which one?")

SAID_DONE = replace(RUN, report=Report.DONE, report_message="did it")
SAID_DONE_ONLY = replace(RUN, report=Report.DONE)
SAID_FAIL = replace(RUN, report=Report.FAIL, report_message="cannot")
SAID_FAIL_ONLY = replace(RUN, report=Report.FAIL)
TO_TIME_OUT = replace(RUN, ask=Ask.TIMEOUT)

DONE, REVIEW, FAILED, READY, BLOCKED = (
    Status.DONE,
    Status.IN_REVIEW,
    Status.FAILED,
    Status.READY,
    Status.BLOCKED,
)
SOON = AT + 15_000
GIT_SILENT = "git could not say whether all its work is committed"
TOO_LONG = "ran longer than its time limit of 3600 s"
CANCELLED = Verdict(Outcome.CANCELLED, Status.CANCELLED)


def judged(
    task: Task, run: Run, ending: Ending, changes: Changes | None = COMMITTED, result: str | None = None
) -> Verdict:
    """The verdict where the agent reported whatever was reported, and nothing was expected of it."""
    return judge(task, run, ending, changes, result, Policy(), report_by=Actor.AGENT, jitter=0.5)


def verdict(outcome: Outcome, status: Status, error: str | None = None, result: str | None = None) -> Verdict:
    """A verdict that spends nothing."""
    return Verdict(outcome, status, error, result)


def retried(outcome: Outcome, error: str) -> Verdict:
    """Ready again, for a retry."""
    return Verdict(outcome, READY, error, retries_spent=1, not_before=SOON)


def recovered(outcome: Outcome, error: str) -> Verdict:
    """Ready again, for a recovery."""
    return Verdict(outcome, READY, error, recoveries_spent=1, not_before=SOON)


@pytest.mark.parametrize(
    ("task", "changes", "status", "error"),
    [
        pytest.param(TASK, COMMITTED, DONE, None, id="committed"),
        pytest.param(TASK, NOTHING, DONE, None, id="nothing, and nothing was expected"),
        pytest.param(WITH_REVIEW, COMMITTED, REVIEW, None, id="the task asks for review"),
        pytest.param(TASK, LEFT, REVIEW, "1 file is not committed", id="one file left"),
        pytest.param(TASK, LEFT_MORE, REVIEW, "3 files are not committed", id="files left"),
        pytest.param(TASK, None, REVIEW, GIT_SILENT, id="git did not answer"),
    ],
)
def test_exit_0_is_done_unless_a_human_should_look(
    task: Task, changes: Changes | None, status: Status, error: str | None
) -> None:
    assert judged(task, RUN, EXITED_0, changes) == verdict(Outcome.EXITED, status, error)


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        pytest.param(EXITED_1, "exited with 1", id="exit 1"),
        pytest.param(KILLED, "killed by signal 9", id="a signal of its own"),
        pytest.param(TOLD_TO_END, "killed by signal 15", id="told to end, nobody knows why"),
    ],
)
def test_another_exit_is_failed_or_retried(ending: Ending, why: str) -> None:
    assert judged(TASK, RUN, ending) == verdict(Outcome.EXITED, FAILED, why)
    assert judged(ONE_RETRY, RUN, ending) == retried(Outcome.EXITED, why)
    assert judged(replace(ONE_RETRY, recoveries_left=0), RUN, ending) == retried(Outcome.EXITED, why)


def test_what_trying_again_cannot_cure_is_not_tried_again() -> None:
    assert judged(ONE_RETRY, RUN, NOT_EXECUTABLE) == verdict(
        Outcome.EXITED, FAILED, "the program clod cannot be executed"
    )


@pytest.mark.parametrize(
    ("run", "ending"),
    [
        pytest.param(RUN, OUT_OF_TIME, id="by the launcher's clock"),
        pytest.param(TO_TIME_OUT, TOLD_TO_END, id="asked by reconcile"),
        pytest.param(TO_TIME_OUT, EXITED_0, id="asked by reconcile, then exit 0"),
    ],
)
def test_a_time_out_is_failed_or_retried(run: Run, ending: Ending) -> None:
    assert judged(TASK, run, ending) == verdict(Outcome.TIMED_OUT, FAILED, TOO_LONG)
    assert judged(ONE_RETRY, run, ending) == retried(Outcome.TIMED_OUT, TOO_LONG)


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        pytest.param(SERVER_DIED, "the tmux server died under it", id="server"),
        pytest.param(
            HUNG_UP_UNSEEN, "its terminal hung up, and nobody saw whether the tmux server lived on", id="unseen"
        ),
        pytest.param(LAUNCHER_ENDED, "its launcher was ended from outside", id="launcher"),
        pytest.param(NOBODY_SAW, "its launcher was ended from outside", id="nobody saw"),
    ],
)
def test_a_lost_run_uses_up_a_recovery_and_never_a_retry(ending: Ending, why: str) -> None:
    assert judged(ONE_RETRY, RUN, ending, None) == recovered(Outcome.LOST, why)
    assert judged(LAST_RECOVERY, RUN, ending, None) == recovered(Outcome.LOST, why)
    for task in NO_RECOVERY, replace(ONE_RETRY, recoveries_left=0):
        assert judged(task, RUN, ending, None) == verdict(Outcome.LOST, FAILED, f"{why}; no recovery is left")


def test_a_window_that_a_human_closed_is_not_opened_again() -> None:
    assert judged(ONE_RETRY, RUN, WINDOW_CLOSED) == verdict(Outcome.HUNG_UP, FAILED, "its window was closed")


ANY_ENDING = [EXITED_0, EXITED_1, KILLED, TOLD_TO_END, OUT_OF_TIME, WINDOW_CLOSED, SERVER_DIED, NOBODY_SAW]


@pytest.mark.parametrize("ending", ANY_ENDING)
@pytest.mark.parametrize("status", [Status.IN_PROGRESS, Status.BLOCKED])
def test_a_report_outranks_how_the_agent_ended(ending: Ending, status: Status) -> None:
    task = replace(ONE_RETRY, status=status)
    assert judged(task, SAID_DONE, ending) == verdict(Outcome.REPORTED, DONE, None, "did it")
    assert judged(task, replace(SAID_DONE, ask=Ask.REPORT), ending) == judged(task, SAID_DONE, ending)
    assert judged(task, SAID_FAIL, ending) == retried(Outcome.REPORTED, "cannot")
    assert judged(replace(task, retries_left=0), SAID_FAIL, ending) == verdict(Outcome.REPORTED, FAILED, "cannot")


@pytest.mark.parametrize(
    ("task", "run", "changes", "expected"),
    [
        pytest.param(TASK, SAID_DONE_ONLY, NOTHING, verdict(Outcome.REPORTED, DONE), id="done, no words"),
        pytest.param(
            WITH_REVIEW, SAID_DONE, COMMITTED, verdict(Outcome.REPORTED, REVIEW, None, "did it"), id="to be reviewed"
        ),
        pytest.param(
            TASK,
            SAID_DONE,
            LEFT,
            verdict(Outcome.REPORTED, REVIEW, "1 file is not committed", "did it"),
            id="a file left",
        ),
        pytest.param(
            TASK, SAID_DONE, None, verdict(Outcome.REPORTED, REVIEW, GIT_SILENT, "did it"), id="git did not answer"
        ),
        pytest.param(
            TASK, SAID_FAIL_ONLY, LEFT, verdict(Outcome.REPORTED, FAILED, "reported as failed"), id="fail, no words"
        ),
    ],
)
def test_a_report_says_what_was_done(task: Task, run: Run, changes: Changes | None, expected: Verdict) -> None:
    assert judged(task, run, EXITED_0, changes) == expected


@pytest.mark.parametrize("ending", ANY_ENDING)
@pytest.mark.parametrize("task", [ONE_RETRY, ASKED_A_HUMAN])
@pytest.mark.parametrize("run", [RUN, SAID_DONE, SAID_FAIL])
def test_a_cancelled_run_cancels_its_task(task: Task, run: Run, ending: Ending) -> None:
    assert judged(task, replace(run, ask=Ask.CANCEL), ending) == CANCELLED
    assert judged(task, run, replace(ending, asked=Ask.CANCEL)) == CANCELLED


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (EXITED_0, Outcome.EXITED),
        (EXITED_1, Outcome.EXITED),
        (KILLED, Outcome.EXITED),
        (WINDOW_CLOSED, Outcome.HUNG_UP),
        (SERVER_DIED, Outcome.LOST),
        (NOBODY_SAW, Outcome.LOST),
    ],
)
def test_an_agent_that_exits_with_a_question_leaves_it(ending: Ending, outcome: Outcome) -> None:
    assert judged(ASKED_A_HUMAN, RUN, ending) == verdict(outcome, BLOCKED, "which one?")


def test_a_question_does_not_stop_the_clock() -> None:
    assert judged(ASKED_A_HUMAN, RUN, OUT_OF_TIME) == retried(Outcome.TIMED_OUT, TOO_LONG)


@pytest.mark.parametrize(
    ("changes", "result", "status", "error"),
    [
        (COMMITTED, None, DONE, None),
        (NOTHING, "nothing had to be done", DONE, None),
        (NOTHING, None, REVIEW, "exited 0 but changed nothing"),
        (NOTHING, "", REVIEW, "exited 0 but changed nothing"),
        (LEFT_MORE, None, REVIEW, "3 files are not committed"),
        (None, None, REVIEW, "git could not say whether all its work is committed"),
    ],
)
def test_a_profile_may_expect_changes(changes: Changes | None, result: str | None, status: Status, error: str) -> None:
    found = judge(TASK, RUN, EXITED_0, changes, result, EXPECTS, report_by=None, jitter=0.5)
    assert found == verdict(Outcome.EXITED, status, error, result)


def test_a_report_of_done_needs_no_changes_to_be_believed() -> None:
    found = judge(TASK, SAID_DONE_ONLY, EXITED_0, NOTHING, None, EXPECTS, report_by=Actor.AGENT, jitter=0.5)
    assert found == verdict(Outcome.REPORTED, DONE)


def test_a_human_who_says_failed_is_not_retried() -> None:
    found = judge(ONE_RETRY, SAID_FAIL, EXITED_0, COMMITTED, "half", Policy(), report_by=Actor.USER, jitter=0.5)
    assert found == verdict(Outcome.REPORTED, FAILED, "cannot", "half")


@pytest.mark.parametrize("ending", [EXITED_0, EXITED_1, WINDOW_CLOSED, NOBODY_SAW, OUT_OF_TIME, NOT_EXECUTABLE])
@pytest.mark.parametrize("task", [TASK, ONE_RETRY, ASKED_A_HUMAN])
def test_a_result_is_kept_however_the_run_ended(task: Task, ending: Ending) -> None:
    assert judged(task, RUN, ending, result="half of it").result == "half of it"


@pytest.mark.parametrize(
    ("run", "ending", "expected"),
    [
        pytest.param(RUN, EXITED_0, True, id="exit 0"),
        pytest.param(RUN, EXITED_1, False, id="exit 1"),
        pytest.param(RUN, KILLED, False, id="killed"),
        pytest.param(RUN, LAUNCHER_ENDED, False, id="lost"),
        pytest.param(RUN, replace(WINDOW_CLOSED, exit_code=0, signal=None), False, id="exit 0 of a closed window"),
        pytest.param(SAID_DONE, TOLD_TO_END, True, id="said done"),
        pytest.param(SAID_FAIL, EXITED_0, False, id="said fail"),
        pytest.param(TO_TIME_OUT, EXITED_0, False, id="out of time"),
        pytest.param(replace(SAID_DONE, ask=Ask.CANCEL), EXITED_0, False, id="cancelled"),
    ],
)
def test_only_who_says_so_has_finished(run: Run, ending: Ending, expected: bool) -> None:
    assert is_finished(TASK, run, ending) is expected


def test_who_has_asked_and_left_has_not_finished() -> None:
    assert not is_finished(ASKED_A_HUMAN, RUN, EXITED_0)
    assert is_finished(ASKED_A_HUMAN, SAID_DONE, EXITED_0)


def test_the_words_of_a_report_are_the_result_and_else_what_the_agent_left() -> None:
    assert judged(TASK, SAID_DONE, EXITED_0, result="from the file").result == "did it"
    assert judged(TASK, SAID_DONE_ONLY, EXITED_0, result="from the file").result == "from the file"


UNSTARTED = replace(RUN, phase=Phase.UNDOING, started_at=None)
TO_CANCEL_UNSTARTED = replace(UNSTARTED, ask=Ask.CANCEL)
UNDO_FAILED = replace(TASK, status=Status.FAILED)
ROLLED_BACK = Outcome.ROLLED_BACK


@pytest.mark.parametrize(
    ("task", "run", "cure", "expected"),
    [
        pytest.param(TASK, UNSTARTED, Cure.AGAIN, recovered(ROLLED_BACK, "broke"), id="curable"),
        pytest.param(ONE_RETRY, UNSTARTED, Cure.AGAIN, recovered(ROLLED_BACK, "broke"), id="not by a retry"),
        pytest.param(
            NO_RECOVERY, UNSTARTED, Cure.AGAIN, verdict(ROLLED_BACK, FAILED, "broke; no recovery is left"), id="spent"
        ),
        pytest.param(
            TASK,
            UNSTARTED,
            Cure.WAITING,
            Verdict(ROLLED_BACK, READY, "broke", not_before=AT + 60_000),
            id="it waits for others, and that spends nothing",
        ),
        pytest.param(TASK, UNSTARTED, Cure.NEVER, verdict(ROLLED_BACK, FAILED, "broke"), id="incurable"),
        pytest.param(TASK, TO_CANCEL_UNSTARTED, Cure.AGAIN, CANCELLED, id="cancelled meanwhile"),
        pytest.param(
            TASK,
            replace(SAID_DONE, started_at=None),
            False,
            verdict(ROLLED_BACK, DONE, None, "did it"),
            id="said done meanwhile",
        ),
        pytest.param(
            TASK,
            replace(SAID_FAIL_ONLY, started_at=None),
            True,
            verdict(ROLLED_BACK, FAILED, "reported as failed"),
            id="said fail meanwhile",
        ),
        pytest.param(UNDO_FAILED, UNSTARTED, Cure.AGAIN, recovered(ROLLED_BACK, "broke"), id="its undo had failed"),
        pytest.param(
            UNDO_FAILED,
            replace(SAID_DONE, started_at=None),
            True,
            verdict(ROLLED_BACK, FAILED, "broke"),
            id="said done, but its undo had failed",
        ),
        pytest.param(UNDO_FAILED, TO_CANCEL_UNSTARTED, Cure.AGAIN, CANCELLED, id="cancelled, and its undo had failed"),
    ],
)
def test_an_undone_launch_goes_back_to_ready_while_it_may(task: Task, run: Run, cure: Cure, expected: Verdict) -> None:
    assert judge_undone(task, run, "broke", cure=cure, at=AT, policy=Policy(), jitter=0.5) == expected


@pytest.mark.parametrize(
    ("tries", "first_s", "jitter", "expected"),
    [
        (1, 15, 0.5, 15_000),
        (2, 15, 0.5, 30_000),
        (3, 15, 0.5, 60_000),
        (8, 15, 0.5, 1_920_000),
        (9, 15, 0.5, 3_600_000),
        (10_000, 15, 0.5, 3_600_000),
        (1, 15, 0.0, 13_500),
        (1, 15, 0.999_999, 16_499),
        (5, 0, 0.5, 0),
    ],
)
def test_the_wait_doubles_up_to_an_hour(tries: int, first_s: int, jitter: float, expected: int) -> None:
    assert wait_before_next(tries, first_s, jitter) == expected


@pytest.mark.parametrize(
    ("ending", "tried", "wait_s"),
    [
        pytest.param(EXITED_1, Tried(), 15, id="first retry"),
        pytest.param(EXITED_1, Tried(retries=2), 60, id="third retry"),
        pytest.param(EXITED_1, Tried(recoveries=9), 15, id="recoveries do not count for a retry"),
        pytest.param(SERVER_DIED, Tried(recoveries=2), 60, id="third recovery"),
        pytest.param(SERVER_DIED, Tried(retries=9), 15, id="retries do not count for a recovery"),
        pytest.param(EXITED_1, Tried(retries=99), 3_600, id="an hour at most"),
    ],
)
def test_a_wait_grows_with_the_tries_of_its_kind(ending: Ending, tried: Tried, wait_s: int) -> None:
    run = replace(RUN, number=30)  # a human may have had it run as often
    found = judge(ONE_RETRY, run, ending, NOTHING, None, Policy(), report_by=None, jitter=0.5, tried=tried)
    assert found.not_before == AT + wait_s * 1000


def test_the_wait_for_a_launch_grows_with_the_recoveries() -> None:
    found = judge_undone(
        TASK, RUN, "no", cure=Cure.AGAIN, at=AT, policy=Policy(), jitter=0.5, tried=Tried(retries=5, recoveries=1)
    )
    assert found.not_before == AT + 30_000


@pytest.mark.parametrize(("in_vain", "wait_s"), [(0, 60), (1, 120), (5, 1_920), (6, 3_600), (1_000, 3_600)])
def test_the_wait_for_others_grows_with_the_tries_in_vain(in_vain: int, wait_s: int) -> None:
    tried = Tried(retries=5, recoveries=5, in_vain=in_vain)
    found = judge_undone(TASK, RUN, "no", cure=Cure.WAITING, at=AT, policy=Policy(), jitter=0.5, tried=tried)
    assert (found.not_before, found.recoveries_spent) == (AT + wait_s * 1000, 0)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        pytest.param(TASK, recovered(Outcome.EXITED, "exited with 1"), id="as one of the loss"),
        pytest.param(ONE_RETRY, recovered(Outcome.EXITED, "exited with 1"), id="the retry is left"),
        pytest.param(
            NO_RECOVERY,
            verdict(Outcome.EXITED, FAILED, "exited with 1; no recovery is left"),
            id="not for ever",
        ),
    ],
)
def test_a_failure_to_continue_what_was_lost_uses_up_a_recovery(task: Task, expected: Verdict) -> None:
    policy = Policy(after_loss=True)
    assert judge(task, RUN, EXITED_1, NOTHING, None, policy, report_by=None, jitter=0.5) == expected


@pytest.mark.parametrize(
    ("run", "ending", "result", "expected"),
    [
        pytest.param(RUN, EXITED_0, None, "last", id="exit 0"),
        pytest.param(RUN, EXITED_0, "left", "left", id="a result outranks it"),
        pytest.param(RUN, EXITED_1, None, "last", id="exit 1, where it says what was wrong"),
        pytest.param(SAID_DONE, EXITED_0, None, "did it", id="what was reported outranks it"),
        pytest.param(SAID_DONE_ONLY, EXITED_0, None, "last", id="reported without a word"),
        pytest.param(SAID_FAIL, EXITED_0, None, "last", id="reported as failed"),
        pytest.param(RUN, SERVER_DIED, None, None, id="lost"),
        pytest.param(TO_TIME_OUT, OUT_OF_TIME, None, None, id="out of time"),
        pytest.param(RUN, WINDOW_CLOSED, None, None, id="hung up"),
    ],
)
def test_what_an_agent_said_last_is_its_result_where_it_left_none(
    run: Run, ending: Ending, result: str | None, expected: str | None
) -> None:
    found = judge(
        TASK, run, ending, COMMITTED, result, Policy(), report_by=Actor.AGENT, jitter=0.5, last_message="last"
    )
    assert found.result == expected


def test_what_an_agent_said_last_proves_no_work() -> None:
    found = judge(TASK, RUN, EXITED_0, NOTHING, None, EXPECTS, report_by=None, jitter=0.5, last_message="All done!")
    assert found == verdict(Outcome.EXITED, REVIEW, "exited 0 but changed nothing", "All done!")
