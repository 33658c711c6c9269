"""What is counted of tasks and runs, by agent and repository, as `stats` and `metrics` have it from the store."""

from dataclasses import dataclass
from typing import NamedTuple

from dispatchctl.task import Status

BOUNDS_S = (0.25, 1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400)
"""Upper bounds of the buckets in which waiting and running times are tallied, in seconds. The schema holds them."""


class Standing(NamedTuple):
    """So many tasks have the status."""

    agent: str
    repo: str
    status: Status
    number: int


class Oldest(NamedTuple):
    """The task that could have been claimed for longest, and since when."""

    agent: str
    repo: str
    task: int
    ready_at: int


class Counted(NamedTuple):
    """So many of something."""

    agent: str
    repo: str
    number: int


class Spent(NamedTuple):
    """Tries that runs have used up by failing, by being lost or by not starting; and launches that were undone and have used
    up none, since the task has to wait for others."""

    agent: str
    repo: str
    retries: int
    recoveries: int
    waited: int


class EndedRun(NamedTuple):
    """A closed run; times are milliseconds since the epoch, None where they are not known.

    Words as they are stored: there may be a million of these, and few that differ.
    """

    agent: str
    repo: str
    outcome: str
    report: str | None
    exit_code: int | None
    signal: int | None
    ready_at: int | None
    claimed_at: int
    started_at: int | None
    ended_at: int | None


@dataclass(frozen=True)
class Standings:
    """What there is at one moment."""

    standing: list[Standing]
    open_runs: list[Counted]
    oldest: list[Oldest]


@dataclass(frozen=True)
class Happened:
    """What has happened since a time, to tasks that are still there; `first` is when the oldest task or event came.

    `dropped` says how often a task ever got done of which the history tells no more, if that may have been since then.
    """

    first: int | None
    runs: list[EndedRun]
    done: list[Counted]
    spent: list[Spent]
    dropped: int = 0


class Tally(NamedTuple):
    """Something that has happened so often (`number`), what it happened to, and how long it took in all.

    `what` is one of the words of the column; `of` names the values that are told apart.
    """

    what: str
    of: tuple[str | int | float | None, ...]
    number: int
    total_ms: int


@dataclass(frozen=True)
class Forgettable:
    """A finished or removed task, the id of its last event, how many it has, and when the last one was (milliseconds)."""

    task: int
    last: int
    events: int
    last_at: int
    removed: bool
