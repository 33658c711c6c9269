"""A store on the bench: how a test brings a task into each situation, and sees that nothing changed.

The suite is written against the `Store` protocol. Another backend is one more class like `Sqlite`, in `BACKENDS`.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dispatchctl.replay import replay
from dispatchctl.store import fence, open_store
from dispatchctl.store.connection import Database
from dispatchctl.store.protocol import Claimant, Names, Room, Store, Window
from dispatchctl.task import Actor, Cause, Event, NewTask, Run, Status, Task
from dispatchctl.verdict import Changes, Cure, Ending, Policy

NOWHERE = "00000000"
WINDOW = Window(session="dispatch-repo", window_id="@1", pane_id="%1", server_pid=40, server_start=400)
CLEAN, DIRTY = Changes(commits=1, files=0), Changes(commits=0, files=1)


Key = TypeVar("Key")
Row = dict[str, Any]


class Backend(Protocol):
    """What the suite needs of a kind of store, besides the store."""

    def open(self) -> Store:
        """Open the one database of this test, as another process would."""

    def start(self, token: str, *, at: int) -> bool:
        """The launcher's fenced write."""

    def rows(self) -> tuple[dict[int, Row], dict[str, Row]]:
        """Tasks (with their parents, as `after`) and runs as they are stored, by id and token.

        Without what is derived, or only a last sighting: everything else has to be in the events.
        """

    def close(self) -> None: ...


