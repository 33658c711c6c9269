"""From what was seen to what is to be done, one line of the design's table at a time."""

from dataclasses import replace

import pytest

from dispatchctl.plan import Action, Kind, plan
from dispatchctl.snapshot import Answer, Holder, Limits, Pane, SeenRun, Server, Snapshot, Stray, life
from dispatchctl.task import Activity, Ask, Cause, Life, Outcome, Phase, Report, Run, Status
from dispatchctl.verdict import Ending

STARTED = Run(
    token="0a1b2c3d",
    task=7,
    number=1,
    phase=Phase.STARTED,
    agent="shell",
    repo="/repo",
    branch="dispatch/7-x",
    worktree="/tree",
    resumed=False,
    run_dir="/runs/0a1b2c3d",
    owner_lock="/locks/0a1b2c3d.owner",
    step_lock="/locks/0a1b2c3d.step",
    host="here",
    boot_id="boot",
    claimed_at=1,
    socket="/sock",
    session="s",
    base_commit="abc",
    server_pid=10,
    server_start=1000,
    window_id="@1",
    pane_id="%1",
    launcher_pid=20,
    launcher_start=2000,
    agent_pid=21,
    agent_start=2001,
    started_at=2,
)
LAUNCHING = replace(
    STARTED,
    phase=Phase.LAUNCHING,
    started_at=None,
    window_id=None,
    launcher_pid=None,
    launcher_start=None,
    agent_pid=None,
    agent_start=None,
)
UNDOING = replace(LAUNCHING, phase=Phase.UNDOING)
PANE = Pane("0a1b2c3d", "db", "%1", "@1", "s", dead=False, pid=20)
DEAD = replace(PANE, dead=True)
SAME = Server(Answer.RUNNING, 10, 1000, (PANE,))
SAME_WITHOUT = Server(Answer.RUNNING, 10, 1000)
SAME_DEAD = Server(Answer.RUNNING, 10, 1000, (DEAD,))
OTHER = Server(Answer.RUNNING, 11, 2000)
NONE = Server(Answer.NO_SERVER)
SILENT = Server(Answer.UNKNOWN, said="it did not answer")
EXITED = Ending(Cause.BY_ITSELF, 5, exit_code=0)
HUNG_UP = Ending(Cause.HANGUP, 5, signal=1)
LIMITS = Limits(kill_grace=10, report_grace=30, stall_after=600, keep_windows=3_600)


def world(seen: SeenRun, server: Server = SAME, *, boot: str = "boot", host: str = "here", at: int = 100) -> Snapshot:
    return Snapshot(at, host, boot, {"/sock": server}, (seen,), limits=LIMITS)


