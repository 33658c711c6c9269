"""Hooks: git's post-checkout and the user's post_create, that fail, hang, or leave a daemon behind."""

import os
import time
from pathlib import Path

import pytest
from launch.stage import add, configure, is_undone, launch_fails, lived_in, program, state_of
from world import World

from dispatchctl.dispatch import dispatch
from dispatchctl.processes import is_alive, of_run
from dispatchctl.task import Status

DAEMON = "setsid sleep 300 & exit 0"
"""A daemon that keeps the output of the hook and every descriptor it inherited."""


@pytest.fixture
def repo(world: World) -> Path:
    return lived_in(world)


def is_sleep(pid: int) -> bool:
    try:
        return "sleep" in Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False


def post_checkout(repo: Path, script: str) -> None:
    program(repo / ".git" / "hooks" / "post-checkout", script)


def started_and_done(world: World, repo: Path, prompt: str = "exit 0") -> None:
    runtime = world.runtime()
    task = add(runtime, repo, prompt)
    began = time.monotonic()
    assert [failure.error.message for failure in dispatch(runtime).failed] == []
    assert time.monotonic() - began < 10
    done = world.ended(runtime, task.id)
    assert done.status is Status.DONE, done.error


@pytest.mark.parametrize("script", ["#!/bin/sh\n", ""], ids=["with-first-line", "without-first-line"])
def test_the_post_checkout_hook_runs_once_as_git_would_run_it(world: World, repo: Path, script: str) -> None:
    seen = world.root / "seen"
    post_checkout(repo, f'{script}echo "$#:$*:${{GIT_DIR-none}}:$(pwd -P)" >> {seen}\n')
    by_git = world.root / "by-git"
    world.git(repo, "worktree", "add", "-q", "--no-track", "-b", "by-git", str(by_git), "main")
    (expected,) = seen.read_text().splitlines()
    seen.unlink()
    runtime = world.runtime()
    task = add(runtime, repo)
    dispatch(runtime)
    run = world.ended(runtime, task.id).run
    assert run is not None
    assert seen.read_text().splitlines() == [expected.replace(str(by_git), run.worktree)]


def test_what_git_does_not_run_is_not_run(world: World, repo: Path) -> None:
    seen = world.root / "seen"
    post_checkout(repo, f"#!/bin/sh\ntouch {seen}\n")
    (repo / ".git" / "hooks" / "post-checkout").chmod(0o644)
    started_and_done(world, repo)
    assert not seen.exists()


def test_a_hook_is_found_where_the_repository_says(world: World, repo: Path) -> None:
    seen = world.root / "seen"
    program(world.root / "hooks" / "post-checkout", f"#!/bin/sh\ntouch {seen}\n")
    world.git(repo, "config", "core.hooksPath", str(world.root / "hooks"))
    started_and_done(world, repo)
    assert seen.exists()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo no luck >&2; exit 1", "the post-checkout hook failed with 1: no luck"),
        ("echo hm; sleep 300", "the post-checkout hook ran longer than 1 s: hm"),
        ("trap '' TERM; setsid sleep 300 & exit 3", "the post-checkout hook failed with 3"),
        ("git commit -q --allow-empty -m 'by a hook'; exit 1", "the post-checkout hook failed with 1"),
        ("git checkout -q -b by-a-hook; exit 1", "the post-checkout hook failed with 1"),
    ],
    ids=["fails", "hangs", "leaves-a-daemon", "commits", "switches"],
)
def test_a_post_checkout_hook_that_fails_is_undone(world: World, repo: Path, script: str, error: str) -> None:
    post_checkout(repo, f"#!/bin/sh\n{script}\n")
    world.extra |= {"DISPATCHCTL_GIT__CHECKOUT_TIMEOUT": "1", "DISPATCHCTL_DISPATCH__KILL_GRACE": "1"}
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    run = is_undone(world, runtime, repo, task.id, Status.READY, error)
    now = state_of(world, repo)
    if "commit" in script:
        ref = f"refs/dispatchctl/rescue/{task.id}/{run.token}"
        assert world.git(repo, "log", "-1", "--format=%s", ref) == "by a hook"
        world.git(repo, "update-ref", "-d", ref)
        now = state_of(world, repo)
    if "checkout -q" in script:
        world.git(repo, "branch", "-D", "by-a-hook")  # which the hook made, not we
        now = state_of(world, repo)
    assert now == before


