"""The window of a run that has ended stays for a while to be looked at, and for ever if somebody lives in it."""

from pathlib import Path

import pytest
from reconcile.scene import all_die, at_work, kill, kinds, runtime_with, set_clock
from world import World, eventually

from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Run, Status

HOUR = 3_600


def ended(world: World) -> tuple[Runtime, Run]:
    """A run whose window is kept, beside the user's own session."""
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    repo, runtime = world.repository(), world.runtime()
    world.add(runtime, "echo last words", repo=repo)
    dispatch(runtime)
    run = world.ended(runtime, 1).run
    assert run is not None
    all_die(run)
    return runtime, runtime.store.run(run.token)


def panes(world: World, run: Run) -> int:
    return world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}").split().count(run.token)


def test_it_is_closed_when_it_was_kept_for_long_enough_and_not_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, run = ended(world)
    assert kinds(reconcile(runtime)) == []
    set_clock(monkeypatch, HOUR - 60)
    assert kinds(reconcile(runtime)) == []
    assert panes(world, run) == 1
    set_clock(monkeypatch, HOUR + 60)
    assert kinds(reconcile(runtime)) == [Kind.CLOSE_PANE]
    assert panes(world, run) == 0
    assert kinds(reconcile(runtime)) == []
    assert "users-own" in world.tmux("list-sessions")
    assert runtime.store.task(1).status is Status.DONE


def test_it_is_kept_as_long_as_the_settings_say(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = ended(world)
    set_clock(monkeypatch, 90)
    assert kinds(reconcile(runtime_with(world, DISPATCHCTL_TMUX__KEEP_WINDOWS="10m"))) == []
    assert kinds(reconcile(runtime_with(world, DISPATCHCTL_TMUX__KEEP_WINDOWS="1m"))) == [Kind.CLOSE_PANE]
    assert panes(world, run) == 0


def test_a_shell_that_the_user_started_in_it_is_never_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, run = ended(world)
    world.tmux("respawn-pane", "-k", "-t", str(run.pane_id), "sleep 600")
    pid = int(world.tmux("display-message", "-p", "-t", str(run.pane_id), "#{pane_pid}"))
    set_clock(monkeypatch, 100 * HOUR)
    assert kinds(reconcile(runtime)) == []
    assert panes(world, run) == 1
    assert Path(f"/proc/{pid}").exists()
    kill(pid)
    eventually(lambda: kinds(reconcile(runtime)) == [Kind.CLOSE_PANE], what="then nobody lives there")


def test_the_pane_beside_it_that_the_user_split_off_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, run = ended(world)
    world.tmux("split-window", "-d", "-t", str(run.pane_id), "sleep 600")
    before = world.tmux("list-panes", "-a", "-F", "#{pane_id}").split()
    set_clock(monkeypatch, 100 * HOUR)
    assert kinds(reconcile(runtime)) == [Kind.CLOSE_PANE]
    assert set(world.tmux("list-panes", "-a", "-F", "#{pane_id}").split()) == set(before) - {str(run.pane_id)}


def test_the_window_of_the_next_run_of_the_task_is_not_mistaken_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, first = ended(world)
    runtime.store.retry(1, note=None, fresh=False, recoveries=3, at=1)
    runtime.store.edit(1, {"prompt": "touch began; sleep 600"}, None, at=1)
    dispatch(runtime)
    second = world.started(runtime, 1)
    set_clock(monkeypatch, 100 * HOUR)
    assert kinds(reconcile(runtime)) == [Kind.CLOSE_PANE]
    assert (panes(world, first), panes(world, second)) == (0, 1)
    assert runtime.store.task(1).status is Status.IN_PROGRESS


def test_a_clock_that_was_set_back_closes_nothing_and_one_set_forward_closes_no_living_window(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, _ = ended(world)
    _, alive = at_work(world, repo=world.root / "repo")
    set_clock(monkeypatch, -24 * HOUR)
    assert kinds(reconcile(runtime)) == []
    set_clock(monkeypatch, 24 * HOUR)
    assert kinds(reconcile(runtime)) == [Kind.CLOSE_PANE]
    assert panes(world, alive) == 1
    assert runtime.store.task(2).status is Status.IN_PROGRESS
