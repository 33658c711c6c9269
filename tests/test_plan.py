"""From what was seen to what is to be done, one line of the design's table at a time."""

from dataclasses import replace

import pytest

from dispatchctl.plan import Kind, plan
from dispatchctl.snapshot import Answer, Holder, Pane, SeenRun, Server, Snapshot, life
from dispatchctl.task import Ask, Cause, Life, Phase, Run, Status
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


def world(seen: SeenRun, server: Server = SAME, *, boot: str = "boot", host: str = "here") -> Snapshot:
    return Snapshot(100, host, boot, {"/sock": server}, (seen,))


def started(**changes: object) -> SeenRun:
    return replace(SeenRun(STARTED, Status.IN_PROGRESS, launcher=True, processes=2), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        pytest.param(world(started()), None, id="alive"),
        pytest.param(world(started(), SILENT), None, id="alive, tmux silent"),
        pytest.param(world(started(run=replace(STARTED, window_id=None))), Kind.ADOPT, id="ids not stored"),
        pytest.param(world(started(run=replace(STARTED, ask=Ask.CANCEL))), Kind.END, id="asked to end and lives"),
        pytest.param(world(started(ending=EXITED)), None, id="ended, its launcher is closing it"),
        pytest.param(world(started(launcher=False, ending=EXITED)), Kind.CLOSE, id="ended, launcher gone"),
        pytest.param(world(started(launcher=False, ending=EXITED), SILENT), Kind.CLOSE, id="ended, tmux silent"),
        pytest.param(world(started(launcher=False), SAME_WITHOUT), Kind.HANG_UP, id="window closed, launcher killed"),
        pytest.param(world(started(launcher=False), SAME_DEAD), Kind.LOSE, id="launcher killed, pane kept"),
        pytest.param(world(started(launcher=False), NONE), Kind.LOSE, id="server died"),
        pytest.param(world(started(launcher=False), OTHER), Kind.LOSE, id="another server on the socket"),
        pytest.param(world(started(launcher=False), SILENT), Kind.REPORT, id="launcher gone, tmux silent"),
        pytest.param(world(started(launcher=None)), Kind.REPORT, id="process table silent"),
        pytest.param(world(started(launcher=False), boot="next"), Kind.LOSE, id="rebooted"),
        pytest.param(world(started(launcher=False, ending=EXITED), boot="next"), Kind.CLOSE, id="ended, then rebooted"),
        pytest.param(world(started(launcher=False), host="there"), Kind.REPORT, id="another machine"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS, owner=Holder.HELD)), None, id="being launched"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS, owner=Holder.FREE)), Kind.UNDO, id="dispatcher died"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS)), Kind.REPORT, id="lock file gone"),
        pytest.param(world(SeenRun(LAUNCHING, Status.IN_PROGRESS), boot="next"), Kind.UNDO, id="rebooted in a launch"),
        pytest.param(world(SeenRun(UNDOING, Status.FAILED, owner=Holder.FREE)), Kind.UNDO, id="undo stopped"),
        pytest.param(world(SeenRun(UNDOING, Status.FAILED, owner=Holder.HELD)), None, id="being undone"),
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
