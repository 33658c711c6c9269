"""A tmux server that is started from a systemd service lives outside of it, or where that fails inside; never twice."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from launch.stage import ASLEEP, add, is_undone, launch_fails, lived_in, program
from world import World, eventually

from dispatchctl import machine, names
from dispatchctl import steps as launching
from dispatchctl.config import Environment
from dispatchctl.dispatch import dispatch
from dispatchctl.runtime import Runtime
from dispatchctl.task import Run, Status

RECORDS = 'echo "$*" >> "$HOME/scopes"; while [ "$1" != -- ]; do shift; done; shift'
OPTIONS = "--user --scope --quiet --collect"
MISSING = ""


@pytest.fixture
def repo(world: World) -> Path:
    return lived_in(world)


@pytest.fixture
def in_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is part of the daemon's service."""
    monkeypatch.setattr(machine, "unit", lambda _: "dispatchctl.service")


def systemd_run(world: World, script: str) -> None:
    """A systemd-run that does what the script says."""
    fake = world.root / "fake"
    program(fake / "systemd-run", f"#!/bin/sh\n{script}\n")
    world.extra["PATH"] = f"{fake}:{world.variables['PATH']}"


def scopes(world: World) -> list[str]:
    """What systemd-run was told."""
    record = world.home / "scopes"
    return record.read_text().splitlines() if record.exists() else []


def panes_of(world: World, run: Run) -> list[str]:
    listed = world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}").splitlines()
    return [token for token in listed if token == run.token]


def test_a_server_is_started_once_in_a_scope_of_its_own(world: World, repo: Path, in_service: None) -> None:
    systemd_run(world, f'{RECORDS}; export INVOCATION_ID=of-the-scope; exec "$@"')
    world.extra |= {"INVOCATION_ID": "of-the-service", "NOTIFY_SOCKET": "/run/notify", "OWN": "stays"}
    runtime = world.runtime()
    tasks = [add(runtime, repo, "sleep 600") for _ in range(2)]
    assert dispatch(runtime).failed == []
    first, second = (world.started(runtime, task.id) for task in tasks)
    [said] = scopes(world)
    assert said.startswith(f"{OPTIONS} --unit=dispatchctl-tmux-{first.token}-1.scope -- /bin/sh -c ")
    assert (len(panes_of(world, first)), len(panes_of(world, second))) == (1, 1)
    assert first.window_id != second.window_id
    environment = world.tmux("show-environment", "-g").splitlines()
    assert "OWN=stays" in environment
    assert [each for each in environment if each.startswith(("INVOCATION_ID=", "NOTIFY_SOCKET="))] == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        pytest.param(
            f"{RECORDS}; echo 'Failed to connect to bus: No medium found' >&2; exit 1", "No medium found", id="no bus"
        ),
        pytest.param(f"{RECORDS}; exit 3", "exit code 3", id="silent"),
        pytest.param(f"{RECORDS}; exec sleep 600", "no answer within 1 s", id="hangs"),
        pytest.param(MISSING, "No such file", id="missing"),
    ],
)
def test_without_a_scope_the_server_is_started_as_ever_and_that_is_said_once(
    world: World, repo: Path, in_service: None, caplog: pytest.LogCaptureFixture, script: str, why: str
) -> None:
    world.extra["DISPATCHCTL_TMUX__TIMEOUT"] = "1" if "sleep" in script else "10"
    if script is MISSING:
        runtime = world.runtime()
        runtime.starter = ("/nonexistent/systemd-run", *OPTIONS.split())
    else:
        systemd_run(world, script)
        runtime = world.runtime()
    task = add(runtime, repo, "sleep 600")
    with caplog.at_level(logging.WARNING):
        done = dispatch(runtime)
    assert done.failed == []
    run = world.started(runtime, task.id)
    assert len(panes_of(world, run)) == 1
    assert len(scopes(world)) == (script is not MISSING)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("tmux is started as part of this service, and ends with it: ")
    assert why in line