def started(run: Run = STARTED, **changes: object) -> SeenRun:
    return replace(SeenRun(run, Status.IN_PROGRESS, launcher=True, processes=2), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        pytest.param(world(started()), None, id="alive"),
        pytest.param(world(started(), SILENT), None, id="alive, tmux silent"),
        pytest.param(world(started(run=replace(STARTED, window_id=None))), Kind.ADOPT, id="ids not stored"),
        pytest.param(
            world(started(run=replace(STARTED, window_id=None)), SILENT), None, id="ids not stored, tmux silent"
        ),
        pytest.param(
            world(started(run=replace(STARTED, window_id=None), owner=Holder.HELD)), None, id="ids about to be stored"
        ),
        pytest.param(world(started(owner=Holder.FREE)), Kind.ADOPT, id="started when its dispatcher died"),
        pytest.param(world(started(owner=Holder.HELD)), None, id="started a moment ago"),
        pytest.param(world(started(ending=EXITED)), None, id="ended, its launcher is closing it"),
        pytest.param(world(started(ending=EXITED), at=30_006), Kind.CLOSE, id="ended, its launcher is stuck"),
        pytest.param(world(started(launcher=False, ending=HUNG_UP)), Kind.CLOSE, id="hung up, launcher gone"),
        pytest.param(world(started(launcher=False, ending=HUNG_UP), SILENT), Kind.REPORT, id="hung up, tmux silent"),
        pytest.param(
            world(started(launcher=False, ending=replace(HUNG_UP, server_lives=False)), SILENT),
            Kind.CLOSE,
            id="hung up, the launcher saw why",
        ),
        pytest.param(world(started(launcher=False, ending=EXITED)), Kind.CLOSE, id="ended, launcher gone"),
        pytest.param(world(started(launcher=False, ending=EXITED), SILENT), Kind.CLOSE, id="ended, tmux silent"),
        pytest.param(world(started(launcher=False), SAME_WITHOUT), Kind.HANG_UP, id="window closed, launcher killed"),
        pytest.param(world(started(launcher=False), SAME_DEAD), Kind.LOSE, id="launcher killed, pane kept"),
        pytest.param(world(started(launcher=False), NONE), Kind.LOSE, id="server died"),
        pytest.param(world(started(launcher=False), OTHER), Kind.LOSE, id="another server on the socket"),
        pytest.param(
            world(started(run=replace(STARTED, server_pid=None, server_start=None), launcher=False), SAME_WITHOUT),
            Kind.LOSE,
            id="launcher gone, nobody knows of which server",
        ),
        pytest.param(world(started(launcher=False), SILENT), Kind.REPORT, id="launcher gone, tmux silent"),
        pytest.param(world(started(launcher=None)), Kind.REPORT, id="process table silent"),
        pytest.param(world(started(launcher=False), boot="next"), Kind.LOSE, id="rebooted"),
        pytest.param(world(started(launcher=False, ending=EXITED), boot="next"), Kind.CLOSE, id="ended, then rebooted"),
        pytest.param(world(started(launcher=False), host="there"), Kind.REPORT, id="another machine"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS, owner=Holder.HELD)), None, id="being launched"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS, owner=Holder.FREE)), Kind.UNDO, id="dispatcher died"),
        pytest.param(
            world(SeenRun(LAUNCHING, Status.IN_PROGRESS, owner=Holder.FREE), SILENT),
            Kind.REPORT,
            id="dispatcher died, tmux silent",
        ),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS)), Kind.REPORT, id="lock file gone"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS), boot="next"), Kind.UNDO, id="rebooted in a launch"),
        pytest.param(world(SeenRun(UNDOING, Status.FAILED, owner=Holder.FREE)), Kind.UNDO, id="undo stopped"),
        pytest.param(world(SeenRun(UNDOING, Status.FAILED, owner=Holder.HELD)), None, id="being undone"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS, began=True)), Kind.REENTER, id="fence lost"),
        pytest.param(world(SeenRun(UNDOING, Status.FAILED, began=True)), Kind.REENTER, id="fence lost in an undo"),
        pytest.param(
            world(SeenRun(LAUNCHING, Status.IN_PROGRESS, owner=Holder.HELD, began=True)), None, id="began just now"
        ),
        pytest.param(
            world(SeenRun(LAUNCHING, Status.IN_PROGRESS, began=True), boot="next"),
            Kind.REENTER,
            id="fence lost, rebooted",
        ),
    ],
)
def test_what_is_seen_decides_what_is_done(snapshot: Snapshot, expected: Kind | None) -> None:
    assert [action.kind for action in plan(snapshot)] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        pytest.param(world(started()), Life.ALIVE, id="launcher lives"),
        pytest.param(world(started(launcher=False, processes=1), NONE), Life.ALIVE, id="an agent that outlived all"),
        pytest.param(world(started(launcher=False, processes=0), NONE), Life.GONE, id="nothing anywhere"),
        pytest.param(world(started(launcher=False, processes=0), SAME_DEAD), Life.GONE, id="a dead pane"),
        pytest.param(world(started(launcher=False, processes=0), SAME), Life.UNKNOWN, id="a live pane, nobody in it"),
        pytest.param(world(started(launcher=False, processes=0), SILENT), Life.UNKNOWN, id="tmux silent"),
        pytest.param(world(started(launcher=None, processes=0), NONE), Life.UNKNOWN, id="process table silent"),
        pytest.param(world(started(), boot="next"), Life.GONE, id="rebooted"),
        pytest.param(world(started(), host="there"), Life.UNKNOWN, id="another machine"),
    ],
)
def test_life_is_evidence_and_unknown_is_not_gone(snapshot: Snapshot, expected: Life) -> None:
    assert life(snapshot, snapshot.runs[0]) is expected


