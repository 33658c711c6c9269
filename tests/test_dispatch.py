"""A ready task becomes a running agent: the main job, with real git, a real tmux server and a real process."""

import os

import pytest
from world import World

from dispatchctl.dispatch import dispatch
from dispatchctl.task import Outcome, Phase, Status


@pytest.mark.parametrize(
    ("prompt", "status", "code", "signal"),
    [
        ("echo hi > a; git add a; git commit -qm a", Status.DONE, 0, None),
        ("exit 7", Status.FAILED, 7, None),
        ("kill -9 $$", Status.FAILED, None, 9),
        ("echo hi > a", Status.IN_REVIEW, 0, None),
    ],
)
def test_how_an_agent_ends_is_recorded(
    world: World, prompt: str, status: Status, code: int | None, signal: int | None
) -> None:
    repo, runtime = world.repository(), world.runtime()
    task = world.add(runtime, prompt, repo=repo)
    dispatch(runtime)
    task = world.ended(runtime, task.id)
    assert task.run is not None
    assert (task.status, task.run.exit_code, task.run.signal) == (status, code, signal)
    assert (task.run.outcome, task.run.phase) == (Outcome.EXITED, Phase.CLOSED)
    assert not os.path.exists(task.run.owner_lock)


def test_what_is_not_committed_is_committed_where_the_settings_say_so(world: World) -> None:
    world.extra["DISPATCHCTL_TASK__UNCOMMITTED"] = "commit"
    repo, runtime = world.repository(), world.runtime()
    good = world.add(runtime, "echo hi > a", repo=repo, title="-m #(x) 'quoted'")
    bad = world.add(runtime, "echo hi > a; exit 1", repo=repo)
    dispatch(runtime)
    good, bad = world.ended(runtime, good.id), world.ended(runtime, bad.id)
    assert good.run is not None
    assert bad.run is not None
    assert good.status is Status.DONE
    assert world.git(repo, "log", "-1", "--format=%s", good.run.branch) == "-m #(x) 'quoted'"
    assert bad.status is Status.FAILED
    assert world.git(repo, "rev-list", "--count", f"main..{bad.run.branch}") == "0"
