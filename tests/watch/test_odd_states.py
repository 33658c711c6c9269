"""The daemon in odd states: it neither spins nor goes deaf."""

import os
import signal
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from watch.daemon import become, watching, workers_of
from world import World, eventually

from dispatchctl.runtime import now
from dispatchctl.task import Status


@pytest.fixture
def repo(world: World) -> Path:
    return world.repository()


def burnt(pid: int) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_a_file_that_is_no_database_is_not_tried_all_the_time(world: World, repo: Path) -> None:
    runtime = world.runtime()
    away = runtime.database.with_name("away")
    with watching(world, "--interval", "2") as daemon:
        os.rename(runtime.database, away)
        runtime.database.touch()
        daemon.says("is empty")
        before, began = burnt(daemon.process.pid), time.monotonic()
        eventually(lambda: time.monotonic() - began > 4)  # longer than the interval: what is due cannot be done
        assert burnt(daemon.process.pid) - before < 0.5
        os.replace(away, runtime.database)
        task = world.add(runtime, "true", repo=repo).id
        become(runtime, [task], Status.DONE)
        assert daemon.stop()[0] == 0


def test_it_follows_a_database_that_an_older_copy_was_written_over(world: World, repo: Path) -> None:
    runtime = world.runtime()
    with watching(world, "--interval", "1") as daemon:
        with closing(sqlite3.connect(world.root / "copy")) as copy, closing(sqlite3.connect(runtime.database)) as live:
            live.backup(copy)
            later = [world.add(runtime, "true", repo=repo, not_before=now() + 3_600_000).id for _ in range(30)]
            daemon.says(f"task {later[-1]} is added")
            copy.backup(live)
        task = world.add(runtime, "exit 7", repo=repo).id
        become(runtime, [task], Status.FAILED)
        daemon.says(f"task {task} is failed")
        assert daemon.stop()[0] == 0


def test_a_worker_that_dies_whenever_it_is_begun_is_not_begun_all_the_time(world: World) -> None:
    with watching(world, "--interval", "2") as daemon:
        killed, began = set[int](), time.monotonic()
        while time.monotonic() - began < 5:
            for pid in workers_of(daemon.process.pid):
                killed.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert len(killed) < 6
        assert daemon.stop()[0] == 0


def test_the_lock_is_taken_again_where_its_file_was_removed(world: World) -> None:
    with watching(world, "--interval", "1") as daemon:
        lock = world.runtime().state / "watch.lock"
        lock.unlink()
        eventually(lambda: lock.exists() and lock.read_text().strip() == str(daemon.process.pid))
        assert world.cli("watch").code == 75
        assert daemon.stop()[0] == 0


def test_of_two_daemons_the_one_that_lost_its_lock_ends(world: World) -> None:
    with watching(world, "--interval", "1") as first:
        first.send(signal.SIGSTOP)
        (world.runtime().state / "watch.lock").unlink()
        with watching(world, "--interval", "1") as second:
            first.send(signal.SIGCONT)
            assert first.ends() == 75
            assert f"process {second.process.pid} watches the database" in first.log
            assert second.stop()[0] == 0