class Sqlite:
    """One file; the launcher's write goes past the store."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "tasks.db")
        self._opened: list[Store] = []

    def open(self) -> Store:
        self._opened.append(open_store(self.path, create=True, busy_timeout=10))
        return self._opened[-1]

    def start(self, token: str, *, at: int) -> bool:
        database = Database(self.path)
        try:
            return fence.start(database, token, at=at, launcher=(50, 500), agent=(60, 600))
        finally:
            database.close()

    def rows(self) -> tuple[dict[int, Row], dict[str, Row]]:
        with closing(sqlite3.connect(self.path)) as connection:
            tasks = {row["id"]: row for row in _replayable(connection, "tasks")}
            runs = {row["token"]: row for row in _replayable(connection, "runs")}
            for row in tasks.values():
                row["after"] = []
            for task, parent in connection.execute("SELECT task, parent FROM after ORDER BY task, parent"):
                tasks[task]["after"].append(parent)
        return tasks, runs

    def close(self) -> None:
        for store in self._opened:
            store.close()


def _replayable(connection: sqlite3.Connection, table: str) -> list[Row]:
    """The table's rows, without the columns that its definition marks as derived or as a last sighting."""
    (definition,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    lines = [line.split() for line in definition.splitlines()]
    left_out = {line[0] for line in lines if "derived:" in line or "sighting" in line}
    left_out |= {"ready_at"} if table == "tasks" else set()  # ALTER TABLE keeps no comment
    cursor = connection.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    assert left_out <= set(names)
    return [{name: value for name, value in zip(names, row, strict=True) if name not in left_out} for row in cursor]


def assert_replayed(backend: Backend, events: Sequence[Event]) -> None:
    """The events give every row, each with every column that is stored, and no other."""
    replayed, (tasks, runs) = replay(events), backend.rows()
    assert complete(replayed.tasks, tasks) == tasks
    assert complete(replayed.runs, runs) == runs


def complete(replayed: Mapping[Key, Row], stored: Mapping[Key, Row]) -> dict[Key, Row]:
    """The replayed rows, with null for each stored column that was never set."""
    assert all(replayed[key].keys() <= stored[key].keys() for key in replayed.keys() & stored.keys())
    return {key: {**dict.fromkeys(stored.get(key, ())), **row} for key, row in replayed.items()}


BACKENDS: Mapping[str, Callable[[Path], Backend]] = {"sqlite": Sqlite}


def names(task: Task, number: int, earlier: Run | None) -> Names:
    """Names for a run; a resumed one gets its worktree from the earlier one."""
    leaf = f"{task.id}-{number}"
    return Names(
        agent=task.agent,
        branch=earlier.branch if earlier else f"task/{leaf}",
        worktree=earlier.worktree if earlier else f"/worktrees/{leaf}",
        run_dir=f"/runs/{leaf}",
        owner_lock=f"/locks/{leaf}.owner",
        step_lock=f"/locks/{leaf}.step",
        socket="/tmux.sock",
        session="dispatch-repo",
    )


def exited(code: int, *, at: int) -> Ending:
    """The agent ended by itself."""
    return Ending(Cause.BY_ITSELF, at, exit_code=code)


@dataclass
class Bench:
    """A store and a clock that ticks with every write."""

    backend: Backend
    store: Store
    now: int = 1_000_000
    _tokens: int = 0

    def tick(self) -> int:
        """The next moment, in milliseconds."""
        self.now += 1_000
        return self.now

    # -- verbs with everything that does not matter filled in -----------------------------------------------------
    def add(self, **fields: Any) -> int:
        """One task; its id."""
        new = NewTask(
            **{"title": "Do it", "prompt": "now", "repo": "/repo", "base": "main", "agent": "shell", **fields}
        )
        return self.store.add([new], actor=Actor.USER, at=self.tick())[0].id

    def claim(self, task: int | None = None, **options: Any) -> Run | None:
        """Claim with a new token."""
        self._tokens += 1
        claimant = Claimant(f"{self._tokens:08x}", "host", "boot", names)
        options = {"room": Room(options.pop("max_running", 1_000)), "actor": Actor.DISPATCH, **options}
        return self.store.claim(claimant, task=task, at=self.tick(), **options)

    def claimed(self, task: int) -> str:
        """Claim that task; the token of its run."""
        run = self.claim(task)
        assert run is not None
        return run.token

    def start(self, token: str) -> bool:
        """What the launcher does."""
        return self.backend.start(token, at=self.tick())

    def end(
        self,
        token: str,
        ending: Ending | None = None,
        changes: Changes | None = CLEAN,
        result: str | None = None,
        policy: Policy | None = None,
    ) -> Task:
        """Close a started run; it exits with 0 unless told otherwise."""
        at = self.tick()
        ending = ending or exited(0, at=at)
        return self.store.close_ended(
            token, ending, changes, result, policy or Policy(), actor=Actor.LAUNCHER, at=at, jitter=0.5
        )

    def begin_undo(self, token: str) -> bool:
        """The launch failed."""
        return self.store.begin_undo(token, "it broke", actor=Actor.DISPATCH, at=self.tick())

    def close_undone(self, token: str, *, cure: Cure = Cure.AGAIN) -> Task:
        """The undo is finished."""
        return self.store.close_undone(
            token, "it broke", cure=cure, policy=Policy(), actor=Actor.DISPATCH, at=self.tick(), jitter=0.5
        )

    def finish(self, task: int, code: int = 0) -> None:
        """Take a ready task through a whole run."""
        token = self.claimed(task)
        assert self.start(token)
        self.end(token, exited(code, at=self.now))

    # -- looking -------------------------------------------------------------------------------------------------
    def status(self, task: int) -> Status:
        """Where the task stands."""
        return self.store.task(task).status

    def token(self, task: int) -> str:
        """The token of the task's newest run, or one that names no run."""
        run = self.store.task(task).run
        return run.token if run else NOWHERE

    def everything(self) -> tuple[list[Task], list[list[Run]], list[Event], list[Run]]:
        """All that the store says, to be compared."""
        tasks = sorted(self.store.tasks(), key=lambda task: task.id)
        return tasks, [self.store.runs(task.id) for task in tasks], self.store.events(), self.store.open_runs()


def _launching(bench: Bench) -> int:
    task = bench.add()
    bench.claimed(task)
    return task


def _started(bench: Bench, **fields: Any) -> int:
    task = bench.add(**fields)
    assert bench.start(bench.claimed(task))
    return task


def _undoing(bench: Bench) -> int:
    task = _launching(bench)
    assert bench.begin_undo(bench.token(task))
    return task


def _stuck(bench: Bench) -> int:
    task = _undoing(bench)
    bench.store.undo_failed(bench.token(task), "the worktree stands", actor=Actor.DISPATCH, at=bench.tick())
    return task


def _asking(bench: Bench, **fields: Any) -> int:
    task = _started(bench, **fields)
    bench.store.block(bench.token(task), "which one?", actor=Actor.AGENT, at=bench.tick())
    return task


def _asked(bench: Bench) -> int:
    task = _asking(bench)
    bench.end(bench.token(task))
    return task


def _in_review(bench: Bench) -> int:
    task = _started(bench)
    bench.end(bench.token(task), changes=DIRTY)
    return task


def _done(bench: Bench) -> int:
    task = bench.add()
    bench.finish(task)
    return task


def _failed(bench: Bench) -> int:
    task = bench.add()
    bench.finish(task, 1)
    return task


def _cancelled(bench: Bench) -> int:
    task = bench.add()
    bench.store.cancel(task, at=bench.tick())
    return task


started, asking = _started, _asking

SITUATIONS: Mapping[str, tuple[Status, Callable[[Bench], int]]] = {
    "backlog": (Status.BACKLOG, lambda bench: bench.add(backlog=True)),
    "ready": (Status.READY, lambda bench: bench.add()),
    "launching": (Status.IN_PROGRESS, _launching),
    "started": (Status.IN_PROGRESS, _started),
    "undoing": (Status.IN_PROGRESS, _undoing),
    "stuck": (Status.FAILED, _stuck),
    "asking": (Status.BLOCKED, _asking),
    "asked": (Status.BLOCKED, _asked),
    "in_review": (Status.IN_REVIEW, _in_review),
    "done": (Status.DONE, _done),
    "failed": (Status.FAILED, _failed),
    "cancelled": (Status.CANCELLED, _cancelled),
}
"""Everything a task can be: its status, and how it gets there. `asking` has an open session, `asked` none."""

IDLE = ("backlog", "ready", "asked", "in_review", "done", "failed", "cancelled")
"""The situations without an open run."""
