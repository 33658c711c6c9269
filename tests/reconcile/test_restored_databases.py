"""A database that is put back to an earlier moment, or deleted, while agents live: they are entered again or left alone,
nobody's work is touched, and no second agent is started for a task of which one lives."""

import os
import signal
from pathlib import Path

import pytest
from reconcile.scene import (
    AT_WORK,
    all_die,
    at_work,
    copy_of,
    gone,
    history_holds,
    kill,
    kinds,
    put_back,
    settles,
    work_is_kept,
)
from world import World, eventually

from dispatchctl import faults, processes
from dispatchctl.dispatch import dispatch
from dispatchctl.launch import claim, start
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.store.protocol import Room
from dispatchctl.task import Actor, Ask, Outcome, Phase, Run, Status

FINISHES = "touch began; while [ ! -e go ]; do sleep 0.02; done; rm go began; exit 0"


def at_work_with_copy(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str, prompt: str
) -> tuple[Runtime, Run, Path]:
    """A task whose agent is at work, and a copy of the database from when its dispatcher was at the point."""
    copy = world.root / "copy.db"
    runtime = world.runtime()
    monkeypatch.setattr(faults, "at_point", lambda name: copy_of(world.runtime(), copy) if name == point else None)
    runtime, run = at_work(world, prompt)
    monkeypatch.setattr(faults, "at_point", None)
    return runtime, run, copy


def goes_on(world: World, runtime: Runtime, run: Run) -> None:
    """Check that the run is open and known for what it is, and that it ends as if nothing had happened."""
    known = runtime.store.run(run.token)
    assert known.phase is Phase.STARTED
    assert (known.launcher_pid, known.agent_pid, known.window_id) == (run.launcher_pid, run.agent_pid, run.window_id)
    assert (known.worktree, known.branch, known.base_commit) == (run.worktree, run.branch, run.base_commit)
    assert runtime.store.task(run.task).status is Status.IN_PROGRESS
    assert dispatch(runtime).started == []
    assert not gone(run.agent_pid)
    settles(runtime, rounds=0)
    history_holds(runtime)
    Path(run.worktree, "go").touch()
    task = world.ended(runtime, run.task)
    assert (task.status, task.run and task.run.exit_code) == (Status.DONE, 0)
    history_holds(runtime)


