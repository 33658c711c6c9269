"""After something died, one reconcile makes every status true, no agent runs twice, and nothing is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from world import Said, World, eventually

from dispatchctl import processes
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.steps import STEPS
from dispatchctl.task import Outcome, Phase, Run, Status

DYING_DISPATCHER = """
import os, signal, sys
from dataclasses import replace
from dispatchctl import dispatch, launch
from dispatchctl.config import Environment
from dispatchctl.runtime import Runtime
number, before = int(sys.argv[1]), sys.argv[2] == "before"
step = launch.STEPS[number]
def die(started):
    if not before:
        step.do(started)
    os.kill(os.getpid(), signal.SIGKILL)
launch.STEPS = tuple(replace(each, do=die) if each is step else each for each in launch.STEPS)
dispatch.dispatch(Runtime(Environment.read(), private_tmux=True))
"""


def running(world: World, prompt: str = "touch began; sleep 600") -> tuple[Runtime, Path, Run]:
    """A task whose agent is at work."""
    repo, runtime = world.repository(), world.runtime()
    task = world.add(runtime, prompt, repo=repo)
    dispatch(runtime)
    run = world.started(runtime, task.id)
    eventually(lambda: os.path.exists(os.path.join(run.worktree, "began")))
    return runtime, repo, run


def gone(pid: int | None) -> bool:
    return pid is not None and processes.start_time(pid) is None


def test_a_healthy_world_needs_nothing(world: World) -> None:
    runtime, _, _ = running(world)
    assert reconcile(runtime).done == []
    assert runtime.store.task(1).status is Status.IN_PROGRESS


def test_a_killed_launcher_gives_its_task_back_and_leaves_no_agent(world: World) -> None:
    runtime, _, run = running(world, "trap '' HUP TERM; touch began; while :; do sleep 1; done")
    assert run.launcher_pid
    os.kill(run.launcher_pid, signal.SIGKILL)
    eventually(lambda: gone(run.launcher_pid))
    [done] = reconcile(runtime).done
    task = runtime.store.task(1)
    assert (done.ok, task.status, task.run and task.run.outcome) == (True, Status.READY, Outcome.LOST)
    assert (task.retries_left, task.recoveries_left) == (0, 2)
    assert not processes.of_run(run.token)
    assert os.path.exists(os.path.join(run.worktree, "began")), "work is kept"
    assert reconcile(runtime).done == []


def test_a_killed_tmux_server_gives_every_task_back(world: World) -> None:
    repo, runtime = world.repository(), world.runtime()
    for _ in range(3):
        world.add(runtime, "touch began; sleep 600", repo=repo)
    dispatch(runtime)
    runs = [world.started(runtime, task) for task in (1, 2, 3)]
    server, tokens = world.runtime().windows(), [run.token for run in runs]
    pid = server.look().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(pid))
    eventually(lambda: reconcile(runtime).done == [] and not runtime.store.open_runs())
    assert [runtime.store.task(task).status for task in (1, 2, 3)] == [Status.READY] * 3
    eventually(lambda: not any(processes.of_run(token) for token in tokens), what="the launchers leave")


def test_a_window_closed_while_its_launcher_was_killed_is_not_started_again(world: World) -> None:
    runtime, repo, run = running(world)
    world.add(runtime, "sleep 600", repo=repo)
    dispatch(runtime)
    world.started(runtime, 2)
    assert run.launcher_pid
    os.kill(run.launcher_pid, signal.SIGKILL)
    eventually(lambda: gone(run.launcher_pid))
    world.tmux("kill-window", "-t", str(run.window_id))
    reconcile(runtime)
    task = runtime.store.task(1)
    assert (task.status, task.error) == (Status.FAILED, "its window was closed")
    assert runtime.store.task(2).status is Status.IN_PROGRESS


def test_tmux_that_does_not_answer_changes_nothing(world: World) -> None:
    runtime, _, run = running(world)
    assert run.launcher_pid
    os.kill(run.launcher_pid, signal.SIGKILL)
    eventually(lambda: gone(run.launcher_pid))
    world.extra["DISPATCHCTL_TOOLS__TMUX"] = "/bin/false"
    result = reconcile(world.runtime())
    assert [done.action.kind for done in result.done] == [Kind.REPORT]
    assert list(result.silent) == [str(world.socket)]
    assert runtime.store.run(run.token).phase is Phase.STARTED


def test_an_agent_that_ended_unrecorded_is_recorded_from_its_exit_file(world: World) -> None:
    runtime, _, run = running(world)
    assert run.launcher_pid
    os.kill(run.launcher_pid, signal.SIGKILL)
    eventually(lambda: gone(run.launcher_pid))
    values = {"cause": "by_itself", "ended_at": 5, "exit_code": 3, "signal": None, "asked": None}
    Path(run.run_dir, "exit.json").write_text(json.dumps({**values, "server_lives": None, "error": None}))
    reconcile(runtime)
    task = runtime.store.task(1)
    assert (task.status, task.run and task.run.exit_code, task.error) == (Status.FAILED, 3, "exited with 3")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(len(STEPS)), ids=[step.name.replace(" ", "-") for step in STEPS])
def test_a_dispatcher_killed_at_any_step_leaves_no_trace_or_a_true_row(world: World, number: int, when: str) -> None:
    repo, runtime = world.repository(), world.runtime()
    world.add(runtime, "touch began; sleep 600", repo=repo)
    done = subprocess.run(  # noqa: PLW1510 - how it dies is what is asked
        [sys.executable, "-c", DYING_DISPATCHER, str(number), when],
        env=world.variables,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = runtime.store.task(1).run
    assert run is not None
    reconcile(runtime)
    task = runtime.store.task(1)
    if task.status is Status.IN_PROGRESS:
        assert STEPS[number].name in ("window", "start"), "only a launched agent can have lived on"
        assert runtime.store.run(run.token).phase is Phase.STARTED
        assert runtime.store.run(run.token).window_id is not None
        eventually(lambda: os.path.exists(os.path.join(run.worktree, "began")))
    else:
        assert (task.status, task.recoveries_left) == (Status.READY, 2)
        assert world.leftovers(run, repo) == []
        assert "its dispatcher died" in str(task.error)
    # A launcher that came to start during the first look is a run of its own right, whose locks the second one lets go.
    assert {done.action.kind for done in reconcile(runtime).done} <= {Kind.ADOPT}
    assert reconcile(runtime).done == []


def test_the_command_is_quiet_where_nothing_was_wrong_and_says_what_it_did(world: World) -> None:
    runtime, _, run = running(world)
    assert world.cli("reconcile") == Said(0, "", "")
    assert run.launcher_pid
    os.kill(run.launcher_pid, signal.SIGKILL)
    eventually(lambda: gone(run.launcher_pid))
    planned = world.cli("reconcile", "--dry-run", "--json")
    assert [action["action"] for action in planned.json["actions"]] == ["lose"]
    assert runtime.store.task(1).status is Status.IN_PROGRESS
    assert world.cli("reconcile").out == f"task 1: its launcher was killed: lose run {run.token}\n"
    assert runtime.store.task(1).status is Status.READY
    assert world.cli("reconcile") == Said(0, "", "")


def test_cron_with_no_environment_leaves_the_living_alone_and_gives_back_the_dead(world: World) -> None:
    repo, runtime = world.repository(), world.runtime()
    for _ in range(4):
        world.add(runtime, "touch began; sleep 600", repo=repo)
    dispatch(runtime)
    pids = [world.started(runtime, task).agent_pid for task in (1, 2, 3, 4)]
    database = str(runtime.database)

    def cron() -> tuple[int, str]:
        command = [sys.executable, "-m", "dispatchctl", "--db", database, "reconcile"]
        variables = {"HOME": str(world.home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, timeout=60)  # noqa: PLW1510
        return done.returncode, done.stdout + done.stderr

    assert cron() == (0, "")
    assert not any(gone(pid) for pid in pids)
    launchers = [world.started(runtime, task).launcher_pid for task in (1, 2, 3, 4)]
    server = runtime.windows().look().pid
    assert server
    for pid in [*launchers, server]:
        assert pid
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(server) and all(gone(pid) for pid in launchers))
    code, said = cron()
    assert (code, said.count("the tmux server died under it")) == (0, 4), said
    assert [runtime.store.task(task).status for task in (1, 2, 3, 4)] == [Status.READY] * 4
    eventually(lambda: all(gone(pid) for pid in pids))


def test_a_tmux_that_cannot_be_asked_is_said_and_changes_nothing(world: World) -> None:
    runtime, _, run = running(world)
    assert run.launcher_pid
    os.kill(run.launcher_pid, signal.SIGKILL)
    eventually(lambda: gone(run.launcher_pid))
    said = world.cli("reconcile", DISPATCHCTL_TOOLS__TMUX="/bin/false")
    assert said.code == 69
    assert "cannot be asked" in said.err
    assert runtime.store.run(run.token).phase is Phase.STARTED


def test_a_run_without_its_directory_and_one_with_a_torn_exit_file_are_closed(world: World) -> None:
    repo, runtime = world.repository(), world.runtime()
    for _ in range(2):
        world.add(runtime, "touch began; sleep 600", repo=repo)
    dispatch(runtime)
    runs = [world.started(runtime, task) for task in (1, 2)]
    for run in runs:
        assert run.launcher_pid
        os.kill(run.launcher_pid, signal.SIGKILL)
    eventually(lambda: all(gone(run.launcher_pid) for run in runs))
    shutil.rmtree(runs[0].run_dir)
    Path(runs[1].run_dir, "exit.json").write_text("{")
    assert [done.ok for done in reconcile(runtime).done] == [True, True]
    assert [runtime.store.task(task).status for task in (1, 2)] == [Status.READY] * 2


def test_whoever_waits_or_cancels_does_not_wait_for_the_dead(world: World) -> None:
    runtime, repo, run = running(world)
    world.add(runtime, "touch began; sleep 600", repo=repo, retries=0, recoveries=0)
    dispatch(runtime)
    runs = [run, world.started(runtime, 2)]
    for each in runs:
        assert each.launcher_pid
        os.kill(each.launcher_pid, signal.SIGKILL)
    eventually(lambda: all(gone(each.launcher_pid) for each in runs))
    assert world.cli("cancel", "1").out == "task 1 is cancelled\n"
    assert world.cli("wait", "2").code == 1
    assert runtime.store.task(2).status is Status.FAILED
