"""How an agent ends is recorded: by itself, asked, hung up, out of time; and nothing of it lives on."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from launch.stage import add, lived_in, program
from world import World, eventually

from dispatchctl import launcher, rundir
from dispatchctl.dispatch import dispatch
from dispatchctl.launcher import read_exit_file
from dispatchctl.processes import is_alive, of_run, start_time
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Actor, Ask, Cause, Outcome, Report, Run, Status, Task


@pytest.fixture
def runtime(world: World) -> Runtime:
    """With a server that has another session, so that it outlives a window; and little patience."""
    world.extra["DISPATCHCTL_DISPATCH__KILL_GRACE"] = "1"
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    return world.runtime()


def running(world: World, runtime: Runtime, prompt: str, **changes: Any) -> Run:
    """A run whose agent has said that it is ready, by `touch $HOME/ready`."""
    task = add(runtime, lived_in(world), prompt, **changes)
    assert dispatch(runtime).failed == []
    run = world.started(runtime, task.id)
    eventually((world.home / "ready").exists)
    return run


def ended(world: World, runtime: Runtime, run: Run) -> tuple[Task, Run]:
    task = world.ended(runtime, run.task)
    assert task.run is not None
    assert is_alive((run.agent_pid or 0, run.agent_start or 0)) is False
    return task, task.run


READY = "touch $HOME/ready"
WAIT = f"{READY}; while :; do sleep 0.05; done"
DEAF = f"trap '' HUP TERM INT; {WAIT}"


@pytest.mark.parametrize(
    ("prompt", "code", "number"),
    [("exit 0", 0, None), ("exit 255", 255, None), ("kill -TERM $$", None, 15), ("kill -HUP $$", None, 1)],
)
def test_code_signal_and_cause_are_in_the_row_and_in_the_exit_file(
    world: World, runtime: Runtime, prompt: str, code: int | None, number: int | None
) -> None:
    task = add(runtime, lived_in(world), prompt)
    dispatch(runtime)
    run = world.ended(runtime, task.id).run
    assert run is not None
    assert (run.outcome, run.exit_code, run.signal) == (Outcome.EXITED, code, number)
    ending = read_exit_file(run.run_dir)
    assert ending is not None
    assert (ending.cause, ending.exit_code, ending.signal, ending.asked) == (Cause.BY_ITSELF, code, number, None)
    assert ending.ended_at == run.ended_at
    assert abs(now() - ending.ended_at) < 60_000


def test_the_exit_file_is_there_before_the_run_is_closed(world: World, runtime: Runtime) -> None:
    run = running(world, runtime, f"trap '' TERM; sleep 600 & {READY}; exit 3")
    file = Path(run.run_dir) / "exit.json"
    eventually(file.exists)
    assert json.loads(file.read_text())["exit_code"] == 3
    assert runtime.store.run(run.token).closed_at is None  # the sleeper has a second's grace
    assert ended(world, runtime, run)[1].exit_code == 3


def test_a_program_that_cannot_be_executed_fails_the_task(world: World, runtime: Runtime) -> None:
    from launch.stage import configure

    script = program(world.root / "agent", "#!/no/such/interpreter\n")
    configure(world, agents__mine={"argv": [str(script), "{prompt}"]})
    runtime = world.runtime()
    task = add(runtime, lived_in(world), agent="mine")
    dispatch(runtime)
    done = world.ended(runtime, task.id)
    assert (done.status, done.recoveries_left) == (Status.FAILED, 3)
    assert "cannot be executed: No such file or directory" in (done.error or "")


@pytest.mark.parametrize(
    ("what", "prompt"), [("kill-window", WAIT), ("kill-window", DEAF), ("kill-pane", WAIT), ("respawn-pane", WAIT)]
)
def test_a_window_that_somebody_closes_fails_the_task(world: World, runtime: Runtime, what: str, prompt: str) -> None:
    run = running(world, runtime, prompt)
    arguments = ["-k", "-t", run.pane_id, "true"] if what == "respawn-pane" else ["-t", run.pane_id]
    world.tmux(what, *map(str, arguments))
    task, run = ended(world, runtime, run)
    assert (task.status, task.error, run.outcome) == (Status.FAILED, "its window was closed", Outcome.HUNG_UP)
    assert (task.recoveries_left, task.retries_left) == (3, 0)
    ending = read_exit_file(run.run_dir)
    assert ending is not None
    assert (ending.cause, ending.server_lives) == (Cause.HANGUP, True)


@pytest.mark.parametrize("prompt", [WAIT, DEAF], ids=["listens", "is deaf"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_dies_costs_a_recovery(
    world: World, runtime: Runtime, prompt: str, number: signal.Signals
) -> None:
    run = running(world, runtime, prompt)
    assert run.server_pid is not None
    os.kill(run.server_pid, number)
    task, run = ended(world, runtime, run)
    assert (task.status, task.error, run.outcome) == (Status.READY, "the tmux server died under it", Outcome.LOST)
    assert task.recoveries_left == 2
    assert (task.not_before or 0) > now()


def test_a_launcher_that_is_told_to_end_ends_its_agent(world: World, runtime: Runtime) -> None:
    run = running(world, runtime, DEAF)
    assert run.launcher_pid is not None
    os.kill(run.launcher_pid, signal.SIGTERM)
    task, run = ended(world, runtime, run)
    assert (task.status, run.outcome, run.signal) == (Status.READY, Outcome.LOST, signal.SIGKILL)


@pytest.mark.parametrize(
    ("prompt", "code", "number"),
    [
        (WAIT, None, signal.SIGTERM),
        (DEAF, None, signal.SIGKILL),
        (f"trap 'exit 0' TERM; {WAIT}", 0, None),
        (f"{READY}; kill -STOP $$; exit 0", None, signal.SIGTERM),
    ],
    ids=["listens", "is deaf", "tidies up", "is stopped"],
)
def test_a_run_past_its_time_limit_is_ended(
    world: World, runtime: Runtime, prompt: str, code: int | None, number: int | None
) -> None:
    run = running(world, runtime, prompt, timeout_s=1)
    task, run = ended(world, runtime, run)
    assert (task.status, run.outcome) == (Status.FAILED, Outcome.TIMED_OUT)
    assert task.error == "ran longer than its time limit of 1 s"
    assert (run.exit_code, run.signal) == (code, number)
    assert run.ended_at is not None
    assert run.started_at is not None
    assert run.ended_at - run.started_at >= 990


def test_an_agent_that_gave_up_its_terminal_is_ended_and_not_its_launcher(world: World, runtime: Runtime) -> None:
    script = program(
        world.root / "loner",
        "#!/usr/bin/env python3\nimport fcntl, os, signal, termios, time\n"
        "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\n"
        "fcntl.ioctl(0, termios.TIOCNOTTY)\n"
        "open(os.environ['HOME'] + '/ready', 'w').close()\ntime.sleep(600)\n",
    )
    run = running(world, runtime, f"exec {script}", timeout_s=1)
    _, run = ended(world, runtime, run)
    assert (run.outcome, run.signal) == (Outcome.TIMED_OUT, signal.SIGKILL)


def test_an_agent_that_closes_its_terminal_is_not_hung_up(world: World, runtime: Runtime) -> None:
    run = running(world, runtime, f"exec </dev/null >/dev/null 2>&1; {READY}; sleep 0.3; exit 5")
    _, run = ended(world, runtime, run)
    assert (run.outcome, run.exit_code, run.signal) == (Outcome.EXITED, 5, None)


def test_a_run_can_be_cancelled_through_its_control_pipe(world: World, runtime: Runtime) -> None:
    run = running(world, runtime, DEAF)
    runtime.store.ask(run.token, Ask.CANCEL, actor=Actor.USER, at=now())
    assert rundir.tell(run.run_dir, "end cancel")
    task, run = ended(world, runtime, run)
    assert (task.status, run.outcome, run.signal) == (Status.CANCELLED, Outcome.CANCELLED, signal.SIGKILL)
    eventually(lambda: not rundir.tell(run.run_dir, "end cancel"))


@pytest.mark.parametrize(("line", "report"), [("report 0", Report.DONE), ("report 1", Report.FAIL)])
def test_a_session_that_was_reported_has_its_grace_and_is_ended(
    world: World, runtime: Runtime, line: str, report: Report
) -> None:
    run = running(world, runtime, WAIT)
    runtime.store.report(run.token, report, "as I said", actor=Actor.AGENT, at=now())
    began = time.monotonic()
    assert rundir.tell(run.run_dir, line)
    assert rundir.tell(run.run_dir, "report 600")  # the first stands
    assert rundir.tell(run.run_dir, "nonsense")
    task, run = ended(world, runtime, run)
    assert time.monotonic() - began >= float(line.split()[1])
    assert run.outcome is Outcome.REPORTED
    assert task.status is (Status.DONE if report is Report.DONE else Status.FAILED)
    assert (task.result if report is Report.DONE else task.error) == "as I said"


ESCAPES = {
    "background": "sleep 600 &",
    "own session": "setsid sleep 600 &",
    "scrubbed": "env -i setsid sleep 600 &",
    "twice forked": "env -i setsid sh -c 'sh -c \"sleep 600 & sleep 600 &\" &' &",
    "deaf": "env -i setsid sh -c 'trap \"\" TERM HUP; sleep 600 & sleep 600' &",
    "stopped": "sh -c 'kill -STOP $$; sleep 600' &",
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_no_process_of_a_run_outlives_it(world: World, runtime: Runtime, escape: str) -> None:
    os.mkfifo(world.home / "gate")
    run = running(world, runtime, f"{escape}\nsleep 0.2; {READY}; read go < $HOME/gate; exit 0")
    launcher = (run.launcher_pid or 0, run.launcher_start or 0)
    family = of_run(run.token, [launcher])
    assert len(family) >= 3, "launcher, agent, and what it left"
    (world.home / "gate").write_text("go\n")
    assert ended(world, runtime, run)[0].status is Status.DONE
    assert [process for process in family - {launcher} if is_alive(process)] == []
    eventually(lambda: start_time(launcher[0]) != launcher[1])


def test_a_server_that_was_killed_before_the_launcher_looked_is_not_its_next_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead = subprocess.run(["sh", "-c", "echo $$"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv("TMUX", f"/with,comma/sock,{dead},3")
    assert launcher._server() == (int(dead), 0), "which is nobody, so it does not outlive a hang-up"
    monkeypatch.setenv("TMUX", f"/sock,{os.getpid()},3")
    assert launcher._server() == (os.getpid(), start_time(os.getpid()))
    monkeypatch.delenv("TMUX")
    assert launcher._server()[0] == os.getppid()
