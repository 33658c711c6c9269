"""A machine: processes with pids and start times, tmux servers with their panes, a clock, and reboots."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dispatchctl.processes import Carriers
from model.players import Player

HANGUP, KILL, TERM = 1, 9, 15


class Kind(StrEnum):
    """What a process is."""

    SERVER = "tmux server"
    LAUNCHER = "launcher"
    AGENT = "agent"
    HELPER = "something that an agent left"
    GIT = "git"
    FOREIGN = "somebody else's"


@dataclass(eq=False)
class Process:
    """A process; its pid is somebody else's later, and after a reboot even its start time may be."""

    kind: Kind
    pid: int
    start: int
    parent: "Process | None" = None
    token: str = ""
    database: str = ""
    player: Player | None = None
    alive: bool = True
    works: bool = False
    deaf: bool = False
    hung_up: bool = False
    code: int | None = None
    signal: int | None = None
    effects: list[Callable[[], None]] = field(default_factory=list)
    let_go: Callable[[], None] | None = None

    def is_alive(self) -> bool:
        """Whether it still is; asked again after others went on."""
        return self.alive

    @property
    def name(self) -> tuple[int, int]:
        """What a row keeps of it."""
        return self.pid, self.start


@dataclass(eq=False)
class Pane:
    """A tagged pane; `slow` is one of which tmux has not noticed that its program ended."""

    token: str
    database: str
    task: int
    pane_id: str
    window_id: str
    session: str
    launcher: Process
    slow: bool = False


@dataclass(eq=False)
class Tmux:
    """One life of a tmux server."""

    process: Process
    start: int
    panes: list[Pane] = field(default_factory=list)
    made: int = 0


@dataclass
class Computer:
    """The machine; times in milliseconds."""

    root: Path
    wall: int = 1_700_000_000_000
    awake: int = 50_000
    boot: int = 1
    processes: dict[int, Process] = field(default_factory=dict)
    servers: dict[str, Tmux] = field(default_factory=dict)
    players: list[Player] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    tokens: int = 0
    ticks: int = 0
    recorded: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)

    @property
    def socket(self) -> str:
        """Where tmux listens."""
        return str(self.root / "tmux.sock")

    @property
    def boot_id(self) -> str:
        """The id of this boot."""
        return f"boot-{self.boot}"

    # -- time ----------------------------------------------------------------------------------------------------
    def pass_time(self, seconds: float, *, asleep: bool = False) -> None:
        """Time goes by; a sleeping machine does not count it as awake."""
        self.wall += int(seconds * 1000)
        if not asleep:
            self.awake += int(seconds * 1000)

    # -- processes -----------------------------------------------------------------------------------------------
    def spawn(self, kind: Kind, parent: Process | None = None, *, token: str = "", database: str = "") -> Process:
        """A new process, with the smallest pid that is free: pids are reused at once."""
        pid = next(pid for pid in range(300, 10_000) if pid not in self.processes)
        self.ticks += 1
        process = Process(kind, pid, self.ticks, parent, token, database)
        self.processes[pid] = process
        return process

    def find(self, process: tuple[int, int]) -> Process | None:
        """Exactly this process, if it lives."""
        found = self.processes.get(process[0])
        return found if found is not None and found.start == process[1] else None

    def end(self, process: Process, *, code: int | None = None, signal: int | None = None) -> None:
        """The process ends; what stood on its terminal is hung up."""
        if not process.alive:
            return
        process.alive = process.works = False
        process.code, process.signal = code, signal
        del self.processes[process.pid]
        if process.let_go is not None:
            process.let_go()
        if process.player is not None and signal is not None:
            process.player.kill()
        if process.kind is Kind.LAUNCHER:
            self._hang_up_children(process)
        if process.kind is Kind.SERVER:
            self._lose_server(process)

    def _hang_up_children(self, launcher: Process) -> None:
        for child in [each for each in self.processes.values() if each.parent is launcher]:
            child.parent = None
            if not child.works and child.kind is Kind.AGENT:
                self.end(child, code=125)  # the gate closes
            elif not child.deaf:
                self.end(child, signal=HANGUP)

    def _lose_server(self, process: Process) -> None:
        for socket, server in list(self.servers.items()):
            if server.process is process:
                del self.servers[socket]
                for pane in server.panes:
                    pane.launcher.hung_up = True

    def of_run(self, token: str, roots: Iterable[tuple[int, int]]) -> list[Process]:
        """Every process that carries the token or descends from the roots."""
        found = {each.pid for each in self.processes.values() if each.token == token}
        found |= {root[0] for root in roots if self.find(root) is not None}
        grown = True
        while grown:
            kin = {each.pid for each in self.processes.values() if each.parent is not None and each.parent.pid in found}
            grown = not kin <= found
            found |= kin
        return [self.processes[pid] for pid in sorted(found)]

    def carriers(self) -> dict[str, Carriers]:
        """The processes of each run, as one look at the process table shows them."""
        found: dict[str, Carriers] = {}
        for process in self.processes.values():
            if process.token:
                carriers = found.setdefault(process.token, Carriers())
                carriers.count += 1
                carriers.databases.add(process.database)
        return found

    def with_kind(self, *kinds: Kind) -> list[Process]:
        """The living ones of these kinds, oldest first."""
        return sorted((each for each in self.processes.values() if each.kind in kinds), key=lambda each: each.start)

    # -- tmux ----------------------------------------------------------------------------------------------------
    def server(self) -> Tmux:
        """The server behind the socket, started if there is none."""
        if self.socket not in self.servers:
            self.servers[self.socket] = Tmux(self.spawn(Kind.SERVER), self.wall // 1000)
            Path(self.socket).touch()
        return self.servers[self.socket]

    def panes(self) -> list[Pane]:
        """Every pane there is."""
        return [pane for server in self.servers.values() for pane in server.panes]

    def close_pane(self, pane: Pane) -> None:
        """The pane goes; its launcher is hung up."""
        for server in self.servers.values():
            if pane in server.panes:
                server.panes.remove(pane)
        pane.launcher.hung_up = True

    # -- the end of everything -----------------------------------------------------------------------------------
    def reboot(self, *, alike: bool) -> None:
        """Every process is gone; what is on disk stays. Pids, start times and the time awake begin anew.

        `alike`: somebody else's processes now have the pids and the start times that launchers had.
        """
        names = [each.name for each in self.with_kind(Kind.LAUNCHER)] if alike else []
        for player in self.players:
            player.kill()
        for process in list(self.processes.values()):
            process.deaf = False
            self.end(process, signal=KILL)
        self.processes.clear()
        self.servers.clear()
        self.players.clear()
        self.boot += 1
        self.awake, self.ticks = 1_000, 0
        for pid, start in names:
            self.processes[pid] = Process(Kind.FOREIGN, pid, start)

    def play(self, name: str, work: Callable[[], object], process: Process | None = None) -> Player:
        """Start a process of ours; it stands at its beginning."""
        player = Player(name, work)
        self.players.append(player)
        if process is not None:
            process.player = player
        return player

    def step(self, player: Player) -> None:
        """Let it go on to its next point; a moment passes."""
        self.pass_time(0.01)
        player.step()
        self.players = [each for each in self.players if not each.over]

    def new_token(self) -> str:
        """The next run id."""
        self.tokens += 1
        return f"{self.tokens:08x}"

    def exists(self, path: str) -> bool:
        """Whether there is anything at the path."""
        return os.path.lexists(path)
