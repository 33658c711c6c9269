"""Notices: each edge of the history once, in few words, and whatever a notifier does, the loop goes on."""

import fcntl
import json
import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli.desk import path_without, program
from cli.terminal import Terminal
from hypothesis import given
from hypothesis import strategies as st
from store.bench import DIRTY, Bench, Sqlite
from world import World, eventually

from dispatchctl import programs
from dispatchctl.config import Environment
from dispatchctl.config.table import Notice
from dispatchctl.notices import Notices
from dispatchctl.notices.burst import BURST, EVERY_S, Allowance, Waiting
from dispatchctl.notices.edges import Edge
from dispatchctl.notices.message import LONGEST, cut
from dispatchctl.notices.reading import AT_ONCE, TOLD
from dispatchctl.notices.sending import cursor_of
from dispatchctl.programs import Aside
from dispatchctl.runtime import Runtime
from dispatchctl.task import Activity, Actor, NewTask

QUICK_S = 3.0
"""A turn of the loop that takes longer has waited for something: generous, since the machine may be busy."""
ALL = '["blocked", "in_review", "failed", "done", "stalled", "empty"]'
HOSTILE = "#(touch {0}) #{{pid}} %H 100% ; kill-server <b>&\x1b]0;x\x07 $(touch {0}) `touch {0}`"


@dataclass
class Scene:
    """A queue, and a daemon that sends notices to a command which writes them down."""

    world: World
    bench: Bench
    said: list[tuple[str, str | None]] = field(default_factory=list)
    open: list[Notices] = field(default_factory=list)

    @property
    def book(self) -> Path:
        return self.world.root / "told"

    def set(self, **settings: str) -> None:
        """Settings of the section notify."""
        self.world.extra |= {f"DISPATCHCTL_NOTIFY__{name.upper()}": value for name, value in settings.items()}

    def command(self, text: str, name: str = "teller") -> None:
        """Have this shell script be the user's command."""
        path = program(self.world.root / name, f"#!/bin/sh\n{text}\n")
        self.set(command=json.dumps([str(path)]))

    def start(self) -> Notices:
        """A daemon that has looked once."""
        notices = Notices(self.world.runtime(), lambda message, hint: self.said.append((message, hint)))
        self.open.append(notices)
        self.tend(notices)
        return notices

    def tend(self, notices: Notices) -> None:
        """One turn, which never waits."""
        begun = time.monotonic()
        notices.tend()
        took = time.monotonic() - begun
        assert took < QUICK_S, took

    def until(self, notices: Notices, look: Callable[[], Any], what: str = "") -> None:
        """Turns until something is so."""

        def turn() -> Any:
            self.tend(notices)
            return look()

        eventually(turn, what=what)

    def settle(self, notices: Notices) -> None:
        """Turns until nothing is left to do soon."""
        self.until(notices, lambda: not notices.busy, "nothing is under way")

    def told(self) -> list[dict[str, Any]]:
        """The notices that the command was given."""
        return [json.loads(line)["notice"] for line in self.book.read_text().splitlines()] if self.book.exists() else []

    def events(self) -> list[tuple[str, int | None, int]]:
        return [(each["event"], each["task"] and each["task"]["id"], each["count"]) for each in self.told()]

    def failed(self) -> int:
        """A task that failed just now."""
        task = self.bench.add()
        self.bench.finish(task, 1)
        return task

    def crash(self, notices: Notices) -> None:
        """The daemon is gone without a word."""
        self.open.remove(notices)


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    backend = Sqlite(world.root)
    made = Scene(world, Bench(backend, backend.open()))
    world.extra["DISPATCHCTL_DB"] = backend.path
    made.set(tmux="false", on=ALL)
    made.command(f'cat >> "{made.book}"')
    try:
        yield made
    finally:
        for notices in made.open:
            notices.close(0)
        backend.close()


# -- what is told --------------------------------------------------------------------------------------------------------


def test_each_thing_that_wants_the_user_is_told_once(scene: Scene) -> None:
    bench, notices = scene.bench, scene.start()
    stays, blocked, review, done = (bench.add(title=title) for title in ("stays", "asks", "look", "works"))
    for task in (stays, blocked, review, done):
        assert bench.start(bench.claimed(task))
    bench.store.block(bench.token(blocked), "which\none?", actor=Actor.AGENT, at=bench.tick())
    bench.store.block(bench.token(blocked), "no, really", actor=Actor.AGENT, at=bench.tick())
    bench.end(bench.token(review), changes=DIRTY)
    bench.end(bench.token(done), result="a result")
    bench.store.note_activity(bench.token(stays), Activity.STALLED, actor=Actor.WATCH, at=bench.tick())
    scene.settle(notices)
    assert scene.events() == [
        ("blocked", blocked, 1),
        ("in_review", review, 1),
        ("done", done, 1),
        ("stalled", stays, 1),
    ]
    assert scene.told()[0]["message"] == f"task {blocked} is blocked: asks: which one?"
    assert scene.told()[2]["message"].endswith(": works: a result")
    scene.settle(notices)
    assert len(scene.told()) == 4


