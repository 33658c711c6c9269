"""What was seen of the world at one moment: tmux servers with their panes, processes, locks, exit files, and then the rows.

Pure values; `reconcile.observe` fills them, `plan` and doctor read them. None, and `Answer.UNKNOWN`, mean "could not be
told", which is never "not there".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dispatchctl.task import Life, Run, Status
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
        return next((pane for pane in self.panes if pane.token == token), None)


@dataclass(frozen=True)
class SeenRun:
    """An open run with the evidence about it."""

    run: Run
    status: Status
    owner: Holder = Holder.MISSING
    ending: Ending | None = None
    launcher: bool | None = None
    processes: int = 0


@dataclass(frozen=True)
class Snapshot:
    """The world of one database at one moment (milliseconds since the epoch)."""

    at: int
    host: str
    boot_id: str
    servers: Mapping[str, Server] = field(default_factory=dict)
    runs: tuple[SeenRun, ...] = ()

    def server_of(self, run: Run) -> Server:
        """The server on the run's socket; one that was not asked is unknown."""
        return self.servers.get(run.socket, Server(Answer.UNKNOWN, said="it was not asked"))


def life(world: Snapshot, seen: SeenRun) -> Life:
    """Whether anything of the run lives. Evidence, never age."""
    run = seen.run
    if run.host != world.host:
        return Life.UNKNOWN
    if run.boot_id != world.boot_id:
        return Life.GONE
    if seen.launcher or seen.processes:
        return Life.ALIVE
    server = world.server_of(run)
    if server.answer is Answer.UNKNOWN or (seen.launcher is None and run.launcher_pid is not None):
        return Life.UNKNOWN
    pane = server.pane_of(run.token)
    return Life.UNKNOWN if pane is not None and not pane.dead else Life.GONE
