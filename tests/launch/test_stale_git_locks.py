"""A git that is killed leaves its lock file, and no undo and no clearing away may stop at it, nor take one that is held."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from launch.stage import ASLEEP, add, after, finish_undo, is_open_and_failed, is_undone, launch_fails, with_step
from world import IDENTITY, World, eventually

from dispatchctl import processes
from dispatchctl import steps as launching
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import LaunchError
from dispatchctl.runtime import Runtime
from dispatchctl.steps import Launch
from dispatchctl.task import Status
from dispatchctl.worktrees import stale

WORK = "echo work > work; git add work; git commit -qm work"
IN_THE_REPOSITORY = [
    *("packed-refs.lock", "packed-refs.new", "refs/heads/{branch}.lock", "refs/dispatchctl/rescue/{task}/{token}.lock"),
    *("HEAD.lock", "index.lock", "ORIG_HEAD.lock", "config.lock", "gc.pid", "gc.pid.lock", "shallow.lock"),
]
IN_THE_WORKTREE = ["HEAD.lock", "index.lock", "ORIG_HEAD.lock", "config.worktree.lock", "locked.lock"]
MINE = ("packed-refs.new", "refs/heads/", "refs/dispatchctl/")
"""What an undo removes: a run's own, and what nobody can hold."""


def leave(launch: Launch, name: str) -> Path:
    """Make a lock file as a killed git leaves it: there, and open nowhere."""
    run = launch.run
    path = Path(run.repo) / ".git" / name.format(branch=run.branch, task=run.task, token=run.token)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def undone_with(
    world: World, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Launch], object], *, commit: bool = False
) -> tuple[Runtime, Path, int]:
    """Dispatch a task whose launch fails at its end, with something spoilt just before."""
    repo, runtime = world.repository(), world.runtime()
    task = add(runtime, repo)

    def do(launch: Launch) -> None:
        if commit:
            world.git(Path(launch.run.worktree), "commit", "-q", "--allow-empty", "-m", "by a hook")
        spoil(launch)

    with monkeypatch.context() as patch:
        patch.setattr(launching, "LAUNCH", ASLEEP)
        with_step(patch, "start", do=after(do, LaunchError("no luck today")))
        launch_fails(runtime)
    return runtime, repo, task.id


@contextmanager
def at_work_in(world: World, place: Path, *options: str) -> Iterator[None]:
    """A git that works there all the time."""
    argv = ["git", "-C", str(place), *options, "cat-file", "--batch"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=world.variables) as git:
        assert git.stdin
        assert git.stdout
        git.stdin.write(b"HEAD\n")
        git.stdin.flush()
        git.stdout.readline()
        try:
            yield
        finally:
            git.kill()


@pytest.mark.parametrize("commit", [False, True], ids=["nothing", "a commit"])
@pytest.mark.parametrize("name", IN_THE_REPOSITORY)
def test_an_undo_gets_past_a_lock_that_a_killed_git_left(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, commit: bool
) -> None:
    left: list[Path] = []
    runtime, repo, task = undone_with(
        world, monkeypatch, lambda launch: left.append(leave(launch, name)), commit=commit
    )
    run = is_undone(world, runtime, repo, task, Status.READY, "no luck today")
    assert left[0].exists() is not (name.startswith(MINE[1]) or (commit and name.startswith(MINE[2])))
    assert not (repo / ".git/logs/refs/heads/dispatch").exists()
    assert not (repo / ".git/refs/heads/dispatch").exists() or name.startswith(MINE[1])
    kept = world.git(repo, "log", "--format=%s", "--glob=refs/dispatchctl/rescue").split("\n")
    assert kept == (["by a hook", "first"] if commit else [""]), run