@pytest.mark.parametrize("after", ["echo oops >&2; exit 1", "sleep 600"], ids=["fails", "hangs"])
def test_what_goes_wrong_after_tmux_has_run_is_not_tried_again(
    world: World,
    repo: Path,
    in_service: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
) -> None:
    monkeypatch.setattr(launching, "LAUNCH", ASLEEP)
    systemd_run(world, f'{RECORDS}; "$@"; {after}')
    world.extra["DISPATCHCTL_TMUX__TIMEOUT"] = "1" if "sleep" in after else "10"
    runtime = world.runtime()
    task = add(runtime, repo)
    error = launch_fails(runtime).error.message
    assert ("refused a window: oops" if "oops" in after else "did not answer within 1 s") in error
    assert caplog.records == []
    run = is_undone(world, runtime, repo, task.id, Status.READY, error.partition(": ")[2])
    assert panes_of(world, run) == []
    assert len(scopes(world)) == 1


def test_what_tmux_says_inside_the_scope_is_heard_as_ever(world: World, repo: Path, in_service: None) -> None:
    """Somebody else starts the server, with this very session, between our look and our start."""
    racing = (
        '[ -e "$HOME/raced" ] || { touch "$HOME/raced"; '
        f'tmux -f /dev/null -S "{world.socket}" new-session -d -s "$SESSION" sleep 600; }}'
    )
    systemd_run(world, f'{RECORDS}; {racing}; exec "$@"')
    world.extra["SESSION"] = f"dispatch-{names.place(str(repo))}"
    runtime = world.runtime()
    task = add(runtime, repo, "sleep 600")
    assert dispatch(runtime).failed == []
    run = world.started(runtime, task.id)
    assert (len(panes_of(world, run)), len(scopes(world))) == (1, 1)


@pytest.mark.parametrize(
    ("unit", "invoked", "wrapped"),
    [
        ("dispatchctl.service", True, True),
        ("cron.service", False, True),
        ("session-3.scope", True, False),
        ("vte-spawn-1.scope", True, False),
        ("user@1000.service", True, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_only_in_a_service_a_scope_is_needed(
    world: World, monkeypatch: pytest.MonkeyPatch, unit: str | None, invoked: bool, wrapped: bool
) -> None:
    monkeypatch.setattr(machine, "unit", lambda _: unit)
    variables = {**world.variables, **({"INVOCATION_ID": "1"} if invoked else {})}
    runtime = Runtime(Environment.read(variables))
    assert bool(runtime.starter) is wrapped
    assert runtime.windows().starter == runtime.starter


def test_outside_of_a_service_nothing_is_wrapped(world: World, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "unit", lambda _: "session-3.scope")
    systemd_run(world, f'{RECORDS}; exec "$@"')
    runtime = world.runtime()
    task = add(runtime, repo, "sleep 600")
    assert dispatch(runtime).failed == []
    world.started(runtime, task.id)
    assert scopes(world) == []


def test_a_server_that_runs_already_is_used_as_it_is(world: World, repo: Path, in_service: None) -> None:
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    systemd_run(world, f'{RECORDS}; exec "$@"')
    runtime = world.runtime()
    task = add(runtime, repo, "sleep 600")
    assert dispatch(runtime).failed == []
    world.started(runtime, task.id)
    assert scopes(world) == []


def test_eight_services_may_start_the_server_at_once(world: World, repo: Path) -> None:
    systemd_run(world, f'{RECORDS}; exec "$@"')
    runtime = world.runtime()
    tasks = [add(runtime, repo, title=f"task {number}") for number in range(8)]
    script = (
        "from dispatchctl import machine; machine.unit = lambda _: 'dispatchctl.service';"
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
        eventually(lambda task=task: runtime.store.task(task.id).status is Status.DONE)  # type: ignore[misc]
        assert len(runtime.store.runs(task.id)) == 1
