"""Letting a fault happen at a point, inside the process that reaches it. What is to happen is told by a file."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from dispatchctl import faults
from dispatchctl.errors import LaunchError, Unanswered
from dispatchctl.store.connection import Database

SPEC = "fault.json"
VISITED = "visited"
TESTS = str(Path(__file__).parent.parent)
LAUNCH = (
    "import sys; sys.path[:0] = [{tests!r}, sys.argv[1]]; from proof import inside; inside.arm({root!r});"
    " from dispatchctl import launcher; launcher.main(sys.argv[2])"
)
ASLEEP = "import time; time.sleep(600)"


class Fault(StrEnum):
    """What can happen at a point."""

    EXCEPTION = "exception"
    TIME_OUT = "time-out"
    KILL_DISPATCHER = "SIGKILL of the dispatcher"
    KILL_LAUNCHER = "SIGKILL of the launcher"
    KILL_SERVER = "SIGKILL of the tmux server"
    GIT_KILLED = "git killed"
    FAILING_HOOK = "failing post-checkout hook"
    DISK_FULL = "disk full"
    LOCKED = "database locked"
    EARLIER = "database one commit earlier"


def arm(root: str) -> None:
    """Have this process note each point that it reaches, and strike at those that the world's file names, once each."""
    place = Path(root)
    strikes: dict[str, str] = json.loads((place / SPEC).read_text())["strikes"]

    def at_point(name: str) -> None:
        with open(place / VISITED, "a") as file:
            file.write(f"{name}\n")
        if name in strikes:
            with contextlib.suppress(FileExistsError):
                struck = os.open(place / f"struck {name}", os.O_CREAT | os.O_EXCL)
                os.close(struck)
                strike(place, Fault(strikes[name]))

    faults.at_point = at_point
    _keep_copies(place)


def _keep_copies(place: Path) -> None:
    """Have every write transaction begun with a copy of the database as it was before."""
    enter = Database.__enter__

    def enter_with_copy(self: Database) -> Database:
        entered = enter(self)
        copies = place / "copies"
        copies.mkdir(exist_ok=True)
        target = sqlite3.connect(copies / "new.db")
        source = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk has no room for a copy
            source.backup(target)
            target.close()
            os.rename(copies / "new.db", copies / f"{time.time_ns():020d}.db")
        source.close()
        return entered

    Database.__enter__ = enter_with_copy  # type: ignore[method-assign]


def strike(place: Path, fault: Fault) -> None:
    """Let it happen now."""
    if fault is Fault.EXCEPTION:
        raise LaunchError("a fault was planted here")
    if fault is Fault.TIME_OUT:
        raise Unanswered("what was asked here did not answer")
    if fault in (Fault.KILL_DISPATCHER, Fault.EARLIER):
        kill(_number(place / "dispatcher"))
        if fault is Fault.EARLIER:  # else this was the dispatcher, and whoever started it does that
            restore(place)
    elif fault is Fault.KILL_LAUNCHER:
        for pid in _panes(place):
            kill(pid)
    elif fault is Fault.KILL_SERVER:
        kill(_server(place))
    elif fault is Fault.GIT_KILLED:
        (place / "kill git").touch()
    elif fault is Fault.FAILING_HOOK:
        hook = place / "repo" / ".git" / "hooks" / "post-checkout"
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    elif fault is Fault.DISK_FULL:
        fill(place)
    elif fault is Fault.LOCKED:
        _lock(place)


def kill(pid: int | None) -> None:
    """SIGKILL, and wait until it has taken effect; the process may be this one."""
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X"):
                    return
        except OSError:
            return
        time.sleep(0.002)


def restore(place: Path) -> None:
    """Put the database back as it was before its last commit; nobody has it open."""
    database = json.loads((place / SPEC).read_text())["database"]
    copies = sorted((place / "copies").glob("0*.db"))
    if not copies or (place / "restored").exists():
        return
    (place / "restored").touch()
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(database + suffix)
    shutil.copyfile(copies[-1], database)


def _number(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() else None


def _tmux(place: Path, *arguments: str) -> list[str]:
    command = ["tmux", "-S", str(place / "tmux.sock"), *arguments]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)  # noqa: PLW1510
    return done.stdout.split()


def _server(place: Path) -> int | None:
    answer = _tmux(place, "display-message", "-p", "#{pid}")
    return int(answer[0]) if answer else None


def _panes(place: Path) -> list[int]:
    return [int(pid) for pid in _tmux(place, "list-panes", "-a", "-F", "#{pane_pid}")]


def fill(place: Path) -> None:
    """Leave no room on the disk of this world, which has to be its own."""
    for size in (65_536, 512):
        with contextlib.suppress(OSError), open(place / "filler", "ab", buffering=0) as file:
            file.writelines(b"\0" * size for _ in range(1_000))


LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(3)
"""


def _lock(place: Path) -> None:
    """Have another program, which knows nothing of our turnstile, lock the database for longer than anybody waits."""
    spec: dict[str, Any] = json.loads((place / SPEC).read_text())
    command = [sys.executable, "-I", "-S", "-c", LOCK, spec["database"]]
    holder = subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True, env={"HOME": str(place / "home")}
    )
    assert holder.stdout is not None
    holder.stdout.readline()
