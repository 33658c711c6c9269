"""What a store can do: domain verbs, each one transaction.

Every write after the claim names the phase and token, or the status, that it expects; one that matches no row changes
nothing and raises `Refused`. Every change of a status writes its event in the same transaction. `at` is milliseconds since
the epoch. A second backend is one module that passes `tests/store`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dispatchctl.store.counted import Forgettable, Happened, Standings, Tally
from dispatchctl.task import Activity, Actor, Ask, Event, Life, NewTask, Phase, Report, Run, Status, Task
from dispatchctl.verdict import Changes, Cure, Ending, Policy

if TYPE_CHECKING:
    from dispatchctl.doctor.health import Contents
    from dispatchctl.store.room import Occupancy


@dataclass(frozen=True)
class Names:
    """Every name a run will use, fixed before anything outside the database is touched."""

    agent: str
    branch: str
    worktree: str
    run_dir: str
    owner_lock: str
    step_lock: str
    socket: str
    session: str
    agent_session: str | None = None
    tmux: str = ""
    git: str = ""
    """The programs that are used there, by their absolute paths: whoever comes later may have another PATH, or none."""


@dataclass(frozen=True)
class Place:
    """A tmux socket (`kind` tmux) or a repository (git) that runs have used, and the program that was used there."""

    kind: str
    path: str
    program: str


@dataclass(frozen=True)
class Sighting:
    """When a run was last seen to stir: how much it had written by then, its last heartbeat, and the time awake."""

    token: str
    output_size: int
    heartbeat_at: int | None
    stirred_awake: int


@dataclass(frozen=True)
class Room:
    """How many runs may be open at once: in all, in one repository, of one agent. 0 is no limit.

    `in_repository` holds the limits of the repositories that were looked at, None where none has any; one that is missing
    where it matters is asked for by `UnknownLimit`. An agent that is missing has none.
    """

    in_all: int
    in_repository: Mapping[str, int] | None = None
    of_agent: Mapping[str, int] = field(default_factory=dict)


class UnknownLimit(Exception):
    """A claim needs the limit of a repository; nothing was changed. Never leaves `launch.claim`."""

    def __init__(self, repo: str) -> None:
        super().__init__(repo)
        self.repo = repo


@dataclass(frozen=True)
class Pause:
    """Nothing is started in the repository, or where `repo` is empty in none, since `at` (milliseconds)."""

    repo: str
    at: int
    reason: str | None


@dataclass(frozen=True)
class Claimant:
    """Who claims, and what names the run gets: `names(task, number, earlier)`, with the run to resume or None.

    The task comes without its parents: there may be thousands, and no name depends on them.
    """

    token: str
    host: str
    boot_id: str
    names: Callable[[Task, int, Run | None], Names]


@dataclass(frozen=True)
class Window:
    """Where a run's pane is: ids of one life of one tmux server."""

    session: str
    window_id: str
    pane_id: str
    server_pid: int
    server_start: int