def test_an_undo_that_failed_is_told(scene: Scene) -> None:
    notices = scene.start()
    task = scene.bench.add()
    token = scene.bench.claimed(task)
    assert scene.bench.begin_undo(token)
    scene.bench.store.undo_failed(token, "the worktree stands", actor=Actor.DISPATCH, at=scene.bench.tick())
    scene.settle(notices)
    scene.bench.store.undo_failed(token, "now the branch stands", actor=Actor.DISPATCH, at=scene.bench.tick())
    scene.settle(notices)
    assert [each for each in scene.events() if each[0] == "failed"] == [("failed", task, 1)] * 2
    assert scene.told()[-1]["message"].endswith("now the branch stands")


def test_only_what_the_settings_name_is_told(scene: Scene) -> None:
    scene.set(on='["blocked"]')
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    assert scene.told() == []


def test_a_command_gets_the_notice_as_json_and_the_database_and_task_in_its_environment(scene: Scene) -> None:
    scene.world.extra |= {"DISPATCHCTL_TOKEN": "0a1b2c3d", "NOTIFY_SOCKET": "/nowhere", "DISPATCHCTL_TASK": "99"}
    scene.set(on='["failed"]')
    scene.command(f'env > "{scene.world.root}/env"; cat >> "{scene.book}"')
    notices = scene.start()
    path = scene.world.extra.pop("DISPATCHCTL_DB")
    notices.runtime = Runtime(Environment.read(scene.world.variables), path, "/dev/null")
    scene.world.extra["DISPATCHCTL_DB"] = path
    task = scene.failed()
    scene.until(notices, scene.told)
    notice = json.loads(scene.book.read_text().splitlines()[0])
    assert notice["schema_version"] == 1
    assert set(notice) == {"schema_version", "notice"}
    assert set(notice["notice"]) == {"event", "task", "count", "message", "hint", "at"}
    shown = scene.world.cli("show", str(task), "--json").json["task"]
    assert {**notice["notice"]["task"], "run": None} == {**shown, "run": None}
    assert notice["notice"]["hint"] == f"dispatchctl show {task}"
    env = (scene.world.root / "env").read_text().splitlines()
    assert f"DISPATCHCTL_TASK={task}" in env
    assert f"DISPATCHCTL_DB={path}" in env
    assert "DISPATCHCTL_CONFIG=/dev/null" in env
    assert not [line for line in env if line.startswith(("DISPATCHCTL_TOKEN", "NOTIFY_SOCKET"))]


def test_a_task_that_was_removed_meanwhile_is_told_by_its_number(scene: Scene) -> None:
    notices = scene.start()
    task = scene.failed()
    scene.bench.store.remove([task], at=scene.bench.tick())
    scene.until(notices, scene.told)
    assert scene.told()[0]["task"] is None
    assert scene.told()[0]["message"].startswith(f"task {task} failed")


@pytest.mark.parametrize(
    ("text", "told"),
    [("two\nlines", "two lines"), ("\x1b[31mred\x07", "·[31mred·"), ("é" * 400, "é" * (LONGEST - 1) + "…")],
)
def test_what_a_task_says_is_one_short_line_that_no_terminal_obeys(text: str, told: str) -> None:
    assert cut(text) == told


# -- never twice, never missed -------------------------------------------------------------------------------------------


def test_the_first_daemon_tells_nothing_of_what_was_before(scene: Scene) -> None:
    scene.failed()
    notices = scene.start()
    scene.settle(notices)
    assert scene.told() == []


def test_a_daemon_that_starts_again_repeats_nothing_and_misses_nothing(scene: Scene) -> None:
    first = scene.start()
    one = scene.failed()
    scene.settle(first)
    scene.crash(first)
    two = scene.failed()
    scene.settle(scene.start())
    scene.settle(scene.start())
    assert [each for each in scene.events() if each[0] == "failed"] == [("failed", one, 1), ("failed", two, 1)]


def test_the_cursor_is_moved_before_anything_is_sent(scene: Scene) -> None:
    cursor = cursor_of("command", Notice.FAILED)
    look = program(
        scene.world.root / "look",
        f"""#!{sys.executable}
import sqlite3
found = sqlite3.connect("{scene.bench.store.path}").execute("select event from cursors where name = '{cursor}'")
print(found.fetchone()[0])
""",
    )
    scene.set(on='["failed"]')
    scene.command(f'{look} > "{scene.world.root}/seen"')
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    assert (scene.world.root / "seen").read_text() == f"{scene.bench.store.last_event()}\n"


def test_what_nobody_is_told_of_does_not_wait_for_a_change_of_the_settings(scene: Scene) -> None:
    scene.set(on="[]")
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    notices.close(0)
    scene.set(on=ALL)
    scene.settle(scene.start())
    assert scene.told() == []


def test_settings_that_were_read_again_hold_from_then_on(scene: Scene) -> None:
    scene.set(command="[]")
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    scene.command(f'cat >> "{scene.book}"')
    notices.runtime = scene.world.runtime()
    task = scene.failed()
    scene.until(notices, lambda: scene.events() == [("failed", task, 1), ("empty", None, 1)])


# -- the queue comes to be empty -----------------------------------------------------------------------------------------


def empties(scene: Scene) -> int:
    return [each["event"] for each in scene.told()].count("empty")


