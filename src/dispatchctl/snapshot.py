"""What was seen of the world at one moment: tmux servers with their panes, processes, locks, exit files, and then the rows.

Pure values; `reconcile.observe` fills them, `plan` and doctor read them. None, and `Answer.UNKNOWN`, mean "could not be
told", which is never "not there".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from dispatchctl.task import Life, Phase, Run, Status
from dispatchctl.verdict import Ending


class Answer(StrEnum):
    """What a tmux socket answered."""

    RUNNING = "running"
    NO_SERVER = "no server"
    UNKNOWN = "unknown"


class Holder(StrEnum):
    """Whether somebody holds a run's lock; a lock file that is not there tells nothing."""

    HELD = "held"
    FREE = "free"
    MISSING = "missing"


@dataclass(frozen=True)
class Pane:
    """A pane that carries a run's token."""

    token: str
    database: str
    pane_id: str
    window_id: str
    session: str
    dead: bool
    pid: int
    task: int | None = None


@dataclass(frozen=True)
class Server:
    """One tmux socket: the server behind it, by pid and start time, and its tagged panes."""

    answer: Answer
    pid: int | None = None
    start: int | None = None
    panes: tuple[Pane, ...] = ()
    said: str = ""

    def pane_of(self, token: str) -> Pane | None:
        """The pane that carries the token."""
        return self._by_token.get(token)

    @cached_property
    def _by_token(self) -> dict[str, Pane]:
        return {pane.token: pane for pane in reversed(self.panes)}

    def is_of(self, run: Run) -> bool:
        """Whether it is still the server in which the run was started."""
        same = (self.pid, self.start) == (run.server_pid, run.server_start)
        return self.answer is Answer.RUNNING and same


@dataclass(frozen=True)
class SeenRun:
    """An open run with the evidence about it. Lengths of time are in seconds, and a sleeping machine does not count.

    `began` says that its launcher marked the agent's start, `quiet_s` how long it has neither written nor sent a heartbeat.
    """

    run: Run
    status: Status
    owner: Holder = Holder.MISSING
    ending: Ending | None = None
    launcher: bool | None = None
    processes: int = 0
    began: bool = False
    timeout_s: int = 0
    age_s: float | None = None
    asked_s: float | None = None
    quiet_s: float | None = None


@dataclass(frozen=True)
class Tree:
    """A worktree that is locked in the name of a run of this database."""

    repo: str
    path: str
    branch: str | None
    task: int


@dataclass(frozen=True)
class Stray:
    """What carries a token of this database, of which the database has no open run: a pane, processes, lock files, a worktree.

    `run` is the closed run, None if the database knows none. `enterable` says that the run could be entered again: what it was
    is written down, it is its task's newest, and the task has no open run.
    """

    token: str
    task: int | None
    run: Run | None = None
    socket: str | None = None
    pane: Pane | None = None
    alive: bool = False
    began: bool = False
    ended: bool = False
    enterable: bool = False
    tree: Tree | None = None
    owner: Holder = Holder.MISSING

    @property
    def lives(self) -> bool:
        """Whether a process of it lives, be it only what is in its pane."""
        return self.alive or (self.pane is not None and not self.pane.dead)


@dataclass(frozen=True)
class Limits:
    """What the settings say, in seconds: `stall_after` 0 is never, `stall_ends` whether a stalled run is ended."""

    kill_grace: int = 10
    report_grace: int = 30
    stall_after: int = 0
    stall_ends: bool = False
    keep_windows: int = 3_600


@dataclass(frozen=True)
class Snapshot:
    """The world of one database at one moment (milliseconds since the epoch)."""

    at: int
    host: str
    boot_id: str
    servers: Mapping[str, Server] = field(default_factory=dict)
    runs: tuple[SeenRun, ...] = ()
    strays: tuple[Stray, ...] = ()
    limits: Limits = Limits()

    def server_of(self, run: Run) -> Server:
        """The server on the run's socket; one that was not asked is unknown."""
        return self.servers.get(run.socket, Server(Answer.UNKNOWN, said="it was not asked"))


def life(world: Snapshot, seen: SeenRun) -> Life:
    """Whether anything of the run lives. Evidence, never age. A run that is being started lives while its dispatcher does."""
    run = seen.run
    if run.host != world.host:
        return Life.UNKNOWN
    if run.boot_id != world.boot_id:
        return Life.GONE
    if seen.launcher or seen.processes or (run.phase is not Phase.STARTED and seen.owner is Holder.HELD):
        return Life.ALIVE
    server = world.server_of(run)
    if server.answer is Answer.UNKNOWN or (seen.launcher is None and run.launcher_pid is not None):
        return Life.UNKNOWN
    pane = server.pane_of(run.token)
    return Life.UNKNOWN if pane is not None and not pane.dead else Life.GONE