@pytest.mark.parametrize("point", ["before step window", "before open the window", "after open the window"])
def test_a_lost_start_is_not_undone(world: World, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    runtime, run, copy = at_work_with_copy(world, monkeypatch, point, FINISHES)
    runtime = put_back(world, runtime, copy)
    assert runtime.store.run(run.token).phase is Phase.LAUNCHING
    assert kinds(reconcile(runtime)) == [Kind.REENTER]
    assert work_is_kept(world, run)
    goes_on(world, runtime, run)


def test_a_lost_start_is_not_undone_in_the_midst_of_an_undo_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, run, copy = at_work_with_copy(world, monkeypatch, "before open the window", FINISHES)
    runtime = put_back(world, runtime, copy)
    runtime.store.begin_undo(run.token, "somebody thought so", actor=Actor.RECONCILE, at=1)
    assert kinds(reconcile(runtime)) == [Kind.REENTER]
    goes_on(world, runtime, run)


def test_a_lost_start_whose_agent_is_gone_too_is_lost_with_its_work_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, run, copy = at_work_with_copy(world, monkeypatch, "before open the window", AT_WORK)
    kill(run.launcher_pid)
    runtime = put_back(world, runtime, copy)
    assert kinds(reconcile(runtime)) == [Kind.REENTER, Kind.LOSE]
    task = runtime.store.task(1)
    assert (task.status, task.run and task.run.outcome) == (Status.READY, Outcome.LOST)
    assert work_is_kept(world, run)
    assert not processes.of_run(run.token)
    settles(runtime, rounds=0)


def test_yesterdays_copy_that_knows_the_task(world: World) -> None:
    runtime, repo = world.runtime(), world.repository()
    world.add(runtime, FINISHES, repo=repo)
    copy = copy_of(runtime, world.root / "copy.db")
    dispatch(runtime)
    run = world.started(runtime, 1)
    eventually(lambda: work_is_kept(world, run))
    run = runtime.store.run(run.token)
    runtime = put_back(world, runtime, copy)
    done = dispatch(runtime)
    assert (done.started, [each.action.kind for each in done.repaired]) == ([], [Kind.REENTER])
    goes_on(world, runtime, run)


def test_yesterdays_copy_that_does_not_know_the_task(world: World) -> None:
    world.runtime().make_store()
    copy = copy_of(world.runtime(), world.root / "copy.db")
    runtime, run = at_work(world, FINISHES, title="Lost and found", priority=0, labels=("a",), retries=2)
    before = runtime.store.task(1)
    run = runtime.store.run(run.token)
    runtime = put_back(world, runtime, copy)
    assert kinds(reconcile(runtime)) == [Kind.REENTER]
    after = runtime.store.task(1)
    for field in ("id", "title", "prompt", "priority", "labels", "agent", "repo", "base", "retries_left", "created_at"):
        assert getattr(after, field) == getattr(before, field), field
    goes_on(world, runtime, run)
    assert world.add(runtime, "true", repo=world.root / "repo").id == 2


def test_yesterdays_copy_in_which_the_number_is_another_tasks(world: World) -> None:
    world.runtime().make_store()
    copy = copy_of(world.runtime(), world.root / "copy.db")
    runtime, run = at_work(world)
    runtime = put_back(world, runtime, copy)
    other = world.add(runtime, "touch began; sleep 600", repo=world.root / "repo", title="Something else")
    assert other.id == run.task
    result = reconcile(runtime)
    assert kinds(result) == [Kind.REPORT]
    assert result.held == {1}
    assert dispatch(runtime).started == []
    said = world.cli("dispatch", "1")
    assert (said.code, "held" in said.err) == (4, True)
    assert not gone(run.agent_pid)
    assert work_is_kept(world, run)
    kill(run.launcher_pid, run.agent_pid)
    eventually(lambda: not processes.of_run(run.token))
    assert [each.id for each in dispatch(runtime).started] == [1]
    assert work_is_kept(world, run), "nobody's worktree is touched"


def test_yesterdays_copy_in_which_the_task_was_started_again_by_somebody_who_did_not_look(world: World) -> None:
    runtime, repo = world.runtime(), world.repository()
    world.add(runtime, AT_WORK, repo=repo)
    copy = copy_of(runtime, world.root / "copy.db")
    dispatch(runtime)
    first = world.started(runtime, 1)
    eventually(lambda: work_is_kept(world, first))
    runtime = put_back(world, runtime, copy)
    runtime.store.edit(1, {"title": "Other words"}, None, at=1)
    held = claim(runtime, 1, room=Room(8), actor=Actor.DISPATCH)
    assert held is not None
    start(held, actor=Actor.DISPATCH)
    second = world.started(runtime, 1)
    result = reconcile(runtime)
    assert (kinds(result), result.held) == ([Kind.REPORT], frozenset({1}))
    assert not gone(first.agent_pid)
    assert not gone(second.agent_pid)
    runtime.store.ask(second.token, Ask.CANCEL, actor=Actor.USER, at=1)
    os.kill(second.launcher_pid or 0, signal.SIGTERM)
    assert world.ended(runtime, 1).status is Status.CANCELLED
    assert kinds(reconcile(runtime)) == [Kind.REENTER], "now the first one is its task's"
    assert runtime.store.run(first.token).number == 2
    assert runtime.store.task(1).status is Status.IN_PROGRESS
    history_holds(runtime)


def test_a_copy_from_when_the_agent_lived_learns_from_its_files_how_it_ended(world: World) -> None:
    runtime, run = at_work(world, FINISHES)
    copy = copy_of(runtime, world.root / "copy.db")
    Path(run.worktree, "go").touch()
    world.ended(runtime, 1)
    eventually(lambda: gone(run.launcher_pid))
    runtime = put_back(world, runtime, copy)
    assert kinds(reconcile(runtime)) == [Kind.CLOSE]
    task = runtime.store.task(1)
    assert (task.status, task.run and task.run.exit_code) == (Status.DONE, 0)
    settles(runtime, rounds=0)


def test_a_copy_from_before_a_run_that_has_ended_learns_of_it_while_its_window_is_kept(world: World) -> None:
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    runtime, repo = world.runtime(), world.repository()
    world.add(runtime, "exit 3", repo=repo)
    copy = copy_of(runtime, world.root / "copy.db")
    dispatch(runtime)
    run = world.ended(runtime, 1).run
    assert run is not None
    all_die(run)
    runtime = put_back(world, runtime, copy)
    assert kinds(reconcile(runtime)) == [Kind.REENTER, Kind.CLOSE]
    task = runtime.store.task(1)
    assert (task.status, task.error) == (Status.FAILED, "exited with 3")
    settles(runtime, rounds=0)
    history_holds(runtime)


def test_of_several_lost_runs_of_a_task_the_last_has_the_last_word(world: World) -> None:
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    runtime, repo = world.runtime(), world.repository()
    world.add(runtime, "exit 3", repo=repo)
    copy = copy_of(runtime, world.root / "copy.db")
    for _ in range(2):
        dispatch(runtime)
        run = world.ended(runtime, 1).run
        assert run is not None
        all_die(run)
        runtime.store.retry(1, note=None, fresh=False, recoveries=3, at=1)
    runtime.store.edit(1, {"prompt": FINISHES + "; true"}, None, at=1)
    dispatch(runtime)
    last = world.started(runtime, 1)
    assert last.number == 3
    eventually(lambda: work_is_kept(world, last))
    last = runtime.store.run(last.token)
    runtime = put_back(world, runtime, copy)
    assert kinds(reconcile(runtime)) == [Kind.REENTER, Kind.CLOSE] * 2 + [Kind.REENTER]
    assert [run.number for run in runtime.store.runs(1)] == [1, 2, 3]
    goes_on(world, runtime, last)


def test_a_deleted_database_leaves_agents_alone_and_a_new_one_does_not_collide_with_them(world: World) -> None:
    runtime, run = at_work(world)
    repo = world.root / "repo"
    before = world.git(repo, "for-each-ref")
    runtime = put_back(world, runtime, None)
    runtime.make_store()
    result = reconcile(runtime)
    assert (kinds(result), result.held) == ([Kind.REPORT], frozenset()), "it is no task of this database"
    said = world.cli("reconcile")
    assert (said.code, said.out, "None" in said.err) == (0, "", False)
    assert f"an agent lives of which the database knows no run: report run {run.token}" in said.err
    assert world.cli("reconcile", "--json").json["actions"][0]["task"] is None
    world.add(runtime, AT_WORK, repo=repo, title="Something else")
    same = world.add(runtime, AT_WORK, repo=repo)
    world.add(runtime, AT_WORK, repo=repo, title="Do it")
    done = dispatch(runtime)
    assert [task.id for task in done.started] == [1, same.id, 3]
    assert not gone(run.agent_pid)
    assert work_is_kept(world, run)
    assert set(before.splitlines()) <= set(world.git(repo, "for-each-ref").splitlines())
    for task in (1, 2, 3):
        other = world.started(runtime, task)
        assert (other.worktree, other.branch) != (run.worktree, run.branch)
        assert world.cli("cancel", str(task)).code == 0
    assert not gone(run.agent_pid)
    assert work_is_kept(world, run)
    assert world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}").split().count(run.token) == 1


def test_a_new_database_whose_task_would_collide_with_an_agent_of_the_old_one_says_so(world: World) -> None:
    runtime, run = at_work(world)
    runtime = put_back(world, runtime, None)
    world.add(runtime, AT_WORK, repo=world.root / "repo")
    (failure,) = dispatch(runtime).failed
    assert "is taken" in failure.error.message
    assert runtime.store.task(1).status is Status.FAILED
    assert not gone(run.agent_pid)
    assert work_is_kept(world, run)
    said = world.cli("retry", "1", "--fresh")
    assert said.code == 0, said.err
    (started,) = dispatch(runtime).started
    assert started.run is not None
    assert started.run.worktree != run.worktree
    assert work_is_kept(world, run)
