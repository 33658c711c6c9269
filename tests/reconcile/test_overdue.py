"""Runs that were asked to end, are over their time limit, or have stalled, where the launcher does not do its part."""

import os
import threading
from pathlib import Path

import pytest
from reconcile.scene import at_work, gone, hung, kinds, pass_time, runtime_with, settles
from world import World, eventually

from dispatchctl import processes
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import now
from dispatchctl.task import Activity, Actor, Ask, Outcome, Report, Status

pytestmark = pytest.mark.usefixtures("hanging_launchers")

STUBBORN = "trap '' TERM HUP; touch began; while :; do sleep 0.05; done"


def test_a_hanging_launcher_over_its_time_limit_is_ended_and_everything_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.extra["DISPATCHCTL_DISPATCH__STALL_AFTER"] = "0"
    runtime, run = at_work(world, STUBBORN, timeout_s=3_600)
    with hung(run):
        assert kinds(reconcile(runtime)) == []
        pass_time(monkeypatch, 3_590)
        assert kinds(reconcile(runtime)) == []
        pass_time(monkeypatch, 30)
        assert kinds(reconcile(runtime)) == [Kind.TIME_OUT]
        assert runtime.store.run(run.token).ask is Ask.TIMEOUT
        assert kinds(reconcile(runtime)) == [], "it was asked, and has its time"
        pass_time(monkeypatch, 8)
        assert kinds(reconcile(runtime)) == [Kind.END]
        pass_time(monkeypatch, 60)
        assert kinds(reconcile(runtime)) == [Kind.KILL]
    task = runtime.store.task(1)
    assert (task.status, task.run and task.run.outcome) == (Status.FAILED, Outcome.TIMED_OUT)
    assert task.error == "ran longer than its time limit of 3600 s"
    assert not processes.of_run(run.token)
    assert list((runtime.state / "locks").iterdir()) == []
    settles(runtime, rounds=0)


