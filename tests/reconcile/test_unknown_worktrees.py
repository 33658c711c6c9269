"""A worktree of ours that belongs to no task: removed if nothing would be lost, else kept and said."""

import os
import shutil
from pathlib import Path

import pytest
from reconcile.scene import copy_of, put_back
from world import World, eventually

from dispatchctl import names
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Run, Status


def forgotten(world: World, prompt: str) -> tuple[Runtime, Run]:
    """A run that has ended, of which nothing is left but its worktree; the database is of a moment before its task."""
    repo, runtime = world.repository(), world.runtime()
    world.add(runtime, "touch began; sleep 600", repo=repo)
    dispatch(runtime)
    copy = copy_of(runtime, world.root / "copy.db")
    world.add(runtime, prompt, repo=repo)
    dispatch(runtime)
    run = runtime.store.task(2).run
    assert run is not None
    world.ended(runtime, 2)
    eventually(lambda: world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}").count(run.token))
    world.tmux("kill-pane", "-t", str(run.pane_id))
    shutil.rmtree(run.run_dir)
    return put_back(world, runtime, copy), run


def test_it_is_removed_if_nothing_would_be_lost(world: World) -> None:
    runtime, run = forgotten(world, "true")
    (done,) = reconcile(runtime).done
    assert (done.action.kind, done.action.task, done.ok) == (Kind.CLEAR, 2, True)
    assert world.leftovers(run, Path(run.repo)) == []
    assert reconcile(runtime).done == []
    assert runtime.store.task(1).status is Status.IN_PROGRESS


@pytest.mark.parametrize("prompt", ["echo x > work", "echo x > work; git add work; git commit -qm work"])
def test_it_is_kept_and_said_if_there_is_work_in_it(world: World, prompt: str) -> None:
    runtime, run = forgotten(world, prompt)
    for _ in range(2):
        (done,) = reconcile(runtime).done
        assert (done.action.kind, done.ok) == (Kind.CLEAR, False)
        assert f"{run.worktree} was kept" in str(done.error)
    assert os.path.exists(os.path.join(run.worktree, "work"))
    assert world.git(Path(run.repo), "branch", "--list", run.branch)


def test_one_of_another_database_is_left_alone(world: World) -> None:
    runtime, run = forgotten(world, "true")
    world.git(Path(run.repo), "worktree", "unlock", run.worktree)
    reason = names.lock_reason("/elsewhere/dispatchctl.db", run.task, run.token)
    world.git(Path(run.repo), "worktree", "lock", "--reason", reason, run.worktree)
    assert reconcile(runtime).done == []
    assert os.path.isdir(run.worktree)


@pytest.mark.parametrize("database", ["/a b/x.db", "/a 5", "/a 5 00000000", "/"])
def test_whose_it_is_is_told_by_its_reason(database: str) -> None:
    reason = names.lock_reason(database, 12, "0a1b2c3d")
    assert names.of_lock_reason(reason, database) == (12, "0a1b2c3d")
    for other in (None, "", "12 0a1b2c3d", "initializing", f"dispatchctl {database} 12", f"{reason}0"):
        assert names.of_lock_reason(other, database) is None
    assert names.of_lock_reason(reason, "/another") is None
