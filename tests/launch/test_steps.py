"""Whatever step a launch fails at, by whatever error, nothing is left; and an undo that fails can be gone on with.

Parametrised over the steps themselves: a new one is covered by being there.
"""

import os
import signal
import threading
from pathlib import Path

import pytest
from launch.stage import (
    ASLEEP,
    add,
    after,
    finish_undo,
    is_open_and_failed,
    is_undone,
    launch_fails,
    lived_in,
    names_of,
    once,
    state_of,
    step_named,
    with_step,
)
from world import World

from dispatchctl import steps as launching
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import LaunchError, Terminated
from dispatchctl.steps import Launch
from dispatchctl.task import Phase, Status

LAST = names_of()[-1]
every_step = pytest.mark.parametrize("name", names_of())
every_step_before_the_start = pytest.mark.parametrize("name", names_of()[:-1])


@pytest.fixture
def repo(world: World) -> Path:
    return lived_in(world)


def fail_after(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    with_step(monkeypatch, name, do=after(step_named(name).do, error))


@every_step_before_the_start
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LaunchError("no luck today"), Status.READY),
        (LaunchError("no luck today", curable=False), Status.FAILED),
        (OSError(28, "no luck today", "/x"), Status.READY),
    ],
    ids=["curable", "incurable", "system"],
)
def test_an_error_after_a_step_leaves_no_trace(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, status: Status
) -> None:
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    fail_after(monkeypatch, name, error)
    failure = launch_fails(runtime)
    assert failure.status is status
    assert failure.error.message.startswith(f"task {task.id} was not started: no luck today")
    is_undone(world, runtime, repo, task.id, status, "no luck today")
    assert state_of(world, repo) == before
    assert not (world.root / "agent-ran").exists()


@every_step_before_the_start
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "interrupted by Ctrl-C while it was being started"),
        (Terminated(15), "ended by signal 15 while it was being started"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
    ],
    ids=["ctrl-c", "sigterm", "bug"],
)
def test_an_interruption_or_a_bug_is_undone_too_and_goes_on(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException, said: str
) -> None:
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    fail_after(monkeypatch, name, error)
    with pytest.raises(type(error)):
        dispatch(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, said)
    assert state_of(world, repo) == before
    assert not (world.root / "agent-ran").exists()


def test_an_error_after_the_agent_has_started_is_no_failed_launch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo, f"read go < {world.root}/gate")
    os.mkfifo(world.root / "gate")
    with_step(monkeypatch, LAST, do=after(step_named(LAST).do, LaunchError("too late")))
    done = dispatch(runtime)
    assert [started.id for started in done.started] == [task.id]
    assert done.failed == []
    run = world.started(runtime, task.id)
    assert (runtime.store.task(task.id).status, run.phase) == (Status.IN_PROGRESS, Phase.STARTED)
    assert not os.path.exists(run.owner_lock)
    (world.root / "gate").write_text("go\n")
    assert world.ended(runtime, task.id).status is Status.DONE


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(15), ZeroDivisionError("a bug")])
def test_an_interruption_after_the_agent_has_started_leaves_it_running(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo, f"read go < {world.root}/gate")
    os.mkfifo(world.root / "gate")
    with_step(monkeypatch, LAST, do=after(step_named(LAST).do, error))
    with pytest.raises(type(error)):
        dispatch(runtime)
    assert runtime.store.task(task.id).status is Status.IN_PROGRESS
    (world.root / "gate").write_text("go\n")
    assert world.ended(runtime, task.id).status is Status.DONE


@every_step
def test_an_undo_that_fails_names_the_step_and_a_second_one_finishes_it(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    with_step(monkeypatch, LAST, do=after(lambda launch: None, LaunchError("no luck today")))
    with_step(monkeypatch, name, undo=once(step_named(name).undo, OSError(5, "it stands")))
    failure = launch_fails(runtime)
    assert failure.status is Status.FAILED
    assert f"the undo stopped at its {name}" in failure.error.message
    run = is_open_and_failed(runtime, task.id, f"no luck today; and the undo stopped at its {name}")
    left = world.leftovers(run, repo)
    stands = {"branch": f"branch {run.branch}", "worktree": f"worktree {run.worktree}", "window": "pane"}
    assert stands.get(name, run.owner_lock) in left, "the undo went on below the step that failed"

    assert finish_undo(runtime, run).status is Status.READY
    assert runtime.store.run(run.token).phase is Phase.CLOSED
    assert world.leftovers(run, repo) == []
    assert state_of(world, repo) == before
    assert not (world.root / "agent-ran").exists()


def test_an_undo_stops_at_the_first_step_that_fails(world: World, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = world.runtime()
    task = add(runtime, repo)
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    with_step(monkeypatch, LAST, do=after(lambda launch: None, LaunchError("no luck today")))
    with_step(monkeypatch, "window", undo=once(step_named("window").undo, OSError(5, "it stands")))
    launch_fails(runtime)
    run = is_open_and_failed(runtime, task.id, "the undo stopped at its window")
    kinds = {left.split()[0] for left in world.leftovers(run, repo)}
    assert {"pane", "run", "worktree", "branch", "process"} <= kinds
    finish_undo(runtime, run)


def test_what_a_half_done_removal_left_of_a_worktree_goes_too(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal while something still writes ends without registration and with half a tree."""
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo)

    def half_done(launch: Launch) -> None:
        world.git(repo, "worktree", "remove", "-f", "-f", launch.run.worktree)
        os.makedirs(f"{launch.run.worktree}/node_modules")
        raise LaunchError("no luck today")

    with_step(monkeypatch, "setup", do=half_done)
    launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "no luck today")
    assert state_of(world, repo) == before


def test_a_second_ctrl_c_waits_for_the_undo(world: World, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo)
    undo = step_named("worktree").undo

    def impatient(launch: Launch) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        undo(launch)

    fail_after(monkeypatch, "run directory", LaunchError("no luck today"))
    with_step(monkeypatch, "worktree", undo=impatient)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        dispatch(runtime)
    assert signal.getsignal(signal.SIGINT) is handler
    is_undone(world, runtime, repo, task.id, Status.READY, "no luck today")
    assert state_of(world, repo) == before


def test_a_launch_in_a_thread_is_undone_too(world: World, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(monkeypatch, "run directory", LaunchError("no luck today"))
    task = add(world.runtime(), repo)
    thread = threading.Thread(target=lambda: dispatch(world.runtime()))
    thread.start()
    thread.join()
    is_undone(world, world.runtime(), repo, task.id, Status.READY, "no luck today")
