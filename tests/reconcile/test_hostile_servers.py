"""Sockets without their server, with another one, or without a path; two databases on one server; reboots and clocks."""

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from reconcile.scene import (
    AT_WORK,
    all_die,
    at_work,
    gone,
    kill,
    killed_at,
    kinds,
    runtime_with,
    set_clock,
    settles,
    work_is_kept,
)
from world import World, eventually

from dispatchctl import processes
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Outcome, Phase, Run, Status

DAY = 86_400


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any of it."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def claims_again(runtime: Runtime, task: int = 1) -> Run:
    """Start the task that was given back; its work goes on where it was."""
    runtime.store.edit(task, {"not_before": None}, None, at=1)
    (started,) = dispatch(runtime).started
    assert started.run is not None
    return started.run


def set_row(runtime: Runtime, token: str, **columns: object) -> None:
    """Change a run's row behind everybody's back."""
    names = ", ".join(f"{name} = ?" for name in columns)
    with closing(sqlite3.connect(runtime.database)) as connection, connection:
        connection.execute(f"UPDATE runs SET {names} WHERE token = ?", (*columns.values(), token))


def test_a_stale_socket_file_is_no_server_and_no_obstacle(world: World) -> None:
    runtime, run = at_work(world)
    kill(run.launcher_pid, runtime.windows().look().pid)
    assert world.socket.exists()
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    assert runtime.store.task(1).error == "the tmux server died under it"
    again = claims_again(runtime)
    assert again.worktree == run.worktree
    assert not gone(world.started(runtime, 1).agent_pid)


def test_another_server_on_the_same_socket_is_not_the_one_that_died(world: World) -> None:
    runtime, run = at_work(world)
    kill(run.launcher_pid, runtime.windows().look().pid)
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", run.session, "-n", "1-do-it", "sleep 600")
    theirs = world.tmux("list-panes", "-a", "-F", "#{pane_id} #{pane_pid}")
    assert theirs.split()[0] == run.pane_id, "pane ids begin again"
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    task = runtime.store.task(1)
    assert (task.status, task.run and task.run.outcome) == (Status.READY, Outcome.LOST), "nobody closed its window"
    assert world.tmux("list-panes", "-a", "-F", "#{pane_id} #{pane_pid}") == theirs
    all_die(run)
    claims_again(runtime)
    assert theirs in world.tmux("list-panes", "-a", "-F", "#{pane_id} #{pane_pid}")


def test_a_server_whose_socket_was_removed_goes_on_with_its_agents(world: World) -> None:
    runtime, run = at_work(world)
    server = runtime.windows().look().pid
    world.socket.unlink()
    try:
        assert kinds(reconcile(runtime)) == []
        assert dispatch(runtime).started == []
        world.add(runtime, AT_WORK, repo=world.root / "repo")
        (second,) = dispatch(runtime).started
        assert second.run is not None, "in a server of its own"
        assert kinds(reconcile(runtime)) == []
        assert (gone(run.agent_pid), gone(world.started(runtime, 2).agent_pid)) == (False, False)
        assert world.cli("cancel", "1").code == 0
        all_die(run)
        assert not gone(world.started(runtime, 2).agent_pid)
    finally:
        os.kill(server or 0, signal.SIGKILL)


def test_two_databases_on_one_server_leave_each_other_alone(world: World) -> None:
    mine, my_run = at_work(world)
    other = runtime_with(world, DISPATCHCTL_DB=str(world.root / "other" / "tasks.db"))
    world.add(other, AT_WORK, repo=world.root / "repo", title="Something else")
    (started,) = dispatch(other).started
    assert started.run is not None
    their_run = world.started(other, 1)
    for runtime in (mine, other, mine, other):
        assert kinds(reconcile(runtime)) == []
        assert dispatch(runtime).started == []
    killed = {**world.extra, "DISPATCHCTL_DB": str(other.database)}
    world.add(other, AT_WORK, repo=world.root / "repo", title="A third")
    before, world.extra = world.extra, killed
    killed_at(world, "after open the window", launches=False)
    world.extra = before
    (launching,) = [run for run in other.store.open_runs() if run.phase is Phase.LAUNCHING]
    assert kinds(reconcile(mine)) == []
    assert os.path.isdir(launching.worktree)
    kill(their_run.launcher_pid)
    assert kinds(reconcile(mine)) == []
    assert other.store.run(their_run.token).phase is Phase.STARTED
    assert sorted(kinds(reconcile(other))) == [Kind.LOSE, Kind.UNDO]
    assert not gone(my_run.agent_pid)
    assert mine.store.task(1).status is Status.IN_PROGRESS
    assert work_is_kept(world, their_run)


