"""Databases that are not there, not ours, not whole, not writable or without room: a sentence, and nothing is changed."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.desk import Desk, is_error, running

from dispatchctl.task import Status

COMMANDS = (["list"], ["add", "T"], ["dispatch"], ["show", "1"], ["history"], ["ready"], ["init"], ["cancel", "1"])


def is_refused(desk: Desk, path: Path, code: int, says: str) -> None:
    """Check that every command says the same, and leaves the file as it is."""
    before = path.read_bytes() if path.is_file() else None
    for words in COMMANDS:
        said = desk.run(*words, "--db", str(path), "--json")
        assert said.code == code, (words, said)
        is_error(said, code, says)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_database_that_does_not_exist_is_only_made_by_add_and_init(shared: Desk, tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    for words in (["list"], ["dispatch"], ["show", "1"], ["rm", "1"], ["history"], ["wait", "1"], ["done", "1"]):
        said = shared.run(*words, "--db", str(path))
        is_error(said, 1, f"there is no database at {path}\n  hint: dispatchctl init")
        assert said.code == 1
    assert list(tmp_path.iterdir()) == []
    shared.ok("add", "T", "--db", str(path))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_database(shared: Desk, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious notes, and no database\n" * 100)
    is_refused(shared, path, 69, f"the database {path} cannot be read")


def test_a_directory(shared: Desk, tmp_path: Path) -> None:
    is_refused(shared, tmp_path, 69, f"{tmp_path} is a directory, not a database")


def test_a_database_of_another_program(shared: Desk, tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE mine (a)")
    theirs.close()
    is_refused(shared, path, 69, f"{path} is a database, but not one of dispatchctl")


def test_a_database_of_a_newer_version(shared: Desk, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    shared.ok("add", "T", "--db", str(path))
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    is_refused(shared, path, 69, "was made by a newer dispatchctl (schema 99")


def test_a_corrupt_database(shared: Desk, tmp_path: Path) -> None:
    path = tmp_path / "corrupt.db"
    shared.ok("add", "T", "--db", str(path))
    data = bytearray(path.read_bytes())
    data[100:4096] = os.urandom(3996)
    path.write_bytes(data)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    is_refused(shared, path, 69, f"the database {path}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing_and_is_named(shared: Desk, small_disk: Path) -> None:
    path = small_disk / "tasks.db"
    words = ("-p", "x" * 20_000, "-q", "--db", str(path))
    said, added = shared.run("add", "T", *words), list[int]()
    while said.code == 0 and len(added) < 100:
        added.append(int(said.out))
        said = shared.run("add", "T", *words)
    assert (said.code, added != []) == (69, True), said
    is_error(said, 69, f"the disk that holds {path} is full; nothing was changed")
    assert "database or disk is full" not in said.err
    tasks = shared.json("list", "--db", str(path))["tasks"]
    assert [task["id"] for task in tasks] == added


def test_a_read_only_database_can_be_read(shared: Desk, small_disk: Path) -> None:
    path = small_disk / "tasks.db"
    shared.ok("add", "T", "--db", str(path))
    holder = sqlite3.connect(path)  # keeps the log and its index where a reader finds them
    holder.execute("SELECT * FROM tasks").fetchall()
    try:
        holder.close()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        said = shared.run("add", "T2", "--db", str(path))
        is_error(said, 69, f"the database {path} cannot be written")
        assert said.code == 69
        for words in (["list"], ["show", "1"]):
            said = shared.run(*words, "--db", str(path))
            assert said.code in (0, 69)
            assert said.code == 0 or f"the database {path}" in said.err
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert len(shared.json("list", "--db", str(path))["tasks"]) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_database_that_one_may_not_read(desk: Desk) -> None:
    desk.add("T")
    for directory in desk.runtime.database.parents:
        if directory.is_relative_to(desk.world.root):
            directory.chmod(0o755)
    script = (  # everything is imported before the privileges go: the programs may be root's alone, too
        "import os, sys; from dispatchctl.cli.app import run; import dispatchctl.store.failures; run(sys.argv[1:]);"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "list", "--db", str(desk.runtime.database)],
        env=desk.world.variables,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69, done.stderr
    assert done.stderr.startswith("dispatchctl: ")
    assert f"the database {desk.runtime.database} cannot be" in done.stderr


def test_a_database_that_another_program_locks_is_waited_for(desk: Desk) -> None:
    desk.add("T")
    locker = sqlite3.connect(desk.runtime.database, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    said = desk.run("add", "T2", DISPATCHCTL_STORE__BUSY_TIMEOUT="1")
    assert said.code == 75
    is_error(said, 75, f"the database {desk.runtime.database} is locked by another program")
    assert len(desk.json("list")["tasks"]) == 1
    with running(desk, "add", "T3", "-q") as waiter:
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(1)
        locker.execute("COMMIT")
        locker.close()
        assert waiter.wait(60) == 0
    assert [task.status for task in desk.runtime.store.tasks()] == [Status.READY, Status.READY]
