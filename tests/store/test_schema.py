"""The SQLite file itself: what it cannot hold, which writes it guards, and which indexes serve a run."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatchctl.errors import Refused
from dispatchctl.store.ledger import Act
from dispatchctl.store.sqlite import SqliteStore
from dispatchctl.task import NEXT, Actor, Status
from store.bench import SITUATIONS, Bench, Sqlite

IMPOSSIBLE = {
    "backlog": [
        "UPDATE tasks SET status = 'running'",
        "UPDATE tasks SET title = ''",
        "UPDATE tasks SET priority = 5",
        "UPDATE tasks SET priority = -1",
        "UPDATE tasks SET priority = 1.5",
        "UPDATE tasks SET labels = 'a'",
        "UPDATE tasks SET labels = '{}'",
        "UPDATE tasks SET agent = ''",
        "UPDATE tasks SET repo = 'relative'",
        "UPDATE tasks SET base = ''",
        "UPDATE tasks SET base = NULL",
        "UPDATE tasks SET review = 2",
        "UPDATE tasks SET retries_left = -1",
        "UPDATE tasks SET recoveries_left = -1",
        "UPDATE tasks SET timeout_s = -1",
        "UPDATE tasks SET waits = -1",
        "UPDATE tasks SET due = 2",
        "UPDATE tasks SET created_at = 'today'",
        "INSERT INTO after VALUES (1, 1)",
        "INSERT INTO after VALUES (1, 99)",
        "INSERT INTO after VALUES (99, 1)",
    ],
    "launching": [
        "UPDATE runs SET phase = 'running'",
        "UPDATE runs SET phase = 'started'",
        "UPDATE runs SET phase = 'closed'",
        "UPDATE runs SET started_at = 1",
        "UPDATE runs SET outcome = 'exited'",
        "UPDATE runs SET closed_at = 1",
        "UPDATE runs SET exit_code = 0",
        "UPDATE runs SET signal = 9",
        "UPDATE runs SET ended_at = 1",
        "UPDATE runs SET agent_pid = 1, agent_start = 1",
        "UPDATE runs SET owns_tree = 1",
        "UPDATE runs SET owns_branch = 1",
        "UPDATE runs SET owns_tree = 2, base_commit = 'f'",
        "UPDATE runs SET report = 'done'",
        "UPDATE runs SET report_by = 'user'",
        "UPDATE runs SET report = 'perhaps', report_by = 'user'",
        "UPDATE runs SET report = 'done', report_by = 'nobody'",
        "UPDATE runs SET ask = 'please'",
        "UPDATE runs SET number = 0",
        "UPDATE runs SET resumed = 2",
        "UPDATE runs SET worktree = 'relative'",
        "UPDATE runs SET socket = 'name'",
        "UPDATE runs SET run_dir = 'relative'",
        "UPDATE runs SET owner_lock = 'relative'",
        "UPDATE runs SET step_lock = NULL",
        "UPDATE runs SET token = 'ABCDEF01'",
        "UPDATE runs SET token = '123456789'",
        "UPDATE runs SET task = 99",
        "UPDATE runs SET server_pid = 1",
        "UPDATE runs SET window_id = '@1'",
        "UPDATE runs SET launcher_start = 1",
        "UPDATE runs SET life = 'dead'",
        "UPDATE runs SET activity = 'bored'",
    ],
    "started": [
        "UPDATE runs SET started_at = NULL",
        "UPDATE runs SET phase = 'launching'",
        "UPDATE runs SET phase = 'undoing'",
        "UPDATE runs SET phase = 'closed', outcome = 'exited'",
        "UPDATE runs SET phase = 'closed', closed_at = 1",
        "UPDATE runs SET phase = 'closed', closed_at = 1, outcome = 'rolled_back'",
        "UPDATE runs SET phase = 'closed', closed_at = 1, outcome = 'fine'",
        "UPDATE runs SET agent_pid = NULL",
    ],
    "done": [
        "UPDATE runs SET phase = 'started'",
        "UPDATE runs SET outcome = NULL",
        "UPDATE runs SET exit_code = 0, signal = 9",
        "UPDATE runs SET started_at = NULL",
    ],
}


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Sqlite]:
    """A file."""
    made = Sqlite(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bench(sqlite: Sqlite) -> Bench:
    """A store on that file."""
    return Bench(sqlite, sqlite.open())


@pytest.fixture
def raw(sqlite: Sqlite, bench: Bench) -> Iterator[sqlite3.Connection]:
    """A connection that knows nothing of us but what the file says."""
    with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


@pytest.mark.parametrize(
    ("situation", "statement"), [(situation, each) for situation, all_ in IMPOSSIBLE.items() for each in all_]
)
def test_what_the_types_exclude_cannot_be_written(
    bench: Bench, raw: sqlite3.Connection, situation: str, statement: str
) -> None:
    SITUATIONS[situation][1](bench)
    with pytest.raises(sqlite3.IntegrityError):
        raw.execute(statement)


def test_a_task_has_one_open_run_at_most(bench: Bench, raw: sqlite3.Connection) -> None:
    columns = [row[1] for row in raw.execute("PRAGMA table_info(runs)")]
    SITUATIONS["done"][1](bench)
    copy = ", ".join({"token": "'ffffffff'", "number": "9"}.get(column, column) for column in columns)
    raw.execute(f"INSERT INTO runs SELECT {copy} FROM runs")  # a second closed one may be
    SITUATIONS["started"][1](bench)
    copy = copy.replace("ffffffff", "eeeeeeee")
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: runs\.task"):
        raw.execute(f"INSERT INTO runs SELECT {copy} FROM runs WHERE phase = 'started'")


@pytest.mark.parametrize(
    "statement", ["UPDATE events SET kind = 'x'", "UPDATE events SET at = at", "DELETE FROM events"]
)
def test_events_are_neither_changed_nor_deleted(bench: Bench, raw: sqlite3.Connection, statement: str) -> None:
    SITUATIONS["done"][1](bench)
    before = bench.store.events()
    with pytest.raises(sqlite3.IntegrityError, match="events are append-only"):
        raw.execute(statement)
    assert bench.store.events() == before


def test_events_may_be_deleted_while_they_are_pruned(bench: Bench, raw: sqlite3.Connection) -> None:
    SITUATIONS["done"][1](bench)
    raw.execute("BEGIN")
    raw.execute("INSERT INTO installation VALUES ('pruning', '')")
    raw.execute("DELETE FROM events")
    raw.execute("DELETE FROM installation WHERE key = 'pruning'")
    raw.execute("COMMIT")
    assert bench.store.events() == []


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_a_transition_that_is_not_in_the_table_is_refused(
    bench: Bench, raw: sqlite3.Connection, before: Status, after: Status
) -> None:
    store = bench.store
    assert isinstance(store, SqliteStore)
    task = bench.add()
    raw.execute("UPDATE tasks SET status = ?", (before,))
    read = store.task(task)
    if after is before or after in NEXT[before]:
        with store._database:
            store._change(read, Act("x", Actor.USER, 1), to=after)
        assert store.task(task).status is after
        assert len(store.events()) == 2
    else:
        with pytest.raises(Refused, match=f"task 1 is {before} and cannot become {after}"), store._database:
            store._change(read, Act("x", Actor.USER, 1), to=after)
        assert store.task(task) == read
        assert len(store.events()) == 1


def test_a_write_from_what_was_read_too_early_changes_nothing(bench: Bench, raw: sqlite3.Connection) -> None:
    store = bench.store
    assert isinstance(store, SqliteStore)
    task = store.task(SITUATIONS["started"][1](bench))
    assert task.run is not None
    raw.execute("UPDATE tasks SET status = 'blocked'")
    before = bench.everything()
    act = Act("x", Actor.USER, 1)
    with pytest.raises(Refused, match="task 1 is no longer in_progress; nothing was changed"), store._database:
        store._change(task, act, columns={"error": "x"})
    raw.execute("UPDATE tasks SET status = 'in_progress'")
    raw.execute("UPDATE runs SET phase = 'closed', outcome = 'exited', closed_at = 1")
    with pytest.raises(Refused, match="is no longer started; nothing was changed"), store._database:
        store._change(task, act, columns={"error": "x"}, run=task.run, run_columns={"error": "x"})
    raw.execute("UPDATE runs SET phase = 'started', outcome = NULL, closed_at = NULL")
    raw.execute("UPDATE tasks SET status = 'blocked'")
    assert bench.everything() == before


# -- plans -------------------------------------------------------------------------------------------------------------

SMALL = ("runs_open", "tasks_claimable", "tasks_claimable_by_place", "tasks_deferred")
"""Partial indexes that hold only what is open, claimable or put off: they may be scanned, nothing else may."""
PAUSES = "SCAN pauses"
"""Nobody pauses so many repositories that it would matter."""


def plans(bench: Bench, raw: sqlite3.Connection) -> dict[str, list[str]]:
    """How SQLite goes about each statement of a whole run, from claim to close."""
    store, said = bench.store, list[str]()
    assert isinstance(store, SqliteStore)
    store._database._connection.set_trace_callback(said.append)
    try:
        task = bench.claim()
        assert task is not None
        store.note_base(task.token, base_commit="f" * 40, owns_tree=True, owns_branch=True, at=bench.tick())
        bench.start(task.token)
        bench.end(task.token)
        store.retry(task.task, note=None, fresh=False, recoveries=3, at=bench.tick())
        bench.claim(task.task)
        store.open_runs()
        store.events(task=task.task, limit=10)
        store.events(after=10**6)
        store.events(since=10**12)
        store.tasks(status=[Status.IN_PROGRESS, Status.DONE], limit=20)
    finally:
        store._database._connection.set_trace_callback(None)
    statements = [each for each in said if each.lstrip().split()[0] in {"SELECT", "UPDATE", "DELETE", "WITH"}]
    return {
        each: [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {each}")]
        for each in statements
        if "last_insert_rowid" not in each
    }


def scans(found: dict[str, list[str]]) -> list[tuple[str, str]]:
    """The steps that would look at every row of a table."""
    return [
        (statement, step)
        for statement, steps in found.items()
        for step in steps
        if step.startswith("SCAN") and step != PAUSES and not any(step.endswith(f"INDEX {index}") for index in SMALL)
    ]


def indexes(found: dict[str, list[str]], part: str) -> list[str]:
    """The index of the one step of each statement with that part."""
    return [
        " ".join(re.findall(r"(?:tasks|events)_\w+|PRIMARY KEY|TEMP B-TREE", " ".join(steps)))
        for statement, steps in found.items()
        if part in statement
    ]


@pytest.mark.parametrize("analyzed", [False, True])
def test_nothing_on_the_way_of_a_run_looks_at_every_row(bench: Bench, raw: sqlite3.Connection, analyzed: bool) -> None:
    for name in ("done", "done", "failed", "ready", "ready", "started", "backlog"):
        SITUATIONS[name][1](bench)
    bench.add(repo="/paused", priority=0)  # so that the claim goes from place to place
    bench.store.pause("/paused", reason=None, at=bench.tick())
    raw.execute("PRAGMA foreign_keys = OFF")
    names = ", ".join(row[1] for row in raw.execute("PRAGMA table_info(tasks)") if row[1] != "id")
    raw.execute(
        f"""WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
            INSERT INTO tasks ({names}) SELECT {names} FROM n, tasks WHERE tasks.id = 1"""
    )
    if analyzed:
        raw.execute("ANALYZE")
    found = plans(bench, raw)
    assert len(found) > 15
    assert indexes(found, "ORDER BY priority, id LIMIT 1") == ["tasks_claimable", "tasks_claimable_by_place"]
    assert set(indexes(found, "SELECT repo, agent FROM tasks")) == {"tasks_claimable_by_place"}
    assert set(indexes(found, "FROM events")) == {"events_of_task", "PRIMARY KEY", "events_by_time"}
    assert scans(found) == []


def test_a_listing_is_one_moment(bench: Bench) -> None:
    store, other = bench.store, bench.backend.open()
    assert isinstance(store, SqliteStore)
    task = SITUATIONS["started"][1](bench)

    def block_meanwhile(statement: str) -> None:
        if "'in_review'" in statement:  # after those that are blocked were read, and before those in progress are
            other.block(bench.token(task), "which one?", actor=Actor.AGENT, at=bench.tick())

    store._database._connection.set_trace_callback(block_meanwhile)
    try:
        listed = store.tasks()
    finally:
        store._database._connection.set_trace_callback(None)
    assert [each.status for each in listed] == [Status.IN_PROGRESS]
    assert other.task(task).status is Status.BLOCKED
