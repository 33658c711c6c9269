"""What cannot be started at all: the task is failed or ready, says why, and nothing was made or harmed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from launch.stage import add, configure, is_undone, launch_fails, lived_in, program, state_of
from world import World

from dispatchctl.dispatch import dispatch
from dispatchctl.errors import ExitCode, Unavailable
from dispatchctl.names import place as place_name
from dispatchctl.runtime import now
from dispatchctl.task import Status

BRANCH = "dispatch/1-do-it"


class Case(NamedTuple):
    """What is wrong, what the task says of it, and whether trying again can help."""

    arrange: Callable[[World, Path], dict[str, Any]]
    error: str
    status: Status = Status.FAILED
    exit_code: ExitCode = ExitCode.FAILED


def place(world: World, repo: Path) -> Path:
    """The worktree path that the first task of the repository will get."""
    return world.runtime().worktrees_root / place_name(str(repo)) / "1-do-it"


def no_such_base(world: World, repo: Path) -> dict[str, Any]:
    return {"base": "mian"}


def base_like_an_option(world: World, repo: Path) -> dict[str, Any]:
    return {"base": "--all"}


def base_is_no_commit(world: World, repo: Path) -> dict[str, Any]:
    return {"base": "main:README"}


def branch_is_taken(world: World, repo: Path) -> dict[str, Any]:
    world.git(repo, "branch", BRANCH, "topic")
    return {}


def branch_is_in_the_way(world: World, repo: Path) -> dict[str, Any]:
    world.git(repo, "branch", "dispatch")  # refs/heads/dispatch is a file, so it cannot be a directory
    return {}


def path_is_a_directory(world: World, repo: Path) -> dict[str, Any]:
    place(world, repo).mkdir(parents=True)
    return {}


def path_is_a_file(world: World, repo: Path) -> dict[str, Any]:
    place(world, repo).parent.mkdir(parents=True)
    place(world, repo).write_text("mine")
    return {}


def path_is_a_dangling_link(world: World, repo: Path) -> dict[str, Any]:
    place(world, repo).parent.mkdir(parents=True)
    place(world, repo).symlink_to(world.root / "nowhere")
    return {}


def path_is_a_missing_worktree(world: World, repo: Path) -> dict[str, Any]:
    world.git(repo, "worktree", "add", "-q", "-b", "other", str(place(world, repo)))
    shutil.rmtree(place(world, repo))
    return {}


def agent_is_unknown(world: World, repo: Path) -> dict[str, Any]:
    return {"agent": "clod"}


def agent_is_not_installed(world: World, repo: Path) -> dict[str, Any]:
    configure(world, agents__mine={"argv": ["no-such-agent", "{prompt}"]})
    return {"agent": "mine"}


def agent_is_not_executable(world: World, repo: Path) -> dict[str, Any]:
    program(world.root / "agent", "#!/bin/sh\n").chmod(0o644)
    configure(world, agents__mine={"argv": [str(world.root / "agent"), "{prompt}"]})
    return {"agent": "mine"}


def settings_of_the_repository_are_invalid(world: World, repo: Path) -> dict[str, Any]:
    (repo / ".dispatchctl.toml").write_text("[task]\nno_such_setting = 1\n")
    return {}


def run_directory_cannot_be_made(world: World, repo: Path) -> dict[str, Any]:
    state = world.runtime().state
    state.mkdir(parents=True)
    (state / "runs").write_text("not a directory")
    return {}


def our_directory_is_a_link(world: World, repo: Path) -> dict[str, Any]:
    (world.root / "elsewhere").mkdir()
    (world.root / "elsewhere" / "result").write_text("mine")
    (repo / ".dispatchctl").symlink_to(world.root / "elsewhere")
    world.git(repo, "stash", "-q")
    world.git(repo, "add", ".dispatchctl")
    world.git(repo, "commit", "-q", "-m", "a trap")
    return {}


CASES = (
    Case(no_such_base, "there is no branch or commit 'mian'"),
    Case(base_like_an_option, "there is no branch or commit '--all'"),
    Case(base_is_no_commit, "there is no branch or commit 'main:README'"),
    Case(branch_is_taken, f"the branch {BRANCH} exists already"),
    Case(branch_is_in_the_way, "git worktree add failed", Status.READY),
    Case(path_is_a_directory, "1-do-it is taken"),
    Case(path_is_a_file, "1-do-it is taken"),
    Case(path_is_a_dangling_link, "1-do-it is taken"),
    Case(path_is_a_missing_worktree, "1-do-it is taken"),
    Case(agent_is_unknown, "there is no agent", exit_code=ExitCode.USAGE),
    Case(agent_is_not_installed, "'no-such-agent', is not on PATH", exit_code=ExitCode.UNAVAILABLE),
    Case(agent_is_not_executable, "/agent', is not on PATH", exit_code=ExitCode.UNAVAILABLE),
    Case(settings_of_the_repository_are_invalid, "no_such_setting", exit_code=ExitCode.USAGE),
    Case(run_directory_cannot_be_made, "Not a directory: ", Status.READY),
    Case(our_directory_is_a_link, "is a symbolic link"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.arrange.__name__)
def test_what_cannot_start_leaves_everything_as_it_was(world: World, case: Case) -> None:
    repo = lived_in(world)
    changes = case.arrange(world, repo)
    before = state_of(world, repo)
    there = sorted(str(path) for path in world.root.rglob("*") if ".git/" not in str(path))
    runtime = world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran", **changes)
    failure = launch_fails(runtime)
    assert failure.error.message.startswith(f"task {task.id}")
    assert failure.error.hint
    assert (failure.status, failure.error.exit_code) == (case.status, case.exit_code)
    row = runtime.store.task(task.id)
    assert row.run is not None
    taken = os.path.lexists(row.run.worktree) or row.run.worktree in before["worktrees"]
    if taken or f"refs/heads/{BRANCH}" in before["refs"]:
        assert runtime.store.open_runs() == []  # what stands is not ours: it is compared below
        assert row.status is case.status
        assert case.error in (row.error or "")
    else:
        is_undone(world, runtime, repo, task.id, case.status, case.error)
    assert state_of(world, repo) == before
    assert [path for path in there if not os.path.lexists(path)] == []
    if (world.root / "elsewhere").exists():
        assert [path.name for path in (world.root / "elsewhere").iterdir()] == ["result"]


@pytest.mark.parametrize("arrange", [branch_is_taken, path_is_a_directory], ids=lambda arrange: arrange.__name__)
def test_the_hint_for_a_taken_name_helps(world: World, arrange: Callable[[World, Path], dict[str, Any]]) -> None:
    repo = lived_in(world)
    arrange(world, repo)
    runtime = world.runtime()
    task = add(runtime, repo)
    assert launch_fails(runtime).error.hint == f"dispatchctl retry {task.id} --fresh"
    runtime.store.retry(task.id, note=None, fresh=True, recoveries=3, at=now())
    assert dispatch(runtime).failed == []
    assert world.ended(runtime, task.id).status is Status.DONE


@pytest.mark.parametrize("kind", ["missing", "file", "plain", "unborn"])
def test_what_is_no_repository_with_a_commit_fails_at_once(world: World, kind: str) -> None:
    repo, elsewhere = world.root / "repo", world.repository("elsewhere")
    if kind == "file":
        repo.write_text("mine")
    elif kind != "missing":
        repo.mkdir()
    if kind == "unborn":
        world.git(repo, "init", "-q")
    runtime = world.runtime()
    task = add(runtime, repo)
    failure = launch_fails(runtime)
    error = {
        "missing": f"there is no directory {repo}",
        "file": f"there is no directory {repo}",
        "plain": f"{repo} is not in a git repository",
        "unborn": f"the repository {repo} has no commit yet",
    }[kind]
    assert failure.error.message.startswith(f"task {task.id} was not started: {error}")
    is_undone(world, runtime, elsewhere, task.id, Status.FAILED, error)
    if kind == "unborn":
        assert world.git(repo, "for-each-ref") == ""


@pytest.mark.parametrize("name", ["git", "tmux"])
def test_without_git_or_tmux_nothing_is_claimed(world: World, name: str) -> None:
    repo = world.repository()
    task = add(world.runtime(), repo)
    world.extra[f"DISPATCHCTL_TOOLS__{name.upper()}"] = f"/nowhere/{name}"
    with pytest.raises(Unavailable, match=f"{name} is not installed"):
        dispatch(world.runtime())
    row = world.runtime().store.task(task.id)
    assert (row.status, row.run, row.recoveries_left) == (Status.READY, None, 3)


def test_without_a_place_for_locks_nothing_is_claimed(world: World) -> None:
    repo, runtime = world.repository(), world.runtime()
    task = add(runtime, repo)
    (runtime.state).mkdir(parents=True, exist_ok=True)
    (runtime.state / "locks").write_text("not a directory")
    with pytest.raises(Unavailable, match="nothing can be written"):
        dispatch(runtime)
    row = runtime.store.task(task.id)
    assert (row.status, row.run) == (Status.READY, None)


def test_of_several_tasks_the_rest_start_when_one_cannot(world: World) -> None:
    repo, runtime = world.repository(), world.runtime()
    bad = add(runtime, repo, base="mian", priority=0)
    good = add(runtime, repo)
    done = dispatch(runtime)
    assert [task.id for task in done.started] == [good.id]
    assert [failure.task for failure in done.failed] == [bad.id]
    assert world.ended(runtime, good.id).status is Status.DONE