ASKED = replace(STARTED, ask=Ask.CANCEL)
REPORTED = replace(STARTED, report=Report.DONE)
STALLED = replace(STARTED, activity=Activity.STALLED)
WAITING = replace(STARTED, activity=Activity.WAITING)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(started(ASKED, asked_s=5.0), None, id="asked a moment ago"),
        pytest.param(started(ASKED, asked_s=5.1), Kind.END, id="asked, and not told"),
        pytest.param(started(ASKED, asked_s=45.0), Kind.END, id="asked, its processes have their grace"),
        pytest.param(started(ASKED, asked_s=45.1), Kind.KILL, id="asked, and the launcher does not do it"),
        pytest.param(started(ASKED), Kind.END, id="asked, nobody knows when"),
        pytest.param(started(ASKED, asked_s=999.0, launcher=False, ending=EXITED), Kind.CLOSE, id="asked, then ended"),
        pytest.param(started(REPORTED, asked_s=35.0), None, id="reported, and has its grace"),
        pytest.param(started(REPORTED, asked_s=35.1), Kind.END, id="reported, and not told"),
        pytest.param(started(REPORTED, asked_s=75.1), Kind.KILL, id="reported, and the launcher does not end it"),
        pytest.param(started(REPORTED, asked_s=1.0, timeout_s=60, age_s=999.0), None, id="reported, then out of time"),
        pytest.param(started(timeout_s=60, age_s=80.0), None, id="out of time, its launcher's turn"),
        pytest.param(started(timeout_s=60, age_s=80.1), Kind.TIME_OUT, id="out of time, the launcher does nothing"),
        pytest.param(started(timeout_s=0, age_s=1e9), None, id="no time limit"),
        pytest.param(started(timeout_s=60, age_s=None), None, id="age unknown"),
        pytest.param(
            started(replace(STARTED, ask=Ask.TIMEOUT), asked_s=1.0, timeout_s=60, age_s=90.0),
            None,
            id="out of time, asked",
        ),
        pytest.param(
            started(timeout_s=60, age_s=90.0, status=Status.BLOCKED), Kind.TIME_OUT, id="blocked, out of time"
        ),
        pytest.param(started(quiet_s=600.0), None, id="quiet for as long as it may be"),
        pytest.param(started(quiet_s=600.1), Kind.STALL, id="stalled"),
        pytest.param(started(STALLED, quiet_s=600.1), None, id="stalled, and known to be"),
        pytest.param(started(STALLED, quiet_s=0.0), Kind.STIR, id="was stalled and goes on"),
        pytest.param(started(quiet_s=None), None, id="quiet for nobody knows how long"),
        pytest.param(started(quiet_s=1e9, status=Status.BLOCKED), None, id="blocked"),
        pytest.param(started(WAITING, quiet_s=1e9), None, id="waiting for its human"),
        pytest.param(started(ASKED, asked_s=1.0, quiet_s=1e9), None, id="asked to end, and quiet"),
        pytest.param(started(timeout_s=60, age_s=90.0, quiet_s=601.0), Kind.TIME_OUT, id="out of time and quiet"),
    ],
)
def test_time_is_kept_by_lengths_of_time(seen: SeenRun, expected: Kind | None) -> None:
    assert [action.kind for action in plan(world(seen))] == ([] if expected is None else [expected])


def test_nobody_stalls_where_that_is_turned_off_and_is_ended_where_that_is_asked_for() -> None:
    quiet = world(started(quiet_s=1e9))
    assert plan(replace(quiet, limits=replace(LIMITS, stall_after=0))) == ()
    (ended,) = plan(replace(quiet, limits=replace(LIMITS, stall_ends=True)))
    assert (ended.kind, ended.reason) == (Kind.TIME_OUT, "no output and no heartbeat for 600 s")
    known = world(started(STALLED, quiet_s=1e9))
    assert [action.kind for action in plan(replace(known, limits=replace(LIMITS, stall_ends=True)))] == [Kind.TIME_OUT]


def test_a_time_limit_does_not_pass_while_nobody_can_tell_whether_the_launcher_lives() -> None:
    unknown = started(launcher=None, timeout_s=60, age_s=1e9, quiet_s=1e9)
    assert [action.kind for action in plan(world(unknown))] == [Kind.REPORT]


CLOSED = replace(STARTED, phase=Phase.CLOSED, outcome=Outcome.EXITED, exit_code=0, ended_at=5, closed_at=6)
ROLLED_BACK = replace(LAUNCHING, phase=Phase.CLOSED, outcome=Outcome.ROLLED_BACK, closed_at=6)
LOST = Stray("0a1b2c3d", 7, socket="/sock")
OF_CLOSED = replace(LOST, run=CLOSED, ended=True)
LATER = 6 + 3_600_001
CLAIMED = replace(LOST, owner=Holder.FREE)


def strays(stray: Stray, *, at: int = 100) -> tuple[Action, ...]:
    return plan(Snapshot(at, "here", "boot", {"/sock": SAME}, strays=(stray,), limits=LIMITS))


