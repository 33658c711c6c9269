"""A tmux that is wrong, silent or dead: what cannot be told is never taken for absent, and nothing of others is harmed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch.stage import (
    ASLEEP,
    add,
    configure,
    finish_undo,
    is_open_and_failed,
    is_undone,
    launch_fails,
    lived_in,
    program,
    state_of,
    step_named,
    with_step,
)
from world import World, eventually

from dispatchctl import names
from dispatchctl import steps as launching
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import Unavailable
from dispatchctl.steps import Launch
from dispatchctl.task import Phase, Status


@pytest.fixture
def repo(world: World) -> Path:
    return lived_in(world)


@pytest.fixture
def server(world: World) -> Iterator[int]:
    """A private tmux server with a session of the user's; its pid. It is woken up afterwards."""
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    pid = int(world.tmux("display-message", "-p", "#{pid}"))
    yield pid
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGCONT)


def fake_tmux(world: World, script: str) -> None:
    world.extra |= {
        "DISPATCHCTL_TOOLS__TMUX": str(program(world.root / "fake" / "tmux", f"#!/bin/sh\n{script}\n")),
        "DISPATCHCTL_TMUX__TIMEOUT": "1",
    }


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exec sleep 300", "did not answer within 1 s"),
        ("echo 'protocol version mismatch (client 8, server 7)' >&2; exit 1", "refused a window: protocol version"),
        ("kill -9 $$", "refused a window"),
        ("echo 'error connecting to /x (Permission denied)' >&2; exit 1", "refused a window: error connecting"),
    ],
    ids=["silent", "another-version", "killed", "not-allowed"],
)
def test_a_tmux_that_cannot_be_asked_leaves_the_undo_open_until_it_can(
    world: World, repo: Path, script: str, error: str
) -> None:
    before = state_of(world, repo)
    task = add(world.runtime(), repo, f"touch {world.root}/agent-ran")
    fake_tmux(world, script)
    launch_fails(world.runtime())
    run = is_open_and_failed(world.runtime(), task.id, error)
    assert "the undo stopped at its window" in (run.error or "")
    with pytest.raises(Unavailable, match=r"answer|failed"):
        world.runtime().windows(run.socket).panes()
    world.extra.clear()
    assert finish_undo(world.runtime(), run).status is Status.READY
    assert world.leftovers(run, repo) == []
    assert state_of(world, repo) == before
    assert not (world.root / "agent-ran").exists()


def test_a_launch_that_fails_before_its_window_does_not_need_tmux_for_its_undo(world: World, repo: Path) -> None:
    configure(world, hooks={"post_create": [["false"]]})
    fake_tmux(world, "exec sleep 300")
    runtime = world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "post_create `false` failed")


def test_a_server_that_stands_still_may_not_start_the_agent_later(world: World, repo: Path, server: int) -> None:
    before = state_of(world, repo)
    world.extra["DISPATCHCTL_TMUX__TIMEOUT"] = "1"
    runtime = world.runtime()
    task = add(runtime, repo, f"touch {world.root}/agent-ran")
    os.kill(server, signal.SIGSTOP)
    launch_fails(runtime)
    run = is_open_and_failed(runtime, task.id, "did not answer within 1 s")
    os.kill(server, signal.SIGCONT)  # and now it does what it was told meanwhile
    finish_undo(runtime, run)
    assert world.leftovers(run, repo) == []
    assert state_of(world, repo) == before
    assert not (world.root / "agent-ran").exists()
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        assert world.tmux("list-sessions", "-F", "#{session_name}").splitlines() == ["users-own"]


