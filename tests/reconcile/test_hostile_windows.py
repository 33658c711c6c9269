"""What users do with their windows: a run is found by the mark on its pane, whatever became of the window around it."""

from collections.abc import Callable

import pytest
from reconcile.scene import AT_WORK, all_die, at_work, gone, kill, kinds, settles, work_is_kept
from world import World, eventually

from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Outcome, Run, Status

Change = Callable[[World, Run], object]


def renamed(world: World, run: Run) -> None:
    world.tmux("rename-window", "-t", str(run.window_id), "#(touch /tmp/never) \n :0.1 $'")
    world.tmux("rename-session", "-t", f"={run.session}", "mine now")


def moved(world: World, run: Run) -> None:
    world.tmux("move-window", "-s", str(run.window_id), "-t", "users-own:9")


def linked(world: World, run: Run) -> None:
    world.tmux("link-window", "-s", str(run.window_id), "-t", "users-own:9")
    world.tmux("new-session", "-d", "-s", "grouped", "-t", f"={run.session}")


def split(world: World, run: Run) -> None:
    world.tmux("split-window", "-d", "-b", "-t", str(run.pane_id), "sleep 601")
    world.tmux("swap-pane", "-U", "-t", str(run.pane_id))


def broken_out(world: World, run: Run) -> None:
    world.tmux("split-window", "-d", "-t", str(run.pane_id), "sleep 601")
    world.tmux("break-pane", "-d", "-s", str(run.pane_id))


def joined(world: World, run: Run) -> None:
    world.tmux("join-pane", "-d", "-s", str(run.pane_id), "-t", "users-own:")


def not_remaining(world: World, run: Run) -> None:
    world.tmux("set-option", "-p", "-t", str(run.pane_id), "remain-on-exit", "off")


CHANGES = [renamed, moved, linked, split, broken_out, joined, not_remaining]


def beside_the_users_own(world: World) -> tuple[Runtime, Run]:
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 602")
    return at_work(world)


def users_panes(world: World, run: Run) -> set[str]:
    panes = world.tmux("list-panes", "-a", "-F", "#{pane_id} #{pane_pid}").splitlines()
    return {pane for pane in panes if pane.split()[0] != run.pane_id}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_goes_on_and_can_be_ended_whatever_became_of_its_window(world: World, change: Change) -> None:
    runtime, run = beside_the_users_own(world)
    change(world, run)
    before = users_panes(world, run)
    assert kinds(reconcile(runtime)) == []
    assert dispatch(runtime).started == []
    assert world.cli("send", "1", "hello").code == 0
    eventually(lambda: "hello" in world.cli("logs", "1").out, what="the text comes to its pane")
    assert world.cli("cancel", "1").code == 0
    assert runtime.store.task(1).status is Status.CANCELLED
    all_die(run)
    assert users_panes(world, run) == before
    settles(runtime, rounds=0)


@pytest.mark.parametrize("change", CHANGES[:-1], ids=lambda change: change.__name__)
def test_a_killed_launcher_is_not_a_closed_window_whatever_became_of_it(world: World, change: Change) -> None:
    runtime, run = beside_the_users_own(world)
    change(world, run)
    before = users_panes(world, run)
    kill(run.launcher_pid)
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    task = runtime.store.task(1)
    assert (task.status, task.error) == (Status.READY, "its launcher was killed")
    assert users_panes(world, run) == before


def closed(world: World, run: Run) -> None:
    world.tmux("kill-window", "-t", str(run.window_id))


def session_closed(world: World, run: Run) -> None:
    world.tmux("kill-session", "-t", f"={run.session}")


def pane_closed(world: World, run: Run) -> None:
    split(world, run)
    world.tmux("kill-pane", "-t", str(run.pane_id))


def respawned(world: World, run: Run) -> None:
    world.tmux("respawn-pane", "-k", "-t", str(run.pane_id), "sleep 601")


@pytest.mark.parametrize("close", [closed, session_closed, pane_closed, respawned], ids=lambda close: close.__name__)
def test_a_window_that_the_user_closed_is_not_opened_again(world: World, close: Change) -> None:
    runtime, run = beside_the_users_own(world)
    close(world, run)
    task = world.ended(runtime, 1)
    assert (task.status, task.run and task.run.outcome) == (Status.FAILED, Outcome.HUNG_UP)
    assert task.error == "its window was closed"
    assert kinds(reconcile(runtime)) == []
    assert dispatch(runtime).started == []
    all_die(run)
    assert work_is_kept(world, run)
    assert "users-own" in world.tmux("list-sessions")


@pytest.mark.parametrize("close", [closed, session_closed, pane_closed], ids=lambda close: close.__name__)
def test_nor_is_one_whose_launcher_was_killed_before_it_could_say_so(world: World, close: Change) -> None:
    runtime, run = beside_the_users_own(world)
    kill(run.launcher_pid)
    close(world, run)
    assert kinds(reconcile(runtime)) == [Kind.HANG_UP]
    task = runtime.store.task(1)
    assert (task.status, task.error) == (Status.FAILED, "its window was closed")
    assert dispatch(runtime).started == []
    all_die(run)


def test_a_pane_that_somebody_else_marked_with_the_token_is_not_taken_for_the_runs_life(world: World) -> None:
    """A user's own pane carries the marks of a run that has ended; it is not closed while something lives in it."""
    runtime, run = beside_the_users_own(world)
    theirs = world.tmux("list-panes", "-t", "users-own", "-F", "#{pane_id}")
    for name in ("token", "database", "task"):
        value = world.tmux("show-options", "-p", "-v", "-t", str(run.pane_id), f"@dispatchctl_{name}")
        world.tmux("set-option", "-p", "-t", theirs, f"@dispatchctl_{name}", value)
    assert kinds(reconcile(runtime)) == []
    assert world.cli("cancel", "1").code == 0
    all_die(run)
    settles(runtime)
    assert theirs in world.tmux("list-panes", "-t", "users-own", "-F", "#{pane_id}")


def test_a_window_closed_in_the_launch_is_a_failed_launch_that_another_dispatch_may_cure(world: World) -> None:
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 602")
    runtime, repo = world.runtime(), world.repository()
    world.add(runtime, AT_WORK, repo=repo)
    world.tmux("set-hook", "-g", "after-new-window", "kill-window")
    world.tmux("set-hook", "-g", "after-new-session", "kill-session")
    (failure,) = dispatch(runtime).failed
    run = runtime.store.task(1).run
    assert run is not None
    assert failure.status is Status.READY
    assert world.leftovers(run, repo) == []
    assert kinds(reconcile(runtime)) == []
    assert gone(run.launcher_pid or 999_999_999)
