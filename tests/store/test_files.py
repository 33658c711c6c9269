"""Files that cannot be used: each gets an error of its own, with a sentence and a hint, and never one of sqlite3's."""

import os
import re
import shlex
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dispatchctl.errors import Busy, DispatchctlError, ExitCode, Unavailable
from dispatchctl.store import open_store
from dispatchctl.store.schema import MIGRATIONS
from dispatchctl.store.sqlite import SqliteStore
from dispatchctl.task import Actor, NewTask

NEW = NewTask("Do it", "now", "/repo", "main", "shell")


def add(path: Path, *, create: bool = True) -> None:
    """Open the store, add one task, close it."""
    store = open_store(str(path), create=create, busy_timeout=0.3)
    try:
        store.add([NEW], actor=Actor.USER, at=0)
    finally:
        store.close()


def raw(path: Path, *statements: str) -> None:
    """What another program does to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def told(kind: type[DispatchctlError], message: str, path: Path) -> Iterator[None]:
    """Exactly that class of error, with a sentence that names the file and a hint whose paths are quoted."""
    with pytest.raises(DispatchctlError, match=message) as caught:
        yield
    assert type(caught.value) is kind
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert shlex.split(caught.value.hint)
    assert "sqlite3." not in caught.value.message


def test_a_missing_file_is_made_only_by_who_may(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "tasks.db"
    with told(DispatchctlError, "there is no database at", path):
        open_store(str(path))
    assert list(tmp_path.iterdir()) == []
    add(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for beside in path.parent.iterdir():
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    add(path, create=False)


def test_an_empty_file_is_made_a_database_only_by_who_may(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch()
    with told(Unavailable, "is empty", path):
        open_store(str(path))
    assert path.read_bytes() == b""
    add(path)


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("content", [b"not a database at all\n" * 500, b"SQLite format 3\0" + b"\xff" * 8_176])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, create: bool, content: bytes) -> None:
    path = tmp_path / "tasks.db"
    path.write_bytes(content)
    with told(Unavailable, "cannot be read", path):
        open_store(str(path), create=create)
    assert path.read_bytes() == content


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE bookmarks (url)",),
        ("CREATE TABLE bookmarks (url)", f"PRAGMA user_version = {len(MIGRATIONS)}"),
        ("CREATE TABLE bookmarks (url)", "PRAGMA application_id = 77", f"PRAGMA user_version = {len(MIGRATIONS)}"),
        ("PRAGMA user_version = 1",),
        ("PRAGMA application_id = 77",),
    ],
)
def test_somebody_elses_database_is_left_alone(tmp_path: Path, create: bool, statements: tuple[str, ...]) -> None:
    path = tmp_path / "tasks.db"
    raw(path, *statements)
    before = path.read_bytes()
    with told(Unavailable, "not one of dispatchctl", path):
        open_store(str(path), create=create)
    assert path.read_bytes() == before


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    add(path)
    raw(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    for create in (True, False):
        with told(Unavailable, "made by a newer dispatchctl", path):
            open_store(str(path), create=create)
        assert str(path) not in map(os.path.realpath, Path("/proc/self/fd").iterdir())


def test_a_damaged_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    store = open_store(str(path), create=True)
    store.add([NEW] * 500, actor=Actor.USER, at=0)
    store.close()
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + b"\xff" * half)
    store = open_store(str(path))
    with told(Unavailable, "cannot be read: database disk image is malformed", path):
        store.tasks()
    with told(Unavailable, "cannot be read", path):
        store.add([NEW], actor=Actor.USER, at=0)
    store.close()


def test_a_truncated_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    add(path)
    os.truncate(path, 5_000)
    with told(Unavailable, "cannot be read", path):
        add(path)


def test_a_directory_in_place_of_the_file_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.mkdir()
    for create in (True, False):
        with told(Unavailable, "is a directory, not a database", path):
            open_store(str(path), create=create)


@pytest.mark.parametrize("create", [True, False])
def test_a_file_in_place_of_the_directory_is_said_so(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "tasks.db"
    with pytest.raises(DispatchctlError, match=str(path)):
        open_store(str(path), create=create)


def test_a_foreign_lock_is_waited_for_and_then_said(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    add(path)
    store = open_store(str(path), busy_timeout=0.2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with told(Busy, "is locked by another program", path):
            store.add([NEW], actor=Actor.USER, at=0)
        other.execute("ROLLBACK")
    add(path)  # whoever gave up stands in nobody's way
    store.close()


@pytest.mark.parametrize(
    "name", ["with space.db", "a?b.db", "a#b.db", "100%25.db", "?mode=memory", "é'\"$x;.db", "full locked busy.db"]
)
def test_any_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with told(DispatchctlError, "there is no database", path):
        open_store(str(path))
    add(path)
    add(path, create=False)
    assert sorted(tmp_path.iterdir()) == sorted([path, *(tmp_path / f"{name}-{each}" for each in ("gate", "next"))])
    path.unlink()
    path.mkdir()
    with told(Unavailable, "is a directory", path):
        open_store(str(path))


def test_two_slashes_do_not_name_a_host(tmp_path: Path) -> None:
    add(Path(f"/{tmp_path}/tasks.db"))
    assert (tmp_path / "tasks.db").exists()


def test_a_full_database_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    add(path)
    store = open_store(str(path))
    assert isinstance(store, SqliteStore)
    store._database.row("PRAGMA max_page_count = 1")
    with told(Unavailable, "is full; nothing was changed", path):
        store.add([NEW] * 1_000, actor=Actor.USER, at=0)
    assert len(store.tasks()) == 1
    assert len(store.events()) == 1
    store._database.row("PRAGMA max_page_count = 1000000")
    store.add([NEW], actor=Actor.USER, at=0)
    store.close()


def test_opening_a_file_again_drops_no_lock_on_it(tmp_path: Path) -> None:
    """Closing any descriptor of a file drops every lock that its process has on it, and SQLite's with them."""
    path = tmp_path / "tasks.db"
    first = open_store(str(path), create=True)
    first.tasks()
    before = locks_on(path)
    assert before
    second = open_store(str(path), create=True)
    assert set(before) <= set(locks_on(path))
    second.close()
    first.close()


