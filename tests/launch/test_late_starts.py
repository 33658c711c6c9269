"""Between the window and the agent: launchers that die, dawdle or cannot reach the database, and who wins a race."""

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from launch.stage import ASLEEP, add, is_undone, launch_fails, lived_in, program, state_of, step_named, with_step
from world import World, eventually

from dispatchctl import rundir
from dispatchctl import steps as launching
from dispatchctl.dispatch import dispatch
from dispatchctl.processes import lock
from dispatchctl.runtime import now
from dispatchctl.steps import Launch
from dispatchctl.task import Actor, Ask, Outcome, Phase, Report, Status


@pytest.fixture
def repo(world: World) -> Path:
    return lived_in(world)


@pytest.fixture
def late(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The launcher begins only when this file is there."""
    gate = world.root / "launcher-may-begin"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.005)\n"
    monkeypatch.setattr(launching, "LAUNCH", wait + launching.LAUNCH.replace("; ", "\n"))
    return gate


@pytest.mark.parametrize("script", [None, "exit 3", "kill -9 $$"], ids=["missing", "ends", "killed"])
def test_a_launcher_that_dies_at_once_is_an_undone_launch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    python = world.root / "python"
    if script is not None:
        program(python, f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr("sys.executable", str(python))
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "its window closed before the agent began")
    assert state_of(world, repo) == before


def test_a_launcher_that_does_not_begin_in_time_is_an_undone_launch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.extra["DISPATCHCTL_DISPATCH__LAUNCH_TIMEOUT"] = "1"
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    runtime = world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "its launcher had not begun after 1 s")


class Writer:
    """Another program that holds SQLite's own write lock."""

    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)

    def hold(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def let_go(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


def test_a_launcher_that_cannot_reach_the_database_is_an_undone_launch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, late: Path
) -> None:
    world.extra["DISPATCHCTL_STORE__BUSY_TIMEOUT"] = "1"
    runtime = world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    writer = Writer(str(runtime.database))

    def opened_then_locked(launch: Launch) -> None:
        step_named_window(launch)
        writer.hold()
        late.touch()

        def let_go_when_it_gave_up() -> None:
            eventually(lambda: rundir.failure(launch.run.run_dir))
            writer.let_go()

        threading.Thread(target=let_go_when_it_gave_up, daemon=True).start()

    step_named_window = step_named("window").do
    with_step(monkeypatch, "window", do=opened_then_locked)
    original = runtime.store.begin_undo

    def when_unlocked(*arguments: Any, **named: Any) -> bool:
        eventually(lambda: not writer.connection.in_transaction)
        return original(*arguments, **named)

    monkeypatch.setattr(runtime.store, "begin_undo", when_unlocked)
    launch_fails(runtime)
    writer.connection.close()
    is_undone(world, runtime, repo, task.id, Status.READY, "is locked by another program")
    assert not (world.root / "agent-ran").exists()


def test_a_launcher_that_starts_when_the_dispatcher_gives_up_is_believed(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, late: Path
) -> None:
    world.extra["DISPATCHCTL_DISPATCH__LAUNCH_TIMEOUT"] = "1"
    runtime = world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    original = runtime.store.begin_undo

    def too_late(token: str, *arguments: Any, **named: Any) -> bool:
        late.touch()
        eventually(lambda: runtime.store.run(token).started_at)
        return original(token, *arguments, **named)

    monkeypatch.setattr(runtime.store, "begin_undo", too_late)
    done = dispatch(runtime)
    assert ([started.id for started in done.started], done.failed) == ([task.id], [])
    ended = world.ended(runtime, task.id)
    assert ended.status is Status.DONE
    assert (world.root / "agent-ran").exists()
    assert list((runtime.state / "locks").iterdir()) == []


def test_whoever_wins_the_race_between_start_and_undo_the_row_is_true(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, late: Path
) -> None:
    runtime = world.runtime()
    ran = world.root / "agent-ran"
    for number in range(6):
        ran.unlink(missing_ok=True)
        late.unlink(missing_ok=True)
        task = add(runtime, repo, f"touch {ran}", title=f"race {number}")
        original = runtime.store.begin_undo

        def at_once(*arguments: Any, **named: Any) -> bool:
            late.touch()
            return original(*arguments, **named)  # noqa: B023 - called before the next turn

        monkeypatch.setattr(runtime.store, "begin_undo", at_once)
        world.extra["DISPATCHCTL_DISPATCH__LAUNCH_TIMEOUT"] = "1"
        with monkeypatch.context() as patch:
            with_step(patch, "start", do=lambda launch: (_ for _ in ()).throw(OSError("gave up")))
            done = dispatch(runtime, [task.id])
        monkeypatch.setattr(runtime.store, "begin_undo", original)
        row = world.ended(runtime, task.id)
        assert row.run is not None
        if done.started:
            assert (row.status, ran.exists()) == (Status.DONE, True)
        else:
            assert (row.run.outcome, ran.exists()) == (Outcome.ROLLED_BACK, False)
            assert world.leftovers(row.run, repo) == []


@pytest.mark.parametrize("how", ["given up", "cancelled", "reported"])
def test_the_fence_lets_no_agent_of_a_run_start_that_was_given_up(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, late: Path, how: str
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")

    def opened_then_given_up(launch: Launch) -> None:
        window(launch)
        store, token = launch.runtime.store, launch.run.token
        if how == "given up":
            assert store.begin_undo(token, "given up", actor=Actor.RECONCILE, at=now())
        elif how == "cancelled":
            store.ask(token, Ask.CANCEL, actor=Actor.USER, at=now())
        else:
            store.report(token, Report.FAIL, "not needed", actor=Actor.USER, at=now())
        late.touch()
        eventually(lambda: world.tmux("display-message", "-p", "-t", f"={launch.run.session}:", "#{pane_dead}") == "1")

    window = step_named("window").do
    with_step(monkeypatch, "window", do=opened_then_given_up)
    failure = launch_fails(runtime)
    assert "its run was given up" in failure.error.message
    row = runtime.store.task(task.id)
    assert row.run is not None
    expected = {"given up": Status.READY, "cancelled": Status.CANCELLED, "reported": Status.FAILED}[how]
    assert (row.status, row.run.phase, row.run.started_at) == (expected, Phase.CLOSED, None)
    assert world.leftovers(row.run, repo) == []
    assert not (world.root / "agent-ran").exists()


def test_a_worktree_that_vanishes_before_the_agent_is_said_to_be_missing(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, late: Path
) -> None:
    runtime = world.runtime()
    task = add(runtime, repo)

    def opened_then_moved(launch: Launch) -> None:
        window(launch)
        os.rename(launch.run.worktree, launch.run.worktree + "-moved")
        late.touch()

    window = step_named("window").do
    with_step(monkeypatch, "window", do=opened_then_moved)
    failure = launch_fails(runtime)
    assert "No such file or directory" in failure.error.message
    run = runtime.store.task(task.id).run
    assert run is not None
    assert run.phase is Phase.CLOSED
    assert os.path.isdir(run.worktree + "-moved")


def test_the_owner_lock_is_held_until_the_agent_runs_and_then_gone(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = world.runtime()
    add(runtime, repo)
    seen = []

    def look(launch: Launch) -> None:
        seen.append(lock(launch.run.owner_lock))
        free = lock(launch.run.step_lock)
        assert free is not None, "the step lock outlives its step"
        free.release()
        start(launch)

    start = step_named("start").do
    with_step(monkeypatch, "start", do=look)
    dispatch(runtime)
    assert seen == [None]
    assert list((runtime.state / "locks").iterdir()) == []
