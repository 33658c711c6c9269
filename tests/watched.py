"""`dispatchctl watch` as a process of its own in a private world, started again as systemd would when it was killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from world import World, eventually

HELLO = "watching "


ACCOUNTS = (("/sys/fs/cgroup/cpuacct", "cpuacct.usage", 1e9), ("/sys/fs/cgroup", "cpu.stat", 1e6))
"""Where the kernel keeps accounts of groups of processes (cgroups 1 and 2), in which file, in what part of a second."""


@contextmanager
def private_world(letter: str, settings: Mapping[str, str] | None = None) -> Iterator[World]:
    """A world that is gone afterwards with everything that runs in it, also after an interruption."""
    root = Path(tempfile.mkdtemp(prefix=f"dctl-{letter}", dir="/tmp"))
    world = World(root, dict(settings or {}))
    try:
        yield world
    finally:
        deadline = time.monotonic() + 20
        world.close()
        while any(world.processes()) and time.monotonic() < deadline:  # whoever was being forked meanwhile
            world.close()
        shutil.rmtree(root, ignore_errors=True)


class Account:
    """The processor time of some processes and of all that they start from now on, also of those that nobody waits for.

    Raises `OSError` where no account can be opened: it takes root, and cgroups.
    """

    def __init__(self, *pids: int) -> None:
        place, name, self.part = next(each for each in ACCOUNTS if os.path.exists(f"{each[0]}/cgroup.procs"))
        self.place = Path(place) / f"dispatchctl-{pids[0]}"
        self.file = self.place / name
        self.place.mkdir()
        for pid in pids:
            (self.place / "cgroup.procs").write_text(str(pid))

    def seconds(self) -> float:
        """What they have used so far."""
        return int(self.file.read_text().removeprefix("usage_usec ").split()[0]) / self.part

    def close(self) -> None:
        """Close it. They must have ended."""
        eventually(lambda: not (self.place / "cgroup.procs").read_text(), what="the account is empty")
        self.place.rmdir()


class Watched:
    """The daemon of a world. Its log is `watch.log` there."""

    def __init__(self, world: World, *options: str) -> None:
        self.world = world
        self.options = options
        self.log = world.root / "watch.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        assert self.process is not None
        return self.process.pid

    def begin(self) -> None:
        """Start it, without waiting for anything."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dispatchctl", "watch", *self.options],
                env=self.world.variables,
                cwd=self.world.home,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1

    def start(self) -> float:
        """Start it; the seconds until its first line."""
        said = self.log.stat().st_size if self.log.exists() else 0
        began = time.perf_counter()
        self.begin()

        def hello() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.said()
            with open(self.log, "rb") as log:
                log.seek(said)
                return HELLO.encode() in log.read()

        eventually(hello, within=60, what="watch says hello")
        return time.perf_counter() - began

    def said(self) -> str:
        """Its log, as far as it has come."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def has_ended(self) -> bool:
        """Whether it is gone; then it is buried."""
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL, as the machine's lack of memory would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> tuple[int, float]:
        """SIGTERM; its exit code, and after how many seconds."""
        assert self.process is not None
        began = time.perf_counter()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), time.perf_counter() - began

    def workers(self) -> list[int]:
        """Processes forked from a daemon of this world, also from one that is dead."""
        found = []
        for pid in self.world.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if pid != self.pid and b"dispatchctl" in words and b"watch" in words:
                    found.append(pid)
        return found

    def resident(self) -> int:
        """KiB of memory that it has."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])