@pytest.mark.parametrize("dies", [False, True], ids=["and closes", "and dies"])
def test_what_a_launcher_records_when_it_comes_back_is_believed(
    world: World, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    runtime, run = at_work(world, "touch began; trap 'exit 7' TERM; while :; do sleep 0.05; done", timeout_s=60)
    if dies:
        Path(run.run_dir, "die").touch()
    with hung(run) as hang:
        pass_time(monkeypatch, 90)
        assert kinds(reconcile(runtime)) == [Kind.TIME_OUT]
        pass_time(monkeypatch, 60)
        timer = threading.Timer(0.3, hang.unlink)
        timer.start()
        assert kinds(reconcile(runtime)) == [Kind.KILL]
        timer.join()
    task = runtime.store.task(1)
    assert task.run is not None
    assert (task.status, task.run.outcome, task.run.exit_code) == (Status.FAILED, Outcome.TIMED_OUT, 7)


def test_a_launcher_that_hangs_after_the_exit_file_does_not_keep_its_run_open(world: World) -> None:
    runtime, run = at_work(world)
    with hung(run):
        Path(run.run_dir, "exit.json").write_text(
            '{"cause": "by_itself", "ended_at": 5, "exit_code": 3, "signal": null, "asked": null, "server_lives": null,'
            ' "error": null}'
        )
        assert kinds(reconcile(runtime)) == [Kind.CLOSE]
        task = runtime.store.task(1)
    assert (task.status, task.error) == (Status.FAILED, "exited with 3")
    assert not processes.of_run(run.token)


def test_a_cancel_that_was_killed_before_it_told_the_launcher_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, run = at_work(world)
    runtime.store.ask(run.token, Ask.CANCEL, actor=Actor.USER, at=now(), awake=processes.awake())
    assert kinds(reconcile(runtime)) == [], "whoever asked is about to tell"
    pass_time(monkeypatch, 6)
    assert kinds(reconcile(runtime)) == [Kind.END]
    assert world.ended(runtime, 1).status is Status.CANCELLED
    eventually(lambda: not processes.of_run(run.token))


def test_the_command_cancel_waits_for_a_hanging_launcher_no_longer_than_it_says(world: World) -> None:
    runtime, run = at_work(world)
    with hung(run):
        said = world.cli("cancel", "1")
    assert said.code == 124, said
    assert runtime.store.run(run.token).asked_awake is not None, "reconcile goes by it"
    assert world.ended(runtime, 1).status is Status.CANCELLED


@pytest.mark.parametrize("report", list(Report))
def test_a_report_whose_launcher_was_not_told_ends_the_run_after_its_grace(
    world: World, monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    runtime, run = at_work(world)
    runtime.store.report(run.token, report, "so it is", actor=Actor.AGENT, at=now(), awake=processes.awake())
    pass_time(monkeypatch, 30)
    assert kinds(reconcile(runtime)) == [], "it has its grace"
    assert runtime.store.task(1).status is Status.IN_PROGRESS
    pass_time(monkeypatch, 6)
    assert kinds(reconcile(runtime)) == [Kind.END]
    task = world.ended(runtime, 1)
    expected = Status.IN_REVIEW if report is Report.DONE else Status.FAILED  # `began` is not committed
    assert (task.status, task.run and task.run.outcome) == (expected, Outcome.REPORTED)


def test_an_agent_that_says_done_keeps_its_grace_from_a_reconcile(world: World) -> None:
    runtime, run = at_work(world, "touch began; dispatchctl done -m ok; touch said; sleep 1; touch after; sleep 600")
    eventually(lambda: os.path.exists(os.path.join(run.worktree, "said")))
    assert kinds(reconcile(runtime)) == []
    eventually(lambda: os.path.exists(os.path.join(run.worktree, "after")), what="the agent goes on in its grace")
    assert runtime.store.task(1).status is Status.IN_PROGRESS


def test_a_silent_run_is_called_stalled_once_and_working_when_it_writes_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.extra["DISPATCHCTL_DISPATCH__STALL_AFTER"] = "600"
    runtime, run = at_work(world, "touch began; while [ ! -e go ]; do sleep 0.02; done; echo again; sleep 600")
    assert kinds(reconcile(runtime)) == []
    pass_time(monkeypatch, 590)
    assert kinds(reconcile(runtime)) == []
    pass_time(monkeypatch, 20)
    assert kinds(reconcile(runtime)) == [Kind.STALL]
    assert runtime.store.run(run.token).activity is Activity.STALLED
    settles(runtime, rounds=0)
    Path(run.worktree, "go").touch()
    eventually(lambda: os.path.getsize(os.path.join(run.run_dir, "output.log")))
    assert kinds(reconcile(runtime)) == [Kind.STIR]
    assert runtime.store.run(run.token).activity is Activity.WORKING
    settles(runtime, rounds=0)
    pass_time(monkeypatch, 610)
    assert kinds(reconcile(runtime)) == [Kind.STALL]
    said = [event.kind for event in runtime.store.events(task=1)]
    assert [kind for kind in said if kind in ("stalled", "working")] == ["stalled", "working", "stalled"]
    assert runtime.store.task(1).status is Status.IN_PROGRESS


def test_a_heartbeat_is_a_sign_of_life(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.extra["DISPATCHCTL_DISPATCH__STALL_AFTER"] = "600"
    runtime, run = at_work(world)
    reconcile(runtime)
    pass_time(monkeypatch, 550)
    runtime.store.heartbeat(run.token, Activity.WORKING, at=now())
    assert kinds(reconcile(runtime)) == []
    pass_time(monkeypatch, 590)
    assert kinds(reconcile(runtime)) == []
    pass_time(monkeypatch, 20)
    assert kinds(reconcile(runtime)) == [Kind.STALL]


def test_a_blocked_task_never_stalls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.extra["DISPATCHCTL_DISPATCH__STALL_AFTER"] = "600"
    runtime, run = at_work(world, "touch began; dispatchctl block -m 'which one?'; sleep 600")
    eventually(lambda: runtime.store.task(1).status is Status.BLOCKED)
    reconcile(runtime)
    pass_time(monkeypatch, 30_000)
    assert kinds(reconcile(runtime)) == []
    assert runtime.store.run(run.token).activity is Activity.WAITING


def test_a_stalled_run_is_ended_where_the_settings_say_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.extra |= {"DISPATCHCTL_DISPATCH__STALL_AFTER": "600", "DISPATCHCTL_DISPATCH__STALL_ACTION": "end"}
    runtime, run = at_work(world, retries=1)
    reconcile(runtime)
    pass_time(monkeypatch, 610)
    assert kinds(reconcile(runtime)) == [Kind.TIME_OUT]
    task = world.ended(runtime, 1)
    assert (task.status, task.run and task.run.outcome) == (Status.READY, Outcome.TIMED_OUT)
    assert task.error == "no output and no heartbeat for 600 s"
    assert (task.retries_left, task.recoveries_left) == (0, 3)
    eventually(lambda: not processes.of_run(run.token))


def test_a_sleeping_machine_is_not_a_silent_agent_nor_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on by hours, the time awake does not."""
    world.extra["DISPATCHCTL_DISPATCH__STALL_AFTER"] = "600"
    runtime, _ = at_work(world, timeout_s=3_600)
    reconcile(runtime)
    monkeypatch.setattr("dispatchctl.observation.now", lambda: now() + 100_000_000)
    assert kinds(reconcile(runtime)) == []


def test_what_was_started_before_a_setting_changed_goes_by_its_own_time_limit(world: World) -> None:
    _, run = at_work(world, "touch began; sleep 600", timeout_s=0)
    later = runtime_with(world, DISPATCHCTL_TASK__TIMEOUT="1")
    assert kinds(reconcile(later)) == []
    assert not gone(run.agent_pid)


def test_a_launcher_that_hangs_for_a_while_goes_on_as_if_nothing_had_happened(world: World) -> None:
    runtime, run = at_work(world, "touch began; while [ ! -e go ]; do sleep 0.02; done; rm go began; exit 0")
    with hung(run):
        Path(run.worktree, "go").touch()
        eventually(lambda: not os.path.exists(os.path.join(run.worktree, "go")))
        assert kinds(reconcile(runtime)) == []
        assert dispatch(runtime).started == []
    assert world.ended(runtime, 1).status is Status.DONE
