"""Tasks, runs and events as values, and the one table of allowed transitions.

Invariants, which the schema's CHECKs repeat:

* a task is `in_progress` exactly while it has an open run and has not asked for a human;
* a run is open from its claim until its phase is `closed`; a closed run has an outcome, an open one has none;
* how a run ended (`Outcome`) is kept apart from what became of its task (`Status`).

Times are integers, milliseconds since the epoch, UTC; those called `awake` are milliseconds of the clock that stands still
while the machine sleeps, and mean something in one boot of one machine. Durations are whole seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """Where a task stands."""

    BACKLOG = "backlog"
    READY = "ready"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    IN_REVIEW = "in_review"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT: Mapping[Status, frozenset[Status]] = {
    Status.BACKLOG: frozenset({Status.READY, Status.CANCELLED}),
    Status.READY: frozenset({Status.IN_PROGRESS, Status.CANCELLED}),
    Status.IN_PROGRESS: frozenset(
        {Status.READY, Status.BLOCKED, Status.IN_REVIEW, Status.DONE, Status.FAILED, Status.CANCELLED}
    ),
    Status.BLOCKED: frozenset(
        {Status.READY, Status.IN_PROGRESS, Status.IN_REVIEW, Status.DONE, Status.FAILED, Status.CANCELLED}
    ),
    Status.IN_REVIEW: frozenset({Status.READY, Status.DONE, Status.CANCELLED}),
    Status.DONE: frozenset({Status.READY}),
    Status.FAILED: frozenset({Status.READY, Status.CANCELLED}),
    Status.CANCELLED: frozenset({Status.READY}),
}

FINISHED: frozenset[Status] = frozenset({Status.DONE, Status.FAILED, Status.CANCELLED})


class Phase(StrEnum):
    """How far a run has come: launching → started → closed, or launching → undoing → closed."""

    LAUNCHING = "launching"
    STARTED = "started"
    UNDOING = "undoing"
    CLOSED = "closed"


NEXT_PHASE: Mapping[Phase, frozenset[Phase]] = {
    Phase.LAUNCHING: frozenset({Phase.STARTED, Phase.UNDOING}),
    Phase.STARTED: frozenset({Phase.CLOSED}),
    Phase.UNDOING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


class Outcome(StrEnum):
    """How a run ended."""

    EXITED = "exited"
    REPORTED = "reported"
    TIMED_OUT = "timed_out"
    HUNG_UP = "hung_up"
    LOST = "lost"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


class Cause(StrEnum):
    """Why the launcher's agent ended, as the launcher saw it (DESIGN section 5, step 8)."""

    BY_ITSELF = "by_itself"
    ASKED = "asked"
    HANGUP = "hangup"
    TERMINATED = "terminated"


class Report(StrEnum):
    """What the agent, or a human on its behalf, said of the run."""

    DONE = "done"
    FAIL = "fail"


class Ask(StrEnum):
    """Why somebody asked a run to end."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    REPORT = "report"


class Life(StrEnum):
    """Whether a run's processes live; `UNKNOWN` is never treated as `GONE`."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


class Activity(StrEnum):
    """What a live agent is doing, as far as anything told us."""

    STARTING = "starting"
    WORKING = "working"
    WAITING = "waiting"
    IDLE = "idle"
    STALLED = "stalled"
    UNKNOWN = "unknown"


class Actor(StrEnum):
    """Who made a change."""

    USER = "user"
    AGENT = "agent"
    DISPATCH = "dispatch"
    LAUNCHER = "launcher"
    RECONCILE = "reconcile"
    WATCH = "watch"


@dataclass(frozen=True)
class NewTask:
    """What `add` gives the store; every field is already checked."""

    title: str
    prompt: str
    repo: str
    base: str
    agent: str
    priority: int = 2
    labels: tuple[str, ...] = ()
    after: tuple[int, ...] = ()
    review: bool = False
    backlog: bool = False
    retries: int = 0
    recoveries: int = 3
    timeout_s: int = 43_200
    not_before: int | None = None


@dataclass(frozen=True)
class Run:
    """One try at a task by one agent. `None` means not known (yet).

    `agent_session` is the id of the agent's own session, which a later run may continue; `ready_at` since when the task had
    waited for this run; `merged` the commit of the base that holds the run's work.
    """

    token: str
    task: int
    number: int
    phase: Phase
    agent: str
    repo: str
    branch: str
    worktree: str
    resumed: bool
    run_dir: str
    owner_lock: str
    step_lock: str
    host: str
    boot_id: str
    claimed_at: int
    socket: str
    session: str
    base_commit: str | None = None
    owns_tree: bool = False
    owns_branch: bool = False
    server_pid: int | None = None
    server_start: int | None = None
    window_id: str | None = None
    pane_id: str | None = None
    launcher_pid: int | None = None
    launcher_start: int | None = None
    agent_pid: int | None = None
    agent_start: int | None = None
    started_at: int | None = None
    report: Report | None = None
    report_message: str | None = None
    ask: Ask | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    ended_at: int | None = None
    closed_at: int | None = None
    error: str | None = None
    activity: Activity | None = None
    heartbeat_at: int | None = None
    started_awake: int | None = None
    asked_awake: int | None = None
    cleared_at: int | None = None
    agent_session: str | None = None
    ready_at: int | None = None
    merged: str | None = None
    pull_request: str | None = None
    life: Life | None = None
    life_at: int | None = None


@dataclass(frozen=True)
class Task:
    """A task's row, with its parents and its newest run."""

    id: int
    title: str
    prompt: str
    status: Status
    priority: int
    labels: tuple[str, ...]
    agent: str
    repo: str
    base: str
    after: tuple[int, ...]
    review: bool
    retries_left: int
    recoveries_left: int
    timeout_s: int
    not_before: int | None
    error: str | None
    result: str | None
    note: str | None
    resume: str | None
    created_at: int
    updated_at: int
    waits: int = 0
    ready_at: int | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Event:
    """One thing that happened; `detail` holds the changed columns of the task and of the run, so that it can be replayed."""

    id: int
    task: int
    run: str | None
    at: int
    actor: Actor
    kind: str
    from_status: Status | None
    to_status: Status | None
    detail: Mapping[str, Any] = field(default_factory=dict)
