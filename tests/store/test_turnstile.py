"""The queue before a write: who is stopped is named, who is killed is no obstacle, who is interrupted leaves no trace."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from world import eventually

from dispatchctl.errors import Busy
from dispatchctl.store import connection, open_store, turnstile
from dispatchctl.store.protocol import Store
from dispatchctl.task import Actor, NewTask

NEW = NewTask("Do it", "now", "/repo", "main", "shell")

HOLD = """
import sys
from dispatchctl.store.connection import Database
database = Database(sys.argv[1])
with database:
    database.execute("UPDATE tasks SET title = 'theirs'")
    print("held", flush=True)
    sys.stdin.readline()
"""
WRITE = """
import sys
from dispatchctl.store.connection import Database
with Database(sys.argv[1]) as database:
    database.execute("UPDATE tasks SET priority = 0")
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A database with one task."""
    path = str(tmp_path / "tasks.db")
    store = open_store(path, create=True)
    store.add([NEW], actor=Actor.USER, at=0)
    store.close()
    return path


@contextmanager
def running(program: str, path: str) -> Iterator["subprocess.Popen[str]"]:
    """A process with that program, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


@contextmanager
def holding(path: str) -> Iterator["subprocess.Popen[str]"]:
    """A process in the middle of a write; a line to its stdin ends it."""
    with running(HOLD, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def stopped(process: "subprocess.Popen[str]") -> None:
    """Stop it, and wait until it is."""
    process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{process.pid}/stat")
    eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="the process stops")


def title(path: str) -> str:
    """What stands in the one task, added by each test's fixture."""
    store = open_store(path)
    try:
        return store.task(1).title
    finally:
        store.close()


def test_a_stopped_holder_is_named_and_others_go_on_after_it(path: str) -> None:
    with holding(path) as holder:
        stopped(holder)
        store = open_store(path, busy_timeout=0.2)
        with pytest.raises(Busy, match=f"held by process {holder.pid} for 0.2 s") as busy:
            store.cancel(1, at=1)
        assert busy.value.hint == f"ps -o pid,stat,args -p {holder.pid}"
        assert title(path) == "Do it"  # reading waits for nobody
        holder.send_signal(signal.SIGCONT)
        holder.communicate("go on\n")
        assert store.cancel(1, at=1).title == "theirs"
        store.close()


def test_a_killed_holder_is_no_obstacle_and_leaves_nothing_half_written(path: str) -> None:
    with holding(path) as holder:
        holder.kill()
        holder.wait()
        store = open_store(path, busy_timeout=1)
        assert store.cancel(1, at=1).title == "Do it"
        store.close()


def test_whoever_is_stopped_at_the_head_of_the_queue_is_named(path: str) -> None:
    with holding(path) as holder, running(WRITE, path) as waiting:
        following = Path(f"{path}-next")
        eventually(lambda: following.read_text().strip() == str(waiting.pid), what="the second one is next")
        stopped(waiting)
        holder.communicate("go on\n")
        store = open_store(path, busy_timeout=0.2)
        with pytest.raises(Busy, match=f"held by process {waiting.pid} "):
            store.cancel(1, at=1)
        waiting.send_signal(signal.SIGCONT)
        waiting.communicate()
        assert store.cancel(1, at=1).priority == 0
        store.close()


def test_a_wait_that_is_given_up_does_not_keep_its_place(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "MOMENT_S", 0.0)  # as for whoever waits longer
    with holding(path) as holder:
        store = open_store(path, busy_timeout=0.05)
        for _ in range(5):
            with pytest.raises(Busy):
                store.cancel(1, at=1)
        threads = threading.active_count()
        holder.communicate("go on\n")
        eventually(lambda: threading.active_count() < threads, what="the waiting threads end")
        store.cancel(1, at=1)
        store.close()


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """What a signal's handler raises, at any instruction."""


@contextmanager
def interrupted_after(count: int) -> Iterator[list[int]]:
    """Raise `Interrupted` at the count-th line or call of the code that guards a transaction; yields what is left."""
    left = [count]
    guarded = (connection.__file__, turnstile.__file__)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in guarded:
            return None
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(before)


# A file that was just opened when the interruption came is closed by the garbage collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_anywhere_leaves_a_write_whole_or_undone_and_the_store_usable(path: str) -> None:
    store, count, whole = open_store(path, busy_timeout=1), 0, 0
    while True:
        count += 1
        title, before = f"number {count}", store.task(1).title
        try:
            with interrupted_after(count) as left:
                store.edit(1, {"title": title}, None, at=count)
        except Interrupted:
            other = open_store(path, busy_timeout=1)
            assert store.edit(1, {"priority": count % 5}, None, at=count).title in (before, title)
            assert other.edit(1, {"priority": 4}, None, at=count).title in (before, title)
            whole += store.task(1).title == title
            other.close()
        else:
            assert left[0] > 0
            break
    assert count > 40
    assert whole
    store.close()


def test_whoever_waits_only_a_moment_leaves_no_thread_behind(path: str) -> None:
    """A daemon asks at every turn, for as long as somebody holds the gate."""
    before = threading.active_count()
    with holding(path) as holder:
        store = open_store(path, busy_timeout=0.05)
        for _ in range(5):
            with pytest.raises(Busy):
                store.cancel(1, at=1)
        assert threading.active_count() == before
        holder.communicate("go on\n")
    eventually(lambda: _cancelled(store))
    store.close()


def _cancelled(store: Store) -> bool:
    try:
        store.cancel(1, at=1)
    except Busy:
        return False
    return True