def test_it_is_told_once_that_nothing_is_left_to_do(scene: Scene) -> None:
    bench, notices = scene.bench, scene.start()
    scene.set(on='["empty"]')
    notices.runtime = scene.world.runtime()
    one, two = bench.add(), bench.add()
    bench.add(after=(one,), backlog=True)
    bench.finish(one)
    scene.settle(notices)
    assert empties(scene) == 0, "one is ready"
    assert bench.start(bench.claimed(two))
    scene.settle(notices)
    assert empties(scene) == 0, "one runs"
    bench.end(bench.token(two))
    scene.settle(notices)
    assert empties(scene) == 1
    scene.crash(notices)
    again = scene.start()
    bench.store.cancel(bench.add(), at=bench.tick())
    scene.settle(again)
    assert empties(scene) == 1, "nobody has worked since"
    bench.finish(bench.add(), 1)
    scene.settle(again)
    assert empties(scene) == 2


@pytest.mark.parametrize("waits", ["for its time", "for a pause", "for a parent that failed"])
def test_what_still_comes_by_itself_keeps_the_queue_from_being_empty(scene: Scene, waits: str) -> None:
    bench, notices = scene.bench, scene.start()
    one = bench.add()
    if waits == "for its time":
        bench.add(not_before=1 << 50)
    elif waits == "for a pause":
        bench.add(repo="/other")
        bench.store.pause("/other", reason=None, at=bench.tick())
    else:
        bench.add(after=(one,))
    bench.finish(one, 1)
    scene.settle(notices)
    assert empties(scene) == (1 if waits == "for a parent that failed" else 0)


def test_a_daemon_that_was_away_when_the_queue_became_empty_tells_it(scene: Scene) -> None:
    bench, notices = scene.bench, scene.start()
    task = bench.add()
    assert bench.start(bench.claimed(task))
    scene.settle(notices)
    notices.close(0)
    bench.end(bench.token(task))
    scene.settle(scene.start())
    assert empties(scene) == 1
    scene.settle(scene.start())
    assert empties(scene) == 1


# -- much at once --------------------------------------------------------------------------------------------------------


def fail_at_once(scene: Scene, number: int) -> None:
    """So many tasks that failed in one moment."""
    new = NewTask(title="T", prompt="p", repo="/repo", base="main", agent="shell", backlog=True)
    scene.bench.store.add([new] * number, actor=Actor.USER, at=scene.bench.tick())
    with closing(sqlite3.connect(scene.bench.store.path)) as connection, connection:
        connection.execute(
            """INSERT INTO events (task, at, actor, kind, from_status, to_status, detail)
               SELECT id, 1, 'launcher', 'ended', 'in_progress', 'failed', '{}' FROM tasks"""
        )


def test_ten_thousand_failures_at_once_are_a_handful_of_notices(scene: Scene) -> None:
    notices = scene.start()
    fail_at_once(scene, 10_000)
    scene.settle(notices)
    told = scene.told()
    assert [each["count"] for each in told[: BURST - 1]] == [1] * (BURST - 1)
    assert len(told) == BURST
    assert told[-1]["count"] == 10_000 - (BURST - 1)
    assert told[-1]["task"] is None
    assert told[-1]["message"] == "9,996 more tasks failed"
    assert scene.told()[-1]["hint"] == "dispatchctl list --status failed"


def test_what_waits_for_its_turn_is_told_by_the_next_daemon(scene: Scene) -> None:
    notices = scene.start()
    for sender in notices._senders:
        sender.allowance = Allowance(left=0.0, seen=time.monotonic())
    task = scene.failed()
    scene.settle(notices)
    assert scene.told() == []
    notices.close(0)
    scene.settle(scene.start())
    assert scene.events() == [("failed", task, 1), ("empty", None, 1)]


EDGES = st.builds(Edge, st.sampled_from(list(Notice)), st.just(1), st.just(1), st.integers(1, 9))


@given(st.lists(st.tuples(st.lists(EDGES, max_size=20), st.integers(1, BURST)), max_size=6))
def test_no_edge_is_lost_or_doubled_in_a_sum(rounds: list[tuple[list[Edge], int]]) -> None:
    waiting = Waiting()
    for edges, allowed in rounds:
        for edge in edges:
            waiting.add(edge)
        assert len(list(waiting)) <= BURST + len(Notice)
        taken, used = waiting.take(allowed)
        assert not waiting
        assert used <= allowed
        for what in Notice:
            assert sum(edge.count for edge in taken if edge.what is what) == [edge.what for edge in edges].count(what)


@given(st.lists(st.sampled_from(list(Notice)), max_size=20), st.integers(1, BURST))
def test_of_each_kind_the_events_are_told_in_order_so_that_a_cursor_can_follow(
    kinds: list[Notice], allowed: int
) -> None:
    waiting = Waiting()
    for number, what in enumerate(kinds, 1):
        waiting.add(Edge(what, number, at=number))
    taken, _ = waiting.take(allowed)
    for what in Notice:
        of_kind = [(edge.event, edge.last) for edge in taken if edge.what is what]
        numbers = [number for number, each in enumerate(kinds, 1) if each is what]
        assert [each for pair in of_kind for each in pair] == sorted(each for pair in of_kind for each in pair)
        assert (of_kind[0][0], of_kind[-1][1]) == (numbers[0], numbers[-1]) if numbers else not of_kind
    assert all(edge.at == edge.event for edge in taken), "of a sum, the first"


def test_the_allowance_grows_back_and_not_beyond_a_burst() -> None:
    allowance = Allowance()
    assert allowance.at(100.0) == BURST
    allowance.spend(BURST)
    assert allowance.at(100.0) == 0
    assert allowance.at(100.0 + EVERY_S) == 1
    assert allowance.at(100.0 + 1000 * EVERY_S) == BURST