class Store(Protocol):
    """A durable queue of tasks with their runs and history."""

    path: str

    @property
    def id(self) -> str:
        """The random id of this database, made with it."""

    def close(self) -> None: ...

    # -- what the user does to a task ------------------------------------------------------------------------------
    def add(self, new: Sequence[NewTask], *, actor: Actor, at: int) -> list[Task]:
        """Insert all or none. Raises `NoSuchTask` for an unknown parent."""

    def edit(self, task: int, changes: Mapping[str, Any], after: Collection[int] | None, *, at: int) -> Task:
        """Change columns of a task without an open run; `after` replaces its parents and must not close a circle.

        `changes` has values of the types of `NewTask`; retries and recoveries are `retries_left` and `recoveries_left`.
        """

    def remove(self, tasks: Collection[int], *, at: int) -> None:
        """Delete tasks that have no open run and on which no other task waits; their events stay."""

    def release(self, tasks: Collection[int], *, at: int) -> list[Task]:
        """backlog → ready, all or none."""

    def approve(self, tasks: Collection[int], *, at: int) -> list[Task]:
        """in_review → done, all or none; their children are released."""

    def reject(self, task: int, *, note: str, recoveries: int, at: int) -> Task:
        """in_review → ready; the next run gets the note, and goes on in the same worktree."""

    def retry(self, task: int, *, note: str | None, fresh: bool, recoveries: int, at: int) -> Task:
        """A finished, reviewed or blocked task → ready; refused while a run is open or a child has started."""

    def shorten_waits(self, *, at: int) -> list[int]:
        """Have tasks tried now whose next try was put off by a clock that has since been put back by more than a minute."""

    def retriable(self, task: int) -> Task:
        """The task, if `retry` would not be refused now."""

    def leave_place(self, token: str, *, at: int) -> None:
        """Before a closed run's worktree goes: no later run of the task is to go on in it. Said again, changes nothing.

        Raises `Refused` while a run of the task is open, or while it is ready to go on there.
        """

    def cancel(self, task: int, *, at: int) -> Task:
        """→ cancelled, for a task without an open run."""

    def pause(self, repo: str, *, reason: str | None, at: int) -> bool:
        """Have nothing claimed in the repository, or with '' in any; False if it is paused already, and stays as it is."""

    def unpause(self, repo: str) -> bool:
        """Have tasks claimed there again; False if it was not paused. A pause of the whole queue is another one."""

    def unblock(self, task: int, *, note: str | None, at: int) -> Task:
        """blocked → in_progress where its session is open, else → ready."""

    def resolve(self, task: int, report: Report, message: str | None, *, at: int) -> Task:
        """A human's verdict on a task without an open run: blocked → done or failed, in_review → done."""

    # -- what is there ---------------------------------------------------------------------------------------------
    def task(self, task: int) -> Task: ...

    def tasks(
        self, *, status: Collection[Status] = (), labels: Collection[str] = (), repo: str | None = None, limit: int = 0
    ) -> list[Task]:
        """Those that need a human first, then the rest by status; the finished ones newest first. `limit` 0 is all."""

    def claimable(
        self,
        *,
        at: int,
        limit: int,
        labels: Collection[str] = (),
        besides: Collection[int] = (),
        room: Room | None = None,
    ) -> list[Task]:
        """What would be claimed next, in order, paused repositories left out; with `room` also what is over its limits.

        With `room`, the answer is empty where no run may be opened. `limit` 0 is all. Raises `UnknownLimit`.
        """

    def next_due(self, *, at: int) -> int | None:
        """When the next task that waits for nothing but its time comes to be claimable; None if there is none."""

    def has_ready(self) -> bool:
        """Whether a task is ready that waits for no other task: for its time, room or the end of a pause at most."""

    def line(self, *, at: int, labels: Collection[str] = ()) -> list[tuple[int, str, str]]:
        """Id, repository and agent of every task that waits for nothing but room, in the order of claims, paused or not."""

    def pauses(self) -> list[Pause]:
        """What is paused, the whole queue first."""

    def occupied(self) -> "Occupancy":
        """What is paused and how many runs are open, in one moment."""

    def parents(self, tasks: Collection[int]) -> dict[int, list[Task]]:
        """The unfinished parents of each of the tasks; those without any are left out."""

    def children(self, task: int) -> list[int]:
        """The tasks that are to run after this one."""

    def count(self) -> dict[Status, int]:
        """How many tasks have each status."""

    def runs(self, task: int) -> list[Run]: ...

    def run(self, token: str) -> Run: ...

    def open_runs(self) -> list[Run]: ...

    def open_tasks(self) -> list[Task]:
        """The tasks that have an open run, each with that run."""

    def find_runs(self, tokens: Collection[str]) -> dict[str, Run]:
        """Those of the runs that there are, by token."""

    def kept_runs(self, *, closed_before: int) -> list[Run]:
        """Closed runs whose worktree, branch, pane and directory were not cleared away yet, those closed first first."""

    def places(self) -> list[Place]:
        """Every tmux socket and repository that runs have used."""

    def sightings(self) -> dict[str, Sighting]:
        """When each open run was last seen to stir, by token."""

    def events(self, *, task: int | None = None, after: int = 0, since: int = 0, limit: int = 0) -> list[Event]: ...

    def forgettable(self) -> list[Forgettable]:
        """Every finished task without an open run, and every removed one, that has events to forget; the newest first."""

    def forget(self, chosen: Collection[Forgettable], *, actor: Actor, at: int) -> list[Forgettable]:
        """Drop the events of these, but of those to which something has happened since; which went.

        One event takes their place, from which a replay gives the rows as they are. One transaction: ask for few at a time.
        """

    # -- what is counted -------------------------------------------------------------------------------------------
    def standing(self, *, at: int, tasks: bool = True) -> Standings:
        """How many open runs there are, what has been ready for longest, and with `tasks` how many there are of them."""

    def happened(self, *, since: int) -> Happened:
        """How runs have ended and tasks were done since then, of the tasks that are still there."""

    def tallies(self) -> list[Tally]:
        """How often everything has ever happened; no number ever becomes less."""

    def only_read(self) -> None:
        """Refuse every further write through this store."""

    # -- readers of events -----------------------------------------------------------------------------------------
    def next_events(self, after: int, *, limit: int) -> list[Event]:
        """The first `limit` events with an id over `after`, in order."""

    def cursor(self, name: str) -> int | None:
        """The last event that the reader of that name has dealt with; None if it has never said."""

    def move_cursor(self, name: str, event: int) -> bool:
        """Note that the reader has dealt with everything up to the event; False if it had come as far before."""

    def last_event(self) -> int:
        """The id of the newest event; 0 if there is none."""

    def version(self) -> int:
        """Changes when another connection has committed something; costs microseconds."""

    # -- the protocol of a run -------------------------------------------------------------------------------------
    def claim(
        self,
        claimant: Claimant,
        *,
        task: int | None = None,
        labels: Collection[str] = (),
        besides: Collection[int] = (),
        room: Room,
        actor: Actor,
        at: int,
    ) -> Run | None:
        """Give the best claimable task but `besides`, or `task`, a new run in phase launching; None if there is none.

        Raises `Refused` when `task` cannot be claimed, `QueueFull` when only the limits or a pause keep tasks from it, and
        `UnknownLimit`.
        """

    def note_base(self, token: str, *, base_commit: str, owns_tree: bool, owns_branch: bool, at: int) -> Run:
        """Store what the run starts from and what it is about to make, while it is launching."""

    def note_window(self, token: str, window: Window, *, actor: Actor = Actor.DISPATCH, at: int) -> None:
        """Store where the pane is; a quick agent may have ended by then, but a run that is being undone refuses."""

    def begin_undo(self, token: str, error: str, *, actor: Actor, at: int) -> bool:
        """launching → undoing; False if the run is no longer launching."""

    def undo_failed(self, token: str, error: str, *, actor: Actor, at: int) -> None:
        """The undo stopped: the task is failed, the run stays open and says what stands. Said again, changes nothing."""

    def close_undone(
        self, token: str, error: str, *, cure: Cure, policy: Policy, actor: Actor, at: int, jitter: float
    ) -> Task:
        """undoing → closed, and the task to ready, failed or cancelled."""

    def close_ended(
        self,
        token: str,
        ending: Ending,
        changes: Changes | None,
        result: str | None,
        policy: Policy,
        *,
        actor: Actor,
        at: int,
        jitter: float,
        last_message: str | None = None,
    ) -> Task:
        """started → closed, and the task to where `verdict.judge` says. The second time it changes nothing."""

    def reenter(self, run: Run, task: Task, *, was: Phase | None, actor: Actor, at: int) -> Task:
        """Enter a started run that the database has lost (`was` None), or knows only as it was before: its agent did start.

        The task is added again if it is lost too, and becomes in_progress. Raises `Refused` if it has another open run,
        or if the run is in another phase than it `was`.
        """

    def note_cleared(self, token: str, *, actor: Actor, at: int) -> None:
        """Note that nothing is left of a closed run but its row and events. Said again, changes nothing."""

    def note_merged(self, token: str, commit: str, *, at: int) -> Task:
        """Note the commit of the base that holds the work of a task's newest run, and in_review → done with it.

        Raises `Refused` while a run of the task is open, and for a task that is neither done nor in review.
        """

    def note_pull_request(self, token: str, url: str, *, at: int) -> Task:
        """Note which pull request asks for the work of a task's newest run; refused like `note_merged`."""

    # -- what is said of an open run -------------------------------------------------------------------------------
    def report(
        self, token: str, report: Report, message: str | None, *, actor: Actor, at: int, awake: int | None = None
    ) -> Run:
        """Record what was said of an open run; `awake` is the time in this boot, of which its grace is counted."""

    def block(self, token: str, message: str | None, *, actor: Actor, at: int) -> Task:
        """in_progress → blocked; the session goes on."""

    def ask(
        self, token: str, ask: Ask, *, actor: Actor, at: int, awake: int | None = None, why: str | None = None
    ) -> Run:
        """Ask an open run to end, and `why`; one that is still being launched then never starts its agent.

        Asking for the same again changes nothing, and nothing replaces a cancellation.
        """

    def heartbeat(self, token: str, activity: Activity, *, at: int) -> None: ...

    def sighted(self, token: str, life: Life, *, at: int) -> None:
        """Remember what was last seen of the run."""

    def sight(self, seen: Collection[Sighting]) -> None:
        """Remember when runs were last seen to stir."""

    def note_activity(self, token: str, activity: Activity, *, actor: Actor, at: int, why: str | None = None) -> None:
        """Note what a started run's agent is doing, with an event: it has stalled, or goes on."""

    # -- what doctor asks ------------------------------------------------------------------------------------------
    def contents(self, *, at: int, within: float) -> "Contents":
        """What is wrong with rows, references, indexes and pages, looked at for at most `within` seconds."""

    def recount(self) -> int:
        """Count again what is counted, the unfinished parents of tasks; how many rows were wrong."""

    def rebuild(self) -> list[str]:
        """Make again what of the schema is missing and holds no data; what that was."""

    def use_write_ahead_log(self) -> None:
        """Have readers not wait for writers again."""

    def known_branches(self, repo: str) -> Collection[str]:
        """The branches of all runs in the repository."""

    def last_closed(self) -> int | None:
        """When a run was closed last, of those that were not cleared away."""