def locks_on(path: Path) -> list[str]:
    """What this process has locked of the file, without the number of each line."""
    mine = re.compile(rf"POSIX .* {os.getpid()} \S+:{path.stat().st_ino} (.*)")
    return [found.group(1) for line in Path("/proc/locks").read_text().splitlines() if (found := mine.search(line))]


# -- a disk of its own, which only root can have ----------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Use up every byte that is left."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return ballast


def test_a_full_disk_is_said_so_and_nothing_is_lost(disk: Path) -> None:
    path = disk / "tasks.db"
    add(path)
    store = open_store(str(path))
    assert len(store.tasks()) == 1
    ballast = fill(disk)
    with told(Unavailable, "is full; nothing was changed", path):
        for _ in range(100):
            store.add([NEW], actor=Actor.USER, at=0)
    count = len(store.tasks())
    ballast.unlink()
    store.add([NEW], actor=Actor.USER, at=0)
    assert len(store.tasks()) == count + 1 == len(store.events())
    store.close()


def test_a_full_disk_is_said_so_at_the_first_opening_too(disk: Path) -> None:
    path = disk / "tasks.db"
    ballast = fill(disk)
    with told(Unavailable, "is full; nothing was changed", path):
        add(path)
    ballast.unlink()
    add(path)
    ballast = fill(disk)
    with told(Unavailable, "is full; nothing was changed", path):  # SQLite calls it an input/output error
        open_store(str(path))
    ballast.unlink()
    add(path)


def test_a_read_only_disk_is_said_so(disk: Path) -> None:
    path = disk / "tasks.db"
    add(path)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for create in (True, False):
        with told(Unavailable, "cannot be written", path):
            add(path, create=create)
    with told(Unavailable, "cannot be written", disk / "other.db"):
        add(disk / "other.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_file_that_may_not_be_written_is_said_so(tmp_path: Path, what: str) -> None:
    path = tmp_path / "tasks.db"
    add(path)
    place = path if what == "file" else tmp_path
    place.chmod(stat.S_IMODE(place.stat().st_mode) & ~0o222)
    try:
        with told(Unavailable, "cannot be written", path):
            add(path)
    finally:
        place.chmod(0o700)


def test_a_refusal_has_the_exit_code_of_its_kind(tmp_path: Path) -> None:
    with pytest.raises(DispatchctlError) as missing:
        open_store(str(tmp_path / "tasks.db"))
    assert missing.value.exit_code is ExitCode.FAILED
    with pytest.raises(DispatchctlError) as unusable:
        open_store(str(tmp_path))
    assert unusable.value.exit_code is ExitCode.UNAVAILABLE