# -- notifiers that do not behave ----------------------------------------------------------------------------------------


def one_line(scene: Scene, way: str, *parts: str) -> None:
    """Check that the log has one line, of that way."""
    assert len(scene.said) == 1, scene.said
    message, hint = scene.said[0]
    assert message.startswith(f"notify.{way}: ")
    assert hint
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param("echo it is full >&2; exit 3", ("exit code 3", "it is full"), id="fails"),
        pytest.param("kill -9 $$", ("signal 9",), id="is killed"),
        pytest.param("sleep 600", ("longer than 1 s",), id="hangs"),
        pytest.param("trap '' TERM; while :; do sleep 1; done", ("longer than 1 s",), id="ignores TERM"),
        pytest.param("(trap '' TERM; exec sleep 600) & exit 4", ("exit code 4",), id="leaves a child and fails"),
        pytest.param("yes | head -c 5000000 >&2; exit 5", ("exit code 5",), id="writes megabytes"),
    ],
)
def test_a_command_that_fails_is_said_once_and_keeps_nobody_waiting(
    scene: Scene, script: str, says: Sequence[str]
) -> None:
    scene.set(timeout="1", on='["failed"]')
    scene.command(script)
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    scene.failed()
    scene.settle(notices)
    one_line(scene, "command", *says)
    assert len(scene.said[0][0]) < 3_000


def test_a_command_that_is_missing_is_said_once_and_again_after_it_had_worked(scene: Scene) -> None:
    path = scene.world.root / "later"
    scene.set(command=json.dumps([str(path)]), on='["failed"]')
    notices = scene.start()
    for _ in range(2):
        scene.failed()
        scene.settle(notices)
    one_line(scene, "command", "exit code 127", "No such file")
    program(path, f'#!/bin/sh\ncat >> "{scene.book}"\n')
    scene.failed()
    scene.settle(notices)
    assert len(scene.told()) == 1
    path.unlink()
    scene.failed()
    scene.settle(notices)
    assert len(scene.said) == 2


@pytest.mark.parametrize("script", ["exec 0<&-; exit 0", "exit 0", "head -c 1 >/dev/null"])
def test_a_command_that_does_not_read_a_long_notice_harms_nobody(scene: Scene, script: str) -> None:
    scene.command(script)
    notices = scene.start()
    scene.bench.finish(scene.bench.add(prompt="x" * 3_000_000), 1)
    scene.settle(notices)
    assert scene.said == []


def test_a_command_gets_a_long_notice_whole(scene: Scene) -> None:
    notices = scene.start()
    scene.bench.finish(scene.bench.add(prompt="x" * 3_000_000), 1)
    scene.settle(notices)
    assert len(scene.told()[0]["task"]["prompt"]) == 3_000_000


def test_a_daemon_that_a_command_begins_is_neither_waited_for_nor_ended(scene: Scene) -> None:
    pid = scene.world.root / "pid"
    scene.command(f'sleep 600 & echo $! > "{pid}"')
    scene.set(on='["failed"]')
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    assert scene.said == []
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_whatever_hangs_is_ended_with_its_children(scene: Scene) -> None:
    pids = scene.world.root / "pids"
    scene.command(f"(trap '' TERM; sleep 600 & echo $! > \"{pids}\"; wait) & wait")
    scene.set(timeout="1", on='["failed"]')
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    one_line(scene, "command", "longer than 1 s")
    eventually(lambda: not alive(int(pids.read_text())))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_one_way_that_hangs_does_not_hold_up_another(scene: Scene) -> None:
    scene.command("sleep 600")
    seen = scene.world.root / "seen"
    program(scene.world.root / "bin" / "notify-send", f'#!/bin/sh\necho x >> "{seen}"\n')
    scene.world.extra["PATH"] = f"{scene.world.root}/bin:{os.environ['PATH']}"
    scene.set(desktop="true", on='["failed"]')
    notices = scene.start()
    for _ in range(2):
        scene.failed()
    scene.until(notices, lambda: seen.exists() and seen.read_text() == "x\nx\n")
    assert notices.busy


def test_a_command_gets_none_of_the_daemons_descriptors(scene: Scene) -> None:
    seen = scene.world.root / "fds"
    scene.set(on='["failed"]')
    scene.command(f'exec ls /proc/self/fd > "{seen}"')
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    notices = scene.start()
    scene.failed()
    scene.settle(notices)
    os.close(reading)
    os.close(writing)
    assert {int(each) for each in seen.read_text().split()} <= {0, 1, 2, 3}  # 3: the directory, which ls reads


