"""Everything that doctor's checks are asked of, as frozen values; `examination` fills them.

A part that could not be had is `Unknown`, with the reason. Times are milliseconds since the epoch, lengths of time seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dispatchctl.plan import Action, Kind, plan
from dispatchctl.snapshot import Answer, SeenRun, Snapshot
from dispatchctl.task import Run, Task


@dataclass(frozen=True)
class Unknown:
    """Facts that could not be had: why, of what, and what to type."""

    subject: str
    why: str
    fix: str


@dataclass(frozen=True)
class Fault:
    """Something that a door refused, as it said it, and what to type."""

    subject: str
    text: str
    fix: str


@dataclass(frozen=True)
class Program:
    """A program that everything depends on: its path (None: not found) and version (None: `said` is why it is not known)."""

    name: str
    path: str | None
    version: tuple[int, ...] | None = None
    said: str = ""


@dataclass(frozen=True)
class Tools:
    """tmux and git."""

    tmux: Program
    git: Program


@dataclass(frozen=True)
class Setup:
    """What is wrong with the user's settings, and with the files of repositories of unfinished tasks."""

    user: tuple[Fault, ...] = ()
    repositories: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Agent:
    """An agent that unfinished tasks name; `signed_in` None: there is no way to tell, else by what `signs` says."""

    name: str
    program: str
    found: bool
    known: bool = True
    ready: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    signed_in: bool | None = None
    signs: str = ""


@dataclass(frozen=True)
class Agents:
    """The agents of unfinished tasks."""

    each: tuple[Agent, ...] = ()


@dataclass(frozen=True)
class Place:
    """A directory that has to hold what we write: what it is for, its file system, and why it cannot be written, if so."""

    what: str
    path: str
    kind: str = ""
    free: int | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Gate:
    """A lock before the database that somebody holds and does not let go of; `pid` None: nobody is seen."""

    path: str
    held_s: float
    pid: int | None
    state: str | None = None


@dataclass(frozen=True)
class DatabaseFile:
    """The database as a file, from outside. `fault`: why it cannot be opened."""

    path: str
    places: tuple[Place, ...] = ()
    fault: Fault | None = None
    gates: tuple[Gate, ...] = ()
    others: Mapping[int, str] = field(default_factory=dict)
    """Programs other than dispatchctl that have it open, by pid."""
    sqlite: tuple[int, ...] = ()


@dataclass(frozen=True)
class Contents:
    """The database from inside, as the store says. `damage` None: the look took too long."""

    path: str
    damage: tuple[str, ...] | None = ()
    broken_references: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    claim_uses_index: bool = True
    journal: str = "wal"
    miscounted: tuple[int, ...] = ()
    never_due: tuple[int, ...] = ()
    disagreeing: tuple[tuple[int, str], ...] = ()
    """Tasks whose status and runs say different things, each with what is wrong."""
    misplaced: tuple[tuple[int, str], ...] = ()
    """Tasks with an open run that is not the one they name as their newest, each with that run's token."""
    unrecorded: tuple[tuple[int, str], ...] = ()
    """Tasks whose status is not what their history says."""
    newest_event_at: int | None = None
    at: int = 0


@dataclass(frozen=True)
class Socket:
    """A tmux socket: whether it is that of new runs, what is wrong with it, and the unit that its server runs in."""

    path: str
    configured: bool = False
    fault: Fault | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Fleet:
    """The open runs and strays, and what concerns them beyond the snapshot."""

    world: Snapshot
    states: Mapping[int, str] = field(default_factory=dict)
    """The states of launchers, agents and holders of locks, by pid."""
    names: Mapping[int, str] = field(default_factory=dict)
    """The names of the processes that recorded servers were, by pid."""
    holders: Mapping[str, int] = field(default_factory=dict)
    """Who holds an owner lock, by its path, where somebody is seen."""
    missing: Mapping[str, Fault] = field(default_factory=dict)
    """What of a started run is not where it should be, by token."""
    sockets: tuple[Socket, ...] = ()
    launch_s: float = 3_600.0
    """The longest that a launch may take by the settings."""
    reconciled_at: int | None = None

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """What reconcile would do."""
        return plan(self.world)

    def planned(self, *kinds: Kind) -> tuple[Action, ...]:
        """Those of the actions that are of one of the kinds."""
        return tuple(action for action in self.actions if action.kind in kinds)

    def socket_of(self, action: Action) -> str | None:
        """The socket of the run or stray that the action is about."""
        strays = [each.socket for each in self.world.strays if each.token == action.run]
        return next(iter(strays or [seen.run.socket for seen in self.world.runs if seen.run.token == action.run]), None)

    def lost_servers(self) -> Mapping[int, SeenRun]:
        """The servers that live and that nobody reaches any more, by pid, each with one of its runs."""
        lost = {}
        for seen in self.world.runs:
            run, server = seen.run, self.world.server_of(seen.run)
            lives = run.server_pid is not None and self.names.get(run.server_pid, "").startswith("tmux")
            if lives and server.answer is not Answer.UNKNOWN and server.pid != run.server_pid:
                lost[run.server_pid or 0] = seen
        return lost