def test_a_daemon_of_a_git_hook_holds_up_nothing_and_is_ended_with_the_run(world: World, repo: Path) -> None:
    post_checkout(repo, f"#!/bin/sh\n{DAEMON}\n")
    runtime = world.runtime()
    task = add(runtime, repo, f"read go < {world.root}/gate")
    os.mkfifo(world.root / "gate")
    began = time.monotonic()
    assert dispatch(runtime).failed == []
    assert time.monotonic() - began < 10
    run = world.started(runtime, task.id)
    (daemon,) = [process for process in of_run(run.token) if is_sleep(process[0])]
    (world.root / "gate").write_text("go\n")
    assert world.ended(runtime, task.id).status is Status.DONE
    assert is_alive(daemon) is False


def test_a_smudge_filter_that_is_missing_is_undone(world: World) -> None:
    repo = world.repository("filtered", {".gitattributes": "*.bin filter=large\n", "a.bin": "x\n", "b": "y\n"})
    world.git(repo, "config", "filter.large.required", "true")
    world.git(repo, "config", "filter.large.smudge", "no-such-filter")
    world.git(repo, "config", "filter.large.clean", "cat")
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "git reset failed with 128")
    assert state_of(world, repo) == before


@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        (["sh", "-c", "echo one; echo no luck >&2; exit 7"], Status.READY, "failed with 7: one\nno luck"),
        (["sh", "-c", "echo hm; sleep 300"], Status.READY, "ran longer than 1 s: hm"),
        (["sh", "-c", "trap '' TERM; setsid sleep 300 & exit 3"], Status.READY, "failed with 3"),
        (["no-such-program"], Status.FAILED, "cannot be run"),
        (["sh", "-c", "kill -9 $$"], Status.READY, "failed with -9"),
    ],
    ids=["fails", "hangs", "leaves-a-daemon", "missing", "killed"],
)
def test_a_post_create_command_that_fails_is_undone(
    world: World, repo: Path, command: list[str], status: Status, error: str
) -> None:
    world.extra["DISPATCHCTL_DISPATCH__KILL_GRACE"] = "1"
    configure(world, hooks={"post_create": [["true"], command, ["touch", str(world.root / "later")]], "timeout": 1})
    before, runtime = state_of(world, repo), world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, status, error)
    assert state_of(world, repo) == before
    assert not (world.root / "later").exists()


def test_post_create_works_in_the_new_worktree_with_the_runs_environment(world: World, repo: Path) -> None:
    seen = world.root / "seen"
    command = f'echo "$DISPATCHCTL_TASK $DISPATCHCTL_WORKTREE $(pwd -P)" > {seen}; echo said'
    configure(world, hooks={"post_create": [["sh", "-c", command]]})
    runtime = world.runtime()
    task = add(runtime, repo)
    dispatch(runtime)
    run = world.ended(runtime, task.id).run
    assert run is not None
    assert seen.read_text() == f"{task.id} {run.worktree} {run.worktree}\n"
    assert (Path(run.run_dir) / "setup.log").read_text().endswith("said\n")


def test_a_daemon_of_post_create_holds_no_lock_and_is_ended_with_the_run(world: World, repo: Path) -> None:
    configure(world, hooks={"post_create": [["sh", "-c", DAEMON], ["sh", "-c", DAEMON]]})
    started_and_done(world, repo)
    assert not [pid for pid in world.processes() if is_sleep(pid)]


def test_what_worktreeinclude_names_is_copied_and_nothing_else(world: World) -> None:
    repo = world.repository("including", {".gitignore": "*.secret\nbuild/\n", "link/keep": "", "README": "hello\n"})
    (repo / ".worktreeinclude").write_text("*.secret\nREADME\n")
    for name in ("a.secret", "deep/er/b.secret", "link/c.secret", "build/out", "untracked"):
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text(name)
    (repo / "d.secret").symlink_to("/etc/passwd")
    outside = world.root / "outside"
    outside.mkdir()
    world.git(repo, "checkout", "-q", "-b", "trap")
    world.git(repo, "rm", "-q", "--cached", "link/keep")
    (repo / "link" / "keep").unlink()
    (repo / "link").rename(repo / "moved")
    (repo / "link").symlink_to(outside)
    world.git(repo, "add", "link")
    world.git(repo, "commit", "-q", "-m", "a link instead of the directory")
    (repo / "link").unlink()
    (repo / "moved").rename(repo / "link")
    runtime = world.runtime()
    task = add(runtime, repo, base="trap")
    assert dispatch(runtime).failed == []
    run = world.ended(runtime, task.id).run
    assert run is not None
    tree = Path(run.worktree)
    assert (tree / "a.secret").read_text() == "a.secret"
    assert (tree / "deep/er/b.secret").read_text() == "deep/er/b.secret"
    assert (tree / "d.secret").is_symlink()
    assert not (tree / "untracked").exists()
    assert not (tree / "build").exists()
    assert list(outside.iterdir()) == []
