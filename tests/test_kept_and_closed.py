"""What an agent leaves can neither keep its run open nor be lost when its worktree goes."""

import subprocess
from typing import Any

import pytest
from world import World

from dispatchctl.dispatch import dispatch
from dispatchctl.task import Status, Task


def ended(world: World, prompt: str, **changes: Any) -> Task:
    """A task of the agent `shell` that has ended, in the repository `repo`."""
    runtime = world.runtime()
    repo = world.root / "repo"
    task = world.add(runtime, prompt, repo=repo if repo.exists() else world.repository(), **changes)
    dispatch(runtime)
    return world.ended(runtime, task.id)


@pytest.mark.parametrize(
    "result",
    [
        'mkdir "$DISPATCHCTL_RESULT_FILE"',
        'mkfifo "$DISPATCHCTL_RESULT_FILE"',
        'head -c 60000 /dev/zero | tr "\\0" "[" > "$DISPATCHCTL_RESULT_FILE"',
        """printf '{"status": "done", "summary": "x \\\\ud83d"}' > "$DISPATCHCTL_RESULT_FILE" """,
    ],
    ids=["directory", "pipe", "endless json", "half an emoji"],
)
def test_no_result_file_keeps_a_run_open(world: World, result: str) -> None:
    assert ended(world, result).status is Status.DONE


def test_a_time_limit_of_months_is_a_time_limit(world: World) -> None:
    assert ended(world, "exit 3", timeout_s=90 * 86_400).error == "exited with 3"


def test_a_rescue_keeps_the_branch_where_head_is_elsewhere(world: World) -> None:
    work = "echo 1 > a; git add a; git commit -qm kept; git checkout -q --detach HEAD~1; echo 2 > b"
    task = ended(world, work)
    said = world.cli("rm", "1", "--force")
    assert said.code == 0, said.err
    back = next(line for line in said.err.splitlines() if "git -C" in line).partition("back: ")[2]
    subprocess.run(["sh", "-c", back], env=world.variables, check=True)
    assert task.run is not None
    log = world.git(world.root / "repo", "log", "--format=%s", f"rescued-1-{task.run.token}")
    assert "kept" in log.splitlines()


def test_a_repository_within_the_worktree_is_never_removed(world: World) -> None:
    task = ended(world, "git init -q inner; cd inner; git commit -q --allow-empty -m inner")
    assert task.run is not None
    for arguments in (["rm", "1"], ["rm", "1", "--force"]):
        said = world.cli(*arguments)
        assert said.code == 4
        assert "the repository inner/" in said.err
    assert world.git(world.root / "repo", "-C", f"{task.run.worktree}/inner", "log", "--format=%s") == "inner"


def test_of_two_tasks_that_go_together_neither_covers_the_others_work(world: World) -> None:
    ended(world, "echo 1 > a; git add a; git commit -qm first")
    runtime = world.runtime()
    world.add(runtime, "true", repo=world.root / "repo", after=(1,))
    dispatch(runtime)
    second = world.ended(runtime, 2)
    said = world.cli("rm", "1", "2")
    assert (said.code, "1 commit" in said.err) == (4, True)
    assert second.run is not None
    assert world.git(world.root / "repo", "branch", "--list", "dispatch/*").count("dispatch/") == 2
