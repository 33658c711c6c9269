"""The model's machine behind the doors of the real program: processes, tmux, git, the clock, chance."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from dispatchctl import faults, launch, launcher, processes
from dispatchctl import worktrees as git
from dispatchctl.agents import Profile
from dispatchctl.config import Environment, Settings, state_dir
from dispatchctl.errors import Unanswered
from dispatchctl.processes import Carriers, Lock
from dispatchctl.runtime import Runtime
from dispatchctl.snapshot import Answer, Pane, Server
from dispatchctl.store import open_store, turnstile
from dispatchctl.store.protocol import Window
from dispatchctl.task import Run
from dispatchctl.windows import NoServer, Windows
from model import computer as machine
from model.computer import KILL, Computer, Kind, Process
from model.pane import run_launcher
from model.players import playing, stand
from model.repository import ModelGit, Repository

TABLE = "the process table"
"""In `Computer.silent`: the process table cannot be read."""
DOORS = ("awake", "start_time", "is_alive", "by_token", "of_run", "sweep", "working_in", "lock")
STALL_AFTER, KEEP_WINDOWS = 600, 300


class ModelWindows(Windows):
    """tmux in the model."""

    computer: Computer

    def check(self) -> None:
        """There is a tmux."""

    def look(self) -> Server:
        """Panes as tmux tells them, or that it does not."""
        try:
            return self._listing()
        except NoServer:
            return Server(Answer.NO_SERVER)
        except Unanswered as error:
            return Server(Answer.UNKNOWN, said=error.message)

    def _listing(self) -> Server:
        self._reach("look")
        server = self.computer.servers.get(self.socket)
        if server is None:
            raise NoServer("no tmux server is running", None)
        panes = [_shown(pane) for pane in server.panes]
        return Server(Answer.RUNNING, server.process.pid, server.start, tuple(panes))

    def _guarded(self, pane_id: str, token: str, command: str) -> bool:
        self._reach("kill")
        server = self.computer.servers.get(self.socket)
        for pane in server.panes if server is not None else ():
            if (pane.pane_id, pane.token) == (pane_id, token):
                self.computer.close_pane(pane)
                return True
        return False

    def open(self, run: Run, name: str, database: str, command: Sequence[str]) -> Window:
        """A tagged pane, in which a launcher begins."""
        self._reach("open")
        computer, server = self.computer, self.computer.server()
        marks = dict(word.split("=", 1) for word in command if word.startswith("DISPATCHCTL_"))
        process = computer.spawn(
            Kind.LAUNCHER, server.process, token=marks["DISPATCHCTL_TOKEN"], database=marks["DISPATCHCTL_DB"]
        )
        server.made += 1
        ids = f"%{server.made}", f"@{server.made}"
        server.panes.append(machine.Pane(run.token, database, run.task, *ids, run.session, process))
        computer.play(
            f"launcher {run.token}", lambda: run_launcher(computer, process, server.process, command[-1]), process
        )
        stand("tmux open, answered")
        if self.socket in computer.silent:
            raise Unanswered("tmux did not answer in time")
        return Window(run.session, ids[1], ids[0], server.process.pid, server.start)

    def paste(self, pane_id: str, token: str, text: str, *, enter: bool) -> bool:
        """The answer of a human."""
        return True

    def _reach(self, what: str) -> None:
        stand(f"tmux {what}")
        if self.socket in self.computer.silent:
            player = playing()
            if player is not None:
                player.silent.add(self.socket)
            raise Unanswered("tmux did not answer")


def _shown(pane: machine.Pane) -> Pane:
    dead = not pane.launcher.alive and not pane.slow
    return Pane(
        pane.token, pane.database, pane.pane_id, pane.window_id, pane.session, dead, pane.launcher.pid, pane.task
    )


class ModelRuntime(Runtime):
    """The parts, with the model's machine behind the doors."""

    computer: Computer

    @classmethod
    def made(cls, computer: Computer, repositories: dict[str, Repository], token: str | None = None) -> "ModelRuntime":
        """What a new process has, or one in the session of a run."""
        environment, settings, profiles = _constants()
        made = cls(environment if token is None else _in_session(environment, token))
        made.computer = computer
        database = computer.root / "tasks.db"
        made.__dict__.update(
            settings=settings,
            profiles=profiles,
            database=database,
            state=state_dir(database),
            worktrees_root=state_dir(database) / "worktrees",
            socket=computer.socket,
            git=ModelGit.placed(computer, repositories)("git", environment.inherited),
            tmux="tmux",
            host="here",
            boot_id=computer.boot_id,
        )
        return made

    def windows(self, socket: str | None = None) -> Windows:
        """tmux on the model's socket."""
        windows = ModelWindows("tmux", socket or self.socket, {}, timeout=1.0)
        windows.computer = self.computer
        return windows

    def settings_for(self, repo: str) -> Settings:
        """The repository has none of its own."""
        return self.settings


