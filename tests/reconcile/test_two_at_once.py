"""Two reconciles at once: whoever comes second, with a look that is out of date, does nothing and claims nothing."""

import os
import signal
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest
from reconcile.scene import (
    AT_WORK,
    all_die,
    at_work,
    copy_of,
    dispatcher,
    history_holds,
    is_stopped,
    kill,
    killed_at,
    kinds,
    pass_time,
    put_back,
    work_is_kept,
)
from world import World, eventually

from dispatchctl import observation, processes
from dispatchctl import reconcile as reconciling
from dispatchctl.dispatch import dispatch
from dispatchctl.observation import observe
from dispatchctl.plan import Kind, plan
from dispatchctl.processes import Carriers
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.snapshot import Snapshot
from dispatchctl.task import Phase, Run, Status, Task

pytestmark = pytest.mark.usefixtures("hanging_launchers")
Scene = Callable[[World, pytest.MonkeyPatch], Runtime]
EXITED = (
    '{"cause": "by_itself", "ended_at": 5, "exit_code": 3, "signal": null, "asked": null, "server_lives": null,'
    ' "error": null}'
)


def lost(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime, run = at_work(world)
    kill(run.launcher_pid)
    return runtime


def closed_from_its_file(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime, run = at_work(world)
    kill(run.launcher_pid)
    Path(run.run_dir, "exit.json").write_text(EXITED)
    return runtime


def window_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 602")
    runtime, run = at_work(world)
    kill(run.launcher_pid)
    world.tmux("kill-window", "-t", str(run.window_id))
    return runtime


def half_started(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = world.runtime()
    world.add(runtime, AT_WORK, repo=world.repository())
    killed_at(world, "after step setup")
    return runtime


def just_started(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = world.runtime()
    world.add(runtime, AT_WORK, repo=world.repository())
    killed_at(world, "before drop the locks")
    return runtime


def never_claimed(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = world.runtime()
    world.add(runtime, AT_WORK, repo=world.repository())
    killed_at(world, "before claim")
    return runtime


def forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = world.runtime()
    world.add(runtime, AT_WORK, repo=world.repository())
    copy = copy_of(runtime, world.root / "copy.db")
    dispatch(runtime)
    world.started(runtime, 1)
    return put_back(world, runtime, copy)


def out_of_time(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime, run = at_work(world, timeout_s=60)
    assert run.launcher_pid
    Path(run.run_dir, "hang").touch()
    os.kill(run.launcher_pid, signal.SIGUSR1)
    pass_time(monkeypatch, 90)
    return runtime


def quiet(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    world.extra["DISPATCHCTL_DISPATCH__STALL_AFTER"] = "600"
    runtime, _ = at_work(world)
    reconcile(runtime)
    pass_time(monkeypatch, 700)
    return runtime


def no_longer_quiet(world: World, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = quiet(world, monkeypatch)
    assert kinds(reconcile(runtime)) == [Kind.STALL]
    (run,) = runtime.store.open_runs()
    Path(run.run_dir, "output.log").write_text("more than there was")
    return runtime


SCENES: Mapping[Kind, Scene] = {
    Kind.LOSE: lost,
    Kind.CLOSE: closed_from_its_file,
    Kind.HANG_UP: window_closed,
    Kind.UNDO: half_started,
    Kind.ADOPT: just_started,
    Kind.CLEAR: never_claimed,
    Kind.REENTER: forgotten,
    Kind.TIME_OUT: out_of_time,
    Kind.STALL: quiet,
    Kind.STIR: no_longer_quiet,
}


@pytest.mark.parametrize("kind", SCENES, ids=str)
def test_whoever_comes_second_does_nothing(world: World, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    runtime = SCENES[kind](world, monkeypatch)
    second = world.runtime()
    stale = observe(second)
    assert [action.kind for action in plan(stale)] == [kind]
    assert kinds(reconcile(runtime)) == [kind]
    events, tasks = runtime.store.events(), runtime.store.tasks()
    monkeypatch.setattr(reconciling, "observe", lambda _: stale)
    assert kinds(reconcile(second)) == []
    assert (runtime.store.events(), runtime.store.tasks()) == (events, tasks)
    history_holds(runtime)


def test_a_run_that_ends_while_it_is_looked_at_is_not_entered_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is read as launching; when its directory is looked at, it has started, ended and closed."""
    runtime, repo = world.runtime(), world.repository()
    world.add(runtime, "exit 3", repo=repo)
    stale: list[Task] = []
    monkeypatch.setattr(
        "dispatchctl.faults.at_point",
        lambda name: stale.extend(world.runtime().store.open_tasks()) if name == "before step window" else None,
    )
    dispatch(runtime)
    monkeypatch.undo()
    assert world.ended(runtime, 1).status is Status.FAILED
    assert [task.run.phase for task in stale if task.run] == [Phase.LAUNCHING]
    before = runtime.store.events()
    monkeypatch.setattr(runtime.store, "open_tasks", lambda: stale)
    assert plan(observe(runtime)) == ()
    assert kinds(reconcile(runtime)) == []
    assert runtime.store.events() == before


def test_a_run_whose_processes_died_while_it_was_looked_at_is_not_entered_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process table is read, then another reconcile ends and closes the run, then the rows are read."""
    runtime, run = at_work(world, f"trap '' HUP; {AT_WORK}")
    kill(run.launcher_pid)
    real = processes.by_token

    def look() -> dict[str, Carriers]:
        seen = real()
        assert run.token in seen
        monkeypatch.setattr(processes, "by_token", real)
        assert kinds(reconcile(world.runtime())) == [Kind.LOSE]
        return seen

    monkeypatch.setattr(processes, "by_token", look)
    assert kinds(reconcile(runtime)) == []
    assert runtime.store.run(run.token).phase is Phase.CLOSED
    assert runtime.store.task(1).recoveries_left == 2
    all_die(run)
    assert work_is_kept(world, run)


def test_a_run_that_is_claimed_while_it_is_looked_at_is_no_stray(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock files are seen before its claim; when the database is asked for it, it has started."""
    runtime = world.runtime()
    world.add(runtime, AT_WORK, repo=world.repository())
    process = dispatcher(world, "before claim", signal.SIGSTOP)
    eventually(lambda: is_stopped(process))
    store, real = runtime.store, runtime.store.find_runs

    def claimed_first(tokens: Collection[str]) -> dict[str, Run]:
        if tokens and not store.open_runs():
            process.send_signal(signal.SIGCONT)
            process.communicate(timeout=60)
            world.started(runtime, 1)
        return real(tokens)

    monkeypatch.setattr(store, "find_runs", claimed_first)
    assert kinds(reconcile(runtime)) == []
    assert [run.phase for run in store.open_runs()] == [Phase.STARTED]
    assert "reentered" not in [event.kind for event in store.events()]


def test_the_second_look_is_as_good_as_the_first(world: World) -> None:
    """Nothing of a look is kept in the process: a runtime that lives for days sees what a new one sees."""
    runtime, run = at_work(world)
    assert kinds(reconcile(runtime)) == []
    kill(run.launcher_pid)
    worlds: list[Snapshot] = [observation.observe(runtime), observation.observe(world.runtime())]
    assert plan(worlds[0]) == plan(worlds[1]) != ()
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