@dataclass(frozen=True)
class Queue:
    """The unfinished tasks, and the failed ones that look for a human."""

    at: int
    waiting: tuple[Task, ...] = ()
    """Tasks that are ready or in the backlog."""
    parents: Mapping[int, tuple[Task, ...]] = field(default_factory=dict)
    """The unfinished parents of waiting tasks."""
    failed: tuple[Task, ...] = ()
    claimable: tuple[int, ...] = ()
    """Tasks that a claim would take now: nothing is paused for them, and no limit is reached."""
    claimable_since: int | None = None
    """Since when the task that waits longest could have been started: it was claimable, and there was room."""
    room: int = 1
    """How many more runs may be opened."""
    paused: Mapping[str, int] = field(default_factory=dict)
    """Since when each repository is paused, or with '' the whole queue."""
    attended: bool = True
    """Whether `watch` runs; also where there is no systemd, and cron may do its work, which is not seen."""


@dataclass(frozen=True)
class Unit:
    """An installed unit: the program that it runs, and whether that is there. `outdated`: how it is not what would be written
    now, and whether that is by hand."""

    name: str
    program: str
    found: bool = True
    outdated: tuple[str, bool] | None = None


@dataclass(frozen=True)
class Service:
    """The units that `dispatchctl service install` has written; `lingers` None: it cannot be told."""

    units: tuple[Unit, ...] = ()
    lingers: bool | None = None


@dataclass(frozen=True)
class Tree:
    """A worktree that is locked in this database's name. `run` None: the database knows none with its token."""

    repo: str
    path: str
    token: str
    task: str
    branch: str | None
    exists: bool
    run: Run | None = None


@dataclass(frozen=True)
class GitLock:
    """A lock file of git's: its age, and whether anybody who may have made it is still there."""

    path: str
    age_s: float
    in_use: bool


@dataclass(frozen=True)
class Repository:
    """A repository of runs or unfinished tasks. `fault`: it is not there, or git does not answer."""

    path: str
    fault: Fault | None = None
    ready: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    trees: tuple[Tree, ...] = ()
    locks: tuple[GitLock, ...] = ()
    unresolved: tuple[tuple[int, str, bool], ...] = ()
    """Tasks whose base names no commit: id, base, and whether it is ready."""
    branches: tuple[str, ...] = ()
    """Branches that look like a run's, of which no database's run is known."""


@dataclass(frozen=True)
class Repositories:
    """Every repository that runs have used or unfinished tasks name."""

    each: tuple[Repository, ...] = ()


@dataclass(frozen=True)
class Directory:
    """A run directory without a row."""

    path: str
    began: bool


@dataclass(frozen=True)
class Aside:
    """A worktree that a removal has put beside its path `worktree`; `judged`: nothing in it could be lost any more."""

    path: str
    worktree: str
    judged: bool
    age_s: float


@dataclass(frozen=True)
class Ground:
    """The state directory beside the database."""

    path: str
    open_to_others: tuple[str, ...] = ()
    directories: tuple[Directory, ...] = ()
    aside: tuple[Aside, ...] = ()


Part = Tools | Setup | Agents | DatabaseFile | Contents | Fleet | Queue | Repositories | Ground | Service


@dataclass(frozen=True)
class Health:
    """Everything, by the kind of the part."""

    parts: Mapping[type, Part | Unknown]

    def part(self, kind: type) -> Part | Unknown:
        """The part, or why it could not be had."""
        return self.parts[kind]