def test_what_hangs_ends_although_the_daemon_is_killed(world: World) -> None:
    script = (
        "from dispatchctl import programs; import os;"
        "aside = programs.start(['sleep', '600'], env=dict(os.environ), given=b'', timeout=1);"
        "print(aside.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=world.variables, capture_output=True, text=True)  # noqa: PLW1510
    pid = int(done.stdout)
    assert alive(pid)
    eventually(lambda: not alive(pid))


def test_close_waits_no_longer_than_it_may_and_ends_what_hangs(scene: Scene) -> None:
    pid = scene.world.root / "pid"
    scene.command(f"trap '' TERM; echo $$ > \"{pid}\"; while :; do sleep 1; done")
    notices = scene.start()
    scene.failed()
    scene.until(notices, lambda: pid.exists() and pid.read_text())
    begun = time.monotonic()
    notices.close(0.2)
    assert time.monotonic() - begun < 0.4 + QUICK_S
    eventually(lambda: not alive(int(pid.read_text())))


def test_close_lets_what_is_quick_come_to_its_end(scene: Scene) -> None:
    notices = scene.start()
    scene.failed()
    scene.tend(notices)
    assert notices.busy
    notices.close(20.0)
    assert scene.told()


# -- a way that is slow, and a daemon that ends ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_what_a_slow_way_had_not_begun_is_told_by_the_next_daemon(scene: Scene, end: str) -> None:
    """The daemon ends again and again while the first notice is being sent, and nothing is lost or told twice."""
    scene.command(f'cat >> "{scene.book}"; exec sleep 60')
    scene.set(on='["failed"]')
    first = scene.start()
    tasks = [scene.failed() for _ in range(4)]
    for number in range(1, 5):
        notices = first if number == 1 else scene.start()
        scene.until(notices, lambda: len(scene.told()) == number)  # noqa: B023
        if end == "crash":
            asides = [sender.aside for sender in notices._senders if sender.aside]
            scene.crash(notices)
            for aside in asides:
                aside.kill()
                eventually(aside.has_ended)
        else:
            notices.close(0)
            assert scene.said.pop() == (
                "notify.command: the end cut short a notice that was being sent",
                "dispatchctl history",
            )
    scene.settle(scene.start())
    assert scene.events() == [("failed", task, 1) for task in tasks]


def test_a_sum_that_was_told_is_not_told_again_with_the_sums_that_were_not(scene: Scene) -> None:
    """Of two sums for the same events only the first was begun."""
    scene.command(f'cat >> "{scene.book}"; exec sleep 60')
    notices = scene.start()
    fail_at_once(scene, 20)
    with closing(sqlite3.connect(scene.bench.store.path)) as connection, connection:
        connection.execute(
            """INSERT INTO events (task, at, actor, kind, from_status, to_status, detail)
               SELECT id, 1, 'launcher', 'ended', 'in_progress', iif(id % 2, 'done', 'failed'), '{}' FROM tasks"""
        )
    for sender in notices._senders:
        sender.allowance = Allowance(left=1.0, seen=time.monotonic())
    scene.until(notices, lambda: len(scene.told()) == 1)
    notices.close(0)
    assert scene.events() == [("failed", None, 30)]
    scene.command(f'cat >> "{scene.book}"')
    scene.settle(scene.start())
    assert sum(count for what, _, count in scene.events() if what == "failed") == 30
    assert sum(count for what, _, count in scene.events() if what == "done") == 10


def test_what_was_told_before_a_crash_is_in_no_sum_after_it(scene: Scene) -> None:
    scene.set(on='["failed"]')
    first = scene.start()
    scene.settle(first)
    first._read._kept_up_at = time.monotonic()
    for _ in range(2):
        scene.failed()
        scene.settle(first)
    scene.crash(first)
    for _ in range(BURST + 3):
        scene.failed()
    scene.settle(scene.start())
    assert [count for _, _, count in scene.events()] == [1] * (2 + BURST - 1) + [4]


def test_after_a_crash_each_way_is_told_what_it_was_not(scene: Scene) -> None:
    """The command hangs at the first of three, the desktop has had all."""
    seen = scene.world.root / "seen"
    program(scene.world.root / "bin" / "notify-send", f'#!/bin/sh\necho x >> "{seen}"\n')
    scene.world.extra["PATH"] = f"{scene.world.root}/bin:{os.environ['PATH']}"
    scene.command(f'cat >> "{scene.book}"; exec sleep 60')
    scene.set(desktop="true")
    notices = scene.start()
    tasks = [scene.failed() for _ in range(3)]
    scene.until(notices, lambda: seen.exists() and seen.read_text() == "x\n" * 4 and scene.told())
    (hangs,) = [sender.aside for sender in notices._senders if sender.aside]
    scene.crash(notices)
    scene.command(f'cat >> "{scene.book}"')
    scene.settle(scene.start())
    assert scene.events() == [*(("failed", task, 1) for task in tasks), ("empty", None, 1)]
    assert seen.read_text() == "x\n" * 4
    hangs.kill()
    eventually(hangs.has_ended)


def test_a_way_that_is_switched_off_is_told_nothing_of_that_time(scene: Scene) -> None:
    script, on = f'cat >> "{scene.book}"; exec sleep 60', scene.world.extra
    scene.command(script)
    scene.set(on='["failed"]')
    notices = scene.start()
    first, _ = scene.failed(), scene.failed()
    scene.until(notices, scene.told)
    before = on["DISPATCHCTL_NOTIFY__COMMAND"]
    scene.set(command="[]")
    notices.runtime = scene.world.runtime()
    scene.failed()
    scene.tend(notices)
    notices.close(0)
    assert scene.bench.store.cursor(TOLD) == scene.bench.store.last_event(), "nothing is kept for it"
    scene.set(command=before)
    again = scene.start()
    last = scene.failed()
    scene.until(again, lambda: len(scene.told()) == 2)
    assert scene.events() == [("failed", first, 1), ("failed", last, 1)]


def test_a_way_that_hangs_for_long_keeps_only_a_handful(scene: Scene) -> None:
    scene.command("exec sleep 60")
    scene.set(on='["failed"]')
    notices = scene.start()
    scene.failed()
    scene.until(notices, lambda: any(sender.aside for sender in notices._senders))
    fail_at_once(scene, 3_000)
    scene.tend(notices)
    scene.until(notices, lambda: not notices._read.behind)
    assert sum(len([*sender.turn, *sender.waiting]) for sender in notices._senders) < 2 * (BURST + len(Notice))


def test_an_older_copy_of_the_database_is_gone_on_with(scene: Scene) -> None:
    """What it holds is old; what happens in it then is told, and what waited from the other one is not."""
    scene.command(f'cat >> "{scene.book}"; exec sleep 60')
    scene.set(on='["failed"]')
    notices = scene.start()
    copy, store = scene.world.root / "copy", scene.bench.store
    with closing(sqlite3.connect(store.path)) as here, closing(sqlite3.connect(copy)) as there:
        here.backup(there)
    for _ in range(3):
        scene.failed()
    scene.until(notices, scene.told)
    with closing(sqlite3.connect(copy)) as there, closing(sqlite3.connect(store.path)) as here:
        there.backup(here)
    scene.tend(notices)
    assert not any(sender.turn or sender.waiting for sender in notices._senders)
    task = scene.failed()
    notices.close(0)
    scene.command(f'cat >> "{scene.book}"')
    scene.said.clear()
    scene.settle(scene.start())
    assert scene.events()[1:] == [("failed", task, 1)]


def test_it_is_not_busy_when_it_can_only_wait(scene: Scene) -> None:
    scene.set(on='["failed"]')
    notices = scene.start()
    for sender in notices._senders:
        sender.allowance = Allowance(left=0.0, seen=time.monotonic())
    scene.failed()
    scene.tend(notices)
    assert not notices.busy, "for its allowance"
    notices._rests_until = time.monotonic() + 60
    for sender in notices._senders:
        sender.allowance = Allowance()
    assert not notices.busy, "for the database"
    notices._rests_until = 0.0
    assert notices.busy


def test_no_process_but_its_own_is_waited_for(scene: Scene) -> None:
    with subprocess.Popen(["false"]) as other:
        eventually(lambda: not alive(other.pid))
        notices = scene.start()
        scene.failed()
        scene.settle(notices)
        assert other.wait(20) == 1


def test_a_database_that_is_not_to_be_had_is_said_once_and_tried_again(scene: Scene) -> None:
    notices = scene.start()
    path = Path(scene.bench.store.path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE events RENAME TO elsewhere")
    scene.tend(notices)
    notices._rests_until = 0.0
    scene.tend(notices)
    assert len(scene.said) == 1
    assert scene.said[0][0].startswith("notices wait: ")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE elsewhere RENAME TO events")
    notices._rests_until = 0.0
    scene.failed()
    scene.until(notices, scene.told)


def test_a_turn_in_which_nothing_happened_costs_next_to_nothing(scene: Scene) -> None:
    notices = scene.start()
    scene.settle(notices)
    took = []
    for _ in range(500):
        begun = time.perf_counter()
        notices.tend()
        took.append(time.perf_counter() - begun)
    assert sorted(took)[250] < 0.001


# -- the desktop ---------------------------------------------------------------------------------------------------------


def arguments(scene: Scene, name: str, **settings: str) -> list[str]:
    """What the desktop's notifier of that name was given for a task with a hostile title."""
    seen, touched = scene.world.root / "argv", scene.world.root / "touched"
    program(scene.world.root / "bin" / name, f'#!/bin/sh\nprintf \'%s\\0\' "$@" > "{seen}"\n')
    without = path_without(scene.world, "notify-send", "osascript")
    scene.world.extra["PATH"] = f"{scene.world.root}/bin:{without}"
    scene.set(desktop="true", command="[]", on='["failed"]')
    notices = scene.start()
    scene.bench.finish(scene.bench.add(title=HOSTILE.format(touched)), 1)
    scene.settle(notices)
    assert scene.said == []
    assert not touched.exists()
    return seen.read_text().split("\0")[:-1]


def test_notify_send_gets_the_words_as_text_after_the_options(scene: Scene) -> None:
    argv = arguments(scene, "notify-send")
    assert argv[:3] == ["--app-name=dispatchctl", "--", "dispatchctl: task 1 failed"]
    assert "&lt;b&gt;&amp;" in argv[3]
    assert "\x1b" not in argv[3]


def test_osascript_gets_the_words_as_arguments_of_its_script(scene: Scene) -> None:
    argv = arguments(scene, "osascript")
    assert argv[0::2][:3] == ["-e", "-e", "-e"]
    assert "touch" not in "".join(argv[1:6:2])
    assert argv[6] == "dispatchctl: task 1 failed"
    assert "<b>&" in argv[7]


def test_a_desktop_without_a_notifier_is_said_once(scene: Scene) -> None:
    scene.world.extra["PATH"] = path_without(scene.world, "notify-send", "osascript")
    scene.set(desktop="true", command="[]")
    notices = scene.start()
    for _ in range(2):
        scene.failed()
        scene.settle(notices)
    one_line(scene, "desktop", "neither notify-send nor osascript")


# -- tmux ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def looked_at(scene: Scene) -> Iterator[tuple[Scene, Terminal]]:
    """A tmux server with somebody before it."""
    scene.set(tmux="true", command="[]", on='["failed"]')
    scene.world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "work", "sleep 600")
    scene.world.tmux("set-option", "-g", "display-time", "20000")
    terminal = look_at(scene)
    yield scene, terminal
    terminal.close()


def look_at(scene: Scene) -> Terminal:
    command = ["tmux", "-S", str(scene.world.socket), "attach"]
    terminal = Terminal(scene.world, cwd=scene.world.root, command=command, columns=180)
    fcntl.ioctl(terminal.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 180, 0, 0))
    eventually(lambda: scene.world.tmux("list-clients", "-F", "#{client_tty}"))
    terminal.read_until("[work]")
    return terminal


