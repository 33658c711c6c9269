"""A dispatcher that stands still anywhere, for as long as anybody likes, and then goes on: nobody takes its work away, nobody
waits for it, and no agent runs twice."""

import os
import signal
from pathlib import Path

import pytest
from reconcile.scene import dispatcher, gone, history_holds, is_stopped, kill, killed_at, kinds, settles
from world import World, eventually

from dispatchctl import faults
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Phase, Status

LAUNCH_POINTS = [
    f"{when} {effect}"
    for effect in (
        "make the locks",
        "claim",
        "note the intent",
        "step branch",
        "step worktree",
        "note what the run makes",
        "register the worktree",
        "check out",
        "step setup",
        "step run directory",
        "step window",
        "open the window",
        "note the window",
        "step start",
        "drop the locks",
    )
    for when in ("before", "after")
]
ONCE = 'mkdir "{root}/agents/$DISPATCHCTL_TASK" || touch "{root}/agents/twice"; touch began; sleep 600'
"""An agent that notices if another one was started for its task."""


def two_tasks(world: World) -> Runtime:
    """Each in a repository of its own: what the stopped dispatcher holds in the one is no matter for the other."""
    runtime = world.runtime()
    (world.root / "agents").mkdir()
    for name in ("one", "two"):
        world.add(runtime, ONCE.format(root=world.root), repo=world.repository(name))
    return runtime


def agents(world: World) -> set[str]:
    return set(os.listdir(world.root / "agents"))


def test_the_list_has_every_point_of_a_launch(world: World) -> None:
    runtime = two_tasks(world)
    reached: list[str] = []
    faults.at_point = reached.append
    try:
        dispatch(runtime)
    finally:
        faults.at_point = None
    assert set(reached) == set(LAUNCH_POINTS)


@pytest.mark.parametrize("point", LAUNCH_POINTS)
def test_it_is_left_alone_and_holds_up_nobody(world: World, point: str) -> None:
    runtime = two_tasks(world)
    process = dispatcher(world, point, signal.SIGSTOP)
    eventually(lambda: is_stopped(process), what="it comes to the point")
    for _ in range(2):
        assert kinds(reconcile(runtime)) == []
    started = [task.id for task in dispatch(runtime).started]
    unclaimed = point in ("before make the locks", "after make the locks", "before claim")
    assert started == ([1, 2] if unclaimed else [2])
    assert kinds(reconcile(runtime)) == []
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert kinds(reconcile(runtime)) == []
    runs = runtime.store.open_runs()
    assert [(run.task, run.phase) for run in runs] == [(1, Phase.STARTED), (2, Phase.STARTED)]
    eventually(lambda: agents(world) >= {"1", "2"})
    assert agents(world) == {"1", "2"}, "no agent was started twice"
    assert not any(gone(run.agent_pid) for run in runs)
    assert list((runtime.state / "locks").iterdir()) == []
    history_holds(runtime)


@pytest.mark.parametrize("point", ["after step start", "before drop the locks"])
def test_it_does_not_keep_a_run_open_that_has_started_and_died(world: World, point: str) -> None:
    runtime = two_tasks(world)
    process = dispatcher(world, point, signal.SIGSTOP)
    eventually(lambda: is_stopped(process))
    run = world.started(runtime, 1)
    kill(run.launcher_pid)
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    task = runtime.store.task(1)
    assert (task.status, task.error) == (Status.READY, "its launcher was killed")
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    settles(runtime, rounds=0)
    assert list((runtime.state / "locks").iterdir()) == []
    assert agents(world) <= {"1"}


@pytest.mark.parametrize("point", ["after check out", "after step run directory", "after open the window"])
def test_a_cancel_reaches_it_when_it_goes_on(world: World, point: str) -> None:
    runtime = two_tasks(world)
    process = dispatcher(world, point, signal.SIGSTOP, launches=False)
    eventually(lambda: is_stopped(process))
    (run,) = runtime.store.open_runs()
    said = world.cli("cancel", "1")
    assert said.code == 124, said
    assert runtime.store.task(1).status is Status.IN_PROGRESS
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    reconcile(runtime)
    assert runtime.store.task(1).status is Status.CANCELLED
    assert agents(world) == set()
    assert world.leftovers(run, Path(run.repo)) == []


@pytest.mark.parametrize("point", ["after step setup", "before note the window", "after step start"])
def test_killed_while_it_is_stopped_it_is_dead(world: World, point: str) -> None:
    runtime = two_tasks(world)
    process = dispatcher(world, point, signal.SIGSTOP, launches=point == "after step start")
    eventually(lambda: is_stopped(process))
    assert kinds(reconcile(runtime)) == []
    process.kill()
    process.communicate(timeout=60)
    expected = Kind.ADOPT if point == "after step start" else Kind.UNDO
    assert kinds(reconcile(runtime)) == [expected]
    settles(runtime, rounds=0)


def test_a_reconcile_that_is_stopped_in_an_undo_is_left_alone_and_gone_on_with_when_it_was_killed(world: World) -> None:
    runtime = two_tasks(world)
    killed_at(world, "after step run directory")
    (run,) = runtime.store.open_runs()
    process = dispatcher(world, "after undo run directory", signal.SIGSTOP)
    eventually(lambda: is_stopped(process))
    assert runtime.store.run(run.token).phase is Phase.UNDOING
    assert kinds(reconcile(runtime)) == []
    process.kill()
    process.communicate(timeout=60)
    assert kinds(reconcile(runtime)) == [Kind.UNDO]
    assert world.leftovers(run, Path(run.repo)) == []
    settles(runtime, rounds=0)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
@pytest.mark.parametrize("kind", ["lose", "close"])
def test_a_reconcile_that_is_stopped_or_killed_as_it_closes_a_run(
    world: World, kind: str, number: signal.Signals
) -> None:
    runtime = two_tasks(world)
    dispatch(runtime)
    run = world.started(runtime, 1)
    kill(run.launcher_pid)
    if kind == "close":
        Path(run.run_dir, "exit.json").write_text(
            '{"cause": "by_itself", "ended_at": 5, "exit_code": 3, "signal": null, "asked": null, "server_lives": null,'
            ' "error": null}'
        )
    process = dispatcher(world, f"before reconcile: {kind}", number)
    if number == signal.SIGSTOP:
        eventually(lambda: is_stopped(process))
    else:
        process.communicate(timeout=60)
    assert kinds(reconcile(runtime)) == [Kind(kind)]
    settles(runtime, rounds=0)
    before = runtime.store.events()
    if number == signal.SIGSTOP:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert [event.kind for event in runtime.store.events()[len(before) :]] == []
    assert len(runtime.store.open_runs()) == 1
