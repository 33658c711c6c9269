"""Why a finished task is looked at by a human: files that are not committed, nothing that was changed, or it was asked for."""

from pathlib import Path

import pytest
from launch.stage import add, configure, lived_in, program
from world import World

from dispatchctl.dispatch import dispatch
from dispatchctl.task import Outcome, Run, Status, Task

LEAVES = "echo changed > README; mkdir -p d; echo new > d/new; echo secret > x.secret"


def ended(world: World, prompt: str, repo: Path, **changes: object) -> tuple[Task, Run]:
    runtime = world.runtime()
    task = add(runtime, repo, prompt, **changes)
    assert dispatch(runtime, [task.id]).failed == []
    done = world.ended(runtime, task.id)
    assert done.run is not None
    return done, done.run


def test_files_that_are_not_committed_are_looked_at(world: World) -> None:
    repo = lived_in(world)
    task, run = ended(world, LEAVES, repo)
    assert (task.status, task.error) == (Status.IN_REVIEW, "2 files are not committed")
    assert (Path(run.worktree) / "d" / "new").read_text() == "new\n"


def test_files_that_are_not_committed_are_committed_where_the_settings_say_so(world: World) -> None:
    world.extra["DISPATCHCTL_TASK__UNCOMMITTED"] = "commit"
    repo = lived_in(world)
    program(repo / ".git" / "hooks" / "pre-commit", "#!/bin/sh\nexit 1\n")
    task, run = ended(world, LEAVES, repo, title="-m $(touch x)")
    assert (task.status, task.error) == (Status.DONE, None)
    assert world.git(repo, "show", f"{run.branch}:d/new") == "new"
    assert world.git(repo, "log", "-1", "--format=%B", run.branch).strip() == (
        f"-m $(touch x)\n\nCommitted for run {run.token}."
    )
    committed = world.git(repo, "ls-tree", "-r", "--name-only", run.branch).split()
    assert "x.secret" not in committed, "what git ignores is not work"
    assert not [name for name in committed if name.startswith(".dispatchctl")]


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        pytest.param("exit 1", Status.FAILED, id="failed"),
        pytest.param("kill -9 $$", Status.FAILED, id="killed"),
        pytest.param("dispatchctl fail -m no; exit 0", Status.FAILED, id="reported as failed"),
        pytest.param("dispatchctl block -m which; exit 0", Status.BLOCKED, id="asks"),
    ],
)
def test_what_is_not_finished_is_not_committed(world: World, ends: str, status: Status) -> None:
    world.extra["DISPATCHCTL_TASK__UNCOMMITTED"] = "commit"
    repo = lived_in(world)
    task, run = ended(world, f"{LEAVES}; {ends}", repo)
    assert task.status is status
    assert world.git(repo, "rev-parse", run.branch) == run.base_commit
    assert (Path(run.worktree) / "d" / "new").exists()


def test_a_merge_with_conflicts_is_looked_at_and_not_committed(world: World) -> None:
    world.extra["DISPATCHCTL_TASK__UNCOMMITTED"] = "commit"
    repo = lived_in(world)
    prompt = (
        "git checkout -q -b side; echo theirs > README; git commit -qam theirs; git checkout -q -; "
        "echo ours > README; git commit -qam ours; git merge side; exit 0"
    )
    task, run = ended(world, prompt, repo)
    assert task.status is Status.IN_REVIEW
    assert "<<<<<<<" in (Path(run.worktree) / "README").read_text()


def test_a_task_that_asks_for_review_gets_it_also_when_everything_is_committed(world: World) -> None:
    world.extra["DISPATCHCTL_TASK__UNCOMMITTED"] = "commit"
    task, _ = ended(world, LEAVES, lived_in(world), review=True)
    assert (task.status, task.error) == (Status.IN_REVIEW, None)


@pytest.mark.parametrize(
    ("does", "status", "error"),
    [
        pytest.param("exit 0", Status.IN_REVIEW, "exited 0 but changed nothing", id="nothing"),
        pytest.param("echo All done; exit 0", Status.IN_REVIEW, "exited 0 but changed nothing", id="only words"),
        pytest.param("touch x.secret; exit 0", Status.IN_REVIEW, "exited 0 but changed nothing", id="ignored files"),
        pytest.param("git commit -q --allow-empty -m x; exit 0", Status.DONE, None, id="a commit"),
        pytest.param("echo x > x; exit 0", Status.IN_REVIEW, "1 file is not committed", id="a file"),
        pytest.param('echo told > "$DISPATCHCTL_RESULT_FILE"; exit 0', Status.DONE, None, id="a result"),
        pytest.param(
            ': > "$DISPATCHCTL_RESULT_FILE"; exit 0', Status.IN_REVIEW, "changed nothing", id="an empty result"
        ),
        pytest.param("dispatchctl done; exit 0", Status.DONE, None, id="a report"),
        pytest.param("exit 1", Status.FAILED, "exited with 1", id="a failure"),
    ],
)
def test_who_is_to_change_something_and_did_not_is_looked_at(
    world: World, does: str, status: Status, error: str | None
) -> None:
    agent = program(world.root / "agent", f"#!/bin/sh\n{does}\n")
    configure(world, agents__mine={"argv": [str(agent), "{prompt}"], "last_message": "output"})
    task, run = ended(world, "Do it.", lived_in(world), agent="mine")
    assert task.status is status
    assert (error or "") in (task.error or "")
    assert run.outcome in (Outcome.EXITED, Outcome.REPORTED)