def fail_in_tmux(scene: Scene, title: str) -> None:
    """A task that fails on the world's tmux server."""
    task = scene.bench.add(title=title)
    scene.bench.finish(task, 1)
    with closing(sqlite3.connect(scene.bench.store.path)) as connection, connection:
        connection.execute("UPDATE runs SET socket = ?", (str(scene.world.socket),))


def test_who_looks_at_tmux_gets_a_message_and_a_bell_and_no_title_is_obeyed(looked_at: tuple[Scene, Terminal]) -> None:
    scene, terminal = looked_at
    touched = scene.world.root / "touched"
    notices = scene.start()
    fail_in_tmux(scene, HOSTILE.format(touched))
    scene.settle(notices)
    assert scene.said == []
    shown = terminal.read_until("dispatchctl show 1")
    assert "dispatchctl: task 1 failed - touch-" in shown
    terminal.read_until("\a")
    scene.world.tmux("refresh-client", "-S")
    assert scene.world.tmux("list-sessions", "-F", "#{session_name}") == "work"
    assert not touched.exists()


@pytest.mark.parametrize(("option", "value"), [("bell-action", "none"), ("visual-bell", "on")])
def test_a_tmux_that_is_to_ring_for_nothing_does_not(
    looked_at: tuple[Scene, Terminal], option: str, value: str
) -> None:
    scene, terminal = looked_at
    scene.world.tmux("set-option", "-g", option, value)
    notices = scene.start()
    fail_in_tmux(scene, "quiet")
    scene.settle(notices)
    assert "\a" not in terminal.read_until("dispatchctl show 1")


