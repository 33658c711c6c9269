"""A task that is tried again goes on where it stopped, and a launch that fails takes nothing of its earlier work."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from launch.stage import (
    ASLEEP,
    add,
    after,
    finish_undo,
    is_open_and_failed,
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
from dispatchctl.errors import LaunchError
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Outcome, Run, Status

FIRST = "echo one > committed; git add committed; git commit -qm one; echo two > uncommitted; exit 1"
AGAIN = "test -e $HOME/again || { touch $HOME/again; " + FIRST + "; }; echo three >> third; exit 0"


@pytest.fixture
def repo(world: World) -> Path:
    return lived_in(world)


def first_run(world: World, runtime: Runtime, repo: Path, prompt: str = AGAIN) -> Run:
    """A run that failed and left a commit, a change and an untracked file."""
    task = add(runtime, repo, prompt, title="Go on")
    assert dispatch(runtime).failed == []
    done = world.ended(runtime, task.id)
    assert done.status is Status.FAILED, done.error
    assert done.run is not None
    (Path(done.run.worktree) / "README").write_text("changed by hand\n")
    return done.run


def retry(runtime: Runtime, run: Run, *, fresh: bool = False) -> None:
    runtime.store.retry(run.task, note=None, fresh=fresh, recoveries=3, at=now())


def work_of(world: World, run: Run) -> dict[str, Any]:
    """Everything of a worktree and its branch."""
    tree = Path(run.worktree)
    return {
        "head": world.git(tree, "rev-parse", "HEAD"),
        "tip": world.git(Path(run.repo), "rev-parse", f"refs/heads/{run.branch}"),
        "reflog": world.git(tree, "reflog"),
        "status": world.git(tree, "status", "--porcelain", "--branch"),
        "index": world.git(tree, "ls-files", "-s"),
        "files": {str(path): path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()},
    }


def test_a_retry_goes_on_in_the_same_worktree(world: World, repo: Path) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    before = work_of(world, first)
    retry(runtime, first)
    dispatch(runtime)
    run = world.ended(runtime, first.task).run
    assert run is not None
    assert (run.resumed, run.number, run.branch, run.worktree) == (True, 2, first.branch, first.worktree)
    assert run.base_commit == first.base_commit
    assert (run.owns_tree, run.owns_branch) == (False, False)
    assert (Path(run.worktree) / "third").read_text() == "three\n"
    (Path(run.worktree) / "third").unlink()
    assert work_of(world, run) == before


@pytest.mark.parametrize("name", names_of()[:-1])
def test_a_launch_that_fails_touches_neither_tree_nor_branch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    retry(runtime, first)
    before, users = work_of(world, first), state_of(world, repo)
    with monkeypatch.context() as patch:
        patch.setattr(launching, "LAUNCH", ASLEEP)
        with_step(patch, name, do=after(step_named(name).do, LaunchError("no luck today")))
        assert launch_fails(runtime).status is Status.READY
    run = runtime.store.task(first.task).run
    assert run is not None
    assert run.token != first.token
    kept = {f"worktree {run.worktree}", f"branch {run.branch}"}
    assert set(world.leftovers(run, repo)) == kept
    assert work_of(world, first) == before
    assert state_of(world, repo) == users
    runtime.store.edit(first.task, {"not_before": None}, None, at=now())
    dispatch(runtime)
    third = world.ended(runtime, first.task).run
    assert third is not None
    assert (third.outcome, third.worktree, third.base_commit) == (Outcome.EXITED, first.worktree, first.base_commit)


@pytest.mark.parametrize("name", names_of())
def test_an_undo_that_fails_touches_neither_tree_nor_branch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    retry(runtime, first)
    before = work_of(world, first)
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    with_step(monkeypatch, "start", do=after(lambda launch: None, LaunchError("no luck today")))
    with_step(monkeypatch, name, undo=once(step_named(name).undo, OSError(5, "it stands")))
    launch_fails(runtime)
    run = is_open_and_failed(runtime, first.task, "it stands")
    finish_undo(runtime, run)
    assert work_of(world, first) == before


@pytest.mark.parametrize("fails", [False, True], ids=["starts", "fails"])
def test_a_worktree_deleted_by_hand_is_made_again_from_its_branch(
    world: World, repo: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    tip = world.git(repo, "rev-parse", first.branch)
    shutil.rmtree(first.worktree)
    retry(runtime, first)
    if fails:
        with_step(monkeypatch, "start", do=after(lambda launch: None, LaunchError("no luck today")))
        monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
        launch_fails(runtime)
    else:
        assert dispatch(runtime).failed == []
    run = world.ended(runtime, first.task).run
    assert run is not None
    assert world.git(repo, "rev-parse", first.branch) == tip
    assert (run.owns_tree, run.owns_branch, run.base_commit) == (True, False, first.base_commit)
    if fails:
        assert world.leftovers(run, repo) == [f"branch {run.branch}"]
    else:
        assert (Path(run.worktree) / "committed").read_text() == "one\n"
        assert (Path(run.worktree) / "third").exists()


def test_a_worktree_deleted_by_hand_with_its_branch_is_made_anew(world: World, repo: Path) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    world.git(repo, "worktree", "remove", "-f", "-f", first.worktree)
    world.git(repo, "branch", "-D", first.branch)
    retry(runtime, first)
    assert dispatch(runtime).failed == []
    run = world.ended(runtime, first.task).run
    assert run is not None
    assert (run.owns_tree, run.owns_branch, run.worktree) == (True, True, first.worktree)


def test_a_directory_in_the_worktrees_place_is_somebodys_work(world: World, repo: Path) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    world.git(repo, "worktree", "remove", "-f", "-f", first.worktree)
    os.makedirs(first.worktree)
    (Path(first.worktree) / "mine").write_text("a day's work\n")
    retry(runtime, first)
    failure = launch_fails(runtime)
    assert "is taken" in failure.error.message
    assert failure.status is Status.FAILED
    assert (Path(first.worktree) / "mine").read_text() == "a day's work\n"
    assert world.git(repo, "branch", "--list", first.branch)


def test_a_missing_worktree_that_had_something_else_checked_out_is_not_forgotten(world: World, repo: Path) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    world.git(Path(first.worktree), "checkout", "-q", "--detach")
    world.git(Path(first.worktree), "commit", "-q", "--allow-empty", "-m", "nowhere else")
    os.rename(first.worktree, first.worktree + "-moved")
    retry(runtime, first)
    failure = launch_fails(runtime)
    assert (failure.status, "did not have" in failure.error.message) == (Status.FAILED, True)
    os.rename(first.worktree + "-moved", first.worktree)
    assert world.git(Path(first.worktree), "log", "-1", "--format=%s") == "nowhere else"


@pytest.mark.parametrize("how", ["switched", "renamed"])
def test_a_worktree_with_another_branch_is_gone_on_in(world: World, repo: Path, how: str) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    options = ["checkout", "-q", "-b", "better"] if how == "switched" else ["branch", "-q", "-m", "better"]
    world.git(Path(first.worktree), *options)
    retry(runtime, first)
    assert dispatch(runtime).failed == []
    run = world.ended(runtime, first.task).run
    assert run is not None
    assert (run.worktree, run.base_commit, run.owns_branch) == (first.worktree, first.base_commit, False)
    assert world.git(Path(run.worktree), "branch", "--show-current") == "better"


def test_a_fresh_retry_uses_new_names_and_leaves_the_old_ones(world: World, repo: Path) -> None:
    runtime = world.runtime()
    first = first_run(world, runtime, repo)
    before = work_of(world, first)
    retry(runtime, first, fresh=True)
    assert dispatch(runtime).failed == []
    run = world.ended(runtime, first.task).run
    assert run is not None
    assert not run.resumed
    assert (run.branch, run.worktree) == (f"{first.branch}-2", f"{first.worktree}-2")
    assert not (Path(run.worktree) / "committed").exists()
    assert work_of(world, first) == before


def test_an_old_result_is_not_taken_for_the_new_runs(world: World, repo: Path) -> None:
    runtime = world.runtime()
    prompt = "test -e $HOME/again || { touch $HOME/again; echo old > $DISPATCHCTL_RESULT_FILE; exit 1; }"
    task = add(runtime, repo, prompt)
    dispatch(runtime)
    assert world.ended(runtime, task.id).result == "old"
    runtime.store.retry(task.id, note=None, fresh=False, recoveries=3, at=now())
    dispatch(runtime)
    done = world.ended(runtime, task.id)
    assert (done.status, done.result) == (Status.DONE, None)
