"""From cron: next to no environment, another TMUX_TMPDIR, and ten agents at work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from reconcile.scene import gone, kill
from world import World, eventually

from dispatchctl import processes
from dispatchctl.config import Environment
from dispatchctl.dispatch import dispatch
from dispatchctl.runtime import Runtime
from dispatchctl.task import Phase, Run, Status

NOWHERE = "/nonexistent/bin"
LONGEST = 10


def cron(world: World, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """What the command says to somebody who has HOME and nothing else."""
    command = [sys.executable, "-m", "dispatchctl", *arguments]
    given = {"HOME": str(world.home), **variables}
    done = subprocess.run(command, env=given, cwd="/", capture_output=True, text=True, timeout=120)  # noqa: PLW1510
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def ten(world: World) -> tuple[Runtime, list[Run]]:
    """Ten agents at work."""
    world.extra["DISPATCHCTL_DISPATCH__MAX_RUNNING"] = str(LONGEST)
    repo, runtime = world.repository(), world.runtime()
    for _ in range(LONGEST):
        world.add(runtime, "touch began; sleep 600", repo=repo)
    assert len(dispatch(runtime).started) == LONGEST
    runs = [world.started(runtime, task) for task in range(1, LONGEST + 1)]
    return runtime, runs


def rows(runtime: Runtime) -> list[object]:
    return [*runtime.store.open_tasks(), *runtime.store.events()]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"PATH": NOWHERE},
        {"TMUX_TMPDIR": "/tmp", "TMUX": "/tmp/elsewhere,1,0"},
        {"PATH": NOWHERE, "TMUX_TMPDIR": "/nonexistent", "LC_ALL": "C", "GIT_DIR": "/nonexistent"},
    ],
    ids=["HOME only", "no PATH", "another tmux", "all wrong"],
)
def test_ten_agents_are_left_alone_and_given_back_when_their_server_died(
    world: World, ten: tuple[Runtime, list[Run]], variables: dict[str, str]
) -> None:
    runtime, runs = ten
    before = rows(runtime)
    assert cron(world, "reconcile", **variables) == (0, "", "")
    assert rows(runtime) == before
    assert not any(gone(run.agent_pid) for run in runs)
    server = runtime.windows().look().pid
    kill(server)
    eventually(lambda: all(gone(run.launcher_pid) for run in runs), what="the launchers end with their server")
    code, _, said = cron(world, "reconcile", **variables)
    assert code == 0, said
    tasks = runtime.store.tasks()
    assert [task.status for task in tasks] == [Status.READY] * LONGEST
    assert {task.error for task in tasks} == {"the tmux server died under it"}
    assert {task.recoveries_left for task in tasks} == {2}
    assert not any(processes.of_run(run.token) for run in runs)
    assert all(os.path.exists(os.path.join(run.worktree, "began")) for run in runs)
    assert cron(world, "reconcile", **variables) == (0, "", "")


def test_servers_and_launchers_that_died_together_are_given_back_by_cron_alone(
    world: World, ten: tuple[Runtime, list[Run]]
) -> None:
    runtime, runs = ten
    server = runtime.windows().look().pid
    kill(*(run.launcher_pid for run in runs), server)
    code, said, _ = cron(world, "reconcile", PATH=NOWHERE)
    assert (code, said.count("the tmux server died under it: lose run")) == (0, LONGEST), said
    assert [task.status for task in runtime.store.tasks()] == [Status.READY] * LONGEST
    assert not any(processes.of_run(run.token) for run in runs)


@pytest.mark.parametrize(
    "program",
    ["exit 1", "echo garbage", "exec sleep 600", "echo '|||||||||'; exit 0", "exec cat /bin/true", None],
    ids=["fails", "garbage", "hangs", "empty fields", "binary", "not there"],
)
def test_a_tmux_that_cannot_answer_changes_nothing_and_is_said(
    world: World, ten: tuple[Runtime, list[Run]], program: str | None
) -> None:
    runtime, runs = ten
    kill(*(run.launcher_pid for run in runs[:3]))
    fake = world.root / "tmux"
    if program is not None:
        fake.write_text(f"#!/bin/sh\n{program}\n")
        fake.chmod(0o755)
    before = rows(runtime)
    given = {"DISPATCHCTL_TOOLS__TMUX": str(fake), "DISPATCHCTL_TMUX__TIMEOUT": "1"}
    code, out, said = cron(world, "reconcile", **given)
    assert (code, out) == (69, ""), said
    assert f"tmux on {world.socket} cannot be asked" in said
    assert "Traceback" not in said
    assert rows(runtime) == before
    assert not any(gone(run.agent_pid) for run in runs[3:])
    shown = cron(world, "show", "1", "--json", **given)
    assert (shown[0], '"life": "unknown"' in shown[1]) == (0, True), shown
    before = rows(runtime)  # with the life that was last seen
    assert cron(world, "dispatch", **given)[0] in (0, 69)
    assert rows(runtime) == before
    assert cron(world, "reconcile")[0] == 0
    assert [run.phase for run in runtime.store.find_runs([run.token for run in runs[:3]]).values()] == [
        Phase.CLOSED
    ] * 3


def test_a_tool_is_found_by_its_path_then_on_path_then_where_runs_have_recorded_it(world: World) -> None:
    recorded = world.root / "tools" / "tmux"
    recorded.parent.mkdir()
    recorded.symlink_to("/usr/bin/tmux")
    world.extra["DISPATCHCTL_TOOLS__TMUX"] = str(recorded)
    runtime = world.runtime()
    world.add(runtime, "sleep 600", repo=world.repository())
    dispatch(runtime)

    def found(**variables: str) -> str:
        given = {"HOME": str(world.home), **variables}
        return Runtime(Environment.read(given), private_tmux=True).tmux

    on_path = world.root / "bin" / "tmux"
    on_path.parent.mkdir()
    on_path.symlink_to("/usr/bin/tmux")
    assert found(PATH=NOWHERE) == str(recorded)
    assert found(PATH=str(on_path.parent)) == str(on_path)
    assert found(PATH=str(on_path.parent), DISPATCHCTL_TOOLS__TMUX=str(recorded)) == str(recorded)
    recorded.unlink()
    code, _, said = cron(world, "dispatch", PATH=NOWHERE)
    assert (code, "tmux is not installed" in said) == (69, True), said


def test_a_path_in_the_settings_that_is_wrong_is_not_made_up_for(world: World) -> None:
    runtime = world.runtime()
    world.add(runtime, "sleep 600", repo=world.repository())
    dispatch(runtime)
    wrong = str(Path(NOWHERE, "tmux"))
    code, _, said = cron(world, "dispatch", DISPATCHCTL_TOOLS__TMUX=wrong)
    assert (code, wrong in said) == (69, True), said