def test_every_client_is_told(looked_at: tuple[Scene, Terminal]) -> None:
    scene, one = looked_at
    two = look_at(scene)
    notices = scene.start()
    fail_in_tmux(scene, "both")
    scene.settle(notices)
    for terminal in (one, two):
        terminal.read_until("dispatchctl show 1")
        terminal.read_until("\a")
    two.close()


@pytest.mark.parametrize("server", ["nobody looks", "no server"])
def test_a_tmux_that_nobody_looks_at_is_no_error(scene: Scene, server: str) -> None:
    scene.set(tmux="true", command="[]")
    if server == "nobody looks":
        scene.world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "work", "sleep 600")
    notices = scene.start()
    fail_in_tmux(scene, "alone")
    scene.settle(notices)
    assert scene.said == []


def test_a_tmux_that_hangs_is_said_once_and_holds_up_nobody(looked_at: tuple[Scene, Terminal]) -> None:
    scene, _ = looked_at
    scene.world.extra["DISPATCHCTL_TMUX__TIMEOUT"] = "5"
    pid = int(scene.world.tmux("display-message", "-p", "#{pid}"))
    notices = scene.start()
    os.kill(pid, signal.SIGSTOP)
    try:
        fail_in_tmux(scene, "hangs")
        scene.settle(notices)
        one_line(scene, "tmux", "did not answer within 5 s")
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("text", ["#(touch x)", "100%", "a;", "a\nb", "é", "", "#{pid}", "\x1b[0m"])
def test_tmux_is_shown_nothing_that_it_could_obey(world: World, text: str) -> None:
    with pytest.raises(ValueError):
        world.runtime().windows().announce(text)


# -- apprise -------------------------------------------------------------------------------------------------------------


