"""What doctor asks of the database, and what it may mend there: only what is derived."""

import re
import sqlite3
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from dispatchctl.errors import DispatchctlError
from dispatchctl.store.claiming import FIRST_THERE, NEXT_AGENT, NEXT_REPOSITORY
from dispatchctl.store.ledger import Ledger
from dispatchctl.store.limits import HEAD
from dispatchctl.store.schema import MIGRATIONS
from dispatchctl.task import Phase, Status

if TYPE_CHECKING:
    from dispatchctl.doctor.health import Contents

UNFINISHED_PARENTS = """(SELECT count(*) FROM after JOIN tasks AS parents ON parents.id = after.parent
                         WHERE after.task = tasks.id AND parents.status <> 'done')"""
MISCOUNTED = f"waits <> {UNFINISHED_PARENTS}"
NEVER_DUE = "status = 'ready' AND due = 0 AND not_before IS NULL"
IS_OPEN = f"phase <> '{Phase.CLOSED}'"
OPEN = f"FROM runs INDEXED BY runs_open JOIN tasks ON tasks.id = runs.task WHERE {IS_OPEN}"
CLAIM = (HEAD.format(where=""), NEXT_AGENT, NEXT_REPOSITORY, FIRST_THERE.format(where=""))
"""What the claim asks; each must be one walk along the index that it names, without sorting anything."""
SHOWN = 20
"""Rows that are named of what there may be thousands of."""


def sqlite_version() -> tuple[int, ...]:
    """The version of the SQLite library."""
    return sqlite3.sqlite_version_info


class Examining(Ledger):
    """The verbs of `dispatchctl doctor`."""

    def contents(self, *, at: int, within: float) -> "Contents":
        """What is wrong with rows, references, indexes and pages, looked at for at most `within` seconds."""
        from dispatchctl.doctor.health import Contents  # for doctor alone: its values cost every other command 5 ms

        path, damage = self._database.path, self._damage(within)
        try:
            return Contents(
                path,
                damage,
                tuple(self._broken_references()),
                tuple(name for name, _ in self._missing()),
                self._claims_by_index(),
                str(self._database.row("PRAGMA journal_mode")[0]),
                self._ids(MISCOUNTED),
                self._ids(NEVER_DUE),
                tuple(self._disagreeing()),
                tuple(self._misplaced()),
                tuple(self._unrecorded()),
                self._database.row("SELECT max(at) FROM events WHERE id > (SELECT max(id) FROM events) - 100")[0],
                at,
            )
        except DispatchctlError:
            if not damage:
                raise
            return Contents(path, damage)  # of what is damaged nothing else can be said

    def recount(self) -> int:
        """Count each task's unfinished parents again; how many rows were wrong. No event: the columns are derived."""
        with self._database:
            changed = self._database.execute(f"UPDATE tasks SET waits = {UNFINISHED_PARENTS} WHERE {MISCOUNTED}")
            return changed + self._database.execute(f"UPDATE tasks SET due = 1 WHERE {NEVER_DUE}")

    def rebuild(self) -> list[str]:
        """Make each index and trigger of this version again that is not there; which those were. A table is not made."""
        with self._database:
            made = [(name, sql) for name, sql in self._missing() if not name.startswith("table ")]
            for _, sql in made:
                self._database.execute(sql)
        return [name for name, _ in made]

    def use_write_ahead_log(self) -> None:
        """Switch the file back to WAL."""
        self._database.use_write_ahead_log()

    def known_branches(self, repo: str) -> Collection[str]:
        """The branches of all runs in the repository."""
        return {row[0] for row in self._database.rows("SELECT DISTINCT branch FROM runs WHERE repo = ?", (repo,))}

    def last_closed(self) -> int | None:
        """When a run was closed last, of those that were not cleared away."""
        row = self._database.row(
            "SELECT max(closed_at) FROM runs INDEXED BY runs_kept WHERE phase = 'closed' AND cleared_at IS NULL"
        )
        return None if row[0] is None else int(row[0])

    def _ids(self, where: str) -> tuple[int, ...]:
        return tuple(row[0] for row in self._database.rows(f"SELECT id FROM tasks WHERE {where} LIMIT {SHOWN}"))

    def _damage(self, within: float) -> tuple[str, ...] | None:
        deadline = time.monotonic() + within
        connection = self._database._connection
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
        try:
            found = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({SHOWN})")]
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                return None
            raise
        except sqlite3.DatabaseError as error:
            found = [str(error)]
        finally:
            connection.set_progress_handler(None, 0)
        return () if found == ["ok"] else tuple(found)

    def _broken_references(self) -> list[str]:
        rows = self._database.rows(f"SELECT * FROM pragma_foreign_key_check LIMIT {SHOWN}")
        return [f"row {row[1] or '?'} of {row[0]} belongs to a row of {row[2]} that is not there" for row in rows]

    def _missing(self) -> list[tuple[str, str]]:
        """Tables, indexes and triggers of this version that the file has not, each with the statement that makes it."""
        listed = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
        there = {(row[0], row[1]) for row in self._database.rows(listed)}
        fresh = sqlite3.connect(":memory:")
        try:
            for statement in (each for version in MIGRATIONS for each in version):
                fresh.execute(statement)
            return [(f"{kind} {name}", sql) for kind, name, sql in fresh.execute(listed) if (kind, name) not in there]
        finally:
            fresh.close()

    def _claims_by_index(self) -> bool:
        steps: list[str] = []
        try:
            for sql in CLAIM:
                rows = self._database._connection.execute(f"EXPLAIN QUERY PLAN {sql}", ("",) * sql.count("?"))
                steps += [row[3] for row in rows]
        except sqlite3.OperationalError:  # INDEXED BY refuses every other way
            return False
        walks = [re.search(r"USING (?:COVERING )?INDEX (tasks_claimable\w*)", step) for step in steps]
        return [walk and walk[1] for walk in walks] == [each.split("INDEXED BY ")[1].split()[0] for each in CLAIM]

    def _disagreeing(self) -> list[tuple[int, str]]:
        """Rows that only hands can have made: a status without its run, or a run without its status."""
        idle = f"""SELECT id FROM tasks WHERE status = '{Status.IN_PROGRESS}' AND id NOT IN
                   (SELECT task FROM runs INDEXED BY runs_open WHERE {IS_OPEN}) LIMIT {SHOWN}"""
        found = [(row[0], "is in progress, and no run of it is open") for row in self._database.rows(idle)]
        of_open = f"SELECT tasks.id, status, token, phase {OPEN}"
        for id, status, token, phase in self._database.rows(of_open):
            busy = status in (Status.IN_PROGRESS, Status.BLOCKED)
            if not busy and not (status == Status.FAILED and phase == Phase.UNDOING):
                found.append((id, f"is {status}, and its run {token} is open"))
        return found

    def _misplaced(self) -> list[tuple[int, str]]:
        rows = self._database.rows(f"SELECT tasks.id, token {OPEN} AND newest_run IS NOT token LIMIT {SHOWN}")
        return [(row[0], row[1]) for row in rows]

    def _unrecorded(self) -> list[tuple[int, str]]:
        """Unfinished tasks whose status is not the one that their last event says."""
        said = """(SELECT to_status FROM events INDEXED BY events_of_task
                   WHERE task = tasks.id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1)"""
        rows = self._database.rows(
            f"""SELECT id, status, {said} FROM tasks WHERE status NOT IN ('{Status.DONE}', '{Status.CANCELLED}')
                AND status <> {said} LIMIT {SHOWN}"""
        )
        return [(row[0], f"is {row[1]}, and its history says {row[2]}") for row in rows]
