"""Agents that do not want to end, or whose children do not, and hooks that leave daemons behind: all of it ends."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from launch.stage import configure, program
from reconcile.scene import all_die, at_work, gone, kill, killed_at, kinds, settles
from world import World, eventually

from dispatchctl import processes
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Outcome, Status

IGNORES = "trap '' TERM HUP INT QUIT; touch began; while :; do sleep 0.05; done"
DAEMONS = {
    "in the background": "sleep 600 &",
    "another session": "setsid sleep 600 &",
    "double fork": "(setsid sh -c 'sleep 600 & exec sleep 0.01' &)",
    "no mark": "env -i /bin/sleep 600 &",
    "no mark, another session": "setsid env -i /bin/sleep 600 &",
    "no mark, double fork": "setsid env -i /bin/sh -c '/bin/sleep 600 & exec /bin/sleep 0.01' &",
    "ignores everything": "(trap '' TERM HUP; setsid sh -c \"trap '' TERM HUP; sleep 600; sleep 600\" &)",
    "stopped": "sh -c 'kill -STOP $$' &",
}


def sleepers(world: World, mark: str = "600") -> set[int]:
    """The processes `sleep 600` below any launcher of this world, found by where they work."""
    found = set()
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            cwd = os.readlink(f"/proc/{entry}/cwd")
        except OSError:
            continue
        if mark.encode() in words and cwd.startswith(str(world.root)):
            found.add(int(entry))
    return found


def test_an_agent_that_ignores_every_signal_is_killed_when_it_is_cancelled(world: World) -> None:
    runtime, run = at_work(world, IGNORES)
    assert world.cli("cancel", "1").code == 0
    task = runtime.store.task(1)
    assert task.run is not None
    assert (task.status, task.run.signal) == (Status.CANCELLED, signal.SIGKILL)
    all_die(run)


@pytest.mark.parametrize("daemon", DAEMONS.values(), ids=DAEMONS.keys())
def test_what_an_agent_leaves_behind_ends_with_it(world: World, daemon: str) -> None:
    runtime, run = at_work(world, f"{daemon}\nsleep 0.2; touch began; while [ ! -e go ]; do sleep 0.02; done; exit 3")
    if daemon != DAEMONS["stopped"]:
        assert sleepers(world), "it is there"
    Path(run.worktree, "go").touch()
    task = world.ended(runtime, 1)
    assert (task.status, task.error) == (Status.FAILED, "exited with 3")
    all_die(run)
    assert sleepers(world) == set()
    settles(runtime, rounds=0)


@pytest.mark.parametrize("daemon", DAEMONS.values(), ids=DAEMONS.keys())
def test_what_an_agent_left_behind_ends_though_its_launcher_was_killed(world: World, daemon: str) -> None:
    """All but what has neither the mark nor a living parent of the run: nothing would show whose it is (promise P4)."""
    runtime, run = at_work(world, f"{daemon}\nsleep 0.2; trap '' HUP TERM; touch began; sleep 599; sleep 599")
    kill(run.launcher_pid)
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    task = runtime.store.task(1)
    assert (task.status, task.run and task.run.outcome) == (Status.READY, Outcome.LOST)
    assert not processes.of_run(run.token)
    left = sleepers(world)
    if daemon == DAEMONS["no mark, double fork"]:
        assert len(left) == 1
        kill(*left)
    else:
        assert left == set()
    settles(runtime, rounds=0)


def test_an_agent_that_leaves_its_session_and_its_mark_behind_is_alive_all_the_same(world: World) -> None:
    runtime, run = at_work(world, "trap '' HUP TERM; touch began; setsid --wait env -i /bin/sleep 600; sleep 603")
    assert kinds(reconcile(runtime)) == []
    kill(run.launcher_pid)
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    assert sleepers(world) == set(), "its recorded pid is still an ancestor"
    assert gone(run.agent_pid)


def test_nothing_is_started_again_while_something_cannot_be_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in an uninterruptible sleep, as on a file system that does not answer; here one that no signal reaches."""
    runtime, run = at_work(world, IGNORES)
    kill(run.launcher_pid)
    monkeypatch.setattr(processes, "send", lambda process, number: None)
    (done,) = reconcile(runtime).done
    assert (done.ok, f"{run.agent_pid}" in str(done.error)) == (False, True)
    assert runtime.store.task(1).status is Status.IN_PROGRESS
    assert [each.token for each in runtime.store.open_runs()] == [run.token]
    assert dispatch(runtime).started == []
    monkeypatch.undo()
    assert kinds(reconcile(runtime)) == [Kind.LOSE]
    all_die(run)


def hooked(world: World, text: str) -> tuple[Runtime, Path]:
    """A task whose `post_create` is this script."""
    hook = program(world.root / "hook", f"#!/bin/sh\n{text}\n")
    configure(world, hooks={"post_create": [[str(hook)]]})
    repo, runtime = world.repository(), world.runtime()
    world.add(runtime, "touch began; while [ ! -e go ]; do sleep 0.02; done; exit 3", repo=repo)
    return runtime, repo


LEFT_BY_HOOKS = "setsid sleep 600 >/dev/null 2>&1 & sh -c 'exec sleep 600' &"


