"""What the tests of reconcile share: agents at work, processes that are stopped, clocks that are set, databases put back."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from store.bench import Sqlite, assert_replayed
from world import World, eventually

from dispatchctl import processes
from dispatchctl.config import Environment
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import Reconciled, reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Run

REAL_TIME = time.time_ns
AT_WORK = "touch began; while :; do sleep 0.05; done"
"""An agent that goes on until it is ended."""
HANGS = """
import os, signal, sys, time
def hang(*_):
    while os.path.exists(os.path.join(sys.argv[2], "hang")):
        time.sleep(0.01)
signal.signal(signal.SIGUSR1, hang)
"""
"""What a launcher begins with that can be hung; SIGSTOP is of no use, since tmux wakes what is stopped in its panes."""
DIES = """
from dispatchctl import faults
def die(name):
    if name == "after launcher writes the exit file" and os.path.exists(os.path.join(sys.argv[2], "die")):
        os.kill(os.getpid(), signal.SIGKILL)
faults.at_point = die
"""
"""What makes it die when it has written its exit file, if there is a file `die` in its run directory."""


@contextmanager
def hung(run: Run) -> Iterator[Path]:
    """The run's launcher does nothing, not even die of TERM, for as long as this lasts or the file that it gives is there."""
    assert run.launcher_pid is not None
    file = Path(run.run_dir, "hang")
    file.touch()
    os.kill(run.launcher_pid, signal.SIGUSR1)
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def at_work(world: World, prompt: str = AT_WORK, *, repo: Path | None = None, **changes: Any) -> tuple[Runtime, Run]:
    """A task whose agent is at work; the prompt has to touch `began`."""
    runtime = world.runtime()
    task = world.add(runtime, prompt, repo=repo or world.repository(), **changes)
    dispatch(runtime, [task.id])
    run = world.started(runtime, task.id)
    eventually(lambda: os.path.exists(os.path.join(run.worktree, "began")), what="the agent begins")
    return runtime, run


def runtime_with(world: World, **variables: str) -> Runtime:
    """A runtime as a process with these variables would have."""
    return Runtime(Environment.read({**world.variables, **variables}), private_tmux=True)


def kinds(done: Reconciled) -> list[Kind]:
    """What was done, in order; nothing of it may have failed."""
    assert [each.error for each in done.done if each.error] == []
    return [each.action.kind for each in done.done]


def settles(runtime: Runtime, *, rounds: int = 1) -> None:
    """Check that after so many calls of reconcile the next has nothing to do."""
    for _ in range(rounds):
        reconcile(runtime)
    assert kinds(reconcile(runtime)) == []


def gone(pid: int | None) -> bool:
    """Whether no process has this pid."""
    assert pid is not None
    return processes.start_time(pid) is None


def kill(*pids: int | None) -> None:
    """SIGKILL, and wait until they are gone."""
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: all(gone(pid) for pid in pids), what="they die")


def all_die(run: Run) -> None:
    """Wait until no process of the run is left, its launcher among them."""
    eventually(lambda: not processes.of_run(run.token), what="its processes end")


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """SIGSTOP for as long as this lasts."""
    assert pid is not None
    started = processes.start_time(pid)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if started is not None and processes.start_time(pid) == started:
            os.kill(pid, signal.SIGCONT)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have this process find that the machine has been awake for so much longer."""
    real = processes.awake
    monkeypatch.setattr(processes, "awake", lambda: real() + int(seconds * 1000))


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have this process find the clock set so much forward, or back; said again, from where it really stands."""
    monkeypatch.setattr(time, "time_ns", lambda: REAL_TIME() + int(seconds * 1e9))


def copy_of(runtime: Runtime, path: Path) -> Path:
    """A copy of the database as it is now, as a backup would make it."""
    with closing(sqlite3.connect(runtime.database)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return path


def put_back(world: World, runtime: Runtime, copy: Path | None) -> Runtime:
    """Replace the database by the copy, or only delete it; a new process's runtime."""
    runtime.store.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{runtime.database}{suffix}").unlink(missing_ok=True)
    if copy is not None:
        runtime.database.write_bytes(copy.read_bytes())
    return world.runtime()


AT_A_POINT = """
import os, signal, sys, time
from dispatchctl import dispatch, faults, steps
from dispatchctl.config import Environment
from dispatchctl.runtime import Runtime
point, number, launches = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "launches"
if not launches:
    steps.LAUNCH = "import time; time.sleep(600)"
faults.at_point = lambda name: os.kill(os.getpid(), number) if name == point else None
dispatch.dispatch(Runtime(Environment.read(), private_tmux=True), most=1)
"""


def dispatcher(world: World, point: str, number: int, *, launches: bool = True) -> subprocess.Popen[bytes]:
    """A dispatcher in a process of its own that gets the signal at the point; without `launches` no launcher ever begins."""
    return subprocess.Popen(
        [sys.executable, "-c", AT_A_POINT, point, str(int(number)), "launches" if launches else "does not"],
        env=world.variables,
        stderr=subprocess.PIPE,
    )


def killed_at(world: World, point: str, *, launches: bool = True) -> None:
    """Have a dispatcher be killed at the point."""
    process = dispatcher(world, point, signal.SIGKILL, launches=launches)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process was stopped, and waits to be continued."""
    assert process.poll() is None, process.communicate()
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def history_holds(runtime: Runtime) -> None:
    """Check that the events, replayed, give the rows."""
    backend = Sqlite(runtime.database.parent)
    backend.path = str(runtime.database)
    assert_replayed(backend, runtime.store.events())


def work_is_kept(world: World, run: Run) -> bool:
    """Whether the run's worktree still has what its agent did."""
    return os.path.exists(os.path.join(run.worktree, "began"))