@pytest.mark.parametrize("name", IN_THE_WORKTREE)
def test_an_undo_takes_the_locks_in_the_run_s_own_worktree_along(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def spoil(launch: Launch) -> None:
        Path(world.git(Path(launch.run.worktree), "rev-parse", "--absolute-git-dir"), name).touch()

    runtime, repo, task = undone_with(world, monkeypatch, spoil)
    is_undone(world, runtime, repo, task, Status.READY, "no luck today")


@pytest.mark.parametrize(
    ("step", "name"),
    [
        pytest.param("branch", "refs/heads/{branch}.lock", id="before the worktree is registered"),
        pytest.param("worktree", "refs/heads/{branch}.lock", id="before it is checked out"),
        pytest.param("worktree", "index.lock", id="the index of the worktree"),
        pytest.param("worktree", "HEAD.lock", id="the HEAD of the worktree"),
    ],
)
def test_a_launch_that_meets_a_lock_is_undone_and_names_it(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    repo, runtime = world.repository(), world.runtime()
    task = add(runtime, repo)
    left: list[Path] = []
    check_out = type(runtime.git).check_out

    def spoil(launch: Launch) -> None:
        if not name.startswith("refs"):
            own = world.git(Path(launch.run.worktree), "rev-parse", "--absolute-git-dir")
            left.append(Path(own, name))
            left[0].touch()
        else:
            left.append(leave(launch, name))

    with monkeypatch.context() as patch:
        if step == "worktree":

            def spoilt(git: object, run: object, held: object) -> bytes:
                spoil(Launch(runtime, task, run))  # type: ignore[arg-type]
                return check_out(git, run, held)  # type: ignore[arg-type]

            patch.setattr(type(runtime.git), "check_out", spoilt)
        else:

            def prepared(launch: Launch) -> None:
                launching.prepare(launch)
                spoil(launch)

            with_step(patch, "branch", do=prepared)
        failure = launch_fails(runtime)
    assert str(left[0]) in failure.error.message
    assert failure.error.hint == "dispatchctl doctor"
    is_undone(world, runtime, repo, task.id, Status.READY, str(left[0]))
    assert not left[0].exists()


# -- what somebody may hold ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["there", "told"])
@pytest.mark.parametrize("name", ["packed-refs.lock", "refs/heads/{branch}.lock"])
def test_a_lock_that_a_git_at_work_may_hold_stops_the_undo_and_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    left: list[Path] = []
    git_dir = world.root / "repo" / ".git"
    where = (world.root / "repo", ()) if how == "there" else (world.root, (f"--git-dir={git_dir}",))
    open_git: list[object] = []

    def spoil(launch: Launch) -> None:
        context = at_work_in(world, where[0], *where[1])
        context.__enter__()
        open_git.append(context)
        left.append(leave(launch, name))

    runtime, repo, task = undone_with(world, monkeypatch, spoil)
    try:
        run = is_open_and_failed(runtime, task, str(left[0]))
        assert left[0].exists()
        assert world.git(repo, "rev-parse", run.branch) == run.base_commit
    finally:
        open_git[0].__exit__(None, None, None)  # type: ignore[attr-defined]
    finish_undo(runtime, run)
    is_undone(world, runtime, repo, task, Status.READY, "no luck today")


def test_a_lock_that_somebody_has_open_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with open(lock, "w") as file, subprocess.Popen(["sleep", "600"], stdin=file) as process:
        abandoned = stale.is_abandoned(str(lock), [])
        process.kill()
    assert not abandoned
    assert stale.is_abandoned(str(lock), [])


def test_a_lock_that_changes_between_two_looks_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "x.lock"
    lock.touch()
    look = stale._may_hold

    def changed(places: list[str]) -> set[processes.Process]:
        lock.unlink()
        lock.write_text("another")
        return look(places)

    monkeypatch.setattr(stale, "_may_hold", changed)
    assert not stale.is_abandoned(str(lock), [])
    assert not stale.is_abandoned(str(tmp_path / "no.lock"), [])


# -- a ref by itself ----------------------------------------------------------------------------------------------------


@pytest.fixture
def refs(world: World) -> Path:
    """A repository with the branch `a/b/c`."""
    repo = world.repository()
    world.git(repo, "branch", "a/b/c")
    return repo


def deleted(world: World, repo: Path, expected: str = "main") -> bool:
    tip = world.git(repo, "rev-parse", expected)
    done = stale.delete_loose(str(repo / ".git"), "refs/heads/a/b/c", tip)
    assert not list(repo.glob(".git/refs/**/*.lock"))
    return done


def test_a_loose_ref_goes_as_git_makes_it_go(world: World, refs: Path) -> None:
    assert (refs / ".git/logs/refs/heads/a/b/c").exists()
    assert deleted(world, refs)
    assert world.git(refs, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert [each.name for each in (refs / ".git/refs/heads").iterdir()] == ["main"]
    assert [each.name for each in (refs / ".git/logs/refs/heads").iterdir()] == ["main"]
    world.git(refs, "fsck", "--strict")


def test_a_loose_ref_stays_if_it_moved(world: World, refs: Path) -> None:
    world.git(refs, "commit", "-q", "--allow-empty", "-m", "second")
    assert not deleted(world, refs)
    assert world.git(refs, "rev-parse", "a/b/c") == world.git(refs, "rev-parse", "main~1")
    assert deleted(world, refs, "main~1")


@pytest.mark.parametrize("kind", ["packed", "packed and loose", "symbolic", "link", "locked"])
def test_a_ref_that_is_not_only_a_file_stays(world: World, refs: Path, kind: str) -> None:
    path = refs / ".git/refs/heads/a/b/c"
    content = path.read_bytes()
    lock = path.with_name("c.lock")
    if kind.startswith("packed"):
        world.git(refs, "pack-refs", "--all")
        if kind != "packed":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    elif kind == "symbolic":
        world.git(refs, "symbolic-ref", "refs/heads/a/b/c", "refs/heads/main")
    elif kind == "link":
        path.unlink()
        path.symlink_to(refs / ".git/refs/heads/main")
    else:
        lock.touch()
    before = world.git(refs, "for-each-ref")
    tip = world.git(refs, "rev-parse", "main")
    assert not stale.delete_loose(str(refs / ".git"), "refs/heads/a/b/c", tip)
    assert lock.exists() is (kind == "locked")
    assert world.git(refs, "for-each-ref") == before


def test_a_packed_branch_stays_while_the_packed_refs_are_locked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Path] = []

    def spoil(launch: Launch) -> None:
        world.git(Path(launch.run.repo), "pack-refs", "--all")
        left.append(leave(launch, "packed-refs.lock"))

    runtime, repo, task = undone_with(world, monkeypatch, spoil)
    run = is_open_and_failed(runtime, task, str(left[0]))
    left[0].unlink()
    finish_undo(runtime, run)
    is_undone(world, runtime, repo, task, Status.READY, "no luck today")


def test_what_a_git_left_that_was_killed_while_it_packed_refs_is_cleared(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(launch: Launch) -> None:
        world.git(Path(launch.run.repo), "pack-refs", "--all")
        leave(launch, "packed-refs.new")

    runtime, repo, task = undone_with(world, monkeypatch, spoil)
    is_undone(world, runtime, repo, task, Status.READY, "no luck today")
    assert not list(repo.glob(".git/packed-refs.*"))


def test_a_branch_that_is_packed_again_meanwhile_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git that was packing refs after all, and was not seen, brings the branch back: then it is deleted by git."""
    real = stale.delete_loose

    def packed_again(common_dir: str, ref: str, expected: str) -> bool:
        done = real(common_dir, ref, expected)
        Path(common_dir, "packed-refs").write_text(f"{expected} {ref}\n")
        Path(common_dir, "packed-refs.lock").unlink()
        return done

    monkeypatch.setattr(stale, "delete_loose", packed_again)
    runtime, repo, task = undone_with(world, monkeypatch, lambda launch: leave(launch, "packed-refs.lock"))
    is_undone(world, runtime, repo, task, Status.READY, "no luck today")


# -- a git that really was killed, and clearing away ---------------------------------------------------------------------


def test_what_a_git_leaves_that_is_killed_while_it_deletes_a_branch_stops_no_undo(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook of the repository stops it while it holds `packed-refs.lock` and the branch's own."""
    marks = world.root / "pids"
    hook = f'#!/bin/sh\n[ "$1" = prepared ] || exit 0\necho $$ $PPID > {marks}.new\nmv {marks}.new {marks}\nsleep 600\n'

    def spoil(launch: Launch) -> None:
        repo, ref = Path(launch.run.repo), f"refs/heads/{launch.run.branch}"
        path = repo / ".git/hooks/reference-transaction"
        path.write_text(hook)
        path.chmod(0o755)
        argv = ["git", "-C", str(repo), "update-ref", "-d", ref]
        with subprocess.Popen(argv, env={**world.variables, **IDENTITY}, start_new_session=True) as git:
            eventually(marks.exists)
            os.killpg(git.pid, 9)
        path.unlink()
        assert (repo / ".git/packed-refs.lock").exists()
        assert (repo / ".git" / f"{ref}.lock").exists()

    runtime, repo, task = undone_with(world, monkeypatch, spoil, commit=True)
    is_undone(world, runtime, repo, task, Status.READY, "no luck today")
    assert (repo / ".git/packed-refs.lock").exists(), "it is everybody's"


@pytest.mark.parametrize(
    "name", ["packed-refs.lock", "refs/heads/{branch}.lock", "refs/dispatchctl/rescue/{task}/{token}.lock"]
)
@pytest.mark.parametrize("command", [("rm", "--force"), ("prune", "--older-than", "0", "--force")], ids=["rm", "prune"])
def test_clearing_away_gets_past_a_lock_that_a_killed_git_left(
    world: World, command: tuple[str, ...], name: str
) -> None:
    repo, runtime = world.repository(), world.runtime()
    task = add(runtime, repo, WORK)
    assert dispatch(runtime).started
    done = world.ended(runtime, task.id)
    assert done.status is Status.DONE
    assert done.run is not None
    leave(Launch(runtime, done, done.run), name)
    argv = [command[0], str(task.id), *command[1:]] if command[0] == "rm" else [*command]
    said = world.cli(*argv)
    assert said.code == 0, said.err + said.out
    assert world.git(repo, "branch", "--list", "dispatch/*") == ""
    assert world.git(repo, "log", "-1", "--format=%s", "--glob=refs/dispatchctl/rescue") == "work"
    assert not os.path.exists(done.run.worktree)


@pytest.mark.parametrize("name", ["packed-refs.lock", "packed-refs.new", "refs/heads/dispatch/1-x.lock"])
def test_doctor_looks_at_every_lock_that_an_error_may_name(world: World, name: str) -> None:
    repo = world.repository()
    lock = repo / ".git" / name
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    (repo / ".git/dispatchctl.lock").touch()
    assert world.runtime().git.lock_files(str(repo / ".git"), "dispatchctl ") == [str(lock)]
