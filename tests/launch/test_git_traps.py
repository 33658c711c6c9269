"""Repositories and environments that lead git astray."""

import os
from pathlib import Path

import pytest
from launch.stage import ASLEEP, add, after, is_undone, launch_fails, lived_in, runtime_with, state_of, with_step
from world import World

from dispatchctl import steps as launching
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import LaunchError
from dispatchctl.runtime import Runtime, now
from dispatchctl.steps import Launch
from dispatchctl.task import Run, Status

WORK = "echo work > work; git add work; git commit -qm work"


def runs(world: World, runtime: Runtime, repo: Path, prompt: str = WORK, **changes: object) -> Run:
    """A run that ended well."""
    task = add(runtime, repo, prompt, **changes)
    assert [failure.error.message for failure in dispatch(runtime).failed] == []
    done = world.ended(runtime, task.id)
    assert done.status is Status.DONE, done.error
    assert done.run is not None
    return done.run


def undoes(world: World, runtime: Runtime, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that fails at its end leaves the repository as it was."""
    before = world.git(repo, "for-each-ref"), world.git(repo, "worktree", "list")
    task = add(runtime, repo, title="To be undone")
    with monkeypatch.context() as patch:
        patch.setattr(launching, "LAUNCH", ASLEEP)
        with_step(patch, "start", do=after(lambda launch: None, LaunchError("no luck today")))
        launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "no luck today")
    assert (world.git(repo, "for-each-ref"), world.git(repo, "worktree", "list")) == before


@pytest.mark.parametrize("undo", [False, True], ids=["runs", "undone"])
def test_git_variables_of_the_dispatcher_lead_nowhere(
    world: World, monkeypatch: pytest.MonkeyPatch, undo: bool
) -> None:
    repo, other = lived_in(world), lived_in(world, "other")
    runtime = runtime_with(
        world,
        GIT_DIR=str(other / ".git"),
        GIT_WORK_TREE=str(other),
        GIT_INDEX_FILE=str(other / ".git" / "index"),
        GIT_COMMON_DIR=str(other / ".git"),
        GIT_OBJECT_DIRECTORY=str(other / ".git" / "objects"),
        GIT_NAMESPACE="elsewhere",
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0="core.worktree",
        GIT_CONFIG_VALUE_0=str(other),
    )
    before = state_of(world, other)
    if undo:
        undoes(world, runtime, repo, monkeypatch)
    else:
        run = runs(world, runtime, repo)
        assert world.git(repo, "log", "-1", "--format=%s", run.branch) == "work"
    assert state_of(world, other) == before


def test_a_bare_repository_serves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = world.root / "bare.git"
    world.git(world.root, "clone", "-q", "--bare", str(world.repository()), str(bare))
    runtime = world.runtime()
    undoes(world, runtime, bare, monkeypatch)
    run = runs(world, runtime, bare)
    assert world.git(bare, "log", "-1", "--format=%s", run.branch) == "work"


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled by a hook"])
def test_a_repository_with_a_submodule_serves(world: World, monkeypatch: pytest.MonkeyPatch, filled: bool) -> None:
    from launch.stage import configure

    repo, library = world.repository(), world.repository("library", {"lib.c": "int x;\n"})
    allowed = ("-c", "protocol.file.allow=always")
    world.git(repo, *allowed, "submodule", "--quiet", "add", str(library), "lib")
    world.git(repo, "commit", "-q", "-m", "a submodule")
    if filled:
        configure(world, hooks={"post_create": [["git", *allowed, "submodule", "--quiet", "update", "--init"]]})
    runtime = world.runtime()
    undoes(world, runtime, repo, monkeypatch)
    run = runs(world, runtime, repo)
    assert (Path(run.worktree) / "lib").is_dir()
    assert (Path(run.worktree) / "lib" / "lib.c").exists() is filled


def test_a_linked_worktree_may_be_given_as_the_repository(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = lived_in(world)
    linked = world.root / "repo-linked"
    runtime = world.runtime()
    assert runtime.git.repository(str(linked)).root == str(repo)
    assert runtime.git.repository(str(repo / "src")).root == str(repo)
    undoes(world, runtime, linked, monkeypatch)
    run = runs(world, runtime, linked, base="topic")
    assert world.git(repo, "log", "-1", "--format=%s", run.branch) == "work"


NAMES = {
    "spaces": "a repo  with spaces ",
    "quotes": 'it\'s "quoted"',
    "newline": "two\nlines\n",
    "unicode": "Größe 🚀 \u2028 \x85",
    "tmux": "#(touch {canary}) #S",
    "shell": "$(touch {canary}) `touch {canary}` ; & | * ? [a] \\ !",
    "option": "-rf",
    "percent": "100%d %s",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_repository_may_have_any_path(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    name = name.replace("{canary}", f"{world.root}/CANARY")
    (world.root / name).parent.mkdir(parents=True, exist_ok=True)
    repo = lived_in(world, name)
    before, runtime = state_of(world, repo), world.runtime()
    assert runtime.git.repository(str(repo)).root == str(repo)
    undoes(world, runtime, repo, monkeypatch)
    assert state_of(world, repo) == before
    run = runs(world, runtime, repo)
    assert world.git(repo, "log", "-1", "--format=%s", run.branch) == "work"
    assert not (world.root / "CANARY").exists()


@pytest.mark.parametrize("name", ["spaces", "newline", "quotes", "unicode", "tmux"])
def test_the_database_and_the_worktrees_may_have_any_path(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    repo = lived_in(world)
    place = world.root / NAMES[name].replace("{canary}", f"{world.root}/CANARY")
    world.extra["DISPATCHCTL_DB"] = str(place / "tasks.db")
    runtime = world.runtime()
    undoes(world, runtime, repo, monkeypatch)
    run = runs(world, runtime, repo)
    assert run.worktree.startswith(str(place))
    assert not (world.root / "CANARY").exists()


@pytest.mark.parametrize("base", ["v1", "main", "refs/heads/main", "origin/main", "main~0", "commit"])
def test_a_base_may_be_anything_that_names_a_commit(world: World, base: str) -> None:
    repo = lived_in(world)
    commit = world.git(repo, "rev-parse", "main")
    world.git(repo, "update-ref", "refs/remotes/origin/main", commit)
    world.git(repo, "config", "branch.autoSetupMerge", "always")
    before = state_of(world, repo)["config"]
    run = runs(world, world.runtime(), repo, base=commit if base == "commit" else base)
    assert run.base_commit == commit
    assert state_of(world, repo)["config"] == before, "the branch follows nothing"


def test_a_branch_that_somebody_makes_in_the_last_moment_is_not_ours(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our look and git's registration there is no lock that would keep a user out."""
    repo = lived_in(world)
    runtime = world.runtime()
    task = add(runtime, repo)
    original = runtime.git.__class__.register

    def made_before(self: object, run: Run, *arguments: object) -> None:
        world.git(repo, "worktree", "add", "-q", "-b", run.branch, run.worktree, "topic")
        (Path(run.worktree) / "mine").write_text("a day's work\n")
        original(self, run, *arguments)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(runtime.git.__class__, "register", made_before)
    failure = launch_fails(runtime)
    run = runtime.store.task(task.id).run
    assert run is not None
    assert "is not the run's own" in failure.error.message
    assert (Path(run.worktree) / "mine").read_text() == "a day's work\n"
    assert world.git(repo, "rev-parse", run.branch) == world.git(repo, "rev-parse", "topic")


def test_a_branch_that_the_user_checked_out_meanwhile_is_not_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = world.repository()
    runtime = world.runtime()
    task = add(runtime, repo)

    def taken(launch: Launch) -> None:
        world.git(repo, "worktree", "remove", "-f", "-f", launch.run.worktree)
        world.git(repo, "checkout", "-q", launch.run.branch)
        raise LaunchError("no luck today")

    with_step(monkeypatch, "setup", do=taken)
    failure = launch_fails(runtime)
    assert "is checked out elsewhere" in failure.error.message
    run = runtime.store.task(task.id).run
    assert run is not None
    assert world.git(repo, "symbolic-ref", "--short", "HEAD") == run.branch
    assert world.git(repo, "rev-parse", "HEAD") == run.base_commit


def test_a_task_starts_from_the_branch_of_its_one_unmerged_parent(world: World) -> None:
    repo, runtime = lived_in(world), world.runtime()
    merged = runs(world, runtime, repo, title="merged")
    world.git(repo, "update-ref", "refs/heads/main", merged.branch)
    parent = runs(world, runtime, repo, "echo p > parent; git add parent; git commit -qm parent", title="parent")
    child = runs(world, runtime, repo, "cat parent > $HOME/seen", after=(merged.task, parent.task))
    assert child.base_commit == world.git(repo, "rev-parse", parent.branch)
    assert (world.home / "seen").read_text() == "p\n"
    world.git(repo, "update-ref", "refs/heads/main", parent.branch)
    assert runs(world, runtime, repo, "exit 0", after=(parent.task,)).base_commit == world.git(
        repo, "rev-parse", "main"
    )


def test_a_task_with_several_unmerged_parents_waits_until_they_are_merged(world: World) -> None:
    repo, runtime = lived_in(world), world.runtime()
    parents = [
        runs(world, runtime, repo, f"echo {n} > f{n}; git add .; git commit -qm {n}", title=f"p{n}") for n in "ab"
    ]
    task = add(runtime, repo, "ls > $HOME/seen", after=tuple(parent.task for parent in parents))
    failure = launch_fails(runtime)
    assert failure.status is Status.READY
    assert f"tasks {parents[0].task}, {parents[1].task} are merged into main" in failure.error.message
    assert failure.error.hint == "; ".join(f"dispatchctl merge {parent.task}" for parent in parents)
    is_undone(world, runtime, repo, task.id, Status.READY, "cannot start from several branches", spent=0)
    world.git(repo, "reset", "-q", "--hard")
    os.unlink(repo / "new")
    world.git(repo, "merge", "-q", *(parent.branch for parent in parents))
    runtime.store.edit(task.id, {"not_before": None}, None, at=now())
    assert dispatch(runtime).failed == []
    assert world.ended(runtime, task.id).status is Status.DONE
    assert {"fa", "fb"} <= set((world.home / "seen").read_text().split())
