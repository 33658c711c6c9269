"""How a file of an earlier version becomes one of this version."""

import contextlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dispatchctl.errors import Busy, Unavailable
from dispatchctl.store import open_store, schema
from dispatchctl.store.connection import Database
from dispatchctl.store.schema import MIGRATIONS, migrate
from dispatchctl.task import Actor, NewTask

RELEASED = Path(__file__).parent / "schemas"
"""The schema of each version as files of it have it: once released, a version never changes."""


def definitions(path: str) -> list[tuple[str, str, str]]:
    """Everything that the file defines."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
        ).fetchall()


def test_a_released_version_never_changes(tmp_path: Path) -> None:
    """Another status, outcome or column is another entry of MIGRATIONS: files of this version exist.

    UPDATE_SCHEMAS=1 writes the file of a version that is not released yet.
    """
    for version in range(1, len(MIGRATIONS) + 1):
        path = str(tmp_path / f"{version}.db")
        upgraded(path, version)
        text = "\n".join(f"{sql};" for _, _, sql in definitions(path)) + "\n"
        released = RELEASED / f"{version}.sql"
        if os.environ.get("UPDATE_SCHEMAS"):
            released.write_text(text)
        assert released.read_text() == text


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_a_file_of_every_version_becomes_one_of_this_version(tmp_path: Path, version: int) -> None:
    fresh, old = str(tmp_path / "fresh.db"), str(tmp_path / "old.db")
    open_store(fresh, create=True).close()
    upgraded(old, version)
    store = open_store(old, create=version == 0)
    store.add([NewTask("Do it", "now", "/repo", "main", "shell")], actor=Actor.USER, at=0)
    store.close()
    assert definitions(old) == definitions(fresh)


class Interleaved(Database):
    """A database that another process tries to make just before ours looks whether it is empty."""

    def row(self, sql: str, parameters: Any = ()) -> Any:
        if "FROM sqlite_schema" in sql:
            with contextlib.suppress(Busy):
                open_store(self.path, create=True, busy_timeout=0.1).close()
        return super().row(sql, parameters)


def test_a_file_that_another_process_is_making_is_not_taken_for_somebody_elses(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch()
    database = Interleaved(str(path))
    migrate(database, create=True)
    database.close()
    open_store(str(path)).close()


def test_an_upgrade_that_fails_halfway_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "tasks.db")
    open_store(path, create=True).close()
    before = definitions(path)
    more = "CREATE TABLE more (x TEXT) STRICT"
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, (more, "CREATE TABEL")))
    with pytest.raises(Unavailable, match="syntax error"):
        open_store(path)
    assert definitions(path) == before
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, (more,)))
    open_store(path).close()
    assert set(definitions(path)) - set(before) == {("table", "more", more)}


def upgraded(path: str, version: int) -> None:
    """A file of that version, made by the first migrations alone; of version 0, an empty one."""
    Path(path).touch()
    if version:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:version])
            database = Database(path)
            migrate(database, create=True)
            database.close()