def rebooted(runtime: Runtime, *runs: Run) -> None:
    """Kill everything, and have the runtime be of another boot."""
    server = runtime.windows().look().pid
    kill(*(run.launcher_pid for run in runs), server)
    for run in runs:
        left = processes.of_run(run.token)
        for process in left:
            processes.send(process, signal.SIGKILL)
        all_die(run)
    runtime.boot_id = "another-boot"


def test_a_reboot_gives_back_what_ran_and_undoes_what_was_starting(world: World) -> None:
    runtime, run = at_work(world)
    world.add(runtime, "true", repo=world.root / "repo", title="Starting")
    killed_at(world, "after open the window", launches=False)
    (starting,) = [each for each in runtime.store.open_runs() if each.phase is Phase.LAUNCHING]
    rebooted(runtime, run)
    for path in (starting.owner_lock, starting.step_lock):
        Path(path).unlink()  # where they stood on a file system that a reboot empties
    assert sorted(kinds(reconcile(runtime))) == [Kind.LOSE, Kind.UNDO]
    first, second = runtime.store.task(1), runtime.store.task(2)
    assert (first.status, first.error) == (Status.READY, "the machine was restarted under it")
    assert (first.retries_left, first.recoveries_left) == (0, 2)
    assert work_is_kept(world, run)
    assert second.status is Status.READY
    assert world.leftovers(starting, world.root / "repo") == []
    settles(runtime, rounds=0)


def test_an_agent_that_had_ended_before_the_reboot_is_recorded_as_it_ended(world: World) -> None:
    runtime, run = at_work(world)
    rebooted(runtime, run)
    Path(run.run_dir, "exit.json").write_text(
        '{"cause": "by_itself", "ended_at": 5, "exit_code": 3, "signal": null, "asked": null, "server_lives": null,'
        ' "error": null}'
    )
    assert kinds(reconcile(runtime)) == [Kind.CLOSE]
    assert runtime.store.task(1).error == "exited with 3"


def test_a_process_that_got_the_number_of_a_launcher_is_not_it(
    world: World, bystander: subprocess.Popen[bytes]
) -> None:
    runtime, run = at_work(world)
    kill(run.launcher_pid)
    started = processes.start_time(bystander.pid)
    assert started
    reused = {"launcher_pid": bystander.pid, "launcher_start": started - 1}
    set_row(runtime, run.token, **reused, agent_pid=bystander.pid, agent_start=started - 1)
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    assert bystander.poll() is None
    all_die(run)


def test_after_a_reboot_not_even_the_same_number_and_start_time_are_the_launcher(
    world: World, bystander: subprocess.Popen[bytes]
) -> None:
    runtime, run = at_work(world)
    started = processes.start_time(bystander.pid)
    rebooted(runtime, run)
    same = {"launcher_pid": bystander.pid, "launcher_start": started}
    set_row(runtime, run.token, **same, agent_pid=bystander.pid, agent_start=started)
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    assert bystander.poll() is None


@pytest.mark.parametrize("seconds", [-DAY, DAY], ids=["back", "forward"])
def test_a_clock_that_is_set_changes_nothing_of_what_lives(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    runtime, run = at_work(world, timeout_s=3_600)
    reconcile(runtime)
    set_clock(monkeypatch, seconds)
    assert kinds(reconcile(runtime)) == []
    assert dispatch(runtime).started == []
    kill(run.launcher_pid)
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    all_die(run)
    assert dispatch(runtime).started == [], "its wait has only begun"
    set_clock(monkeypatch, seconds + 60)
    assert [task.id for task in dispatch(runtime).started] == [1]
    second = world.started(runtime, 1)
    assert kinds(reconcile(runtime)) == []
    assert not gone(second.agent_pid)
    assert world.cli("cancel", "1").code == 0
    assert world.ended(runtime, 1).status is Status.CANCELLED


def test_a_dispatcher_that_died_before_the_clock_was_set_back_is_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, repo = world.runtime(), world.repository()
    world.add(runtime, "true", repo=repo)
    killed_at(world, "after check out")
    (run,) = runtime.store.open_runs()
    set_clock(monkeypatch, -DAY)
    assert kinds(reconcile(runtime)) == [Kind.UNDO]
    assert world.leftovers(run, repo) == []


def test_a_machine_that_looks_at_anothers_runs_only_says_so(world: World) -> None:
    runtime, run = at_work(world)
    runtime.host = "somewhere-else"
    assert kinds(reconcile(runtime)) == [Kind.REPORT]
    assert not gone(run.agent_pid)
    eventually(lambda: runtime.store.run(run.token).phase is Phase.STARTED)