def test_a_server_that_stands_still_during_the_start_is_unknown_not_gone(
    world: World, repo: Path, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened_and_stopped(launch: Launch) -> None:
        window(launch)
        os.kill(server, signal.SIGSTOP)

    world.extra["DISPATCHCTL_TMUX__TIMEOUT"] = "1"
    window = step_named("window").do
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    with_step(monkeypatch, "window", do=opened_and_stopped)
    runtime = world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    run = is_open_and_failed(runtime, task.id, "did not answer within 1 s")
    os.kill(server, signal.SIGCONT)
    finish_undo(runtime, run)
    assert world.leftovers(run, repo) == []


def test_a_plain_file_in_the_sockets_place_is_left_alone(world: World, repo: Path) -> None:
    world.socket.write_text("mine")
    runtime = world.runtime()
    task = add(runtime, repo)
    with pytest.raises(Unavailable, match="is not a socket"):
        dispatch(runtime)
    assert world.socket.read_text() == "mine"
    assert (runtime.store.task(task.id).status, runtime.store.task(task.id).run) == (Status.READY, None)


def test_a_socket_path_that_is_too_long_is_said_to_be(world: World, repo: Path) -> None:
    world.extra["DISPATCHCTL_TMUX__SOCKET"] = str(world.root / ("x" * 100))
    runtime = world.runtime()
    task = add(runtime, repo)
    with pytest.raises(Unavailable, match="longer than 107 bytes"):
        dispatch(runtime)
    assert (runtime.store.task(task.id).status, runtime.store.task(task.id).run) == (Status.READY, None)


def test_a_dead_servers_socket_is_taken_over(world: World, repo: Path, server: int) -> None:
    os.kill(server, signal.SIGKILL)
    eventually(lambda: not world.tmux("list-sessions"))
    assert world.socket.is_socket()
    runtime = world.runtime()
    task = add(runtime, repo)
    assert dispatch(runtime).failed == []
    assert world.ended(runtime, task.id).status is Status.DONE


def test_a_server_that_is_killed_before_the_agent_starts_is_an_undone_launch(
    world: World, repo: Path, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened_and_killed(launch: Launch) -> None:
        window(launch)
        os.kill(server, signal.SIGKILL)

    window = step_named("window").do
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    with_step(monkeypatch, "window", do=opened_and_killed)
    runtime = world.runtime()
    task = add(runtime, repo)
    launch_fails(runtime)
    is_undone(world, runtime, repo, task.id, Status.READY, "its window closed before the agent began")


def test_eight_dispatchers_may_start_the_server_at_once(world: World, repo: Path) -> None:
    runtime = world.runtime()
    tasks = [add(runtime, repo, title=f"task {number}") for number in range(8)]
    script = (
        "from dispatchctl.config import Environment; from dispatchctl.runtime import Runtime;"
        "from dispatchctl.dispatch import dispatch; done = dispatch(Runtime(Environment.read(), private_tmux=True), most=1);"
        "print(len(done.started), [failure.error.message for failure in done.failed])"
    )
    dispatchers = [
        subprocess.Popen([sys.executable, "-c", script], env=world.variables, stdout=subprocess.PIPE, text=True)
        for _ in tasks
    ]
    said = [dispatcher.communicate(timeout=60)[0].strip() for dispatcher in dispatchers]
    assert said == ["1 []"] * len(tasks)
    for task in tasks:
        done = world.ended(runtime, task.id)
        assert (done.status, done.recoveries_left, len(runtime.store.runs(task.id))) == (Status.DONE, 3, 1)


def test_a_window_is_found_by_its_token_whatever_the_user_did_to_it(world: World, repo: Path, server: int) -> None:
    runtime = world.runtime()
    task = add(runtime, repo, "sleep 600")
    dispatch(runtime)
    run = world.started(runtime, task.id)
    assert run.window_id is not None
    world.tmux("rename-window", "-t", run.window_id, "it's mine")
    world.tmux("move-window", "-s", run.window_id, "-t", "users-own:")
    windows = runtime.windows(run.socket)
    pane = windows.pane_of(run.token)
    assert pane is not None
    assert pane.pane_id == run.pane_id
    windows.kill("00000000")
    assert windows.pane_of(run.token) == pane
    windows.kill(run.token)
    assert windows.pane_of(run.token) is None
    assert world.ended(runtime, task.id).run is not None
    windows.kill(run.token)
    assert world.tmux("list-sessions", "-F", "#{session_name}").splitlines() == ["users-own"]


def test_the_window_has_a_safe_name_in_the_session_of_its_repository(world: World, repo: Path) -> None:
    runtime, canary = world.runtime(), world.root / "CANARY"
    task = add(
        runtime,
        repo,
        "sleep 600",
        title=f"#(touch {canary}) $(touch {canary}) `touch {canary}` ; kill-server \x1b]0;x\x07 Größe 🚀",
    )
    dispatch(runtime)
    run = world.started(runtime, task.id)
    listed = world.tmux("list-windows", "-a", "-F", "#{session_name}|#{window_name}|#{window_id}").splitlines()
    name = names.leaf(task.id, task.title, 1)
    assert listed == [f"dispatch-{names.place(str(repo))}|{name}|{run.window_id}"]
    assert (run.server_pid, run.phase) == (int(world.tmux("display-message", "-p", "#{pid}")), Phase.STARTED)
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        assert not canary.exists()
