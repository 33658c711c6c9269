"""Each of doctor's checks, from what was seen to what is said, with literals."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dispatchctl.doctor.every import CHECKS, Check, Mend, Problem, Severity, examine
from dispatchctl.doctor.health import (
    Agent,
    Agents,
    Aside,
    Contents,
    DatabaseFile,
    Directory,
    Fault,
    Fleet,
    Gate,
    GitLock,
    Ground,
    Health,
    Part,
    Place,
    Program,
    Queue,
    Repositories,
    Repository,
    Service,
    Setup,
    Socket,
    Tools,
    Tree,
    Unit,
    Unknown,
)
from dispatchctl.snapshot import Answer, Holder, Pane, SeenRun, Server, Snapshot, Stray
from dispatchctl.task import Activity, Ask, Cause, Outcome, Phase, Run, Status, Task
from dispatchctl.verdict import Ending

ERROR, WARNING, INFO = Severity
HOUR = 3_600_000
AT = 100 * HOUR

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
    claimed_at=AT,
    socket="/sock",
    session="s",
    base_commit="abc",
    owns_tree=True,
    server_pid=10,
    server_start=1000,
    window_id="@1",
    pane_id="%1",
    launcher_pid=20,
    launcher_start=2000,
    agent_pid=21,
    agent_start=2001,
    started_at=AT,
)
LAUNCHING = replace(
    STARTED,
    phase=Phase.LAUNCHING,
    started_at=None,
    window_id=None,
    pane_id=None,
    launcher_pid=None,
    launcher_start=None,
    agent_pid=None,
    agent_start=None,
)
CLOSED = replace(STARTED, phase=Phase.CLOSED, outcome=Outcome.LOST, closed_at=AT)
PANE = Pane("0a1b2c3d", "db", "%1", "@1", "s", dead=False, pid=20, task=7)
SERVER = Server(Answer.RUNNING, 10, 1000, (PANE,))
SILENT = Server(Answer.UNKNOWN, said="it did not answer")
LIVE = SeenRun(STARTED, Status.IN_PROGRESS, launcher=True, processes=2)
DEAD = replace(LIVE, launcher=False, processes=0)
STARTING = SeenRun(LAUNCHING, Status.IN_PROGRESS, owner=Holder.HELD)
STRAY = Stray("0a1b2c3d", 7, None, "/sock", PANE, alive=True, began=True)
TASK = Task(
    id=7,
    title="Fix",
    prompt="Fix it",
    status=Status.READY,
    priority=2,
    labels=(),
    agent="shell",
    repo="/repo",
    base="main",
    after=(),
    review=False,
    retries_left=0,
    recoveries_left=0,
    timeout_s=0,
    not_before=None,
    error=None,
    result=None,
    note=None,
    resume=None,
    created_at=AT,
    updated_at=AT,
)

TMUX, GIT = Program("tmux", "/bin/tmux", (3, 0)), Program("git", "/bin/git", (2, 36))
PLACE = Place("database", "/data", "ext4", 1 << 40)
FILE = DatabaseFile("/data/x.db", (PLACE,), sqlite=(3, 40, 1))
AGENT = Agent("claude", "/bin/claude", found=True, ready=(7,), signed_in=True)
TREE = Tree("/repo", "/tree", "0a1b2c3d", "7", "dispatch/7-x", exists=True, run=STARTED)
REPOSITORY = Repository("/repo", None, (7,), (), (TREE,))
QUEUE = Queue(AT, (TASK,), claimable=(7,), claimable_since=AT - HOUR)
UNIT = Unit("dispatchctl.service", "/bin/dispatchctl")
SERVICE = Service((UNIT,), lingers=True)


def fleet(*runs: SeenRun, server: Server = SERVER, strays: tuple[Stray, ...] = (), **more: Any) -> Fleet:
    """Those runs, in that server."""
    world = Snapshot(AT, "here", "boot", {"/sock": server}, runs, strays)
    sockets = (Socket("/sock", configured=True, unit="tmux-1.scope"),)
    return Fleet(world, **{"sockets": sockets, "states": {20: "S", 21: "S"}, "reconciled_at": AT, **more})


def run(**changes: Any) -> SeenRun:
    """The live run, with its row changed."""
    return replace(LIVE, run=replace(STARTED, **changes))


def waiting(*tasks: Task, **more: Any) -> Queue:
    return Queue(AT, tasks, **more)


def failed(outcome: Outcome, number: int = 1, left: int = 0) -> Queue:
    """A failed task whose newest run ended so."""
    ended = replace(CLOSED, outcome=outcome, number=number)
    return Queue(AT, failed=(replace(TASK, status=Status.FAILED, recoveries_left=left, run=ended),))


def child(id: int, *after: int, waits: int = 1) -> Task:
    return replace(TASK, id=id, after=after, waits=waits)


HEALTHY: dict[type, Part | Unknown] = {
    Tools: Tools(TMUX, GIT),
    Setup: Setup(),
    Agents: Agents((AGENT,)),
    DatabaseFile: FILE,
    Contents: Contents("/data/x.db", at=AT, newest_event_at=AT),
    Fleet: fleet(LIVE, STARTING),
    Queue: QUEUE,
    Repositories: Repositories((REPOSITORY,)),
    Ground: Ground("/data/x.d"),
    Service: SERVICE,
}
BREACH = Fault("x", "it is wrong", "mend it")


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert examine(Health(HEALTHY)) == ()


@pytest.mark.parametrize(
    ("check", "part", "severity"),
    [
        ("tmux-found", Tools(replace(TMUX, path=None, said="it is not installed"), GIT), ERROR),
        ("tmux-found", Tools(replace(TMUX, version=None), GIT), ERROR),
        ("tmux-version", Tools(replace(TMUX, version=(2, 9)), GIT), ERROR),
        ("git-found", Tools(TMUX, replace(GIT, path=None, said="it is not installed")), ERROR),
        ("git-version", Tools(TMUX, replace(GIT, version=(2, 35, 9))), ERROR),
        ("settings-valid", Setup(user=(BREACH,)), ERROR),
        ("repository-settings-valid", Setup(repositories=(BREACH,)), ERROR),
        ("agent-found", Agents((replace(AGENT, found=False),)), ERROR),
        ("agent-found", Agents((replace(AGENT, found=False, ready=(), others=(8,)),)), INFO),
        ("agent-signed-in", Agents((replace(AGENT, signed_in=False),)), WARNING),
        ("agent-signed-in", Agents((replace(AGENT, signed_in=False, ready=(), others=(8,)),)), None),
        ("agent-signed-in", Agents((replace(AGENT, signed_in=None),)), None),
        ("database-opens", replace(FILE, fault=BREACH), ERROR),
        ("places-writable", replace(FILE, places=(replace(PLACE, refused="Read-only file system"),)), ERROR),
        ("local-file-system", replace(FILE, places=(replace(PLACE, kind="nfs4"),)), ERROR),
        ("local-file-system", replace(FILE, places=(replace(PLACE, kind="9p"),)), ERROR),
        ("local-file-system", replace(FILE, places=(replace(PLACE, kind="fuse.sshfs"),)), ERROR),
        ("local-file-system", replace(FILE, places=(replace(PLACE, kind="fuseblk"),)), None),
        ("local-file-system", replace(FILE, places=(PLACE, replace(PLACE, kind="nfs"))), None),
        ("disk-space", replace(FILE, places=(replace(PLACE, free=100 << 20),)), WARNING),
        ("disk-space", replace(FILE, places=(replace(PLACE, free=1 << 20),)), ERROR),
        ("disk-space", replace(FILE, places=(replace(PLACE, free=None),)), None),
        ("database-free", replace(FILE, gates=(Gate("/g", 2, None),)), ERROR),
        ("database-shared", replace(FILE, others={9: "sqlite3"}), INFO),
        ("database-shared", replace(FILE, others={9: "sqlite3"}, sqlite=(3, 51, 2)), INFO),
        ("database-shared", replace(FILE, others={9: "sqlite3"}, sqlite=(3, 51, 3)), None),
        ("database-shared", replace(FILE, others={9: "sqlite3"}, sqlite=(3, 50, 7)), None),
        ("database-shared", replace(FILE, others={9: "sqlite3"}, sqlite=(3, 50, 6)), INFO),
        ("database-shared", replace(FILE, others={9: "sqlite3"}, sqlite=(3, 44, 6)), None),
        ("database-shared", replace(FILE, others={9: "sqlite3"}, sqlite=(3, 45, 0)), INFO),
        ("database-intact", Contents("/x", damage=("page 3 is damaged",)), ERROR),
        ("database-intact", Contents("/x", damage=None), WARNING),
        ("database-references", Contents("/x", broken_references=("row 1 of runs",)), ERROR),
        ("database-complete", Contents("/x", missing=("index a",)), ERROR),
        ("claim-uses-index", Contents("/x", claim_uses_index=False), ERROR),
        ("write-ahead-log", Contents("/x", journal="delete"), WARNING),
        ("counters", Contents("/x", miscounted=(7,)), ERROR),
        ("counters", Contents("/x", never_due=(7,)), ERROR),
        ("status-and-run", Contents("/x", disagreeing=((7, "is ready, and its run is open"),)), ERROR),
        ("status-and-run", Contents("/x", misplaced=((7, "0a1b2c3d"),)), ERROR),
        ("status-recorded", Contents("/x", unrecorded=((7, "is ready, and its history says done"),)), WARNING),
        ("clock", Contents("/x", newest_event_at=AT + HOUR, at=AT), WARNING),
        ("clock", Contents("/x", newest_event_at=AT + 1_000, at=AT), None),
        ("live-session", fleet(DEAD, server=replace(SERVER, panes=())), ERROR),
        ("live-session", fleet(DEAD, server=Server(Answer.NO_SERVER)), ERROR),
        ("live-session", fleet(DEAD, server=SILENT), None),
        ("exit-file-read", fleet(replace(DEAD, ending=Ending(Cause.BY_ITSELF, AT, exit_code=0))), ERROR),
        ("exit-file-read", fleet(replace(LIVE, ending=Ending(Cause.BY_ITSELF, AT - HOUR, exit_code=0))), ERROR),
        ("exit-file-read", fleet(replace(LIVE, ending=Ending(Cause.BY_ITSELF, AT, exit_code=0))), None),
        ("launch-finished", fleet(replace(STARTING, owner=Holder.FREE)), ERROR),
        ("run-entered", fleet(replace(STARTING, owner=Holder.FREE, began=True)), ERROR),
        ("window-noted", fleet(run(window_id=None)), WARNING),
        ("run-ends", fleet(run(ask=Ask.CANCEL)), ERROR),
        ("run-ends", fleet(replace(LIVE, timeout_s=10, age_s=1_000.0)), ERROR),
        ("run-stalled", fleet(replace(run(activity=Activity.STALLED), quiet_s=4_000.0)), WARNING),
        ("run-stalled", fleet(replace(run(activity=Activity.STALLED), quiet_s=0.0)), None),
        ("lock-files-left", fleet(strays=(Stray("0a1b2c3d", 7, CLOSED, owner=Holder.FREE),)), WARNING),
        ("live-agent-owned", fleet(strays=(STRAY,)), ERROR),
        ("live-agent-owned", fleet(strays=(replace(STRAY, pane=None),), server=replace(SERVER, panes=())), ERROR),
        ("live-agent-owned", fleet(strays=(replace(STRAY, pane=None),)), None),
        ("predecessor-gone", fleet(strays=(replace(STRAY, pane=None),)), ERROR),
        ("predecessor-gone", fleet(strays=(STRAY,)), None),
        ("life-known", fleet(DEAD, server=SILENT), WARNING),
        ("life-known", fleet(replace(LIVE, launcher=None, processes=0)), WARNING),
        ("run-of-this-machine", fleet(run(host="there")), WARNING),
        ("life-known", fleet(run(host="there")), None),
        ("lock-file-there", fleet(replace(STARTING, owner=Holder.MISSING)), ERROR),
        (
            "lock-file-there",
            fleet(replace(STARTING, owner=Holder.MISSING, run=replace(LAUNCHING, boot_id="old"))),
            None,
        ),
        ("launch-goes-on", fleet(STARTING, holders={"/locks/0a1b2c3d.owner": 9}, states={9: "T"}), ERROR),
        ("launch-goes-on", fleet(STARTING, holders={"/locks/0a1b2c3d.owner": 9}, states={9: "S"}), None),
        ("launch-goes-on", fleet(replace(STARTING, run=replace(LAUNCHING, claimed_at=AT - 2 * HOUR))), ERROR),
        ("process-goes-on", fleet(LIVE, states={20: "T", 21: "S"}), ERROR),
        ("process-goes-on", fleet(LIVE, states={20: "S", 21: "T"}), WARNING),
        ("run-has-its-places", fleet(LIVE, missing={"0a1b2c3d": BREACH}), ERROR),
        ("socket-usable", fleet(sockets=(Socket("/sock", True, BREACH),)), ERROR),
        ("server-answers", fleet(server=SILENT), ERROR),
        ("server-answers", fleet(server=SILENT, sockets=(Socket("/sock", True, BREACH),)), None),
        ("server-reachable", fleet(LIVE, server=Server(Answer.NO_SERVER), names={10: "tmux: server"}), ERROR),
        ("server-reachable", fleet(LIVE, server=Server(Answer.NO_SERVER), names={10: "bash"}), None),
        ("server-reachable", fleet(LIVE, server=replace(SERVER, pid=11), names={10: "tmux: server"}), ERROR),
        ("server-reachable", fleet(LIVE, server=SILENT, names={10: "tmux: server"}), None),
        ("server-reachable", fleet(LIVE, names={10: "tmux: server"}), None),
        ("one-server", fleet(LIVE, run(socket="/other")), INFO),
        ("server-survives", fleet(LIVE, sockets=(Socket("/sock", unit="watch.service"),)), WARNING),
        ("server-survives", fleet(LIVE, sockets=(Socket("/sock", unit="dispatchctl.service"),)), WARNING),
        ("server-survives", fleet(LIVE, sockets=(Socket("/sock", unit="dispatchctl-tmux-0a1b2c3d-1.scope"),)), None),
        ("server-survives", fleet(LIVE, sockets=(Socket("/sock", unit="user@1000.service"),)), None),
        ("server-survives", fleet(LIVE, sockets=(Socket("/sock", unit="session-3.scope"),)), None),
        ("server-survives", fleet(sockets=(Socket("/sock", unit="watch.service"),)), None),
        ("reconciled-lately", fleet(run(claimed_at=AT - 3 * HOUR), reconciled_at=AT - 2 * HOUR), WARNING),
        ("reconciled-lately", fleet(run(claimed_at=AT - 3 * HOUR), reconciled_at=None), WARNING),
        ("reconciled-lately", fleet(LIVE, reconciled_at=None), None),
        ("reconciled-lately", fleet(reconciled_at=AT - 2 * HOUR), None),
        ("queue-moves", replace(QUEUE, claimable_since=AT - 2 * HOUR), WARNING),
        ("queue-moves", replace(QUEUE, claimable_since=AT - 2 * HOUR, room=0), None),
        ("not-paused-for-long", replace(QUEUE, paused={"/repo": AT - 25 * HOUR}), INFO),
        ("not-paused-for-long", replace(QUEUE, paused={"": AT - 23 * HOUR}), None),
        ("queue-attended", replace(QUEUE, claimable_since=AT - HOUR, attended=False), INFO),
        ("queue-attended", replace(QUEUE, claimable_since=AT - HOUR), None),
        ("queue-attended", replace(QUEUE, claimable_since=AT - 299_000, attended=False), None),
        ("queue-attended", replace(QUEUE, claimable_since=AT - HOUR, attended=False, room=0), None),
        ("queue-attended", replace(QUEUE, claimable_since=AT - 2 * HOUR, attended=False), None),
        ("service-program", replace(SERVICE, units=(replace(UNIT, found=False),)), ERROR),
        ("service-current", replace(SERVICE, units=(replace(UNIT, outdated=("was changed", True)),)), WARNING),
        ("service-outlives-logout", replace(SERVICE, lingers=False), WARNING),
        ("service-outlives-logout", replace(SERVICE, lingers=None), None),
        ("service-outlives-logout", Service((), False), None),
        ("held-for-ever", waiting(child(8, 7), parents={8: (replace(TASK, status=Status.FAILED),)}), WARNING),
        ("held-for-ever", waiting(child(8, 7), parents={8: (TASK,)}), None),
        ("no-circle", waiting(child(1, 2), child(2, 1)), ERROR),
        ("no-circle", waiting(child(1), child(2, 1), child(3, 1, 2), child(4, 3)), None),
        ("recovery-left", failed(Outcome.LOST), WARNING),
        ("recovery-left", failed(Outcome.ROLLED_BACK), WARNING),
        ("recovery-left", failed(Outcome.ROLLED_BACK, left=1), None),
        ("retry-left", failed(Outcome.EXITED, number=2), INFO),
        ("retry-left", failed(Outcome.EXITED), None),
        ("repository-there", Repositories((Repository("/repo", BREACH, ready=(7,)),)), ERROR),
        ("repository-there", Repositories((Repository("/repo", BREACH, others=(7,)),)), WARNING),
        ("repository-there", Repositories((Repository("/repo", BREACH),)), None),
        ("base-there", Repositories((Repository("/repo", unresolved=((7, "gone", True),)),)), ERROR),
        ("base-there", Repositories((Repository("/repo", unresolved=((7, "gone", False),)),)), WARNING),
        ("worktree-owned", Repositories((Repository("/repo", trees=(replace(TREE, run=None),)),)), WARNING),
        (
            "worktree-whole",
            Repositories((Repository("/repo", trees=(replace(TREE, run=CLOSED, exists=False),)),)),
            WARNING,
        ),
        ("worktree-whole", Repositories((Repository("/repo", trees=(replace(TREE, exists=False),)),)), None),
        ("git-lock-fresh", Repositories((Repository("/repo", locks=(GitLock("/l", 100.0, in_use=False),)),)), WARNING),
        ("git-lock-fresh", Repositories((Repository("/repo", locks=(GitLock("/l", 100.0, in_use=True),)),)), None),
        ("git-lock-fresh", Repositories((Repository("/repo", locks=(GitLock("/l", 10.0, in_use=False),)),)), None),
        ("branch-owned", Repositories((Repository("/repo", branches=("dispatch/9",)),)), INFO),
        ("run-directory-owned", Ground("/d", directories=(Directory("/d/runs/x", began=True),)), WARNING),
        ("removal-finished", Ground("/d", aside=(Aside("/t/.going-7", "/t/7", judged=False, age_s=100.0),)), WARNING),
        ("removal-finished", Ground("/d", aside=(Aside("/t/.gone-7", "/t/7", judged=True, age_s=100.0),)), WARNING),
        ("removal-finished", Ground("/d", aside=(Aside("/t/.going-7", "/t/7", judged=False, age_s=1.0),)), None),
        ("private", Ground("/d", open_to_others=("/d",)), WARNING),
    ],
)
def test_what_is_seen_decides_what_is_said(check: str, part: Any, severity: Severity | None) -> None:
    findings = examine(Health({**HEALTHY, type(part): part}), {check: CHECKS[check]})
    assert [finding.severity for finding in findings] == ([] if severity is None else [severity])
    for finding in findings:
        assert finding.subject
        assert finding.problem
        assert finding.fix


def test_what_only_a_new_kind_of_action_would_do_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from dispatchctl.doctor import fleet_checks

    part = fleet(replace(STARTING, owner=Holder.FREE))
    monkeypatch.setattr(fleet_checks, "NAMED", frozenset())
    assert [each.check for each in examine(Health({Fleet: part}), {"x": CHECKS["nothing-to-reconcile"]})]


def test_no_action_of_reconcile_is_named_twice_or_by_nobody() -> None:
    from dispatchctl.doctor.fleet_checks import NAMED, NAMED_ELSEWHERE
    from dispatchctl.plan import Kind

    assert set(Kind) == NAMED | NAMED_ELSEWHERE


def test_the_circle_is_named_and_what_hangs_on_it_is_not() -> None:
    queue = waiting(child(5, 9), child(9, 6), child(6, 5), child(7, 6), child(1, 7), child(11, 12), child(12, 11))
    found = examine(Health({Queue: queue}), {"no-circle": CHECKS["no-circle"]})
    assert [each.problem for each in found] == ["waits for itself: 5 → 9 → 6 → 5", "waits for itself: 11 → 12 → 11"]


def test_unknown_facts_are_one_finding_however_many_checks_need_them() -> None:
    why = Unknown("fleet", "tmux did not answer", "tmux ls")
    [finding] = examine(Health({**HEALTHY, Fleet: why}))
    assert (finding.severity, finding.subject) == (WARNING, "fleet")
    assert "tmux did not answer; nor could" in finding.problem
    [alone] = examine(Health({Fleet: why}), {"live-session": CHECKS["live-session"]})
    assert (alone.check, alone.problem) == ("live-session", "could not be checked: tmux did not answer")


def test_a_check_that_breaks_is_a_finding_and_hides_nothing() -> None:
    def broken(_: Setup) -> Iterator[Problem]:
        yield Problem("x", str(1 // len(())), "y")

    checks = {"broken": Check("broken", "", Setup, (ERROR,), None, broken), "settings-valid": CHECKS["settings-valid"]}
    found = examine(Health({Setup: Setup(user=(BREACH,))}), checks)
    assert [each.check for each in found] == ["settings-valid", "broken"]
    assert "ZeroDivisionError" in found[1].problem


def test_errors_come_first() -> None:
    parts = {
        **HEALTHY,
        Tools: Tools(replace(TMUX, path=None, said="it is not installed"), GIT),
        Ground: Ground("/d", ("/d",)),
    }
    parts[Contents] = Contents("/x", journal="delete", miscounted=(7,))
    severities = [each.severity for each in examine(Health(parts))]
    assert severities == [ERROR, ERROR, WARNING, WARNING]


def test_only_what_cannot_lose_work_is_mended() -> None:
    ground = Ground("/d", directories=(Directory("/began", began=True), Directory("/never", began=False)))
    mends = {each.subject: each.mend for each in examine(Health({**HEALTHY, Ground: ground}))}
    assert mends == {"/began": None, "/never": Mend.REMOVE_RUN_DIRECTORY}
    stray = fleet(strays=(STRAY,))
    assert [each.mend for each in examine(Health({**HEALTHY, Fleet: stray}))] == [None]


def test_every_check_is_planted_by_a_test() -> None:
    here = Path(__file__).parent
    planted = re.findall(r'"([a-z-]+)"', "".join(path.read_text("utf-8") for path in here.glob("test_doctor*.py")))
    assert set(CHECKS) <= set(planted)


def test_every_check_says_in_a_sentence_when_all_is_well() -> None:
    for check in CHECKS.values():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", check.id)
        assert re.match(r"[A-Za-z`].*[.:]", check.doc), check.id
        assert check.severities
