"""What an agent is given: exactly the composed environment, and nothing of the tmux server's or of another session."""

import os
import subprocess
from pathlib import Path

import pytest
from launch.stage import add, configure, lived_in, runtime_with
from world import World, eventually

from dispatchctl.dispatch import dispatch
from dispatchctl.runtime import Runtime
from dispatchctl.steps import Launch, environment
from dispatchctl.task import Run, Status

FOREIGN = {
    "GIT_DIR": "/nowhere/.git",
    "GIT_INDEX_FILE": "/nowhere/index",
    "GIT_WORK_TREE": "/nowhere",
    "VIRTUAL_ENV": "/nowhere/venv",
    "PYTHONPATH": "/nowhere",
    "TMUX": "/nowhere/tmux.sock,1,0",
    "TMUX_PANE": "%99",
    "DISPATCHCTL_TOKEN": "00000000",
    "DISPATCHCTL_TASK": "99",
    "CLAUDECODE": "1",
    "OLDPWD": "/nowhere",
}
OWN = {"SECRET_KEY": "s3cr=t\nof two lines; $(id)", "EMPTY": "", "LANG": "C.UTF-8", "TZ": "Asia/Kathmandu"}


def given(world: World, runtime: Runtime, agent: str = "shell") -> tuple[Run, dict[str, str]]:
    """A run, and the environment that its agent began with."""
    task = add(runtime, lived_in(world), "cat /proc/$$/environ > $HOME/environ", agent=agent)
    assert [failure.error.message for failure in dispatch(runtime).failed] == []
    done = world.ended(runtime, task.id)
    assert done.status is Status.DONE, done.error
    assert done.run is not None
    text = os.fsdecode((world.home / "environ").read_bytes())
    return done.run, dict(pair.split("=", 1) for pair in text.split("\0") if pair)


def test_the_agent_gets_exactly_what_was_composed(world: World) -> None:
    runtime = runtime_with(world, **FOREIGN, **OWN)
    run, variables = given(world, runtime)
    pane = {name: variables.pop(name) for name in ("TMUX", "TMUX_PANE", "TERM", "PWD")}
    pane |= {name: variables.pop(name) for name in ("TERM_PROGRAM", "TERM_PROGRAM_VERSION") if name in variables}
    expected = environment(Launch(runtime, runtime.store.task(run.task), run))
    expected.pop("TERM", None)
    assert variables == expected
    assert pane["TMUX"].startswith(f"{world.socket},{run.server_pid},")
    assert (pane["TMUX_PANE"], pane["PWD"]) == (run.pane_id, run.worktree)
    assert pane["TERM"] == world.tmux("show-options", "-gv", "default-terminal")
    assert variables.items() >= OWN.items()
    assert not FOREIGN.items() & variables.items()
    assert not [name for name in variables if name.startswith("GIT_")]
    assert {name: value for name, value in variables.items() if name.startswith("DISPATCHCTL_")} == {
        "DISPATCHCTL_TASK": str(run.task),
        "DISPATCHCTL_TOKEN": run.token,
        "DISPATCHCTL_DB": str(runtime.database),
        "DISPATCHCTL_REPO": run.repo,
        "DISPATCHCTL_WORKTREE": run.worktree,
        "DISPATCHCTL_BRANCH": run.branch,
        "DISPATCHCTL_BASE": "main",
        "DISPATCHCTL_PROMPT_FILE": f"{run.run_dir}/prompt",
        "DISPATCHCTL_RESULT_FILE": f"{run.worktree}/.dispatchctl/result",
        "DISPATCHCTL_PARENTS": f"{run.run_dir}/parents.json",
    }


def test_the_environment_of_the_server_does_not_reach_the_agent(world: World) -> None:
    variables = {**world.variables, "LEAKED": "1", "GIT_DIR": "/nowhere", "VIRTUAL_ENV": "/nowhere"}
    server = ["tmux", "-S", str(world.socket), "-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600"]
    subprocess.run(server, env=variables, check=True)
    _, found = given(world, world.runtime())
    assert not {"LEAKED", "GIT_DIR", "VIRTUAL_ENV"} & found.keys()


def test_a_server_that_is_started_here_knows_nothing_of_this_session(world: World) -> None:
    """Else every window of the user's would, and a sweep would take the server for a process of the run."""
    runtime = runtime_with(world, **{**FOREIGN, **OWN})
    task = add(runtime, lived_in(world), "sleep 600")
    dispatch(runtime)
    run = world.started(runtime, task.id)
    environ = Path(f"/proc/{run.server_pid}/environ").read_text()
    assert not [pair for pair in environ.split("\0") if pair.startswith(("GIT_", "DISPATCHCTL_", "CLAUDE", "TMUX="))]


def test_the_environment_file_is_gone_when_the_agent_has_it(world: World) -> None:
    runtime = runtime_with(world, **OWN)
    task = add(runtime, lived_in(world), "read wait")
    dispatch(runtime)
    run = world.started(runtime, task.id)
    eventually(lambda: not (Path(run.run_dir) / "environment").exists())
    for file in Path(run.run_dir).iterdir():
        if file.is_file():
            assert b"s3cr=t" not in file.read_bytes()


def test_a_profile_adds_and_strips(world: World) -> None:
    configure(
        world,
        agents__mine={
            "argv": ["sh", "-c", "cat /proc/$$/environ > $HOME/environ", "{prompt}"],
            "env": {"ADDED": "yes"},
            "strip": ["SECRET_*"],
            "expects_changes": False,
        },
    )
    _, variables = given(world, runtime_with(world, **OWN), agent="mine")
    assert variables["ADDED"] == "yes"
    assert "SECRET_KEY" not in variables


def test_git_in_the_agent_and_its_hooks_works_on_the_worktree(world: World) -> None:
    runtime = runtime_with(world, **FOREIGN)
    prompt = "echo work > work; git add work; git commit -qm work; git rev-parse --show-toplevel > $HOME/top"
    task = add(runtime, lived_in(world), prompt)
    assert dispatch(runtime).failed == []
    done = world.ended(runtime, task.id)
    assert done.status is Status.DONE, done.error
    assert done.run is not None
    assert (world.home / "top").read_text().strip() == done.run.worktree


def test_the_programs_of_dispatchctl_are_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runtime_with(world, PATH="/usr/bin:/bin")
    _, variables = given(world, runtime)
    import sys

    assert variables["PATH"] == f"/usr/bin:/bin:{Path(sys.executable).parent}"