@lru_cache
def _constants() -> tuple[Environment, Settings, dict[str, Profile]]:
    """What is the same for every history, and takes long to make."""
    variables = {
        "HOME": "/nonexistent",
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin",
        "DISPATCHCTL_DISPATCH__STALL_AFTER": f"{STALL_AFTER}s",
        "DISPATCHCTL_TMUX__KEEP_WINDOWS": f"{KEEP_WINDOWS}s",
        "DISPATCHCTL_TASK__AGENT": "shell",
    }
    made = Runtime(Environment.read(variables))
    return made.environment, made.settings, made.profiles


def _in_session(environment: Environment, token: str) -> Environment:
    return Environment.read({**environment.inherited, "DISPATCHCTL_TOKEN": token})


class Clock:
    """What stands in for the module `time`."""

    def __init__(self, computer: Computer) -> None:
        self.computer = computer

    def time_ns(self) -> int:
        """Since the epoch."""
        return self.computer.wall * 1_000_000

    def monotonic(self) -> float:
        """Since the boot, awake."""
        return self.computer.awake / 1000

    def sleep(self, seconds: float) -> None:
        """Others go on meanwhile."""
        self.computer.pass_time(max(seconds, 0.1))
        stand("sleep")


class Processes:
    """What stands in for the functions of `dispatchctl.processes`; lock files are real."""

    def __init__(self, computer: Computer, before_end: Callable[[Process], None]) -> None:
        self.computer = computer
        self.before_end = before_end
        self.real_lock = processes.lock

    def awake(self) -> int:
        """Milliseconds of this boot."""
        return self.computer.awake

    def start_time(self, pid: int) -> int | None:
        """Of the living process with that pid."""
        process = self.computer.processes.get(pid)
        return None if process is None or self._silent() else process.start

    def is_alive(self, process: tuple[int, int]) -> bool | None:
        """None while the process table is silent."""
        return None if self._silent() else self.computer.find(process) is not None

    def by_token(self) -> dict[str, Carriers]:
        """Nothing, while the process table is silent."""
        stand("look at the process table")
        return {} if self._silent() else self.computer.carriers()

    def of_run(
        self, token: str, roots: Iterable[tuple[int, int]] = (), spare: Collection[int] = ()
    ) -> set[tuple[int, int]]:
        """The processes of a run, by name. Raises `FileNotFoundError` while the process table is silent."""
        if self._silent():
            raise FileNotFoundError("/proc")
        return {each.name for each in self.computer.of_run(token, roots) if each.pid not in spare}

    def sweep(
        self, find: Callable[[], set[tuple[int, int]]], *, grace: float, patience: float = 5.0
    ) -> set[tuple[int, int]]:
        """End what is found, one by one; what cannot be ended stays."""
        for name in sorted(find()):
            stand("sweep")
            process = self.computer.find(name)
            if process is not None and process.player is not playing():
                if process.works:
                    self.before_end(process)
                self.computer.end(process, signal=KILL)
        stand("swept")
        return find()

    def working_in(self, directory: str) -> list[int]:
        """Nobody stands in a directory."""
        return []

    def lock(self, path: str, *, wait: float = 0.0) -> Lock | None:
        """The real lock, which dies with its player."""
        made = self.real_lock(path, wait=wait)
        player = playing()
        if made is not None and player is not None:
            player.locks.append(made)
        return made

    def _silent(self) -> bool:
        if TABLE not in self.computer.silent:
            return False
        player = playing()
        if player is not None:
            player.silent.add(TABLE)
        return True


@contextmanager
def installed(
    computer: Computer, repositories: dict[str, Repository], before_end: Callable[[Process], None]
) -> Iterator[None]:
    """The program works on this machine; `before_end` hears of what is at work and is about to be ended by a command."""
    clock, table = Clock(computer), Processes(computer, before_end)
    replaced: list[tuple[Any, str, Any]] = [
        (faults, "at_point", stand),
        (launch, "new_token", computer.new_token),
        (launcher, "_say", lambda _: None),
        (git, "Worktrees", ModelGit.placed(computer, repositories)),
        *((module, "time", clock) for module in _that_look_at_the_clock()),
        *((processes, name, getattr(table, name)) for name in DOORS),
    ]
    patches = [patch.object(module, name, value) for module, name, value in replaced]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.stop()


def _that_look_at_the_clock() -> list[ModuleType]:
    """Our modules that import `time`, but the turnstile: nobody stands still in it."""
    ours = [module for name, module in sys.modules.items() if name.startswith("dispatchctl.")]
    return [module for module in ours if getattr(module, "time", None) is time and module is not turnstile]


def template(path: Path) -> bytes:
    """An empty database, made once."""
    open_store(str(path), create=True).close()
    return path.read_bytes()
