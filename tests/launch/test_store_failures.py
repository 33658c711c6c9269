"""A database that fails at any later call: the run is undone, or its owner lock is free so that it can be."""

import os
from pathlib import Path
from typing import Any, cast

import pytest
from launch.stage import ASLEEP, add, after, finish_undo, is_undone, lived_in, state_of, step_named, with_step
from world import World, eventually

from dispatchctl import steps as launching
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import Busy, DispatchctlError, LaunchError, QueueFull
from dispatchctl.runtime import Runtime
from dispatchctl.task import Phase, Status

BEFORE_THE_CLAIM = {
    *("occupied", "open_runs", "places", "open_tasks", "sightings", "find_runs", "shorten_waits", "sight", "claim"),
}
BEFORE_THE_START = {"runs", "note_base", "id", "note_window", "run"}
AFTER_THE_START = {"task"}
IN_THE_UNDO = {"begin_undo", "close_undone", "undo_failed"}


@pytest.fixture
def repo(world: World) -> Path:
    return lived_in(world)


class Outside:
    """A store as its callers see it: notes what it is asked, and fails once where it is told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._failing: dict[str, tuple[int, BaseException]] = {}
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        if name in self._failing:
            left, error = self._failing.pop(name)
            if left:
                self._failing[name] = (left - 1, error)
            else:
                raise error
        return getattr(self._store, name)

    def fail(self, name: str, *, error: BaseException | None = None, calls: int = 0) -> None:
        """Have one method fail, once, after `calls` calls that work."""
        self._failing[name] = (calls, error or Busy("the database is locked"))


def outside(runtime: Runtime) -> Outside:
    """Put such a store into the runtime."""
    store = Outside(runtime.store)
    cast(Any, runtime).store = store
    return store


def test_every_call_of_a_launch_is_among_those_that_are_made_to_fail(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = world.runtime()
    add(runtime, repo)
    add(runtime, repo)
    recording = outside(runtime)
    dispatch(runtime, most=1)
    with_step(monkeypatch, "start", do=after(lambda launch: None, LaunchError("no luck today")))
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    dispatch(runtime)
    assert recording.asked == (BEFORE_THE_CLAIM | BEFORE_THE_START | AFTER_THE_START | IN_THE_UNDO) - {
        "runs",  # of resumed runs
        "undo_failed",
    }


@pytest.mark.parametrize("name", sorted(BEFORE_THE_START - {"runs", "id"}))
def test_a_database_that_fails_before_the_start_is_an_undone_launch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    outside(runtime).fail(name)
    dispatch(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "the database is locked")
    assert state_of(world, repo) == before
    assert not (world.root / "agent-ran").exists()


def test_a_database_that_fails_when_the_window_is_noted_after_the_start_loses_no_agent(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")

    def when_started(token: str, *arguments: Any, **named: Any) -> None:
        eventually(lambda: runtime.store.run(token).started_at)
        raise Busy("the database is locked")

    monkeypatch.setattr(runtime.store, "note_window", when_started)
    done = dispatch(runtime)
    assert ([each.id for each in done.started], done.failed) == ([task.id], [])
    assert world.ended(runtime, task.id).status is Status.DONE


def test_a_database_that_fails_before_the_claim_is_no_tasks_fault(world: World, repo: Path) -> None:
    runtime = world.runtime()
    task = add(runtime, repo)
    outside(runtime).fail("open_runs")
    with pytest.raises(Busy):
        dispatch(runtime)
    row = runtime.store.task(task.id)
    assert (row.status, row.run, row.recoveries_left) == (Status.READY, None, 3)


@pytest.mark.parametrize("error", [Busy("the database is locked"), KeyboardInterrupt(), QueueFull("over the limit")])
def test_a_claim_that_fails_leaves_no_lock_files(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo)
    outside(runtime).fail("claim", error=error)
    if isinstance(error, QueueFull):
        assert dispatch(runtime).full is error
    else:
        with pytest.raises(type(error)):
            dispatch(runtime)
    assert runtime.store.task(task.id).status is Status.READY
    assert list((runtime.state / "locks").iterdir()) == []


@pytest.mark.parametrize("error", [Busy("the database is locked"), KeyboardInterrupt()])
def test_a_claim_that_was_committed_and_then_fails_can_be_undone_by_another(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo)
    original = runtime.store.claim

    def claimed_then_failed(*arguments: Any, **named: Any) -> Any:
        original(*arguments, **named)
        raise error

    monkeypatch.setattr(runtime.store, "claim", claimed_then_failed)
    with pytest.raises(type(error)):
        dispatch(runtime)
    run = runtime.store.task(task.id).run
    assert run is not None
    assert run.phase is Phase.LAUNCHING
    assert finish_undo(runtime, run).status is Status.READY
    assert world.leftovers(run, repo) == []
    assert state_of(world, repo) == before


def test_a_task_that_cannot_be_read_after_its_claim_can_be_undone_by_another(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo)
    outside(runtime).fail("task")
    with pytest.raises(Busy):
        dispatch(runtime)
    run = runtime.store.task(task.id).run
    assert run is not None
    assert finish_undo(runtime, run).status is Status.READY
    assert world.leftovers(run, repo) == []


@pytest.mark.parametrize("name", sorted(IN_THE_UNDO))
def test_a_database_that_fails_in_the_undo_lets_another_go_on_with_it(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    with_step(monkeypatch, "start", do=after(lambda launch: None, LaunchError("no luck today")))
    original = step_named("worktree").undo
    if name == "undo_failed":
        with_step(monkeypatch, "worktree", undo=after(lambda launch: None, OSError(5, "it stands")))
    outside(runtime).fail(name)
    (failure,) = dispatch(runtime).failed
    assert isinstance(failure.error, DispatchctlError)
    run = runtime.store.task(task.id).run
    assert run is not None
    assert run.phase is (Phase.LAUNCHING if name == "begin_undo" else Phase.UNDOING)
    assert os.path.exists(run.owner_lock)
    if name == "undo_failed":
        with_step(monkeypatch, "worktree", undo=original)
    assert finish_undo(runtime, run).status is Status.READY
    assert world.leftovers(run, repo) == []
    assert state_of(world, repo) == before
    assert not (world.root / "agent-ran").exists()


def test_an_agent_that_runs_is_not_undone_when_the_answer_cannot_be_read(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo)
    outside(runtime).fail("task", calls=1)
    dispatch(runtime)
    done = world.ended(runtime, task.id)
    assert (done.status, len(runtime.store.runs(task.id))) == (Status.DONE, 1)
    assert list((runtime.state / "locks").iterdir()) == []
