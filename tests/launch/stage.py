"""What the tests of launching share: tasks, agents and hooks to order, and what a user's repository looks like."""

import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from world import World

from dispatchctl import launch as launching
from dispatchctl.config import Environment
from dispatchctl.dispatch import Failure, dispatch
from dispatchctl.launch import drop_locks, undo
from dispatchctl.processes import lock
from dispatchctl.runtime import Runtime, now
from dispatchctl.saga import Step
from dispatchctl.steps import STEPS, Launch
from dispatchctl.task import Actor, NewTask, Outcome, Phase, Run, Status, Task
from dispatchctl.verdict import Cure

ASLEEP = "import time; time.sleep(600)"
"""In place of the launcher: one that never begins, so that nobody else decides a race."""


def add(runtime: Runtime, repo: Path | str, prompt: str = "exit 0", **changes: Any) -> Task:
    """One task, straight into the store."""
    values = {"title": "Do it", "base": "main", "agent": "shell", **changes}
    return runtime.make_store().add([NewTask(prompt=prompt, repo=str(repo), **values)], actor=Actor.USER, at=now())[0]


def runtime_with(world: World, **variables: str) -> Runtime:
    """A runtime as a process with these variables would have."""
    return Runtime(Environment.read({**world.variables, **variables}), private_tmux=True)


def program(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def configure(world: World, **tables: Any) -> None:
    """The user's settings file; JSON's lists and strings are TOML too."""
    path = world.home / ".config" / "dispatchctl" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for table, values in tables.items():
        lines.append(f"[{table.replace('__', '.')}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def lived_in(world: World, name: str = "repo") -> Path:
    """A repository as a user has it: staged, changed, untracked and ignored files, a stash, a branch, a worktree, a tag."""
    repo = world.repository(name, {"README": "hello\n", "src/a": "a\n", ".gitignore": "*.secret\n"})
    (repo / "src/a").write_text("stashed\n")
    world.git(repo, "stash", "-q")
    world.git(repo, "branch", "topic")
    world.git(repo, "tag", "v1")
    world.git(repo, "worktree", "add", "-q", str(world.root / f"{name}-linked"), "topic")
    (repo / "README").write_text("staged\n")
    world.git(repo, "add", "README")
    (repo / "README").write_text("changed\n")
    (repo / "new").write_text("untracked\n")
    (repo / "key.secret").write_text("ignored\n")
    return repo


def state_of(world: World, repo: Path) -> dict[str, Any]:
    """Everything of a user's repository that a launch must leave as it was."""
    asked = {
        "refs": ("for-each-ref",),
        "worktrees": ("worktree", "list", "--porcelain"),
        "stash": ("stash", "list"),
        "index": ("ls-files", "-s", "-v"),
        "status": ("status", "--porcelain", "--ignored"),
        "config": ("config", "--local", "--list"),
    }
    state: dict[str, Any] = {name: world.git(repo, *arguments) for name, arguments in asked.items()}
    state["HEAD"] = (repo / ".git" / "HEAD").read_text()
    admin = repo / ".git" / "worktrees"
    state["admin"] = sorted(os.listdir(admin)) if admin.exists() else []
    state["files"] = {
        str(path.relative_to(repo)): path.read_bytes()
        for path in sorted(repo.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(repo).parts
    }
    return state


def launch_fails(runtime: Runtime) -> Failure:
    """Dispatch one task whose launch fails."""
    done = dispatch(runtime, most=1)
    assert not done.started
    (failure,) = done.failed
    return failure


def is_undone(
    world: World, runtime: Runtime, repo: Path, task: int, status: Status, error: str, *, spent: int = 1
) -> Run:
    """Check that the newest run of the task was undone without a trace, and why; return it."""
    row = runtime.store.task(task)
    run = row.run
    assert run is not None
    assert (row.status, run.phase, run.outcome) == (status, Phase.CLOSED, Outcome.ROLLED_BACK), row.error
    assert row.error is not None
    assert error in row.error, row.error
    assert run.error == row.error
    assert row.recoveries_left == (3 - spent if status is Status.READY else 3)
    assert (row.not_before or 0) > now() if status is Status.READY else row.not_before is None
    assert world.leftovers(run, repo) == []
    assert runtime.store.open_runs() == []
    assert list((runtime.state / "locks").iterdir()) == []
    return run


def is_open_and_failed(runtime: Runtime, task: int, error: str) -> Run:
    """Check that an undo could not be finished, and says so; return the run."""
    row = runtime.store.task(task)
    run = row.run
    assert run is not None
    assert (row.status, run.phase, run.outcome) == (Status.FAILED, Phase.UNDOING, None)
    assert error in (run.error or ""), run.error
    assert error in (row.error or "")
    assert [open_run.token for open_run in runtime.store.open_runs()] == [run.token]
    return run


def finish_undo(runtime: Runtime, run: Run) -> Task:
    """What reconcile does with a run whose undo stopped or whose dispatcher died: take its owner lock and go on."""
    assert os.path.exists(run.owner_lock), "without its file nobody can know that the owner is gone"
    owner = lock(run.owner_lock)
    assert owner is not None, "the owner lock was not let go"
    assert runtime.store.begin_undo(run.token, "found", actor=Actor.RECONCILE, at=now())
    launch = Launch(runtime, runtime.store.task(run.task), run)
    task = undo(launch, run.error or "found", cure=Cure.AGAIN, actor=Actor.RECONCILE)
    drop_locks(owner, run.step_lock)
    return task


def with_step(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    *,
    do: Callable[[Launch], None] | None = None,
    undo: Callable[[Launch], None] | None = None,
) -> None:
    """Replace what one step does or undoes."""
    steps: tuple[Step[Launch], ...] = vars(launching)["STEPS"]
    assert name in [step.name for step in steps]
    replaced = Step(name, do or step_named(name).do, undo or step_named(name).undo)
    monkeypatch.setattr(launching, "STEPS", tuple(replaced if step.name == name else step for step in steps))


def step_named(name: str) -> Step[Launch]:
    """One of the steps."""
    steps: tuple[Step[Launch], ...] = vars(launching)["STEPS"]
    return next(step for step in steps if step.name == name)


def after(do: Callable[[Launch], None], error: BaseException) -> Callable[[Launch], None]:
    """Do it, then fail."""

    def done_then_failed(launch: Launch) -> None:
        do(launch)
        raise error

    return done_then_failed


def once(undo: Callable[[Launch], None], error: BaseException) -> Callable[[Launch], None]:
    """Fail at the first call; work at every later one."""
    errors = [error]

    def fails_once(launch: Launch) -> None:
        if errors:
            raise errors.pop()
        undo(launch)

    return fails_once


def modes(path: Path) -> dict[str, int]:
    """The permissions of a directory and everything in it."""
    return {str(each): stat.S_IMODE(each.lstat().st_mode) for each in [path, *path.rglob("*")]}


def names_of(steps: Sequence[Step[Launch]] = STEPS) -> list[str]:
    """What the steps are called."""
    return [step.name for step in steps]
