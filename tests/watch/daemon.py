"""A real `dispatchctl watch` in a private world."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import World, eventually

from dispatchctl.runtime import Runtime
from dispatchctl.task import Status


@dataclass
class Daemon:
    """The daemon's process and its log."""

    world: World
    process: "subprocess.Popen[bytes]"
    path: Path

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.path.read_text()

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What it has said so far, with `--log-format json`."""
        return [json.loads(line) for line in self.log.splitlines(keepends=True) if line.endswith("\n")]

    def says(self, text: str, *, within: float = 30.0) -> str:
        """Wait until it says something, and return the first such line."""

        def found() -> str | None:
            assert self.process.poll() is None or text in self.log, f"it has ended:\n{self.log}"
            return next((line for line in self.log.splitlines() if text in line), None)

        try:
            line = eventually(found, within=within, what=f"watch says {text!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None
        assert line is not None
        return line

    def send(self, number: int) -> None:
        """Signal it."""
        self.process.send_signal(number)

    def ends(self, *, within: float = 15.0) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(within)

    def stop(self) -> tuple[int, float]:
        """SIGTERM; the exit code, and the seconds that it took."""
        began = time.monotonic()
        self.send(signal.SIGTERM)
        return self.ends(), time.monotonic() - began


@contextlib.contextmanager
def watching(world: World, *arguments: str, hello: bool = True, **extra: str) -> Iterator[Daemon]:
    """A daemon for the world's database, which is made; ended by its pid, with its workers."""
    world.runtime().make_store().close()
    path = world.root / f"watch-{time.monotonic_ns()}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dispatchctl", "watch", *arguments],
            env={**world.variables, "DISPATCHCTL_NOTIFY__TMUX": "false", **extra},
            cwd=world.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    daemon = Daemon(world, process, path)
    try:
        if hello:
            daemon.says("watching ")
        yield daemon
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def children_of(pid: int) -> list[int]:
    """The live children of the process: of a daemon, the server that forks its workers."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def workers_of(pid: int) -> list[int]:
    """The live workers of the daemon."""
    return [worker for server in children_of(pid) for worker in children_of(server)]


def become(runtime: Runtime, tasks: Sequence[int], *statuses: Status, within: float = 60.0) -> None:
    """Wait until every one of the tasks has one of the statuses and no open run."""

    def there() -> bool:
        busy = {run.task for run in runtime.store.open_runs()}
        return all(task not in busy and runtime.store.task(task).status in statuses for task in tasks)

    try:
        eventually(there, within=within)
    except AssertionError:
        found = {task: (str(runtime.store.task(task).status), runtime.store.task(task).error) for task in tasks}
        raise AssertionError(f"not {statuses} within {within} s: {found}") from None


def is_there(pid: int) -> bool:
    """Whether the process lives."""
    return os.path.exists(f"/proc/{pid}")
