"""Figures for people: how tasks stand, how long they waited and ran, and why runs failed.

A percentile is the nearest-rank one: the smallest value that at least so many percent of the values do not exceed, and hence
one that was measured. Waiting is counted from when nothing but room kept a task from being claimed, running from the agent's
start to its end, both of runs that ended in the window.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from dispatchctl.room import room_for
from dispatchctl.runtime import Runtime
from dispatchctl.store.counted import Counted, EndedRun, Happened, Oldest, Spent, Standing, Standings
from dispatchctl.task import Outcome, Report, Status

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DEFAULT_WINDOW = "7d"
COULD_NOT_START = "could not start"
"""Not said of a launch that was undone because the task has to wait for others."""


@dataclass(frozen=True)
class Spread:
    """How a length of time is spread, in milliseconds; None where there are none."""

    count: int = 0
    median: int | None = None
    p95: int | None = None
    longest: int | None = None

    @classmethod
    def of(cls, values: Iterable[int]) -> "Spread":
        """Of these values."""
        found = sorted(values)
        if not found:
            return cls()
        return cls(len(found), percentile(found, 50), percentile(found, 95), found[-1])


@dataclass(frozen=True)
class Share:
    """The figures of everything, of one agent (`kind` agent) or of one repository."""

    kind: str
    name: str | None
    tasks: Counter[Status]
    open_runs: int
    limit: int
    done: int
    runs: int
    waited: Spread
    ran: Spread
    failures: Counter[str]
    retries: int
    recoveries: int
    oldest: Oldest | None


@dataclass(frozen=True)
class Stats:
    """The figures of a window from `since` to `until`: what was asked for, or as far back as there are events.

    `dropped` counts what got done at a time of which the history is not kept; of everything, not of one agent.
    """

    since: int
    until: int
    everything: Share
    agents: tuple[Share, ...]
    repos: tuple[Share, ...]
    dropped: int = 0

    @property
    def length(self) -> int:
        """Of the window, in milliseconds; at least one."""
        return max(self.until - self.since, 1)


@dataclass(frozen=True)
class Wanted:
    """Of what the figures are to be: since when (milliseconds; 0 is all there is), of one repository, of one agent."""

    since: int
    repo: str | None = None
    agent: str | None = None


def percentile(values: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile of values in rising order."""
    return values[max(ceil(len(values) * percent / 100), 1) - 1]


def cause(outcome: str, report: str | None, exit_code: int | None, signal: int | None) -> str | None:
    """Why a run did not succeed, in words that many runs share; None if it did, or was called off."""
    match Outcome(outcome):
        case Outcome.EXITED if signal is not None:
            return f"signal {signal}"
        case Outcome.EXITED if exit_code is not None:
            return f"exit code {exit_code}" if exit_code else None
        case Outcome.EXITED:
            return "could not be executed"
        case Outcome.REPORTED:
            return "reported as failed" if report == Report.FAIL else None
        case Outcome.TIMED_OUT:
            return "timed out"
        case Outcome.HUNG_UP:
            return "window closed"
        case Outcome.LOST:
            return "lost"
        case Outcome.ROLLED_BACK:
            return None if report == Report.DONE else COULD_NOT_START
        case Outcome.CANCELLED:
            return None


def stats(runtime: Runtime, wanted: Wanted, *, at: int) -> Stats:
    """Count. Two reads: what happens in between may be in one of them only."""
    store = runtime.store
    return counted(store.standing(at=at), store.happened(since=wanted.since), wanted, _limits(runtime), at=at)


@dataclass(frozen=True)
class Limits:
    """How many runs may be open: in all, of an agent, in a repository; 0 is no limit."""

    in_all: int = 0
    agents: dict[str, int] = field(default_factory=dict)
    repos: dict[str, int] = field(default_factory=dict)


def _limits(runtime: Runtime) -> Limits:
    room = room_for(runtime)
    return Limits(room.in_all, dict(room.of_agent), dict(room.in_repository or {}))


@dataclass(frozen=True)
class _Rows:
    """Rows of every kind, of which each begins with its agent and its repository."""

    standing: list[Standing] = field(default_factory=list)
    open_runs: list[Counted] = field(default_factory=list)
    oldest: list[Oldest] = field(default_factory=list)
    runs: list[EndedRun] = field(default_factory=list)
    done: list[Counted] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)

    @property
    def kinds(self) -> "tuple[list[Any], ...]":
        """The rows of each kind."""
        return (self.standing, self.open_runs, self.oldest, self.runs, self.done, self.spent)

    def of(self, wanted: Wanted) -> "_Rows":
        """Only those of its agent and its repository."""
        asked = [(at, name) for at, name in enumerate((wanted.agent, wanted.repo)) if name is not None]
        return _Rows(*([row for row in kind if all(row[at] == name for at, name in asked)] for kind in self.kinds))

    def by(self, column: int) -> "dict[str, _Rows]":
        """Those of each agent (0) or each repository (1), by its name, in the order of the names."""
        found: dict[str, _Rows] = {}
        for number, kind in enumerate(self.kinds):
            for row in kind:
                name = row[column]
                if name not in found:
                    found[name] = _Rows()
                found[name].kinds[number].append(row)
        return dict(sorted(found.items()))


def counted(standings: Standings, happened: Happened, wanted: Wanted, limits: Limits, *, at: int) -> Stats:
    """The figures in all, of each agent and of each repository that the rows name."""
    everything = _Rows(
        standings.standing, standings.open_runs, standings.oldest, happened.runs, happened.done, happened.spent
    )
    rows = everything.of(wanted)
    first = at if happened.first is None else happened.first
    return Stats(
        min(at, max(wanted.since, first)),
        at,
        _share("all", None, limits.in_all, rows),
        tuple(_share("agent", name, limits.agents.get(name, 0), of) for name, of in rows.by(0).items()),
        tuple(_share("repository", name, limits.repos.get(name, 0), of) for name, of in rows.by(1).items()),
        happened.dropped if wanted.agent is None and wanted.repo is None else 0,
    )


def _share(kind: str, name: str | None, limit: int, rows: _Rows) -> Share:
    """The figures of these rows."""
    tasks = Counter[Status]()
    for each in rows.standing:
        tasks[each.status] += each.number
    failures = Counter[str]()
    for end, count in Counter((run.outcome, run.report, run.exit_code, run.signal) for run in rows.runs).items():
        why = cause(*end)
        if why is not None:
            failures[why] += count
    failures[COULD_NOT_START] -= sum(each.waited for each in rows.spent)
    failures = +failures
    return Share(
        kind,
        name,
        tasks,
        sum(each.number for each in rows.open_runs),
        limit,
        sum(each.number for each in rows.done),
        len(rows.runs),
        Spread.of(max(run.claimed_at - run.ready_at, 0) for run in rows.runs if run.ready_at is not None),
        Spread.of(
            max(run.ended_at - run.started_at, 0)
            for run in rows.runs
            if run.started_at is not None and run.ended_at is not None
        ),
        failures,
        sum(each.retries for each in rows.spent),
        sum(each.recoveries for each in rows.spent),
        min(rows.oldest, key=lambda each: each.ready_at, default=None),
    )