@pytest.mark.parametrize(
    ("stray", "at", "expected"),
    [
        # of a run that the database knows as closed
        pytest.param(replace(OF_CLOSED, pane=DEAD), 6 + 3_600_000, None, id="kept window"),
        pytest.param(replace(OF_CLOSED, pane=DEAD), LATER, Kind.CLOSE_PANE, id="window kept for long enough"),
        pytest.param(replace(OF_CLOSED, pane=PANE), LATER, None, id="a user's shell in the kept window"),
        pytest.param(replace(OF_CLOSED, pane=DEAD, alive=True), LATER, None, id="dead pane, a process elsewhere"),
        pytest.param(replace(OF_CLOSED, owner=Holder.FREE), 100, Kind.CLEAR, id="locks left when closed"),
        pytest.param(replace(OF_CLOSED, owner=Holder.HELD, pane=DEAD), LATER, None, id="locks held when closed"),
        pytest.param(
            replace(OF_CLOSED, ended=False, alive=True, began=True, enterable=True, pane=PANE),
            LATER,
            Kind.REENTER,
            id="closed, and its agent lives",
        ),
        pytest.param(
            replace(OF_CLOSED, ended=False, alive=True, began=True, pane=PANE),
            LATER,
            Kind.REPORT,
            id="closed, not the last",
        ),
        pytest.param(
            replace(LOST, run=ROLLED_BACK, pane=DEAD), LATER, Kind.CLOSE_PANE, id="rolled back, its pane dead"
        ),
        # of a run that the database does not know
        pytest.param(replace(CLAIMED), 100, Kind.CLEAR, id="locks of a claim that was not committed"),
        pytest.param(replace(CLAIMED, owner=Holder.HELD), 100, None, id="locks of somebody who is claiming"),
        pytest.param(
            replace(CLAIMED, enterable=True, pane=DEAD), 100, Kind.CLEAR, id="a claim lost, its launcher gone"
        ),
        pytest.param(
            replace(CLAIMED, enterable=True, pane=PANE, alive=True), 100, Kind.CLEAR, id="lost before it began"
        ),
        pytest.param(
            replace(LOST, alive=True, began=True, enterable=True, pane=PANE),
            100,
            Kind.REENTER,
            id="lost, its agent lives",
        ),
        pytest.param(
            replace(LOST, began=True, ended=True, enterable=True, pane=DEAD), 100, Kind.REENTER, id="lost, ended"
        ),
        pytest.param(replace(LOST, began=True, enterable=True), 100, Kind.REENTER, id="lost, and gone without a word"),
        pytest.param(replace(LOST, began=True, alive=True), 100, Kind.REPORT, id="lives, and cannot be entered"),
        pytest.param(replace(LOST, began=True, pane=PANE), 100, Kind.REPORT, id="a live pane, and cannot be entered"),
        pytest.param(replace(LOST, began=True, ended=True, pane=DEAD), 100, None, id="ended, and cannot be entered"),
        pytest.param(
            replace(LOST, began=True, ended=True, pane=PANE), 100, None, id="ended, a user's shell in its pane"
        ),
        pytest.param(replace(LOST, alive=True), 100, Kind.REPORT, id="lives, and nothing says what it is"),
        pytest.param(replace(LOST, pane=PANE), 100, Kind.REPORT, id="a live pane, and nothing says what it is"),
        pytest.param(replace(LOST, pane=DEAD), 100, Kind.CLEAR, id="a dead pane, and nothing says what it was"),
    ],
)
def test_what_no_open_run_owns_is_entered_again_reported_or_cleared(
    stray: Stray, at: int, expected: Kind | None
) -> None:
    actions = strays(stray, at=at)
    assert [action.kind for action in actions] == ([] if expected is None else [expected])
    assert all(action.holds is (action.kind is Kind.REPORT) for action in actions), "its task is not started meanwhile"


def test_strays_come_first_because_their_tasks_may_be_about_to_start() -> None:
    both = replace(world(started(launcher=False), NONE), strays=(replace(LOST, began=True, enterable=True),))
    assert [action.kind for action in plan(both)] == [Kind.REENTER, Kind.LOSE]


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [
        pytest.param(started(quiet_s=601.0), Kind.STALL, started(STALLED, quiet_s=601.0), id="stall"),
        pytest.param(started(STALLED, quiet_s=0.0), Kind.STIR, started(quiet_s=0.0), id="stir"),
        pytest.param(
            started(timeout_s=1, age_s=99.0),
            Kind.TIME_OUT,
            started(replace(STARTED, ask=Ask.TIMEOUT), asked_s=0.0, timeout_s=1, age_s=99.0),
            id="time out",
        ),
        pytest.param(started(owner=Holder.FREE), Kind.ADOPT, started(), id="adopt"),
        pytest.param(
            SeenRun(LAUNCHING, Status.IN_PROGRESS, launcher=True, began=True),
            Kind.REENTER,
            started(began=True),
            id="enter again",
        ),
    ],
)
def test_planning_from_what_an_action_leaves_gives_nothing(before: SeenRun, kind: Kind, after: SeenRun) -> None:
    assert [action.kind for action in plan(world(before))] == [kind]
    assert plan(world(after)) == ()