@contextmanager
def service(status: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A service on the web, as apprise's json:// has it: its port, and what it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def with_service(scene: Scene, *urls: str) -> None:
    pytest.importorskip("apprise")
    scene.set(urls=json.dumps(urls), command="[]", on='["failed"]')
    notices = scene.start()
    for _ in range(2):
        scene.bench.finish(scene.bench.add(title="*Fix* <b>"), 1)
    scene.settle(notices)


def test_a_service_gets_the_notice_as_text(scene: Scene) -> None:
    with service(200) as (port, got):
        with_service(scene, f"json://127.0.0.1:{port}/")
    assert scene.said == []
    assert [each["title"] for each in got] == ["dispatchctl: task 1 failed", "dispatchctl: task 2 failed"]
    assert got[0]["message"].startswith("*Fix* <b>: ")


def test_a_service_that_refuses_is_said_once_without_its_secrets(scene: Scene) -> None:
    with service(500) as (port, got):
        with_service(scene, f"json://ada:secret@127.0.0.1:{port}/", "nonsense://secret", f"json://127.0.0.1:{port}/")
    assert len(got) == 4
    one_line(scene, "urls", "json://…, nonsense://…, json://… did not take the notice")
    assert "secret" not in str(scene.said)
    said = scene.world.cli("notify", DISPATCHCTL_NOTIFY__URLS='["nonsense://secret"]')  # with a stderr of its own
    assert (
        said.out == "notify.urls\texit code 1: nonsense://… did not take the notice\tdispatchctl config notify.urls\n"
    )


def test_a_missing_apprise_is_said_once_with_how_to_get_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatchctl.notices.ways.find_spec", lambda _: None)
    scene.set(urls='["json://localhost"]', command="[]")
    notices = scene.start()
    for _ in range(2):
        scene.failed()
        scene.settle(notices)
    one_line(scene, "urls", "apprise is not installed")
    assert scene.said[0][1] == "pip install 'dispatchctl[apprise]'"


# -- trying it -----------------------------------------------------------------------------------------------------------


def test_notify_tries_each_way_and_says_what_came_of_it(scene: Scene) -> None:
    without = path_without(scene.world, "notify-send", "osascript")
    said = scene.world.cli("notify", "--json", DISPATCHCTL_NOTIFY__DESKTOP="true", PATH=without)
    assert said.code == 1
    assert said.json["notified"] == [
        {
            "way": "desktop",
            "ok": False,
            "error": "there is neither notify-send nor osascript on PATH",
            "hint": "dispatchctl config notify.desktop",
        },
        {"way": "command", "ok": True, "error": None, "hint": None},
    ]
    assert scene.events() == [("test", None, 1)]
    said = scene.world.cli("notify")
    assert (said.code, said.out) == (0, "notify.command\tok\t\n")


def test_notify_with_nothing_to_try_says_where_to_set_it(scene: Scene) -> None:
    said = scene.world.cli("notify", DISPATCHCTL_NOTIFY__COMMAND="[]")
    assert said.code == 2
    assert "dispatchctl config notify" in said.err


# -- programs that run aside ---------------------------------------------------------------------------------------------


def ended(aside: Aside) -> Aside:
    eventually(aside.has_ended)
    return aside


def test_a_fork_that_breaks_says_how_and_ends(world: World) -> None:
    def broken() -> None:
        raise ZeroDivisionError("by nought")

    aside = ended(programs.fork(broken, timeout=20))
    assert aside.code == 1
    assert aside.last_words.endswith("ZeroDivisionError: by nought")


def test_a_program_hears_signals_as_if_nobody_had_touched_them(world: World) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        look = ["grep", "-E", "^Sig(Blk|Ign):\t0+$", "/proc/self/status", "-c"]
        aside = programs.start(["sh", "-c", '"$@" >&2', "sh", *look], env=world.variables, given=b"", timeout=20)
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert ended(aside).last_words == "2"


def test_a_turn_reads_only_so_much_of_the_history(scene: Scene) -> None:
    notices = scene.start()
    fail_at_once(scene, AT_ONCE)
    scene.tend(notices)
    assert notices.busy
    assert notices._read.behind


# -- what the documentation says -----------------------------------------------------------------------------------------


def block(language: str) -> str:
    """The page's block of that language."""
    page = (Path(__file__).parent.parent / "docs" / "notices.md").read_text("utf-8")
    return str(re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0])


def test_the_settings_of_the_page_are_settings(world: World) -> None:
    config = world.home / ".config" / "dispatchctl" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(block("toml"))
    notify = world.runtime().settings.notify
    assert notify.desktop
    assert notify.urls == ("ntfy://my-topic",)


def test_the_command_of_the_page_keeps_a_diary_of_what_the_page_shows(scene: Scene) -> None:
    path = program(scene.world.root / "diarist", block("python"))
    scene.set(command=json.dumps([str(path)]), on='["failed"]')
    notices = scene.start()
    task = scene.bench.add(title="Fix the login")
    scene.bench.finish(task, 3)
    scene.settle(notices)
    assert scene.said == []
    shown = json.loads(block("json"))["notice"]
    diary = (scene.world.home / "diary").read_text()
    assert diary.endswith(f" failed {shown['message']}\n"), diary
    assert set(shown) == {"event", "task", "count", "message", "hint", "at"}


# -- in the daemon -------------------------------------------------------------------------------------------------------

DAEMON = """
import sys
from dispatchctl.config import Environment, load
from dispatchctl.notices import Notices
from dispatchctl.runtime import Runtime
from dispatchctl.watch import Options, watch
environment = Environment.read()
runtime = Runtime(environment)
say = lambda *words: print(*words, file=sys.stderr, flush=True)
watch(runtime, Options(interval=1), say=say, attendants=[Notices(runtime, say)], load=lambda: load(environment))
"""


def test_the_daemon_tells_of_a_real_agent_and_goes_on_beside_a_notifier_that_hangs(scene: Scene) -> None:
    world, runtime = scene.world, scene.world.runtime()
    repo = world.repository()
    scene.command(f'cat >> "{scene.book}"; sleep 600')
    scene.set(on='["failed", "done"]')
    with subprocess.Popen([sys.executable, "-c", DAEMON], env=world.variables, stderr=subprocess.PIPE) as daemon:
        try:
            eventually(lambda: scene.bench.store.cursor(TOLD) is not None)
            one = world.add(runtime, "exit 3", repo=repo).id
            eventually(lambda: scene.events() == [("failed", one, 1)], within=60)
            two = world.add(runtime, "exit 4", repo=repo).id
            world.ended(runtime, two, within=60)
            begun = time.monotonic()
            daemon.terminate()
            assert daemon.wait(30) == 0
            assert time.monotonic() - begun < 20
        finally:
            daemon.kill()
    eventually(lambda: not [pid for pid in world.processes() if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()])