def test_a_daemon_that_a_hook_left_lives_as_long_as_the_run_and_holds_up_nothing(world: World) -> None:
    runtime, _ = hooked(world, LEFT_BY_HOOKS)
    (started,) = dispatch(runtime).started
    assert started.run is not None
    assert len(sleepers(world)) == 2
    assert kinds(reconcile(runtime)) == []
    run = world.started(runtime, 1)
    eventually(lambda: os.path.exists(os.path.join(run.worktree, "began")))
    Path(run.worktree, "go").touch()
    assert world.ended(runtime, 1).error == "exited with 3"
    all_die(run)
    assert sleepers(world) == set()


@pytest.mark.parametrize("then", ["exit 1", "sleep 0.3; kill -9 $PPID; sleep 602"], ids=["fails", "dispatcher killed"])
def test_a_daemon_that_a_hook_left_goes_with_a_run_that_is_undone(world: World, then: str) -> None:
    runtime, repo = hooked(world, f"{LEFT_BY_HOOKS}\n{then}")
    if "PPID" in then:
        killed_at(world, "never")
        assert len(sleepers(world)) == 2
        assert kinds(reconcile(runtime)) == [Kind.UNDO]
    else:
        assert len(dispatch(runtime).failed) == 1
    run = runtime.store.task(1).run
    assert run is not None
    assert runtime.store.task(1).status is Status.READY
    assert sleepers(world) | sleepers(world, "602") == set()
    assert world.leftovers(run, repo) == []
    settles(runtime, rounds=0)


def test_a_hook_still_at_work_for_a_dead_dispatcher_is_ended_before_its_worktree_goes(world: World) -> None:
    writes = "trap '' TERM; sleep 0.2; kill -9 $PPID; while :; do mkdir -p deep/er; date > deep/er/$$; done"
    runtime, repo = hooked(world, writes)
    killed_at(world, "never")
    assert kinds(reconcile(runtime)) == [Kind.UNDO]
    run = runtime.store.task(1).run
    assert run is not None
    assert world.leftovers(run, repo) == []
    settles(runtime, rounds=0)


def test_nothing_is_undone_under_a_hook_that_nobody_can_tell_from_others(world: World) -> None:
    """It has shed the run's mark, and its dispatcher is dead; that it writes there still shows by the lock it inherited."""
    writes = "exec env -i /bin/sh -c 'while [ ! -e stop ]; do echo x >> written; sleep 0.02; done'"
    runtime, repo = hooked(world, f"sleep 0.2; kill -9 $PPID; {writes}")
    killed_at(world, "never")
    (run,) = runtime.store.open_runs()
    (done,) = reconcile(runtime).done
    assert (done.ok, run.step_lock in str(done.error)) == (False, True)
    assert os.path.isdir(run.worktree)
    assert runtime.store.task(1).status is Status.IN_PROGRESS
    assert dispatch(runtime).started == []
    Path(run.worktree, "stop").touch()
    eventually(lambda: processes.is_locked(run.step_lock) is False)
    assert kinds(reconcile(runtime)) == [Kind.UNDO]
    assert world.leftovers(run, repo) == []


# -- worktrees that are not where they were ------------------------------------------------------------------------------


def test_a_worktree_deleted_under_its_agent_loses_nothing_but_what_was_deleted(world: World) -> None:
    runtime, run = at_work(
        world, "git commit -q --allow-empty -m kept; touch began; while [ ! -e /gone ]; do sleep 0.02; done"
    )
    world.git(world.root / "repo", "worktree", "list")
    kill_tree(run.worktree)
    assert kinds(reconcile(runtime)) == []
    kill(run.agent_pid)
    task = world.ended(runtime, 1)
    assert (task.status, task.error) == (Status.FAILED, "killed by signal 9")
    assert "kept" in world.git(world.root / "repo", "log", "--format=%s", run.branch)
    settles(runtime, rounds=0)
    assert world.cli("retry", "1").code == 0
    (again,) = dispatch(runtime).started
    assert again.run is not None
    assert (again.run.worktree, again.run.branch) == (run.worktree, run.branch)
    assert os.path.isdir(run.worktree), "made again from its branch"


@pytest.mark.parametrize("how", ["mv", "git"])
def test_a_worktree_that_the_user_moved_is_kept_where_it_is(world: World, how: str) -> None:
    runtime, run = at_work(world, "touch began; while [ ! -e go ]; do sleep 0.02; done; exit 0")
    elsewhere = world.root / "elsewhere"
    if how == "git":
        world.git(world.root / "repo", "worktree", "move", "-f", "-f", run.worktree, str(elsewhere))
    else:
        os.rename(run.worktree, elsewhere)
    assert kinds(reconcile(runtime)) == []
    (elsewhere / "go").touch()
    task = world.ended(runtime, 1)
    assert task.status is Status.IN_REVIEW, "nobody could see what is in it"
    settles(runtime, rounds=0)
    world.cli("rm", "1", "--force")
    assert (elsewhere / "began").exists()


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_the_worktree_of_a_run_that_never_started_may_be_gone_before_it_is_undone(world: World, how: str) -> None:
    repo, runtime = world.repository(), world.runtime()
    world.add(runtime, "true", repo=repo)
    killed_at(world, "after step setup")
    (run,) = runtime.store.open_runs()
    if how == "moved":
        os.rename(run.worktree, world.root / "elsewhere")
    else:
        kill_tree(run.worktree)
    assert kinds(reconcile(runtime)) == [Kind.UNDO]
    assert world.leftovers(run, repo) == []
    assert (world.root / "elsewhere").exists() is (how == "moved")
    assert runtime.store.task(1).status is Status.READY


def kill_tree(path: str) -> None:
    """What `rm -rf` does."""
    shutil.rmtree(path)
