"""The end of an agent is recorded where the database or the disk does not take it at that moment."""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch.stage import add, lived_in
from world import World, eventually

from dispatchctl.dispatch import dispatch
from dispatchctl.launcher import EXIT_FILE_SIZE, read_exit_file
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Actor, Cause, Outcome, Phase, Run, Status
from dispatchctl.verdict import Ending, Policy

ROOT = os.getuid() == 0


def gated(world: World, runtime: Runtime, prompt: str = "exit 3") -> Run:
    """A run whose agent goes on when something is written into the gate."""
    os.mkfifo(world.home / "gate")
    task = add(runtime, lived_in(world), f"read go < $HOME/gate; {prompt}")
    assert dispatch(runtime).failed == []
    return world.started(runtime, task.id)


def open_gate(world: World) -> None:
    (world.home / "gate").write_text("go\n")


def exit_file(run: Run) -> Path:
    return Path(run.run_dir) / "exit.json"


def stays_open(runtime: Runtime, run: Run, seconds: float) -> None:
    """Look for longer than the launcher waits for the database at a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert runtime.store.run(run.token).phase is Phase.STARTED
        time.sleep(0.05)


def test_a_database_that_is_locked_for_long_gets_the_end_later(world: World) -> None:
    world.extra["DISPATCHCTL_STORE__BUSY_TIMEOUT"] = "1"
    runtime = world.runtime()
    run = gated(world, runtime)
    writer = sqlite3.connect(str(runtime.database), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    open_gate(world)
    eventually(exit_file(run).exists)
    ending = read_exit_file(run.run_dir)
    assert ending is not None
    assert ending.exit_code == 3
    stays_open(runtime, run, 1.5)
    writer.execute("ROLLBACK")
    writer.close()
    done = world.ended(runtime, run.task)
    assert done.run is not None
    assert (done.status, done.run.exit_code, done.run.ended_at) == (Status.FAILED, 3, ending.ended_at)
    eventually(lambda: "ended with exit code 3" in world.tmux("capture-pane", "-p", "-S", "-", "-t", str(run.pane_id)))


def test_a_writer_that_is_stopped_in_the_turnstile_is_waited_for(world: World) -> None:
    world.extra["DISPATCHCTL_STORE__BUSY_TIMEOUT"] = "1"
    runtime = world.runtime()
    run = gated(world, runtime)
    with contextlib.ExitStack() as held:
        for name in ("next", "gate"):
            file = held.enter_context(open(f"{runtime.database}-{name}", "r+"))
            fcntl.flock(file, fcntl.LOCK_EX)
        open_gate(world)
        eventually(exit_file(run).exists)
        stays_open(runtime, run, 1.5)
    done = world.ended(runtime, run.task)
    assert (done.status, done.error) == (Status.FAILED, "exited with 3")


def test_a_database_that_is_away_for_a_moment_gets_the_end_later(world: World) -> None:
    runtime = world.runtime()
    run = gated(world, runtime)
    runtime.store.close()
    away = runtime.database.with_name("away.db")
    runtime.database.rename(away)
    open_gate(world)
    eventually(exit_file(run).exists)
    assert not runtime.database.exists(), "it was made anew, which only init and add may do"
    away.rename(runtime.database)
    runtime = world.runtime()
    done = world.ended(runtime, run.task)
    assert done.run is not None
    assert (done.run.outcome, done.run.exit_code) == (Outcome.EXITED, 3)


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """A file system of its own with a megabyte, where this may be made."""
    place = world.root / "small"
    place.mkdir()
    mounted = ROOT and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield place
    finally:
        for pid in list(world.processes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        eventually(lambda: subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode == 0)


def fill(place: Path) -> Path:
    """Fill the file system to its last byte."""
    ballast = place / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 1024)
    assert shutil.disk_usage(place).free == 0
    return ballast


def test_a_full_disk_under_the_run_directory_does_not_keep_the_end_from_being_recorded(
    world: World, small_disk: Path
) -> None:
    runtime = world.runtime()
    runtime.make_store()
    (runtime.state / "runs").parent.mkdir(parents=True, exist_ok=True)
    (runtime.state / "runs").symlink_to(small_disk)
    run = gated(world, runtime, "yes | head -c 300000; exit 3")
    assert (Path(run.run_dir) / "exit.json.new").stat().st_size == EXIT_FILE_SIZE
    fill(small_disk)
    open_gate(world)
    done = world.ended(runtime, run.task)
    assert done.run is not None
    assert (done.run.exit_code, done.run.outcome) == (3, Outcome.EXITED)
    ending = read_exit_file(run.run_dir)
    assert ending is not None
    assert ending.exit_code == 3


def test_a_full_disk_under_the_database_gets_the_end_when_there_is_room(world: World, small_disk: Path) -> None:
    world.extra["DISPATCHCTL_DB"] = str(small_disk / "tasks.db")
    world.extra["DISPATCHCTL_WORKTREES__ROOT"] = str(world.root / "trees")
    runtime = world.runtime()
    run = gated(world, runtime)
    ballast = fill(small_disk)
    open_gate(world)
    eventually(exit_file(run).exists)
    ending = read_exit_file(run.run_dir)
    assert ending is not None
    assert ending.exit_code == 3
    stays_open(runtime, run, 0.5)
    ballast.unlink()
    done = world.ended(runtime, run.task)
    assert done.run is not None
    assert (done.run.exit_code, done.status) == (3, Status.FAILED)
    runtime.store.close()


def test_a_launcher_that_is_killed_leaves_no_end_and_an_open_run(world: World) -> None:
    runtime = world.runtime()
    run = gated(world, runtime)
    assert run.launcher_pid is not None
    os.kill(run.launcher_pid, 9)
    eventually(lambda: not Path(f"/proc/{run.launcher_pid}/environ").exists() or _is_zombie(run.launcher_pid or 0))
    assert runtime.store.run(run.token).phase is Phase.STARTED
    assert read_exit_file(run.run_dir) is None


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_run_that_was_closed_by_another_is_left_as_it_is(world: World) -> None:
    runtime = world.runtime()
    run = gated(world, runtime)
    ending = Ending(Cause.TERMINATED, now())
    closed = runtime.store.close_ended(
        run.token, ending, None, None, Policy(), actor=Actor.RECONCILE, at=now(), jitter=0.0
    )
    open_gate(world)
    eventually(exit_file(run).exists)
    eventually(lambda: "ended with" in world.tmux("capture-pane", "-p", "-S", "-", "-t", str(run.pane_id)))
    assert runtime.store.task(run.task) == closed
